"""The code of the notebooks, run in order with one epoch."""

import json
import re
from pathlib import Path

import matplotlib
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def code_of(path: Path) -> str:
    """All code cells without the one that installs."""
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    sources = ["".join(cell["source"]) for cell in cells]
    assert "%pip install" in sources[0] and not any("%" in line[:1] for line in sources[1:])
    return re.sub(r"EPOCHS = \d+", "EPOCHS = 1", "\n".join(sources[1:]))


@pytest.mark.slow
def test_the_notebooks_run(tmp_path, monkeypatch, capsys):
    """In one folder: the second one takes the networks that the first one trained."""
    assert [path.stem for path in NOTEBOOKS] == ["quickstart", "robustness"]
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    for path in NOTEBOOKS:
        names: dict = {}
        exec(code_of(path), names)
        shown = capsys.readouterr().out
        if path.stem == "quickstart":
            assert names["heat"].shape == (6, 48, 48) and shown.endswith("compilations: 1\n")
            assert (tmp_path / "runs" / "notebook" / "report.html").exists()
        else:
            robust = names["survivors"]["Top-GAP"]
            assert robust["AutoAttack, strong"] <= robust["no attack"]
            assert shown.startswith("no attack")  # nothing was trained again
    matplotlib.pyplot.close("all")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_output_names_a_place_of_this_machine(path):
    text = path.read_text()
    assert not re.search(r"/tmp/|/home/|/root/|/work/|site-packages", text)
