"""Inspection against figures counted by hand, and of real pictures that come twice."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage import data

from topgap_jax.data.arrays import ArraySource
from topgap_jax.data.inspection.duplicates import digest, near_pairs, same_pixels, thumbnail
from topgap_jax.data.inspection.findings import findings
from topgap_jax.data.inspection.inspect import inspect_sources
from topgap_jax.data.inspection.measurement import object_areas, sample
from topgap_jax.data.sources import UnknownSplitError, load_source, split_names


def tiles(picture, side=64):
    rows, columns = (length // side for length in picture.shape[:2])
    cut = picture[: rows * side, : columns * side].reshape(rows, side, columns, side, -1)
    return list(cut.swapaxes(1, 2).reshape(rows * columns, side, side, -1))


def saved_again(picture, change):
    """The picture as it comes back from another program."""
    original = Image.fromarray(picture)
    if change == "half":
        return np.asarray(
            original.resize((original.width // 2, original.height // 2), Image.Resampling.BICUBIC)
        )
    if change == "darker":
        return (picture * 0.8).astype(np.uint8)
    if change == "noise":
        return np.clip(picture + np.random.default_rng(0).normal(0, 4, picture.shape), 0, 255).astype(
            np.uint8
        )
    file = io.BytesIO()
    original.save(file, "JPEG", quality=75)
    return np.asarray(Image.open(file))


@pytest.fixture(scope="module")
def photographs():
    pictures = tiles(data.immunohistochemistry()) + tiles(data.chelsea(), 100) + tiles(data.coffee(), 100)
    return [*pictures, *(np.repeat(tile, 3, -1) for tile in tiles(data.brick()))]


@pytest.mark.parametrize("change", ["JPEG", "half", "darker", "noise"])
def test_a_picture_saved_again_is_found_and_no_other_is_taken_for_it(photographs, change):
    every = [*photographs, *(saved_again(picture, change) for picture in photographs[::5])]
    found = near_pairs(np.stack([thumbnail(each) for each in every]), [digest(each) for each in every])
    expected = {(5 * i, len(photographs) + i) for i in range(len(photographs[::5]))}
    pairs = {(pair.first, pair.second) for pair in found}
    assert pairs <= expected
    assert len(pairs) >= 0.9 * len(expected)
    assert [pair.similarity for pair in found] == sorted((pair.similarity for pair in found), reverse=True)


def test_equal_pixels_are_exact_whatever_lies_between_them(photographs):
    every = [photographs[3], photographs[0], photographs[3].copy(), photographs[3].astype(np.float32)]
    assert same_pixels([digest(each) for each in every]) == [[0, 2]]
    # The float picture shows the same, but is stored otherwise.
    found = near_pairs(np.stack([thumbnail(each) for each in every]), [digest(each) for each in every])
    assert {(pair.first, pair.second) for pair in found} == {(0, 3), (2, 3)}


def test_pictures_of_one_colour_resemble_nothing():
    every = [
        np.full((30, 20, 1), grey, dtype) for grey, dtype in ((7, np.uint8), (9, np.uint8), (0.1, np.float32))
    ]
    thumbnails = np.stack([thumbnail(each) for each in every])
    assert not thumbnails.any() and not near_pairs(thumbnails, ["a", "b", "c"])


def test_pairs_are_found_in_every_chunk(photographs, monkeypatch):
    monkeypatch.setattr("topgap_jax.data.inspection.duplicates.CHUNK", 7)
    every = [*photographs[:30], *(saved_again(picture, "darker") for picture in photographs[:30])]
    found = near_pairs(np.stack([thumbnail(each) for each in every]), [str(i) for i in range(60)])
    assert {(pair.first, pair.second) for pair in found} == {(i, i + 30) for i in range(30)}


def test_a_film_of_one_scene_does_not_fill_the_memory(photographs, monkeypatch):
    monkeypatch.setattr("topgap_jax.data.inspection.duplicates.MOST_PAIRS", 50)
    monkeypatch.setattr("topgap_jax.data.inspection.duplicates.CHUNK", 7)
    frames = [photographs[0] + np.uint8(i % 2) for i in range(40)]
    assert len(near_pairs(np.stack([thumbnail(each) for each in frames]), [str(i) for i in range(40)])) == 50


def discs(radii, size=64):
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return np.stack([np.hypot(y, x) < radius for radius in radii])


def test_figures_are_those_of_numpy():
    images = np.stack(tiles(data.immunohistochemistry()))[:8]
    masks = discs([0, 4, 8, 8, 8, 16, 16, 16])
    groups = np.array([0, 1, 0, 1, 0, 1, 0, 1])
    source = ArraySource(
        images, np.array([0, 0, 0, 0, 0, 1, 1, 2]), ["a", "b", "c"], masks=masks, groups=groups
    )
    source.groups = groups
    figures = inspect_sources("cells", {"train": source}).splits[0]
    np.testing.assert_allclose(figures.mean, (images / 255).mean((0, 1, 2)))
    np.testing.assert_allclose(figures.std, (images / 255).std((0, 1, 2)))
    assert (figures.low, figures.high) == (images.min(), images.max())
    assert figures.dark == pytest.approx((images == 0).mean())
    assert figures.bright == pytest.approx((images == 255).mean())
    assert figures.classes == {"a": 5, "b": 2, "c": 1}
    assert figures.groups == {"0": {"a": 3, "b": 1, "c": 0}, "1": {"a": 2, "b": 1, "c": 1}}
    assert figures.dtypes == {"uint8": 8} and figures.channels == {3: 8}
    assert figures.masks.empty == 1 and figures.masks.pictures == 8
    assert figures.masks.coverage.median == pytest.approx((masks[3].sum()) / 64**2)
    assert figures.masks.diameter.median == pytest.approx(16, rel=0.02)
    assert figures.masks.diameter.max == pytest.approx(32, rel=0.02)


def test_parts_that_touch_at_a_corner_are_one_and_specks_none():
    mask = np.zeros((12, 12), bool)
    mask[:2, :2] = mask[2:4, 2:4] = True  # 8 pixels
    mask[8:11, 8:11] = True  # 9 pixels
    mask[0, 11] = True
    assert sorted(object_areas(mask)) == [8, 9]
    assert len(object_areas(np.zeros((3, 3), bool))) == 0


def test_the_sample_is_always_the_same_and_never_the_beginning():
    np.testing.assert_array_equal(sample(1000, 50), sample(1000, 50))
    assert len(set(sample(1000, 50))) == 50 and sample(1000, 50).max() > 900
    np.testing.assert_array_equal(sample(5, 0), np.arange(5))
    np.testing.assert_array_equal(sample(5, 9), np.arange(5))


def test_counts_are_complete_where_only_a_sample_is_decoded():
    images = np.stack(tiles(data.immunohistochemistry()))
    source = ArraySource(images, np.arange(64) % 3, ["a", "b", "c"])
    figures = inspect_sources("cells", {"train": source}, examples=10).splits[0]
    assert (figures.pictures, figures.examined) == (64, 10)
    assert figures.classes == {"a": 22, "b": 21, "c": 21}
    assert figures.masks is None and figures.boxes is None


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, pixels, imagej=True, resolution=(2, 2), metadata={"unit": "um"})


@pytest.fixture
def folder(tmp_path):
    """16-bit TIFFs with pixels of 0.5 um: two classes in two splits."""
    cells = [tile[..., 0].astype(np.uint16) * 200 for tile in tiles(data.immunohistochemistry())]
    for index, cell in enumerate(cells[:24]):
        split = "train" if index < 16 else "test"
        save(tmp_path / split / ("gland", "stroma")[index % 2] / f"{index}.tif", cell)
    return tmp_path


def inspected(folder, *splits, **options):
    options = {"channels": 1, "check": False, "on_error": "skip"} | options
    sources = {
        split: load_source(f"folder:{folder}", split, **options) for split in splits or ("train", "test")
    }
    return inspect_sources("cells", sources)


def warnings_of(inspection):
    return [(each.text, each.details) for each in findings(inspection) if each.warning]


def test_a_good_folder_has_nothing_to_warn_of(folder):
    inspection = inspected(folder)
    assert findings(inspection) == []
    train = inspection.splits[0]
    assert train.stored == {"1 x uint16": 16} and train.dtypes == {"float32": 16}
    assert train.image_shape == (64, 64, 1)
    assert train.pixel_size.median == pytest.approx(0.5)
    assert train.masks is None


def test_the_pixel_size_follows_the_scale(folder):
    assert inspected(folder, "train", size=32).splits[0].pixel_size.median == pytest.approx(1.0)


def test_another_magnification_in_the_test_split_is_a_warning(folder):
    for path in (folder / "test").rglob("*.tif"):
        cell = tifffile.imread(path)
        tifffile.imwrite(path, cell, imagej=True, resolution=(4, 4), metadata={"unit": "um"})
    [(text, lines)] = warnings_of(inspected(folder))
    assert text.startswith("A pixel is 0.25 to 0.5 um")
    assert lines == ["train: 0.5 to 0.5 um", "test: 0.25 to 0.25 um"]


def test_a_picture_in_two_splits_is_a_warning_that_names_both(folder):
    (folder / "test" / "gland" / "copy.tif").write_bytes((folder / "train" / "gland" / "4.tif").read_bytes())
    [(text, [line])] = warnings_of(inspected(folder))
    assert text.startswith("The same pixels in several splits, once")
    assert line == f"{folder / 'train' / 'gland' / '4.tif'} = {folder / 'test' / 'gland' / 'copy.tif'}"


def test_a_picture_saved_again_in_another_split_is_a_warning(folder):
    brighter = tifffile.imread(folder / "train" / "gland" / "4.tif") // 2 + 300
    brighter[::3, ::3] += 50
    save(folder / "test" / "stroma" / "again.tif", brighter)
    found = warnings_of(inspected(folder))
    assert [text.partition(",")[0] for text, _ in found] == ["Nearly the same picture in several splits"]
    assert "4.tif (gland) ~ (" in found[0][1][0] and "again.tif (stroma)" in found[0][1][0]


def test_the_same_pixels_in_two_classes_are_a_warning(folder):
    (folder / "train" / "stroma" / "copy.tif").write_bytes(
        (folder / "train" / "gland" / "4.tif").read_bytes()
    )
    [(text, [line])] = warnings_of(inspected(folder))
    assert text == "The same pixels in several classes, once"
    assert "4.tif (gland) = " in line and "copy.tif (stroma)" in line


def test_all_broken_files_are_named_and_the_rest_is_measured(folder):
    gland = folder / "train" / "gland"
    (gland / "0.tif").write_bytes((gland / "0.tif").read_bytes()[:4000])
    (gland / "2.tif").write_bytes(b"")
    (gland / "4.tif").write_bytes(b"not a picture")
    inspection = inspected(folder)
    [(text, lines)] = warnings_of(inspection)
    assert text == "train: 3 problems in 16 pictures"
    assert all(any(f"{name}.tif" in line for line in lines) for name in (0, 2, 4)) and len(lines) == 3
    assert inspection.splits[0].examined == 13 and inspection.splits[1].examined == 8


def test_pictures_of_several_sizes_and_of_one_colour(folder):
    save(folder / "train" / "gland" / "dark.tif", np.full((40, 50), 300, np.uint16))
    inspection = inspected(folder)
    train = inspection.splits[0]
    assert train.image_shape is None and (train.height.min, train.height.max) == (40, 64)
    texts = [each.text for each in findings(inspection)]
    assert any("1 pictures show one colour" in text for text in texts)
    assert any("differ in size; training needs one size, such as --option size=224" in text for text in texts)


def test_masks_of_a_folder_are_measured(folder):
    for path in (folder / "train").rglob("*.tif"):
        mask = folder / "masks" / "train" / path.parent.name / f"{path.stem}.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(discs([8])[0]).save(mask)
    train, test = inspected(folder).splits
    assert train.masks.coverage.median == pytest.approx(discs([8]).mean())
    assert train.masks.objects.max == 1
    assert test.masks is None


def test_one_class_only_and_imbalance_are_said():
    images = np.stack(tiles(data.immunohistochemistry()))
    alone = inspect_sources("cells", {"train": ArraySource(images, np.zeros(64, int), ["a"])})
    assert [each.text for each in findings(alone)] == [
        "train: there is one class only, so there is nothing to tell apart"
    ]
    labels = np.array([0] * 60 + [1] * 4)
    unequal = inspect_sources("cells", {"train": ArraySource(images, labels, ["a", "b"])})
    [finding] = findings(unequal)
    assert not finding.warning and "15 times the pictures of the smallest" in finding.text


def test_classes_that_training_lacks_are_a_warning():
    images = np.stack(tiles(data.immunohistochemistry()))
    train = ArraySource(images[:30], np.arange(30) % 2, ["a", "b", "c"])
    test = ArraySource(images[30:], np.arange(34) % 3, ["a", "b", "c"])
    [(text, details)] = warnings_of(inspect_sources("cells", {"train": train, "test": test}))
    assert (text, details) == ("test: 1 classes have no picture in train", ["c"])


def test_every_source_says_which_splits_it_has(folder, tmp_path):
    assert split_names(f"folder:{folder}") == ["test", "train"]
    assert split_names("embedded") == ["train", "validation", "in_distribution", "shifted"]
    with pytest.raises(UnknownSplitError, match="no split 'dev'"):
        load_source("embedded", "dev")
