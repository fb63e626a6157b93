"""A folder of real PNG files, from the command's configuration to the report."""

import json
import runpy
from pathlib import Path

import pytest
from PIL import Image

from topgap_jax.data.embedded import TexturedDigits
from topgap_jax.reports import write_report
from topgap_jax.training import ConfigError, train_and_evaluate

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Textured digits as files, two classes."""
    folder = tmp_path_factory.mktemp("pictures")
    splits = {"train": "train", "validation": "validation", "test": "in_distribution"}
    for split, source in splits.items():
        for index, example in enumerate(TexturedDigits(source, num_images=80, size=40, object_size=20)):
            if example["label"] < 2:
                path = folder / split / ("nought", "one")[example["label"]] / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(example["image"]).save(path)
    return folder


def settings(pictures, **sections):
    config = runpy.run_path(str(CONFIGS / "folder.py"))["get_config"]().to_dict()
    changes = {
        "model": {"name": "resnet_narrow", "k": 8},
        "data": {"source": f"folder:{pictures}", "options": {"size": 32}, "augment": ("pad_crop:2",)},
        "train": {"batch_size": 8, "epochs": 2},
        "evaluation": {"batch_size": 8, "attacks": ("paper_fgsm",), "pictures": 3},
    }
    for name, value in (changes | sections).items():
        config[name] = config[name] | value
    return config


def test_a_folder_of_pictures_trains_evaluates_and_reports(pictures, tmp_path):
    train_and_evaluate(settings(pictures), tmp_path)
    evaluation = json.loads((tmp_path / "evaluation.json").read_text())
    test_files = list((pictures / "test").rglob("*.png"))
    assert [figure["count"] for figure in evaluation["accuracy"]] == [len(test_files)]
    assert "iou_oracle" not in evaluation["cam"]  # there are no masks
    assert "Top-GAP" in write_report(tmp_path).read_text()


def test_pictures_of_several_sizes_need_a_size(pictures, tmp_path):
    Image.new("RGB", (50, 30)).save(pictures / "train" / "one" / "odd.png")
    try:
        with pytest.raises(ConfigError, match="size"):
            options = {"source": f"folder:{pictures}", "options": {}}
            train_and_evaluate(settings(pictures, data=options), tmp_path)
    finally:
        (pictures / "train" / "one" / "odd.png").unlink()
