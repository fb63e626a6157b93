"""CUB-200-2011 in the original archives' format."""

import pickle
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from data.original_sets import BIRDS, GREY, edges, votes, write_cub
from topgap_jax.data.sources import load_source


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_cub(folder)
    return folder


@pytest.fixture
def own(data_dir, tmp_path):
    """A copy to damage, and its CUB_200_2011."""
    shutil.copytree(data_dir, tmp_path, dirs_exist_ok=True)
    return tmp_path, tmp_path / "cub/CUB_200_2011"


def cub(data_dir, split="train", **options):
    return load_source("cub", split, data_dir=str(data_dir), **options)


def test_splits_labels_and_names_are_those_of_the_text_files(data_dir):
    for split, chosen in (
        ("train", [bird for bird in BIRDS if bird.in_training]),
        ("test", [bird for bird in BIRDS if not bird.in_training]),
        ("all", BIRDS),
    ):
        source = cub(data_dir, split)
        names = ["/".join(path.parts[-2:]) for path in source.paths]
        assert names == [bird.name for bird in chosen]
        assert source.labels.tolist() == [bird.species for bird in chosen] and source.labels.dtype == np.int32
        assert source.class_names == ["Black footed Albatross", "Groove billed Ani", "Chuck will Widow"]
        assert source.num_classes == 3 and source.groups is None


def test_mask_is_what_three_of_five_annotators_marked(data_dir):
    source = cub(data_dir, "all")
    for i, bird in enumerate(BIRDS):
        example, marks = source[i], votes(bird).sum(0)
        assert example["image"].shape == (bird.height, bird.width, 3)
        np.testing.assert_array_equal(example["mask"], marks >= 3)
        assert (marks == 3).any() and (marks == 2).any()


def test_boxes_are_those_of_the_masks_before_and_after_scaling(data_dir):
    for options, pixels in (({}, 0), ({"size": (90, 110)}, 1.01), ({"short_side": 90}, 1.01)):
        source = cub(data_dir, "all", **options)
        for i in range(1, len(source)):
            example = source[i]
            np.testing.assert_allclose(example["box"], edges(example["mask"]), atol=pixels)


def test_a_box_that_reaches_out_of_the_picture_is_cut_off(data_dir):
    first = (data_dir / "cub/CUB_200_2011/bounding_boxes.txt").read_text().splitlines()[0]
    _, left, _, width, _ = map(float, first.split())
    example = cub(data_dir, "all")[0]
    assert left + width == 85 and example["box"][3] == 84 == example["image"].shape[1]


def test_pictures_are_decoded_to_the_wanted_channels(data_dir):
    with Image.open(cub(data_dir, "all").paths[GREY - 1]) as stored:
        assert stored.mode == "L"
    grey = cub(data_dir, "all")[GREY - 1]["image"]
    assert grey.shape[-1] == 3 and (grey[..., 0] == grey[..., 2]).all() and grey.std() > 5
    assert cub(data_dir, size=32, channels=1)[0]["image"].shape == (32, 32, 1)


def test_segmentations_may_lie_in_the_folder_of_the_pictures(own):
    folder, published = own
    expected = cub(folder)[2]["mask"]
    shutil.move(folder / "cub/segmentations", published / "segmentations")
    np.testing.assert_array_equal(cub(folder)[2]["mask"], expected)


def test_without_masks_nobody_asks_for_segmentations(own):
    folder, _ = own
    shutil.rmtree(folder / "cub/segmentations")
    assert sorted(cub(folder, masks=False)[0]) == ["box", "image", "label"]
    with pytest.raises(ValueError, match=r"segmentations.*and 4 more.*topgap data prepare cub --data-dir"):
        cub(folder)


def test_validation_is_held_out_of_training_by_class(data_dir):
    training, validation = cub(data_dir, "train", validation=3), cub(data_dir, "validation", validation=3)
    assert sorted(validation.labels) == [0, 1, 2]
    assert sorted(training.paths + validation.paths) == sorted(cub(data_dir).paths)
    assert cub(data_dir, "test", validation=3).paths == cub(data_dir, "test").paths


def test_a_segmentation_of_another_size_is_named(own):
    folder, _ = own
    path = (folder / "cub/segmentations" / BIRDS[0].name).with_suffix(".png")
    Image.new("L", (30, 20)).save(path)
    with pytest.raises(ValueError, match=rf"{BIRDS[0].name} is 60x84, not 20x30"):
        cub(folder)


def test_a_source_travels_to_worker_processes(data_dir):
    source = cub(data_dir, size=32)
    there = pickle.loads(pickle.dumps(source))[5]
    assert all(np.array_equal(value, there[name]) for name, value in source[5].items())


def test_a_missing_data_set_says_how_to_get_it(tmp_path):
    with pytest.raises(ValueError, match=rf"images.txt.*run: topgap data prepare cub --data-dir {tmp_path}"):
        cub(tmp_path)
    with pytest.raises(ValueError, match="cub has no split 'validation'; there are train, test, all"):
        cub(tmp_path, "validation")


def test_everything_that_is_missing_is_reported_together(own):
    folder, published = own
    (published / "images" / BIRDS[0].name).unlink()
    (folder / "cub/segmentations" / BIRDS[1].name).with_suffix(".png").unlink()
    with pytest.raises(ValueError) as error:
        cub(folder)
    assert BIRDS[0].name in str(error.value) and BIRDS[1].name[:-4] + ".png" in str(error.value)


def test_unusable_and_disagreeing_lines_are_reported_together(own):
    folder, published = own

    def edit(name, pattern, replacement):
        text = (published / name).read_text()
        (published / name).write_text(re.sub(pattern, replacement, text, count=1, flags=re.MULTILINE))

    edit("bounding_boxes.txt", r"^3 .*\n", "3 14.0 12.0 0.0 86.0\n")
    edit("train_test_split.txt", r"^5 .*\n", "5 2\n")
    edit("image_class_labels.txt", r"^7 1\n", "7 3\n")
    edit("classes.txt", r"\Z", "three 003.Sooty_Albatross\n")
    with pytest.raises(ValueError) as error:
        cub(folder)
    for part in (
        "line 3 of bounding_boxes.txt is '3 14.0 12.0 0.0 86.0'",
        "line 5 of train_test_split.txt is '5 2'",
        "line 4 of classes.txt is 'three 003.Sooty_Albatross'",
        "train_test_split.txt has no picture 5",
        "and 1 more",
    ):
        assert part in str(error.value)
    edit("bounding_boxes.txt", r"^3 .*\n", "3 14.0 12.0 20.0 36.0\n")
    edit("train_test_split.txt", r"^5 .*\n", "5 0\n")
    edit("classes.txt", r"^three .*\n", "")
    with pytest.raises(ValueError, match=r"001\.Black_footed_Albatross/.*_0006_.*'003\.Chuck_will_Widow'"):
        cub(folder)
