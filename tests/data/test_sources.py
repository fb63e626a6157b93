"""Every kind of source: what it gives, and what it says when the data cannot be used."""

import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from topgap_jax.data.arrays import ArraySource
from topgap_jax.data.sources import load_source

RED, GREEN, GREY = (250, 10, 20), (0, 200, 0), (90, 90, 90)


def save(path, colour=RED, size=(10, 8), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path)


@pytest.fixture
def folder(tmp_path):
    """Two splits of three classes, in several formats; class "10" comes after "9" only in natural order."""
    for split in ("train", "test"):
        save(tmp_path / split / "9" / "a.png", RED)
        save(tmp_path / split / "10" / "b.bmp", GREEN)
        save(tmp_path / split / "10" / "a.webp", GREEN)
        save(tmp_path / split / "other" / "a.png", GREY, mode="L")
    save(tmp_path / "train" / "9" / "img10.png")
    save(tmp_path / "train" / "9" / "img9.png")
    (tmp_path / "train" / "9" / "notes.txt").write_text("not a picture")
    return tmp_path


def test_folder_reads_classes_labels_and_pictures(folder):
    source = load_source(f"folder:{folder}", "train")
    assert source.class_names == ["9", "10", "other"] and source.num_classes == 3
    assert [path.name for path in source.paths] == [
        "a.png",
        "img9.png",
        "img10.png",
        "a.webp",
        "b.bmp",
        "a.png",
    ]
    assert [int(source[i]["label"]) for i in range(len(source))] == [0, 0, 0, 1, 1, 2]
    assert source.image_shape == (8, 10, 3)
    assert source[0]["image"].dtype == np.uint8 and source[0]["image"].shape == (8, 10, 3)
    assert (source[0]["image"] == RED).all() and (source[5]["image"] == GREY).all()


def test_folder_gives_one_channel_on_request(folder):
    source = load_source(f"folder:{folder}", "test", channels=1)
    assert source.image_shape == (8, 10, 1) and source[0]["image"].shape == (8, 10, 1)


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "1", "CMYK", "LA"])
def test_folder_converts_every_mode(tmp_path, mode):
    name = "a.jpg" if mode == "CMYK" else "a.png"
    save(tmp_path / "train" / "x" / name, (255, 255, 255), mode=mode)
    image = load_source(f"folder:{tmp_path}", "train")[0]["image"]
    assert image.shape == (8, 10, 3) and image.min() >= 254


def test_size_covers_and_crops_about_the_centre(tmp_path):
    stripes = np.zeros((10, 30, 3), np.uint8)
    stripes[:, 10:20] = 200
    (tmp_path / "train" / "x").mkdir(parents=True)
    Image.fromarray(stripes).save(tmp_path / "train" / "x" / "a.png")
    save(tmp_path / "train" / "x" / "b.png", size=(50, 7))
    source = load_source(f"folder:{tmp_path}", "train", size=5)
    assert [source[i]["image"].shape for i in (0, 1)] == [(5, 5, 3)] * 2 and source.image_shape == (5, 5, 3)
    assert (source[0]["image"] >= 150).all()
    assert load_source(f"folder:{tmp_path}", "train", size=(4, 6))[1]["image"].shape == (4, 6, 3)


def test_exif_orientation_is_applied_before_sizes_are_compared(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    picture = Image.new("RGB", (6, 4))
    picture.paste((255, 255, 255), (0, 0, 1, 4))  # the left edge, which belongs on top
    (tmp_path / "train" / "x").mkdir(parents=True)
    picture.save(tmp_path / "train" / "x" / "a.png", exif=exif)
    save(tmp_path / "train" / "x" / "b.png", size=(4, 6))
    source = load_source(f"folder:{tmp_path}", "train")
    assert source.image_shape == (6, 4, 3)
    assert (source[0]["image"][0] == 255).all() and (source[0]["image"][1:] == 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda root: save(root / "test" / "cat" / "a.png"),
            "test differ from those of .*train: missing none; only",
        ),
        (lambda root: save(root / "train" / "cat" / "a.png"), "missing cat; only there none"),
        (
            lambda root: save(root / "test" / "9" / "b.png", size=(11, 8)),
            "a.png is 8x10, .*b.png is 8x11.*size=224",
        ),
        (lambda root: (root / "test" / "9" / "b.png").write_bytes(b"no"), "b.png cannot be decoded"),
    ],
)
def test_folders_that_cannot_be_used_are_refused_before_training(folder, change, message):
    change(folder)
    with pytest.raises(ValueError, match=message):
        load_source(f"folder:{folder}", "test")


def test_a_folder_without_pictures_or_classes_or_splits_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere is no folder; expected .*<split>/<class name>/<picture>"):
        load_source(f"folder:{tmp_path / 'nowhere'}", "train")
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match="has no folders; expected"):
        load_source(f"folder:{tmp_path}", "train")
    (tmp_path / "train" / "cat").mkdir()
    with pytest.raises(ValueError, match=r"hold no pictures \(.png, .jpg"):
        load_source(f"folder:{tmp_path}", "train")


def test_a_broken_or_deep_picture_is_named_when_it_is_read(tmp_path):
    save(tmp_path / "train" / "x" / "broken.png", size=(300, 300))
    broken = tmp_path / "train" / "x" / "broken.png"
    broken.write_bytes(broken.read_bytes()[:60])
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(tmp_path / "train" / "x" / "deep.png")
    source = load_source(f"folder:{tmp_path}", "train", size=4)
    with pytest.raises(ValueError, match=r"broken.png cannot be decoded"):
        source[0]
    with pytest.raises(ValueError, match=r"deep.png has more than 8 bits"):
        source[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 4}, "channels is 3 .RGB. or 1 .grey., not 4"),
        ({"size": 0}, "size is a whole number"),
        ({"size": 2.5}, "size is a whole number"),
        ({"width": 3}, "folder takes no option 'width'; there are size, channels"),
    ],
)
def test_folder_options_are_checked(folder, options, message):
    with pytest.raises(ValueError, match=message):
        load_source(f"folder:{folder}", "train", **options)


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


def test_importing_sources_loads_no_heavy_package():
    code = "import sys, topgap_jax.data.sources; print({'sklearn', 'tensorflow_datasets'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


# Pictures of different widths, from encoded bytes, which needs no TensorFlow. A process of its own builds the
# set, so that the one that reads it knows nothing but the files.
BUILD_TINY_SHAPES = """
import io, sys
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

def png(picture):
    file = io.BytesIO()
    picture.save(file, "PNG")
    file.seek(0)
    return file

class TinyShapes(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "small": tfds.features.Image(shape=(5, 6, 1)),
            "label": tfds.features.ClassLabel(names=["dark", "light"]),
            "weight": tfds.features.Scalar(np.int64),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(6), "test": self._generate_examples(3)}

    def _generate_examples(self, number):
        for i in range(number):
            image = png(Image.new("RGB", (4 + i, 5), (200 * (i % 2),) * 3))
            yield i, {"image": image, "small": png(Image.new("L", (6, 5), i)), "label": i % 2, "weight": i}

TinyShapes(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    script = folder / "tiny_shapes.py"
    script.write_text(BUILD_TINY_SHAPES)
    subprocess.run([sys.executable, str(script), str(folder / "prepared")], check=True, capture_output=True)
    return str(folder / "prepared")


def test_tfds_reads_a_prepared_set(prepared):
    source = load_source("tfds:tiny_shapes", "train", data_dir=prepared, size=4)
    assert len(source) == 6 and source.class_names == ["dark", "light"] and source.image_shape == (4, 4, 3)
    examples = [source[i] for i in range(6)]
    assert sorted(int(example["label"]) for example in examples) == [0, 0, 0, 1, 1, 1]
    assert all((example["image"] == 200 * example["label"]).all() for example in examples)
    assert examples[0]["image"].dtype == np.uint8 and examples[0]["label"].dtype == np.int32
    assert len(load_source("tfds:tiny_shapes:1.0.0", "train[:50%]", data_dir=prepared, size=4)) == 3
    grey = load_source("tfds:tiny_shapes", "test", data_dir=prepared, image_key="small", channels=1)
    assert grey.image_shape == grey[0]["image"].shape == (5, 6, 1)
    assert sorted(int(grey[i]["image"].max()) for i in range(3)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "split", "options", "message"),
    [
        (
            "tfds:tiny_shapes",
            "train",
            {},
            "pictures of tfds:tiny_shapes differ in size; give the option size",
        ),
        ("tfds:tiny_shapes", "dev", {}, "tfds:tiny_shapes has no split 'dev'; there are train, test"),
        ("tfds:tiny_shapes", "train", {"image_key": "picture"}, "no feature 'picture'; there are "),
        (
            "tfds:tiny_shapes",
            "train",
            {"label_key": "weight"},
            "'weight' of tfds:tiny_shapes is no class label",
        ),
        (
            "tfds:mnist",
            "train",
            {},
            r"mnist is not prepared in .*tfds.builder\('mnist', .*download_and_prepare",
        ),
        ("tfds:no_such_set", "train", {}, "TFDS has no data set 'no_such_set'"),
    ],
)
def test_tfds_errors_say_what_to_do(prepared, name, split, options, message):
    with pytest.raises(ValueError, match=message):
        load_source(name, split, data_dir=prepared, **options)
