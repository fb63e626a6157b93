"""Folders with and without splits: classes, labels, masks, and the pixel size of what is read."""

import pickle
import re

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage import data

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
    save(tmp_path / "train" / "other" / "b.gif", GREY)
    (tmp_path / "train" / "9" / "notes.txt").write_text("not a picture")
    return tmp_path


def test_folder_reads_classes_labels_and_pictures(folder):
    source = load_source(f"folder:{folder}", "train")
    assert source.class_names == ["9", "10", "other"] and source.num_classes == 3
    names = ["a.png", "img9.png", "img10.png", "a.webp", "b.bmp", "a.png", "b.gif"]
    assert [path.name for path in source.paths] == names
    assert source.labels.tolist() == [0, 0, 0, 1, 1, 2, 2] and source.labels.dtype == np.int32
    assert [int(source[i]["label"]) for i in range(len(source))] == source.labels.tolist()
    assert source.image_shape == (8, 10, 3) and source.skipped == {} and source.pixel_size is None
    assert source[0]["image"].dtype == np.uint8 and source[0]["image"].shape == (8, 10, 3)
    assert (source[0]["image"] == RED).all() and (source[5]["image"] == GREY).all()
    assert set(source[0]) == {"image", "label"}


def test_folder_gives_one_channel_on_request(folder):
    source = load_source(f"folder:{folder}", "test", channels=1)
    assert source.image_shape == (8, 10, 1) and source[0]["image"].shape == (8, 10, 1)


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
    by_side = load_source(f"folder:{tmp_path}", "train", short_side=5)
    assert by_side.image_shape is None and by_side[0]["image"].shape == (5, 15, 3)


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


def test_what_is_no_folder_of_pictures_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere is no folder; expected .*<split>/<class>/<picture>, or"):
        load_source(f"folder:{tmp_path / 'nowhere'}", "train")
    with pytest.raises(ValueError, match="has no split 'train'; there are none"):
        load_source(f"folder:{tmp_path}", "train")
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match="train has no folders of classes; expected"):
        load_source(f"folder:{tmp_path}", "train")
    (tmp_path / "train" / "cat").mkdir()
    with pytest.raises(ValueError, match=r"train hold no pictures \(.png, .jpg"):
        load_source(f"folder:{tmp_path}", "train")
    (tmp_path / "train" / "cat" / "a.heic").write_text("")
    with pytest.raises(ValueError, match=r"hold no pictures .*; there are .heic"):
        load_source(f"folder:{tmp_path}", "train")


def test_classes_that_differ_from_training_are_listed(folder):
    save(folder / "test" / "cat" / "a.png")
    save(folder / "train" / "dog" / "a.png")
    save(folder / "train" / "dog" / "b.png")
    message = (
        "(?s)2 problems in 5 pictures.*test/dog holds no pictures.*cat/a.png lies in the folder of no class"
    )
    with pytest.raises(ValueError, match=message):
        load_source(f"folder:{folder}", "test")


def test_class_names_give_the_order_from_a_list_or_a_file(folder, tmp_path):
    (tmp_path / "names.txt").write_text("other\n10\n\n9\n")
    for names in (["other", "10", "9"], str(tmp_path / "names.txt")):
        source = load_source(f"folder:{folder}", "train", class_names=names)
        assert source.class_names == ["other", "10", "9"] and source.labels.tolist() == [2, 2, 2, 1, 1, 0, 0]
    with pytest.raises(ValueError, match="class_names lists '9' twice"):
        load_source(f"folder:{folder}", "train", class_names=["9", "9"])
    with pytest.raises(ValueError, match="class_names is a list of names or a file with one per line"):
        load_source(f"folder:{folder}", "train", class_names="nowhere.txt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size is a whole number"),
        ({"width": 3}, "folder takes no option 'width'; there are size, channels"),
        ({"on_error": "ignore"}, 'on_error is "stop" or "skip", not \'ignore\''),
        ({"pixel_size": 0}, "pixel_size is in micrometres and above 0, not 0"),
        ({"split_fractions": (0.5, 0.4)}, r"three numbers \(train, validation, test\) with the sum 1"),
        ({"split_fractions": (0.5, 0.4, 0.2)}, "with the sum 1"),
    ],
)
def test_folder_options_are_checked(folder, options, message):
    with pytest.raises(ValueError, match=message):
        load_source(f"folder:{folder}", "train", **options)


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """Two classes without splits: forty and ten cuts from two photographs."""
    root = tmp_path_factory.mktemp("classes")
    for name, number, photograph in (("cat", 40, data.chelsea()), ("coin", 10, data.coins())):
        (root / name).mkdir()
        for i in range(number):
            Image.fromarray(photograph[4 * i : 4 * i + 12, :16]).save(root / name / f"{i}.png")
    return root


# The names alone decide, on every machine alike.
TEST_FILES = {"cat/4.png", "cat/17.png", "cat/18.png", "cat/38.png", "coin/4.png"}


def test_split_fractions_divide_each_class(classes):
    options = {"split_fractions": (0.7, 0.2, 0.1)}
    splits = ("train", "validation", "test")
    sources = {split: load_source(f"folder:{classes}", split, **options) for split in splits}
    counts = [np.bincount(source.labels).tolist() for source in sources.values()]
    assert counts == [[28, 7], [8, 2], [4, 1]]
    files = {split: {f"{p.parent.name}/{p.name}" for p in source.paths} for split, source in sources.items()}
    assert len(set.union(*files.values())) == 50
    assert files["test"] == TEST_FILES
    other = load_source(f"folder:{classes}", "test", **options, split_seed=1)
    assert {f"{p.parent.name}/{p.name}" for p in other.paths} != files["test"]
    with pytest.raises(ValueError, match="no split 'dev'; there are train, validation, test"):
        load_source(f"folder:{classes}", "dev", **options)


@pytest.fixture
def masked(tmp_path):
    for split in ("train", "test"):
        for i in range(2):
            cell, path = data.cell()[60 * i :][:60, :80], tmp_path / split / "cell" / f"{i}.tif"
            for folder in (path.parent, tmp_path / "masks" / split / "cell"):
                folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(cell).save(path)
            mask = (cell > 100).astype(np.uint8) * (1, 255)[i]
            Image.fromarray(mask).save(tmp_path / "masks" / split / "cell" / f"{i}.png")
    return tmp_path


def test_masks_lie_in_a_parallel_folder(masked):
    source = load_source(f"folder:{masked}", "train", channels=1)
    for i in range(2):
        example = source[i]
        assert example["mask"].dtype == bool
        np.testing.assert_array_equal(example["mask"], example["image"][..., 0] > 100)
    small = load_source(f"folder:{masked}", "train", channels=1, size=30)[0]
    assert small["mask"].shape == (30, 30) and (small["mask"] != (small["image"][..., 0] > 100)).mean() < 0.05


@pytest.mark.parametrize("kind", ["palette", "rgba", "labels", "bool"])
def test_any_value_but_0_is_the_object(masked, kind):
    truth = data.cell()[:60, :80] > 100
    path = masked / "masks" / "train" / "cell" / "0.png"
    if kind == "palette":  # the colour of index 0 does not matter
        mask = Image.fromarray(truth.astype(np.uint8) * 3, "L").convert("P")
        mask.putpalette([255, 0, 0] * 4)
        mask.save(path)
    elif kind == "rgba":
        Image.fromarray(np.dstack([truth * np.uint8(9)] * 3 + [np.full(truth.shape, 255, np.uint8)])).save(
            path
        )
    else:
        path.unlink()
        stored = truth if kind == "bool" else truth.astype(np.uint16) * 700
        tifffile.imwrite(path.with_suffix(".tif"), stored)
    np.testing.assert_array_equal(load_source(f"folder:{masked}", "train", channels=1)[0]["mask"], truth)


def test_sources_with_masks_and_skipped_files_survive_pickle(masked):
    (masked / "train" / "cell" / "0.tif").write_bytes(b"")
    with pytest.warns(UserWarning, match="1 of 2 pictures are skipped: empty file .1."):
        source = load_source(f"folder:{masked}", "train", channels=1, on_error="skip")
    copy = pickle.loads(pickle.dumps(source))
    assert len(copy) == 1 and copy.skipped == {"empty file": 1}
    np.testing.assert_array_equal(copy[0]["mask"], copy[0]["image"][..., 0] > 100)


def write_tiffs(root, *sizes, shape=(40, 60), **options):
    (root / "train" / "x").mkdir(parents=True)
    for i, size in enumerate(sizes):
        stored = data.cell()[: shape[0], i : i + shape[1]].astype(np.uint16) * 100
        known = {} if size is None else {"resolution": (1 / size, 1 / size), "metadata": {"unit": "um"}}
        tifffile.imwrite(root / "train" / "x" / f"{i}.tif", stored, imagej=True, **known)


def test_the_size_of_a_pixel_follows_the_scaling(tmp_path):
    write_tiffs(tmp_path, 0.5, 0.501)
    name = f"folder:{tmp_path}"
    assert load_source(name, "train", channels=1).pixel_size == pytest.approx(0.5)
    assert load_source(name, "train", size=20).pixel_size == pytest.approx(1.0)
    assert load_source(name, "train", short_side=80).pixel_size == pytest.approx(0.25)
    assert load_source(name, "train", size=20, pixel_size=3).pixel_size == pytest.approx(6)
    assert load_source(name, "train", size=20, check=False).pixel_size is None


def test_different_sizes_of_a_pixel_are_a_problem_unless_one_is_given(tmp_path):
    write_tiffs(tmp_path, 0.5, 0.5, 0.25)
    message = r"size of a pixel differs: 0.5 µm \(2, such as .*0.tif\), 0.25 µm \(1, such as .*2.tif\)"
    for on_error in ("stop", "skip"):
        with pytest.raises(ValueError, match=message):
            load_source(f"folder:{tmp_path}", "train", on_error=on_error)
    assert load_source(f"folder:{tmp_path}", "train", pixel_size=0.4).pixel_size == pytest.approx(0.4)


def test_a_size_of_a_pixel_that_some_files_lack_or_that_scaling_makes_differ_is_unknown(tmp_path):
    write_tiffs(tmp_path / "a", 0.5, None)
    assert load_source(f"folder:{tmp_path / 'a'}", "train").pixel_size is None
    write_tiffs(tmp_path / "b", 0.5, 0.5)
    save(tmp_path / "b" / "train" / "x" / "large.png", size=(200, 100))
    source = load_source(f"folder:{tmp_path / 'b'}", "train", size=20, pixel_size=0.5)
    assert source.pixel_size is None


def test_16_bit_pictures_follow_the_options(tmp_path):
    write_tiffs(tmp_path, 0.5, 0.5)
    stored = data.cell()[:40, :60] * np.float32(100)
    fixed = load_source(f"folder:{tmp_path}", "train", channels=1, window=(0, 20000))[0]["image"]
    np.testing.assert_allclose(fixed[..., 0], np.minimum(stored / 20000, 1), atol=1e-6)
    default = load_source(f"folder:{tmp_path}", "train")
    assert default.image_shape == (40, 60, 3) and default[0]["image"].dtype == np.float32
    assert default[1]["image"].min() == 0 and default[1]["image"].max() == 1


def test_a_picture_that_breaks_later_is_named_with_what_to_do(folder):
    source = load_source(f"folder:{folder}", "train", size=4)
    source.paths[0].unlink()
    with pytest.raises(
        ValueError, match=re.escape(f"{source.paths[0]} does not exist; mend it or take it out")
    ):
        source[0]
    content = source.paths[1].read_bytes()
    source.paths[1].write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"img9.png cannot be decoded: .*start the same command again"):
        source[1]
