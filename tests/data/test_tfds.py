"""TFDS sets without TensorFlow: pictures, masks, boxes and labels, and what is said where there are none."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from topgap_jax.data.sources import load_source

# From encoded bytes, which needs no TensorFlow. A process of its own builds the sets, so that the one that
# reads them knows nothing but the files.
BUILD = """
import io, sys
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from skimage import data

def encoded(picture, format="PNG"):
    file = io.BytesIO()
    picture.save(file, format)
    file.seek(0)
    return file

class Tiny(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(self.FEATURES))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(6), "test": self._generate_examples(3)}

class TinyShapes(Tiny):
    FEATURES = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "small": tfds.features.Image(shape=(5, 6, 1)),
        "label": tfds.features.ClassLabel(names=["dark", "light"]),
        "weight": tfds.features.Scalar(np.int64),
    }

    def _generate_examples(self, number):
        for i in range(number):
            image = Image.new("RGB", (4 + i, 5), (200 * (i % 2),) * 3)
            image = encoded(image.convert("CMYK"), "JPEG") if i == 3 else encoded(image)
            small = encoded(Image.new("L", (6, 5), i))
            yield i, {"image": image, "small": small, "label": i % 2, "weight": i}

class OxfordIiitPet(Tiny):  # under the name, version and features of the real one
    VERSION = tfds.core.Version("4.0.0")
    FEATURES = {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(num_classes=37),
        "species": tfds.features.ClassLabel(names=["Cat", "Dog"]),
        "file_name": tfds.features.Text(),
        "head_bbox": tfds.features.BBoxFeature(),
        "segmentation_mask": tfds.features.Image(shape=(None, None, 1), use_colormap=True),
    }

    def _generate_examples(self, number):
        picture = Image.fromarray(data.chelsea())  # 300x451
        trimap = np.full((300, 451), 2, np.uint8)
        trimap[60:120, 100:200] = 3
        trimap[70:110, 110:190] = 1
        for i in range(number):
            yield i, {
                "image": encoded(picture, "JPEG"),
                "label": i % 2,
                "species": 0,
                "file_name": f"cat_{i}.jpg",
                "head_bbox": tfds.features.BBox(0.0, 0.0, 0.1, 0.1),
                "segmentation_mask": encoded(Image.fromarray(trimap)),
            }

BOX = tfds.features.BBox(ymin=0.25, xmin=0.5, ymax=0.75, xmax=1.0)

class TinyBoxes(Tiny):
    FEATURES = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(names=["a", "b"]),
        "bbox": tfds.features.BBoxFeature(),
    }

    def _generate_examples(self, number):
        for i in range(number):
            yield i, {"image": encoded(Image.new("RGB", (40, 20))), "label": 1, "bbox": BOX}

class TinyObjects(Tiny):
    FEATURES = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(names=["a", "b"]),
        "objects": tfds.features.Sequence({"bbox": tfds.features.BBoxFeature()}),
    }

    def _generate_examples(self, number):
        for i in range(number):
            objects = [{"bbox": BOX}] * (1 if number == 6 else 1 + i)  # in "test" up to three
            yield i, {"image": encoded(Image.new("RGB", (40, 20))), "label": 1, "objects": objects}

for builder in (TinyShapes, OxfordIiitPet, TinyBoxes, TinyObjects):
    builder(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    script = folder / "tiny.py"
    script.write_text(BUILD)
    subprocess.run([sys.executable, str(script), str(folder / "prepared")], check=True, capture_output=True)
    return str(folder / "prepared")


def test_pictures_and_labels_come_back(prepared):
    source = load_source("tfds:tiny_shapes", "train", data_dir=prepared, size=4)
    assert len(source) == 6 and source.class_names == ["dark", "light"] and source.image_shape == (4, 4, 3)
    examples = [source[i] for i in range(6)]
    assert sorted(int(example["label"]) for example in examples) == [0, 0, 0, 1, 1, 1]
    assert all(np.abs(e["image"] - 200.0 * e["label"]).max() < 4 for e in examples)
    assert examples[0]["image"].dtype == np.uint8 and examples[0]["label"].dtype == np.int32
    assert set(examples[0]) == {"image", "label"}
    assert len(load_source("tfds:tiny_shapes:1.0.0", "train[:50%]", data_dir=prepared, size=4)) == 3


def test_sizes_may_stay_as_they_are(prepared):
    grey = load_source("tfds:tiny_shapes", "test", data_dir=prepared, image_key="small", channels=1)
    assert grey.image_shape == grey[0]["image"].shape == (5, 6, 1)
    assert sorted(int(grey[i]["image"].max()) for i in range(3)) == [0, 1, 2]
    differing = load_source("tfds:tiny_shapes", "train", data_dir=prepared)
    assert differing.image_shape is None
    assert {differing[i]["image"].shape for i in range(6)} == {(5, 4 + i, 3) for i in range(6)}
    short = load_source("tfds:oxford_iiit_pet", "train", data_dir=prepared, short_side=60)
    assert short.image_shape is None and short[0]["image"].shape == (60, 90, 3)


def test_labels_need_no_pictures_and_are_kept(prepared, monkeypatch):
    source = load_source("tfds:tiny_shapes", "train", data_dir=prepared, size=4)
    monkeypatch.setattr(Image, "open", None)
    labels = source.labels
    assert labels.dtype == np.int32
    monkeypatch.undo()
    np.testing.assert_array_equal(labels, [source[i]["label"] for i in range(6)])
    again = load_source("tfds:tiny_shapes", "train", data_dir=prepared, size=4)
    again._records = range(6)  # no records to read: they come from the file
    np.testing.assert_array_equal(again.labels, labels)
    half = load_source("tfds:tiny_shapes", "train[50%:]", data_dir=prepared, size=4)
    np.testing.assert_array_equal(half.labels, labels[3:])


def test_the_trimaps_of_oxford_pet_become_masks(prepared):
    source = load_source("tfds:oxford_iiit_pet", "train", data_dir=prepared)
    example = source[0]
    expected = np.zeros((300, 451), bool)
    expected[60:120, 100:200] = True
    np.testing.assert_array_equal(example["mask"], expected)
    assert "box" not in example  # that of the head is not that of the animal
    assert np.abs(example["image"].astype(float) - data.chelsea()).mean() < 5
    inner = load_source("tfds:oxford_iiit_pet", "train", data_dir=prepared, mask_values=[1])[0]["mask"]
    assert inner.sum() == 40 * 80
    small = load_source("tfds:oxford_iiit_pet", "train", data_dir=prepared, size=150)[0]  # half, 113 of 225
    rows, columns = np.nonzero(small["mask"])
    edges = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
    np.testing.assert_allclose(edges, (30, 50 - 37.75, 60, 100 - 37.75), atol=1)


def test_one_box_per_picture_in_pixels(prepared):
    example = load_source("tfds:tiny_boxes", "train", data_dir=prepared)[0]
    np.testing.assert_array_equal(example["box"], [5, 20, 15, 40])
    cropped = load_source("tfds:tiny_boxes", "train", data_dir=prepared, size=10)[0]  # half, 10 columns cut
    np.testing.assert_array_equal(cropped["box"], [2.5, 5, 7.5, 10])
    assert cropped["box"].dtype == np.float32
    objects = load_source("tfds:tiny_objects", "train", data_dir=prepared)[0]
    np.testing.assert_array_equal(objects["box"], [5, 20, 15, 40])
    assert "box" not in load_source("tfds:tiny_objects", "test", data_dir=prepared)[0]


def test_it_travels_to_worker_processes(prepared):
    source = load_source("tfds:oxford_iiit_pet", "train", data_dir=prepared, size=32)
    copy = pickle.loads(pickle.dumps(source))
    for name, value in source[2].items():
        np.testing.assert_array_equal(copy[2][name], value)


@pytest.mark.parametrize(
    ("name", "split", "options", "message"),
    [
        ("tfds:tiny_shapes", "dev", {}, "tfds:tiny_shapes has no split 'dev'; there are train, test"),
        ("tfds:tiny_shapes", "train", {"image_key": "picture"}, "no feature 'picture'; there are "),
        ("tfds:tiny_shapes", "train", {"image_key": "weight"}, "'weight' of tfds:tiny_shapes is no picture"),
        ("tfds:tiny_shapes", "train", {"label_key": "weight"}, "'weight' of tfds:tiny_shapes is no class"),
        (
            "tfds:mnist",
            "train",
            {},
            "mnist is not prepared; run: topgap data prepare tfds:mnist --data-dir DIR$",
        ),
        (
            "tfds:imagenet2012_corrupted/fog_1",
            "validation",
            {},
            "prepare tfds:imagenet2012_corrupted/fog_1 --data-dir DIR$",
        ),
        ("tfds:no_such_set", "train", {}, "TFDS has no data set 'no_such_set'"),
    ],
)
def test_errors_say_what_to_do(prepared, name, split, options, message):
    with pytest.raises(ValueError, match=message.replace("DIR", prepared)):
        load_source(name, split, data_dir=prepared, **options)


def test_a_damaged_picture_is_named(prepared):
    source = load_source("tfds:tiny_shapes", "train", data_dir=prepared)
    stored = source._records[0]
    source._records = [stored.replace(b"PNG", b"QNG")]
    with pytest.raises(ValueError, match=r"example 0 of tfds:tiny_shapes, split 'train' cannot be decoded"):
        source[0]


def test_tensorflow_is_not_imported(prepared):
    code = (
        "import sys; from topgap_jax.data.sources import load_source;"
        f"load_source('tfds:tiny_boxes', 'train', data_dir={prepared!r})[0];"
        "print('tensorflow' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.stdout == "False\n"
