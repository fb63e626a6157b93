"""Every kind of source: what it gives, and what it says when the data cannot be used."""

import re
import subprocess
import sys

import numpy as np
import pytest

from topgap_jax.data.arrays import ArraySource
from topgap_jax.data.sources import load_source


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        "images": rng.integers(0, 256, (6, 5, 4, 3), dtype=np.uint8),
        "labels": np.array([0, 1, 2, 2, 1, 0]),
        "masks": rng.integers(0, 2, (6, 5, 4)),
        "groups": np.arange(6),
    }


@pytest.mark.parametrize("layout", ["folder", "file"])
def test_npz_gives_back_what_was_stored(tmp_path, arrays, layout):
    small = {name: values[:2] for name, values in arrays.items()}  # the test split lacks the last class
    if layout == "folder":
        path = tmp_path
        np.savez(tmp_path / "train.npz", **arrays)
        np.savez(tmp_path / "test.npz", image=small["images"], label=small["labels"])
    else:
        path = tmp_path / "all.npz"
        named = [
            (f"{split}_{name}", data[name])
            for split, data in (("train", arrays), ("test", small))
            for name in data
        ]
        np.savez(path, class_names=np.array(["a", "b", "c"]), **dict(named))
    train, test = load_source(f"npz:{path}", "train"), load_source(f"npz:{path}", "test")
    assert (
        train.class_names == test.class_names == (["0", "1", "2"] if layout == "folder" else ["a", "b", "c"])
    )
    assert (len(train), len(test)) == (6, 2) and train.image_shape == (5, 4, 3)
    example = train[3]
    np.testing.assert_array_equal(example["image"], arrays["images"][3])
    np.testing.assert_array_equal(example["mask"], arrays["masks"][3] > 0)
    assert (example["label"], example["group"]) == (2, 3)
    assert (example["label"].dtype, example["mask"].dtype, example["group"].dtype) == (
        np.int32,
        bool,
        np.int32,
    )
    assert ("mask" in test[0]) == (layout == "file")


def test_npz_errors_name_what_is_there(tmp_path, arrays):
    with pytest.raises(ValueError, match=r"gone.npz is neither a folder of .npz files nor an .npz file"):
        load_source(f"npz:{tmp_path / 'gone.npz'}", "train")
    np.savez(tmp_path / "train.npz", **arrays)
    with pytest.raises(ValueError, match="no split 'test'; there are train"):
        load_source(f"npz:{tmp_path}", "test")
    np.savez(tmp_path / "train.npz", pictures=arrays["images"], labels=arrays["labels"])
    with pytest.raises(ValueError, match="no array 'images'; there are picture, label"):
        load_source(f"npz:{tmp_path}", "train")
    np.savez(tmp_path / "train.npz", **arrays, class_names=["a", "b", "c"])
    np.savez(tmp_path / "test.npz", **arrays, class_names=["c", "b", "a"])
    with pytest.raises(ValueError, match=r"class_names differ between the splits: \['c', 'b', 'a'\] and"):
        load_source(f"npz:{tmp_path}", "train")


def test_one_channel_may_be_left_out_and_floats_become_float32(arrays):
    source = ArraySource(arrays["images"][..., 0] / 255, arrays["labels"], "abc")
    assert source.image_shape == (5, 4, 1) and source[0]["image"].dtype == np.float32
    np.testing.assert_allclose(source[0]["image"][..., 0], arrays["images"][0, ..., 0] / 255, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((6, 5, 4, 3), np.int64)}, "must be uint8 or float in [0, 1], not int64"),
        ({"images": np.full((6, 5, 4, 3), 255.0)}, "must lie in [0, 1], not in [255, 255]"),
        ({"images": np.full((6, 5, 4, 3), -0.5)}, "not in [-0.5, -0.5]"),
        ({"images": np.full((6, 5, 4, 3), np.nan)}, "not in [nan, nan]"),
        ({"images": np.zeros((6, 5), np.uint8)}, "must be [N, H, W, C] with N >= 1, not [6, 5]"),
        ({"images": np.zeros((0, 5, 4, 3), np.uint8)}, "N >= 1, not [0, 5, 4, 3]"),
        ({"labels": np.array([0, 1, 2, 3, 1, 4])}, "lie in 0..2; 2 do not, the first is 3 at index 3"),
        ({"labels": np.array([0, -1, 2, 2, 1, 0])}, "1 do not, the first is -1 at index 1"),
        ({"labels": np.zeros(5, int)}, "6 whole numbers, one per image, not int64 of shape [5]"),
        ({"labels": np.zeros(6)}, "the labels of the arrays must be 6 whole numbers"),
        ({"masks": np.full((6, 5, 4), 255)}, "bool or 0/1 of shape [6, 5, 4]"),
        ({"masks": np.zeros((6, 4, 5))}, "not float64 of shape [6, 4, 5]"),
        ({"groups": np.zeros((6, 2), int)}, "the groups of the arrays must be 6 whole numbers"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused(arrays, change, message):
    data = arrays | change
    with pytest.raises(ValueError, match=re.escape(message)):
        ArraySource(data["images"], data["labels"], "abc", masks=data["masks"], groups=data["groups"])


def test_the_embedded_set_is_a_source():
    source = load_source("embedded", "shifted", num_images=7, seed=3)
    assert len(source) == 7 and source.num_classes == 10 and source.image_shape == (48, 48, 3)
    assert set(source[6]) == {"image", "label", "mask", "group"}
    with pytest.raises(
        ValueError, match="no split 'test'; there are train, validation, in_distribution, shifted"
    ):
        load_source("embedded", "test")
    with pytest.raises(ValueError, match="embedded takes no option 'colour'; there are num_images, size"):
        load_source("embedded", "train", colour=1)


@pytest.mark.parametrize(
    "name", ["", "cifar", "embedded:", "embedded:x", "folder", "folder:", "npz", "tfds:"]
)
def test_an_unknown_data_set_lists_what_exists(name):
    with pytest.raises(
        ValueError, match=f"no data set '{name}'; there are embedded, .*folder:PATH, npz:PATH, tfds"
    ):
        load_source(name, "train")


def test_a_folder_is_recognised(tmp_path):
    with pytest.raises(ValueError, match=f"no data set '{tmp_path}': did you mean folder:{tmp_path}"):
        load_source(str(tmp_path), "train")
    for name in ("mitosis", "other"):
        (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=r"there are mitosis, other; if these are classes, set split_frac"):
        load_source(f"folder:{tmp_path}", "train")


def test_importing_sources_loads_no_heavy_package():
    code = "import sys, topgap_jax.data.sources; print({'sklearn', 'tensorflow_datasets'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
