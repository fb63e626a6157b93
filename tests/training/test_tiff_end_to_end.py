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


def settings(name, folder, **changes):
    config = runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"]().to_dict()
    config["data"]["source"] = f"folder:{folder}"
    for section, fields in changes.items():
        config[section] = config[section] | fields
    return config


def check_results(folder, workdir, channels):
    """What every run leaves behind; the evaluation."""
    evaluation = json.loads((workdir / "evaluation.json").read_text())
    [accuracy] = evaluation["accuracy"]
    assert accuracy["count"] == len(list((folder / "test").rglob("*.tif")))
    with np.load(workdir / "examples.npz") as examples:
        assert examples["images"].shape[1:] == (64, 64, channels) and examples["images"].dtype == np.float32
        assert examples["heat"].shape == examples["images"].shape[:3]
        assert np.isfinite(examples["heat"]).all() and np.ptp(examples["heat"]) > 0
        shown = len(examples["labels"])
    assert write_report(workdir).read_text().count("data:image/png;base64,") >= 2 * shown
    return evaluation


@pytest.mark.slow
def test_the_walk_of_the_guide_ends_with_a_network_that_tells_the_classes_apart(tissue, tmp_path):
    train_and_evaluate(settings("microscopy", tissue), tmp_path)
    evaluation = check_results(tissue, tmp_path, channels=1)
    assert evaluation["accuracy"][0]["value"] > 0.8  # the larger class makes 0.6
    assert evaluation["cam"]["iou_oracle"] > 0.15


@pytest.mark.slow
def test_five_channels_of_several_types_train_evaluate_and_explain(five_channels, tmp_path):
    config = settings(
        "folder",
        five_channels,
        model={"name": "resnet_narrow", "k": 26, "pyramid_channels": 32},
        data={"source": f"folder:{five_channels}", "options": {"size": 64, "channels": 5}},
        train={"batch_size": 16, "epochs": 1},
        evaluation={"batch_size": 16, "attacks": ("paper_fgsm",), "pictures": 4},
    )
    train_and_evaluate(config, tmp_path)
    evaluation = check_results(five_channels, tmp_path, channels=5)
    assert "iou_oracle" not in evaluation["cam"]  # there are no masks
