"""The examples of the README and of the guides run as they stand."""

import re
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_library_examples_run(capsys):
    text = (Path(__file__).parents[1] / "README.md").read_text()
    library, pretrained = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict = {}
    exec(library, names)
    assert names["heat"].shape == (4, 224, 224)
    assert names["out"].cam.shape == (4, 56, 56, 37)
    assert capsys.readouterr().out.startswith("[")
    exec(pretrained, names)
    assert names["model"](names["images"]).cam.shape == (4, 56, 56, 37)
    assert names["original"](names["images"]).logits.shape == (4, 1000)


@pytest.mark.slow
def test_the_examples_of_attacks_run(capsys):
    text = (Path(__file__).parents[1] / "docs" / "robustness.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 4
    for example in examples:
        exec(example, {})
    shown = capsys.readouterr().out
    assert shown.startswith("{'clean': 1.0, 'apgd-ce': ") and "'apgd-dlr': " in shown.splitlines()[-1]
