import numpy as np
import pytest

from topgap_jax.data.arrays import ArraySource
from topgap_jax.data.augmentation.transforms import augmentation
from topgap_jax.data.embedded import TexturedDigits
from topgap_jax.training.config import resolve
from topgap_jax.training.splits import DataError, Prepared, check_agreement, load_sources, load_split, reading

OPTIONS = {"num_images": 20, "size": 24, "object_size": 12}
SHIFTED = {"source": "embedded", "split": "shifted", "options": OPTIONS}


def settings(**data):
    return resolve({"data": {"options": OPTIONS, "test": ("in_distribution",)} | data}).data


def arrays(size=8, channels=3, names="ab"):
    return ArraySource(np.zeros((4, size, size, channels), np.uint8), np.array([0, 1, 0, 1]), names)


def test_test_sets_from_elsewhere_stand_beside_the_splits():
    data = settings(tests_elsewhere={"other": SHIFTED})
    sources = load_sources(data)
    assert set(sources) == {"train", "validation", "in_distribution", "other"}
    np.testing.assert_array_equal(sources["other"].images, TexturedDigits("shifted", **OPTIONS).images)
    np.testing.assert_array_equal(load_split(data, "other").labels, sources["other"].labels)


@pytest.mark.parametrize(
    ("elsewhere", "message"),
    [
        ({"train": SHIFTED}, "data.tests_elsewhere names 'train', which is a split of this run already"),
        ({"other": {"source": "embedded"}}, r"data.tests_elsewhere.other must be \{'source': .*, not \{"),
        ({"other": "embedded:shifted"}, "data.tests_elsewhere.other must be .*, not embedded:shifted"),
        ({"other": SHIFTED | {"size": 3}}, "data.tests_elsewhere.other must be"),
        ({"other": SHIFTED | {"options": 3}}, "data.tests_elsewhere.other must be"),
        ({"other": SHIFTED | {"source": "cub2"}}, "no data set 'cub2'"),
    ],
)
def test_entries_that_are_no_test_set(elsewhere, message):
    with pytest.raises(ValueError, match=message):
        load_sources(settings(tests_elsewhere=elsewhere))


def test_every_disagreement_is_reported_at_once():
    sources = {
        "train": arrays(),
        "grey": arrays(channels=1),
        "small": arrays(size=6),
        "three": arrays(names="abc"),
        "renamed": arrays(names="ac"),
        "many sizes": arrays(),
    }
    sources["many sizes"].image_shape = None
    with pytest.raises(ValueError) as error:
        check_agreement([name for name in sources if name != "train"], sources, "train", (8, 8, 3))
    assert str(error.value).split("; ") == [
        "the pictures of 'grey' have 1 channels, not 3",
        "the classes of 'three' are not those of training: 3, not 2",
        "the classes of 'renamed' are not those of training: number 1 is 'c', not 'b'",
        "the pictures of 'many sizes' differ in size: give the source the option size, or "
        "data.eval_transforms such as ('resize_short:256', 'center_crop:224')",
        "validation and test sets need pictures of one size, not 'grey' 8x8, 'small' 6x6, 'three' 8x8, "
        "'renamed' 8x8",
    ]
    check_agreement(["train"], sources, "train", (6, 6, 3))


def test_pictures_are_prepared_for_evaluation_alone():
    sources = load_sources(settings(eval_transforms=("resize_short:30", "center_crop:20")))
    assert sources["train"].image_shape == (24, 24, 3)
    prepared, plain = sources["validation"], TexturedDigits("validation", **OPTIONS)
    assert (
        prepared.image_shape == prepared[3]["image"].shape == (20, 20, 3) == (*prepared[3]["mask"].shape, 3)
    )
    expected = plain[3]
    for transform in augmentation(("resize_short:30", "center_crop:20")):
        expected = transform(expected, np.random.default_rng(0))
    np.testing.assert_array_equal(prepared[3]["image"], expected["image"])
    np.testing.assert_array_equal(prepared.groups, plain.groups)
    assert len(prepared) == 20 and prepared.group_names == plain.group_names
    with pytest.raises(ValueError, match=r"data.eval_transforms has 'pad_crop:2'; for evaluation there are"):
        Prepared(plain, ("pad_crop:2",))


def test_whatever_reading_raises_says_how_to_go_on():
    with pytest.raises(DataError, match=r"a.png is gone; the checkpoints so far are kept"), reading():
        raise FileNotFoundError("a.png is gone")
