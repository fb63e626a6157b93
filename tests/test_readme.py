"""The README's example runs as it stands."""

import re
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_library_example_runs(capsys):
    text = (Path(__file__).parents[1] / "README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict = {}
    exec(example, names)
    assert names["heat"].shape == (4, 224, 224)
    assert names["out"].cam.shape == (4, 56, 56, 37)
    assert capsys.readouterr().out.startswith("[")
