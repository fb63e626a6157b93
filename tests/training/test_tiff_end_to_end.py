"""Folders of 16-bit TIFFs, from the guide's script to trained networks, heat maps and reports."""

import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import tifffile
from skimage import color, data

from topgap_jax.cli import main
from topgap_jax.reports import write_report
from topgap_jax.training import train_and_evaluate

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "microscopy.md").read_text(encoding="utf-8")
SCRIPT, *OTHER_BLOCKS = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
OUTPUT = next(block for block in re.findall(r"```text\n(.*?)```", GUIDE, re.DOTALL) if "stored as" in block)


@pytest.fixture(scope="module")
def tissue(tmp_path_factory):
    """What the guide's script writes."""
    folder = tmp_path_factory.mktemp("guide") / "tissue"
    exec(SCRIPT.replace('Path("tissue")', f"Path({str(folder)!r})"), {})
    return folder


def table(text, row):
    """The cells of a row."""
    line = next(line for line in text.splitlines() if line.strip().startswith(row + " "))
    return line.split(row, 1)[1].split()


def test_inspection_says_what_the_guide_shows(tissue, capsys):
    main(["data", "inspect", f"folder:{tissue}", "--option", "channels=1"])
    printed = capsys.readouterr().out
    for row in ("pictures", "pixel, um", "stored as", "channels", "type", "gland", "stroma"):
        assert table(printed, row) == table(OUTPUT, row)
    k = [int(re.search(r"--config.model.k=(\d+)", text)[1]) for text in (printed, OUTPUT)]
    assert k[0] == pytest.approx(k[1], abs=1)  # the threshold of the masks may round elsewhere


def test_the_sizes_in_the_guide_give_the_k_in_the_guide():
    [block], names = OTHER_BLOCKS, {}
    exec(block, names)
    lines = [line.split("  # ") for line in block.splitlines() if "  # " in line]
    assert [eval(call, names) for call, _ in lines] == [int(said.split(":")[0]) for _, said in lines]
    assert len(lines) == 2


@pytest.fixture(scope="module")
def five_channels(tmp_path_factory):
    """Tiles of the same section with five channels as 16 and 32 bits: three colours and two stains."""
    folder = tmp_path_factory.mktemp("five")
    picture = data.immunohistochemistry()
    stack = np.concatenate([picture / 255.0, color.rgb2hed(picture)[..., [0, 2]] * [8, 5]], axis=-1)
    for index in range(64):
        top, left = 64 * (index // 8), 64 * (index % 8)
        tile = np.moveaxis(stack[top : top + 64, left : left + 64], -1, 0)
        deep = (tile.clip(0, 1) * 65535).astype(np.uint16) if index % 2 else tile.astype(np.float32)
        split = ("train", "train", "validation", "test")[index % 4]
        path = folder / split / ("brown" if tile[4].mean() > 0.3 else "blue") / f"{index}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, deep, photometric="minisblack", metadata={"axes": "CYX"})
    return folder


def settings(folder, channels, **training):
    config = runpy.run_path(str(ROOT / "configs" / "folder.py"))["get_config"]().to_dict()
    changes = {
        "model": {"name": "resnet_narrow", "k": 26, "pyramid_channels": 32},
        "data": {"source": f"folder:{folder}", "options": {"size": 64, "channels": channels}},
        "train": {"batch_size": 16, "epochs": 1} | training,
        "evaluation": {"batch_size": 16, "attacks": ("paper_fgsm",), "pictures": 4},
    }
    for name, value in changes.items():
        config[name] = config[name] | value
    return config


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 5])
def test_deep_tiffs_train_evaluate_and_explain(channels, request, tmp_path):
    folder = request.getfixturevalue("tissue" if channels == 1 else "five_channels")
    train_and_evaluate(settings(folder, channels), tmp_path)
    evaluation = json.loads((tmp_path / "evaluation.json").read_text())
    files = [path for path in (folder / "test").rglob("*.tif")]
    assert [figure["count"] for figure in evaluation["accuracy"]] == [len(files)]
    assert ("iou_oracle" in evaluation["cam"]) == (channels == 1)  # the other folder has no masks
    with np.load(tmp_path / "examples.npz") as examples:
        assert examples["images"].shape == (4, 64, 64, channels) and examples["images"].dtype == np.float32
        assert examples["heat"].shape == (4, 64, 64)
        assert np.isfinite(examples["heat"]).all() and np.ptp(examples["heat"]) > 0
    page = write_report(tmp_path).read_text()
    assert page.count("data:image/png;base64,") >= 8
