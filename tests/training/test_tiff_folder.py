"""A folder of 16-bit TIFFs with masks, as from a microscope: it trains, is evaluated and explained."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage import data

from topgap_jax.reports import write_report
from topgap_jax.training import train_and_evaluate

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """Cuts of a real micrograph and of a photograph of coins, each at a brightness of its own."""
    folder, rng = tmp_path_factory.mktemp("cells"), np.random.default_rng(0)
    for split, number in (("train", 16), ("validation", 8), ("test", 8)):
        for name, picture in (("cell", data.cell()), ("coin", data.coins())):
            for i in range(number):
                top, left = (rng.integers(0, side - 64) for side in picture.shape)
                cut = picture[top : top + 64, left : left + 64]
                places = folder / split / name / f"{i}.tif", folder / "masks" / split / name / f"{i}.png"
                for place in places:
                    place.parent.mkdir(parents=True, exist_ok=True)
                stored = cut * np.uint16(rng.integers(20, 200)) + np.uint16(500)
                calibration = {"resolution": (2, 2), "metadata": {"unit": "um"}}
                tifffile.imwrite(places[0], stored, imagej=True, **calibration)
                Image.fromarray(cut > np.median(cut)).save(places[1])
    return folder


@pytest.mark.slow
def test_a_folder_of_16_bit_tiffs_trains_evaluates_and_explains(cells, tmp_path):
    config = runpy.run_path(str(CONFIGS / "folder.py"))["get_config"]().to_dict()
    changes = {
        "model": {"name": "resnet_narrow", "k": 8},
        "data": {
            "source": f"folder:{cells}",
            "options": {"size": 32, "channels": 1, "window": ("percentile", 0.5, 99.5)},
            "augment": ("horizontal_flip",),
        },
        "train": {"batch_size": 8, "epochs": 2},
        "evaluation": {"batch_size": 8, "attacks": (), "pictures": 3},
    }
    for name, value in changes.items():
        config[name] = config[name] | value
    train_and_evaluate(config, tmp_path)
    evaluation = json.loads((tmp_path / "evaluation.json").read_text())
    assert [figure["count"] for figure in evaluation["accuracy"]] == [16]
    assert 0 < evaluation["cam"]["iou_oracle"] <= 1 and evaluation["cam"]["count"] == 16
    with np.load(tmp_path / "examples.npz") as examples:
        images = examples["images"]
    assert images.shape[1:3] == (32, 32) and len(np.unique(images)) > 300  # more than 8 bits hold
    assert write_report(tmp_path).is_file()
