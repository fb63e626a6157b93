import numpy as np
import pytest
from skimage import data, measure

from topgap_jax.analysis import area, area_fit, box_iou_curve, max_box_accuracy
from topgap_jax.analysis.localization import box_iou, component_boxes

COINS = data.coins()  # 24 real coins


def test_boxes_are_those_of_skimage():
    lit = COINS > 140
    regions = measure.regionprops(measure.label(lit, connectivity=2))
    expected = [region.bbox for region in sorted(regions, key=lambda region: -region.area)]
    found = component_boxes(lit)
    assert len(found) == len(expected) > 50
    np.testing.assert_array_equal(np.sort(found, axis=0), np.sort(np.array(expected, float), axis=0))
    np.testing.assert_array_equal(found[0], expected[0])
    assert component_boxes(np.zeros((4, 4), bool)).shape == (0, 4)


def test_box_iou_by_hand():
    boxes = np.array([[0, 0, 4, 4], [2, 2, 6, 6], [4, 4, 8, 8], [1, 1, 1, 1]], float)
    np.testing.assert_allclose(box_iou(boxes, np.array([0.0, 0, 4, 4])), [1, 4 / 28, 0, 0])


def two_blobs():
    """A large faint square and a small bright one."""
    heat = np.zeros((1, 20, 20))
    heat[0, 2:10, 2:10] = 0.5
    heat[0, 14:18, 14:18] = 1.0
    return heat


class TestCurve:
    def test_the_largest_component_or_any(self):
        bright = np.array([[14.0, 14, 18, 18]])
        thresholds = (0.3, 0.7)
        largest = box_iou_curve(two_blobs(), bright, thresholds)
        np.testing.assert_allclose(largest[:, 0], [0, 1])
        np.testing.assert_allclose(box_iou_curve(two_blobs(), bright, thresholds, components="any"), 1)

    def test_nothing_lit_is_zero_and_no_box_is_nan(self):
        heat = np.concatenate([two_blobs() * 0.9, two_blobs()])
        boxes = np.array([[14.0, 14, 18, 18], [0, 0, 0, 0]])
        curve = box_iou_curve(heat, boxes, (0.95,))
        assert curve[0, 0] == 0 and np.isnan(curve[0, 1])
        assert max_box_accuracy(curve) == 0
        with pytest.raises(ValueError, match="all 1 boxes are empty"):
            max_box_accuracy(curve[:, 1:])

    def test_arrays_that_do_not_fit_are_refused(self):
        with pytest.raises(
            ValueError, match=r"heat \[B,H,W\] and boxes \[B,4\], got \(1, 20, 20\) and \(2, 4\)"
        ):
            box_iou_curve(two_blobs(), np.zeros((2, 4)))
        with pytest.raises(ValueError, match="'largest' or 'any', not 'all'"):
            box_iou_curve(two_blobs(), np.zeros((1, 4)), components="all")


def test_max_box_accuracy_takes_one_threshold_for_all_images():
    curve = np.array([[0.6, 0.2, 0.6, 0.31], [0.2, 0.8, 0.55, 0.31]])
    assert max_box_accuracy(curve) == 0.5  # not the 0.75 of a threshold per image
    assert max_box_accuracy(curve, (0.3, 0.5, 0.7)) == pytest.approx((0.75 + 0.5 + 0.25) / 3)


class TestArea:
    def test_it_is_the_lit_share(self):
        np.testing.assert_allclose(area(two_blobs(), 0.4), (64 + 16) / 400)
        np.testing.assert_allclose(area(two_blobs(), 0.9), 16 / 400)

    def test_fit(self):
        objects = np.array([0.1, 0.2, 0.3, 0.0])
        fit = area_fit(np.array([0.2, 0.4, 0.6, 0.9]), objects)
        assert fit == (1.0, pytest.approx(2.0), pytest.approx(0.2), 3)
        assert area_fit(np.array([0.6, 0.4, 0.2, 0.9]), objects).spearman == -1
        assert np.isnan(area_fit(np.full(4, 0.3), objects).spearman)

    def test_too_few_objects(self):
        with pytest.raises(ValueError, match="at least two objects with a mask, not 1"):
            area_fit(np.array([0.1, 0.2]), np.array([0.1, 0.0]))
