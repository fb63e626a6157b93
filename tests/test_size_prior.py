"""k from sizes: against counted positions of real masks, and by hand."""

import math

import numpy as np
import pytest

from topgap_jax.data.embedded import TexturedDigits
from topgap_jax.size_prior import k_from_boxes, k_from_coverage, k_from_masks, k_from_size


@pytest.fixture(scope="module")
def masks():
    return TexturedDigits("train", num_images=61, size=48).masks


def box_of(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return rows[0], columns[0], rows[-1] + 1, columns[-1] + 1


def test_on_a_cam_as_large_as_the_picture_k_is_the_mask_counted(masks):
    one = masks[0]
    assert k_from_masks([one], (48, 48)) == one.sum()
    # A quarter of the height and width: a sixteenth of the positions.
    assert k_from_masks([one], (12, 12)) == pytest.approx(one.sum() / 16, abs=0.5)


def test_the_quantile_picks_the_object(masks):
    counts = masks.sum((1, 2))
    assert k_from_masks(masks, (48, 48), quantile=0) == counts.min()
    assert k_from_masks(masks, (48, 48), quantile=1) == counts.max()
    assert k_from_masks(masks, (48, 48)) == np.median(counts)


def test_masks_of_several_sizes_count_by_their_share_and_empty_ones_not_at_all(masks):
    doubled = np.kron(masks[0], np.ones((2, 2), bool))
    empty = np.zeros((7, 9), bool)
    assert k_from_masks([doubled, empty, masks[0]], (12, 12)) == k_from_masks([masks[0]], (12, 12))


def test_boxes_cover_at_least_what_masks_do(masks):
    boxes = np.array([box_of(mask) for mask in masks])
    by_hand = np.median((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])) / 48**2 * 144
    assert k_from_boxes(boxes, (48, 48), (12, 12)) == math.floor(by_hand + 0.5)
    assert k_from_boxes(boxes, (48, 48, 3), (12, 12)) > k_from_masks(masks, (12, 12))
    shapes = np.full((len(boxes), 2), 48)
    assert k_from_boxes(boxes, shapes, (12, 12), fill=0.9) == math.floor(by_hand * 0.9 + 0.5)


def test_a_disc_and_a_rectangle_in_micrometres():
    # 20 um across, pixels of 0.5 um: 40 pixels across, 1256.6 of them, a sixteenth of that on the CAM.
    assert k_from_size(20, 0.5, (256, 256), (64, 64)) == 79 == round(math.pi * 20**2 / 16)
    assert k_from_size((10, 30), 0.5, (256, 256, 1), (64, 64)) == 75 == round(20 * 60 / 16)
    assert k_from_size(20, 0.5, (256, 256), (64, 64), count=3) == 236
    # Shrunk to half: pixels twice as large, half as many of them, and the same k on half the CAM's stride.
    assert k_from_size(20, 1.0, (128, 128), (64, 64)) == 79


def test_a_disc_as_pixels_agrees_with_its_mask():
    y, x = np.mgrid[:200, :200] - 99.5
    disc = np.hypot(y, x) <= 40
    assert k_from_size(80 * 0.3, 0.3, (200, 200), (50, 50)) == pytest.approx(
        k_from_masks([disc], (50, 50)), abs=1
    )


def test_less_than_half_a_position_is_one_with_a_warning():
    with pytest.warns(UserWarning, match=r"covers 0.16 of a position on a CAM of 4 x 4, so k is 1"):
        assert k_from_coverage(0.01, (4, 4)) == 1
    assert k_from_coverage(0.5 / 16, (4, 4)) == 1  # no warning, and so no error
    assert k_from_coverage(1, (4, 4)) == 16


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: k_from_coverage(0, (4, 4)), r"coverage is a share of the picture in \(0, 1\], not 0"),
        (lambda: k_from_coverage(1.2, (4, 4)), "not 1.2"),
        (lambda: k_from_coverage(math.nan, (4, 4)), "not nan"),
        (
            lambda: k_from_coverage(0.5, (0, 4)),
            r"cam_shape is \(height, width\), both at least 1, not \(0, 4\)",
        ),
        (lambda: k_from_masks(np.zeros((3, 4, 4)), (2, 2)), "none of the 3 masks shows an object"),
        (lambda: k_from_masks([], (2, 2)), "none of the 0 masks"),
        (lambda: k_from_masks(np.ones((2, 4, 4, 1)), (2, 2)), r"mask 0 must be \[H, W\], not \[4, 4, 1\]"),
        (lambda: k_from_masks(np.ones((2, 4, 4)), (2, 2), 50), r"quantile must lie in \[0, 1\], not 50"),
        (lambda: k_from_boxes([], (4, 4), (2, 2)), "there are no boxes"),
        (
            lambda: k_from_boxes([[0, 0, 4, 4], [1, 1, 1, 3]], (4, 4), (2, 2)),
            r"1 of 2 boxes .*box 1, \[1.0, 1.0",
        ),
        (lambda: k_from_boxes([[0, 0, 5, 4]], (4, 4), (2, 2)), r"leave their picture.*4 x 4 pixels"),
        (lambda: k_from_boxes([[0, 0, 4, 4]], (4, 4), (2, 2), fill=0), "fill is the share"),
        (
            lambda: k_from_size(20, 0.1, (64, 64), (16, 16)),
            r"20 um does not fit .* 6.4 x 6.4 um \(64 x 64 pixels",
        ),
        (lambda: k_from_size((5, 7), 0.1, (64, 64), (16, 16)), "object of 5 x 7 um does not fit"),
        (lambda: k_from_size(-1, 0.1, (64, 64), (16, 16)), "size_um is a diameter"),
        (lambda: k_from_size((1, 2, 3), 0.1, (64, 64), (16, 16)), "size_um is a diameter"),
        (lambda: k_from_size(1, 0, (64, 64), (16, 16)), "pixel_size_um must be positive, not 0"),
        (lambda: k_from_size(5, 0.1, (64, 64), (16, 16), count=9), "9 objects of this size cover 4.31 times"),
    ],
)
def test_impossible_sizes_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
