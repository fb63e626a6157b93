"""Oxford-IIIT Pet: trimaps to masks and boxes, and the odd files of the original."""

import pickle

import numpy as np
import pytest
from PIL import Image
from skimage import data

from data.published_sets import PETS, pet_trimap, write_oxford_pet
from topgap_jax.data.published.oxford_pet import box_of
from topgap_jax.data.sources import load_source, split_names


@pytest.fixture
def data_dir(tmp_path):
    write_oxford_pet(tmp_path)
    return tmp_path


def test_splits_labels_and_breeds(data_dir):
    train, test, everything = (
        load_source("oxford_pet", split, data_dir=str(data_dir)) for split in ("train", "test", "all")
    )
    assert train.class_names == list(PETS) and (len(train), len(test), len(everything)) == (6, 3, 9)
    np.testing.assert_array_equal(train.labels, [0, 1, 2, 0, 1, 2])
    assert test[1]["label"] == 1 and split_names("oxford_pet", data_dir=str(data_dir)) == [
        "train",
        "test",
        "all",
    ]


@pytest.mark.parametrize(("border", "values"), [(True, (1, 3)), (False, (1,))])
def test_masks_are_the_trimaps_and_boxes_hold_them(data_dir, border, values):
    source = load_source("oxford_pet", "all", data_dir=str(data_dir), border=border)
    for number in range(9):
        expected = np.isin(pet_trimap(number), values)
        example = source[number]
        np.testing.assert_array_equal(example["mask"], expected)
        rows, columns = np.nonzero(expected)
        np.testing.assert_array_equal(
            example["box"], [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
        )
        assert example["image"].shape == (75, 112, 3) and example["box"].dtype == np.float32


def test_the_box_follows_the_crop(data_dir):
    example = load_source("oxford_pet", "train", data_dir=str(data_dir), size=30)[0]
    assert example["mask"].shape == (30, 30) and 0 < example["mask"].mean() < 1
    np.testing.assert_array_equal(example["box"], box_of(example["mask"]))
    np.testing.assert_array_equal(box_of(np.zeros((4, 5), bool)), np.zeros(4))


def test_files_that_are_no_jpeg_are_read(data_dir):
    """GIF and PNG under the name .jpg, one of them animated: the first frame counts."""
    source = load_source("oxford_pet", "all", data_dir=str(data_dir))
    cat = Image.fromarray(data.chelsea()).resize((112, 75))
    for number in (2, 5, 8):
        shown = source[number]["image"].astype(float)
        assert np.abs(shown - np.asarray(cat.rotate(10 * number))).mean() < 20  # a palette of 256 colours
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again[8]["image"], source[8]["image"])


def test_validation_is_carved_from_training(data_dir):
    options = {"data_dir": str(data_dir), "validation": 3}
    train, held = (load_source("oxford_pet", split, **options) for split in ("train", "validation"))
    assert sorted(held.labels) == sorted(train.labels) == [0, 1, 2]
    assert {path.name for path in train.paths}.isdisjoint(path.name for path in held.paths)


def test_damage_is_named_before_anything_is_read(data_dir):
    root = data_dir / "oxford_pet"
    (root / "images" / "Abyssinian_100.jpg").unlink()
    (root / "annotations" / "trimaps" / "Abyssinian_103.png").unlink()
    with pytest.raises(
        ValueError, match=r"lacks .*Abyssinian_100.jpg; .*trimaps/Abyssinian_103.png; run: topgap"
    ):
        load_source("oxford_pet", "train", data_dir=str(data_dir))
    (root / "annotations" / "trainval.txt").write_text("Abyssinian_100 one 1 1\n")
    with pytest.raises(ValueError, match=r"trainval.txt: 'Abyssinian_100 one 1 1' is not NAME CLASS SPECIES"):
        load_source("oxford_pet", "train", data_dir=str(data_dir))
    (root / "annotations" / "list.txt").unlink()
    with pytest.raises(ValueError, match=r"lacks annotations/list.txt; run: topgap data prepare oxford_pet"):
        load_source("oxford_pet", "train", data_dir=str(data_dir))


def test_a_trimap_of_another_size_is_refused(data_dir):
    Image.fromarray(pet_trimap(0)[:50]).save(data_dir / "oxford_pet/annotations/trimaps/Abyssinian_100.png")
    with pytest.raises(ValueError, match=r"the mask is 50x112, the picture 75x112"):
        load_source("oxford_pet", "train", data_dir=str(data_dir))[0]
