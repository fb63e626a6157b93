"""The textured digits keep what they promise: index, exact masks, nothing shared by training and test."""

import socket

import numpy as np
import pytest
from sklearn.datasets import load_digits

from topgap_jax.data import embedded
from topgap_jax.data.embedded import SPLITS, TexturedDigits, backgrounds, columns, digit_indices


@pytest.fixture(scope="module")
def splits() -> dict[str, TexturedDigits]:
    return {split: TexturedDigits(split, num_images=2000) for split in SPLITS}


def test_a_picture_depends_on_seed_split_and_index_alone(splits):
    for split, longer in splits.items():
        shorter = TexturedDigits(split, num_images=embedded.CHUNK + 7)
        for name in ("images", "labels", "masks", "groups"):
            np.testing.assert_array_equal(getattr(shorter, name), getattr(longer, name)[: len(shorter)])
    first = TexturedDigits("train", num_images=20)
    for other in (
        TexturedDigits("train", num_images=20, seed=1),
        TexturedDigits("validation", num_images=20),
    ):
        assert not any((a == b).all() for a, b in zip(first.images, other.images, strict=True))


def test_nothing_is_downloaded(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    embedded._photographs.cache_clear()
    embedded._digits.cache_clear()
    assert len(TexturedDigits("train", num_images=3)) == 3


def test_an_example_has_the_promised_types(splits):
    example = splits["train"][5]
    image, label, mask, group = (example[name] for name in ("image", "label", "mask", "group"))
    assert image.shape == splits["train"].image_shape == (48, 48, 3) and image.dtype == np.uint8
    assert mask.shape == (48, 48) and mask.dtype == bool
    assert label.dtype == np.int32 and group.dtype == np.int32


def test_a_mask_is_exactly_where_the_picture_differs_from_its_background(splits):
    for source in splits.values():
        differs = (source.images != backgrounds(source.layout, 48)).any(-1)
        np.testing.assert_array_equal(source.masks, differs)


def test_masks_have_no_holes_where_there_is_ink(splits):
    source = splits["train"]
    part = embedded.Layout(*(field[:500] for field in source.layout))
    inked = (embedded._ink(part, 24) > 0).sum((1, 2))  # of the whole digit, before it is put into the picture
    seen = source.masks[:500].sum((1, 2))
    assert (seen <= inked).all() and seen.sum() > 0.999 * inked.sum()


def test_labels_are_those_of_scikit_learn_and_masks_show_them(splits):
    """A nearest neighbour among the training masks, on the mask's bounding box, must read the test digits."""
    digits = load_digits()
    for source in splits.values():
        np.testing.assert_array_equal(source.labels, digits.target[source.layout.digit])

    def boxes(source: TexturedDigits) -> np.ndarray:
        rows = []
        for mask in source.masks:
            y, x = np.nonzero(mask)
            grid = np.linspace(0, 0.999, 12)
            height, width = np.ptp(y) + 1, np.ptp(x) + 1
            at = np.ix_((y.min() + grid * height).astype(int), (x.min() + grid * width).astype(int))
            rows.append(np.append(mask[at].ravel(), 4 * width / height))
        return np.array(rows, float)

    known, asked = boxes(splits["train"]), boxes(splits["shifted"])[:300]
    nearest = ((asked[:, None] - known) ** 2).sum(-1).argmin(1)
    assert (splits["train"].labels[nearest] == splits["shifted"].labels[:300]).mean() > 0.85


def test_no_digit_is_shared_between_training_validation_and_test(splits):
    pixels = load_digits().images
    used = {split: set(source.layout.digit.tolist()) for split, source in splits.items()}
    drawn = {split: {pixels[index].tobytes() for index in used[split]} for split in SPLITS}
    for one, other in (("train", "validation"), ("train", "shifted"), ("validation", "shifted")):
        assert not used[one] & used[other] and not drawn[one] & drawn[other]
    assert not used["in_distribution"] & (used["train"] | used["validation"])
    pools = [digit_indices(split) for split in ("train", "validation", "shifted")]
    np.testing.assert_array_equal(np.sort(np.concatenate(pools)), np.arange(len(pixels)))


def test_no_column_of_a_photograph_is_shared_between_training_and_test(splits):
    shown = {}
    for split, source in splits.items():
        top, left = source.layout.crop.T
        assert top.min() >= 0 and top.max() + 48 <= embedded.PHOTOGRAPH_SIZE
        shown[split] = set(range(left.min(), left.max() + 48))
        assert shown[split] <= set(range(*columns(split)))
    training, test = shown["train"] | shown["validation"], shown["in_distribution"] | shown["shifted"]
    assert min(test) - max(training) > embedded.GAP_COLUMNS


def test_the_picture_shows_the_crop_of_the_layout(splits):
    source = splits["shifted"]
    for i in range(30):
        top, left = source.layout.crop[i]
        crop = embedded._photographs()[source.layout.background[i], top : top + 48, left : left + 48]
        np.testing.assert_array_equal(source.images[i][~source.masks[i]], crop[~source.masks[i]])


def test_digits_cover_5_to_15_percent_and_stand_anywhere(splits):
    masks = np.concatenate([source.masks for source in splits.values()])
    cover = masks.mean((1, 2))
    assert cover.min() > 0.05 and cover.max() < 0.15
    assert masks[:, 0].any() and masks[:, -1].any() and masks[:, :, 0].any() and masks[:, :, -1].any()


def test_the_background_goes_with_the_class_as_often_as_wanted(splits):
    for split in ("train", "validation", "in_distribution"):
        own = splits[split].layout.background == splits[split].labels
        assert abs(own.mean() - 0.75) < 0.04
    for correlation in (0.0, 1.0):
        source = TexturedDigits("train", num_images=300, correlation=correlation)
        assert ((source.layout.background == source.labels) == bool(correlation)).all()
    source = TexturedDigits("train", num_images=6000, correlation=0.0)
    steps = np.bincount((source.layout.background - source.labels) % 10, minlength=10)
    assert steps[0] == 0 and (abs(steps[1:] - 6000 / 9) < 120).all()


def test_the_shifted_background_is_independent_of_the_class():
    source = TexturedDigits("shifted", num_images=10_000, correlation=0.9)
    table = np.zeros((10, 10))
    np.add.at(table, (source.labels, source.layout.background), 1)
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    # Chi squared with 81 degrees of freedom exceeds 130 once in 2000 sets.
    assert ((table - expected) ** 2 / expected).sum() < 130


def test_groups_say_whether_the_background_is_the_classs_own(splits):
    source = splits["shifted"]
    own = source.layout.background == source.labels
    np.testing.assert_array_equal(source.groups // 2, source.labels)
    np.testing.assert_array_equal(source.groups % 2, own)
    assert len(source.group_names) == 20 and source.group_names[7] == "3 on its own"
    assert source.group_names[6] == "3 on another's"


def test_dark_and_light_ink_stand_out_by_the_wanted_contrast():
    source = TexturedDigits("train", num_images=400, contrast=(0.4, 0.4))
    below, above = backgrounds(source.layout, 48).mean(-1) / 255, source.images.mean(-1) / 255
    core = source.masks & (abs(above - below) > 0.1)
    change = np.array([(a - b)[m].mean() for a, b, m in zip(above, below, core, strict=True)])
    assert 0.2 < np.median(abs(change)) < 0.42
    assert 0.3 < (change > 0).mean() < 0.7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, "no split 'test'; there are train, validation, in_distribution, shifted"),
        ({"num_images": 0}, "num_images must be at least 1, not 0"),
        ({"num_images": 2.5}, "num_images must be a whole number, not 2.5"),
        ({"size": 101}, r"size must lie in 12..100 .* not 101"),
        ({"object_size": 33}, r"object_size must lie in 8..32 \(2/3 of size 48\), not 33"),
        ({"object_size": 7}, "not 7"),
        ({"correlation": 1.1}, r"correlation must lie in \[0, 1\], not 1.1"),
        ({"contrast": (0.5, 0.4)}, r"contrast must be \(low, high\) .* not \(0.5, 0.4\)"),
        ({"contrast": (0.05, 0.4)}, r"not \(0.05, 0.4\)"),
        ({"seed": -1}, "seed must be at least 0, not -1"),
    ],
)
def test_options_outside_their_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TexturedDigits(**options)


@pytest.mark.parametrize(("size", "object_size"), [(12, 8), (100, 66), (32, 16), (48, 24)])
def test_digits_of_any_size_are_whole(size, object_size):
    source = TexturedDigits("train", num_images=1000, size=size, object_size=object_size)
    ink = embedded._ink(source.layout, object_size) > 0
    assert not (ink[:, 0].any() or ink[:, -1].any() or ink[:, :, 0].any() or ink[:, :, -1].any())
    seen, inked = source.masks.sum((1, 2)), ink.sum((1, 2))
    assert seen.sum() > 0.99 * inked.sum() and (seen > 0.8 * inked).all()
