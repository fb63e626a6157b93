"""COCO as single-object classification, in the original annotations' format."""

import contextlib
import importlib.util
import io
import json
import os
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from data.original_sets import OBJECTS, edges, polygons, run_lengths, silhouette, write_coco
from topgap_jax.data.published import coco as module
from topgap_jax.data.sources import load_source

CLASSES = ["person", "cat", "dog"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_coco(folder)
    return folder


@pytest.fixture
def own(data_dir, tmp_path):
    """A copy to damage, and its training annotations."""
    shutil.copytree(data_dir, tmp_path, dirs_exist_ok=True)
    return tmp_path, tmp_path / "coco/annotations/instances_train2017.json"


def coco(data_dir, split="train", min_samples=2, masks=False, **options):
    return load_source("coco", split, data_dir=str(data_dir), min_samples=min_samples, masks=masks, **options)


def numbers(source):
    """The picture's position in OBJECTS, which the file name holds."""
    return [(int(path.stem) % 1000) // 7 for path in source.paths]


def test_pictures_with_one_object_of_a_frequent_class_are_chosen(data_dir):
    train, validation, everything = (coco(data_dir, split) for split in ("train", "validation", "all"))
    assert numbers(train) == [0, 2, 5, 9, 10] and train.labels.tolist() == [1, 2, 2, 1, 0]
    assert numbers(validation) == [0, 1, 3] and validation.labels.tolist() == [0, 1, 0]
    assert everything.paths == train.paths + validation.paths
    assert everything.labels.tolist() == train.labels.tolist() + validation.labels.tolist()
    for source in (train, validation, everything):
        assert source.class_names == CLASSES and source.num_classes == 3 and source.labels.dtype == np.int32


def test_classes_are_counted_over_both_files(data_dir):
    assert coco(data_dir, "validation", min_samples=3).class_names == ["person", "cat"]
    assert coco(data_dir, "train", min_samples=1).class_names == [*CLASSES, "hair drier"]
    with pytest.raises(ValueError, match="no category has 9 pictures with one object; the most is 3"):
        coco(data_dir, min_samples=9)


def test_both_years_give_the_same(data_dir, tmp_path):
    write_coco(tmp_path, year=2014)
    older, newer = coco(tmp_path, year=2014), coco(data_dir)
    assert older.paths[0].parent.name == "train2014" and older.paths[0].name.startswith("COCO_train2014_")
    assert older.labels.tolist() == newer.labels.tolist() and older.class_names == newer.class_names
    np.testing.assert_array_equal(older.boxes, newer.boxes)
    with pytest.raises(ValueError, match=r"prepare coco --data-dir .* --only 2014"):
        coco(data_dir, year=2014)


def test_grey_pictures_become_colour(data_dir):
    source = coco(data_dir)
    with Image.open(source.paths[1]) as stored:
        assert stored.mode == "L"
    image = source[1]["image"]
    assert image.shape == (76, 86, 3) and (image[..., 0] == image[..., 2]).all() and image.std() > 5


def test_boxes_are_those_of_the_objects(data_dir):
    for options, pixels in (({}, 0), ({"size": (100, 110)}, 1.01), ({"short_side": 120}, 1.5)):
        pytest.importorskip("pycocotools")
        source = coco(data_dir, "all", masks=True, **options)
        for i in range(len(source)):
            example = source[i]
            assert example["mask"].shape == example["image"].shape[:2]
            np.testing.assert_allclose(example["box"], edges(example["mask"]), atol=pixels)


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # NumPy 2 about pycocotools 2.0.11
def test_masks_are_the_silhouettes_and_what_pycocotools_gives(data_dir):
    api = pytest.importorskip("pycocotools.coco")
    with contextlib.redirect_stdout(io.StringIO()):
        reference = api.COCO(data_dir / "coco/annotations/instances_train2017.json")
    source = coco(data_dir, masks=True)
    for i, number in enumerate(numbers(source)):
        mask, (entry,) = source[i]["mask"], reference.imgToAnns[int(source.paths[i].stem)]
        np.testing.assert_array_equal(mask, reference.annToMask(entry).astype(bool))
        shape = silhouette(70 + 3 * number, 90 - 2 * number)
        if OBJECTS["train"][number] == [(18, "run lengths")]:
            np.testing.assert_array_equal(mask, shape)
        assert (mask & shape).sum() > 0.95 * (mask | shape).sum()


def test_known_shapes_are_decoded_to_the_pixel():
    codec = pytest.importorskip("pycocotools.mask")
    shape = np.zeros((40, 60), bool)
    shape[5:20, 10:45] = True
    rectangle = [10, 5, 45, 5, 45, 20, 10, 20]
    np.testing.assert_array_equal(module.object_mask([rectangle], 40, 60), shape)
    shape[30:35, 50:60] = True
    np.testing.assert_array_equal(
        module.object_mask([rectangle, [50, 30, 60, 30, 60, 35, 50, 35]], 40, 60), shape
    )
    np.testing.assert_array_equal(module.object_mask(run_lengths(shape), 40, 60), shape)
    np.testing.assert_array_equal(module.object_mask(run_lengths(~shape), 40, 60), ~shape)
    compressed = codec.encode(np.asfortranarray(shape, np.uint8))
    compressed["counts"] = compressed["counts"].decode()  # as JSON holds it
    np.testing.assert_array_equal(module.object_mask(compressed, 40, 60), shape)


def test_a_source_travels_to_worker_processes(data_dir):
    pytest.importorskip("pycocotools")
    source = coco(data_dir, masks=True, size=48)
    there = pickle.loads(pickle.dumps(source))[4]
    assert sorted(there) == ["box", "image", "label", "mask"]
    assert all(np.array_equal(value, there[name]) for name, value in source[4].items())


def test_annotations_are_parsed_once_and_again_when_they_change(own, monkeypatch):
    folder, annotations = own
    copy = annotations.with_suffix(".single_objects.json")
    first = coco(folder)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_read_annotations", None)  # whoever calls it fails
        assert coco(folder).labels.tolist() == first.labels.tolist()
        np.testing.assert_array_equal(coco(folder).boxes, first.boxes)
    copy.write_text(copy.read_text()[:100])
    assert coco(folder).labels.tolist() == first.labels.tolist()
    whole = json.loads(annotations.read_text())
    whole["annotations"] = [entry for entry in whole["annotations"] if entry["category_id"] != 18]
    annotations.write_text(json.dumps(whole))
    assert coco(folder).class_names == ["person", "cat"]


def test_a_read_only_folder_keeps_no_copy(own, monkeypatch):
    folder, annotations = own
    annotations.with_suffix(".single_objects.json").unlink(missing_ok=True)

    def refuse(*_, **__):
        raise PermissionError("read-only")

    monkeypatch.setattr(module.tempfile, "NamedTemporaryFile", refuse)
    assert len(coco(folder)) == 5 and not annotations.with_suffix(".single_objects.json").exists()


def test_another_number_of_classes_than_the_papers_is_a_warning(tmp_path):
    """20 more cats make one class."""
    write_coco(tmp_path)
    annotations = tmp_path / "coco/annotations/instances_train2017.json"
    whole = json.loads(annotations.read_text())
    cat = next(entry for entry in whole["annotations"] if entry["category_id"] == 17)
    for i in range(20):
        whole["images"].append({**whole["images"][0], "id": 10 * i + 1})
        whole["annotations"].append({**cat, "image_id": 10 * i + 1})
    annotations.write_text(json.dumps(whole))
    with pytest.warns(UserWarning, match=r"1 classes with at least 20 pictures .*, not the 53 expected"):
        load_source("coco", "train", data_dir=str(tmp_path), masks=False)
    load_source("coco", "train", data_dir=str(tmp_path), masks=False, expected_classes=1)
    load_source("coco", "train", data_dir=str(tmp_path), masks=False, expected_classes=None)


def test_what_is_missing_is_reported_together(own):
    folder, annotations = own
    for path in coco(folder).paths[:2]:
        path.unlink()
    with pytest.raises(ValueError, match=r"lacks .*5000\.jpg; .*5014\.jpg; run: topgap data prepare coco"):
        coco(folder)
    shutil.rmtree(folder / "coco/train2017")
    assert len(coco(folder, "validation")) == 3
    annotations.unlink()
    with pytest.raises(ValueError, match=r"lacks .*instances_train2017\.json; run: topgap data prepare coco"):
        coco(folder, "validation")
    with pytest.raises(ValueError, match="year is 2014 or 2017, not 2015"):
        coco(folder, year=2015)
    with pytest.raises(ValueError, match="there are train, validation, all"):
        coco(folder, "test")


def test_pictures_of_another_size_than_annotated_are_reported_together(own):
    folder, _ = own
    first, second = coco(folder).paths[:2]
    with Image.open(first) as picture:
        turned = picture.transpose(Image.Transpose.ROTATE_90)
    turned.save(first)
    second.write_bytes(b"")
    expected = r"5000\.jpg is 90x70, not 70x90; .*5014\.jpg is unreadable, not 76x86"
    with pytest.raises(ValueError, match=expected):
        coco(folder)


def test_unusable_annotations_are_named(own):
    folder, annotations = own
    text = annotations.read_text()
    whole = json.loads(text)

    def write(new):
        annotations.write_text(new)
        os.utime(annotations, ns=(write.time, write.time))  # two within a clock tick are two versions
        write.time += 1

    write.time = 1
    write(text[: len(text) // 2])
    with pytest.raises(ValueError, match=r"train2017\.json is no JSON or was cut short"):
        coco(folder)
    write(json.dumps({**whole, "annotations": [{"image_id": 5, "id": 1, "caption": "A cat."}]}))
    with pytest.raises(ValueError, match=r"train2017\.json holds no instances: .*'iscrowd'"):
        coco(folder)
    write("[]")
    with pytest.raises(ValueError, match="holds no instances"):
        coco(folder)
    broken = json.loads(text)
    broken["images"] = broken["images"][1:]
    broken["annotations"] = [
        {**entry, "segmentation": []} if entry["category_id"] == 89 else entry
        for entry in broken["annotations"]
    ]
    write(json.dumps(broken))
    with pytest.raises(ValueError, match=r"annotation 500000 .*category 17; annotation 504900 .*category 89"):
        coco(folder)


def test_masks_without_pycocotools_say_what_to_install(data_dir, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install pycocotools.*masks=False"):
        coco(data_dir, masks=True)
    assert len(coco(data_dir)) == 5


def test_polygons_of_the_test_data_are_as_wide_as_the_shape():
    """Half a pixel off, and the tests above would test nothing."""
    mask = silhouette(70, 90)
    points = np.concatenate([np.reshape(ring, (-1, 2)) for ring in polygons(mask)])
    top, left, bottom, right = edges(mask)
    assert [*points.min(0), *points.max(0)] == [left, top, right, bottom]
