"""The examples of the README and of the guides run as they stand."""

import re
from pathlib import Path

import jax
import pytest

import topgap_jax as tg


@pytest.mark.slow
def test_the_library_examples_run(capsys):
    text = (Path(__file__).parents[1] / "README.md").read_text()
    library, pretrained, robustness = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict = {}
    exec(library, names)
    assert names["heat"].shape == (4, 224, 224)
    assert names["out"].cam.shape == (4, 56, 56, 37)
    assert capsys.readouterr().out.startswith("[")
    few = {"model": tg.create_model("resnet_narrow", 5, k=9), "tg": tg}
    few["images"] = jax.random.uniform(jax.random.key(0), (4, 32, 32, 3))
    few["labels"] = tg.attacks.predict(few["model"], few["images"])
    exec(robustness, few)
    assert few["result"].robust_accuracy["clean"] == 1
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


@pytest.mark.slow
def test_the_examples_of_analysis_run(capsys):
    text = (Path(__file__).parents[1] / "docs" / "analysis.md").read_text()
    names: dict = {}
    for example in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(example, names)
    assert names["heat"].shape == (2, 64, 96) and names["field"].shape == (2, 2, 64, 96)
    assert "ErfFigures(center=" in capsys.readouterr().out
