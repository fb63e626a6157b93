"""Corruptions against imagecorruptions 1.1.2 and OpenCV: the same random numbers, the same pictures."""

from importlib.util import find_spec

import numpy as np
import pytest

from corruptions.photographs import photographs

cv2 = pytest.importorskip("cv2")
if find_spec("imagecorruptions") is None:
    pytest.skip("imagecorruptions is not installed", allow_module_level=True)

from parity.corruption_reference import (  # noqa: E402
    OTHER_ALGORITHM,
    SEVERITIES,
    SIZES,
    USUAL_SIZE,
    our_generator,
    reference,
    theirs,
)
from topgap_jax.corruptions import CORRUPTIONS, VARIANTS, corrupt, digital, spatter, weather  # noqa: E402

SAME = [name for name in CORRUPTIONS if name not in OTHER_ALGORITHM]


def differences(name, severity, pictures):
    ours = corrupt(pictures, name, severity, variant="imagenet")
    reference = [
        theirs(picture, name, severity, our_generator(name, severity, index))
        for index, picture in enumerate(pictures)
    ]
    return abs(ours.astype(int) - np.stack(reference))


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", SAME)
def test_same_picture(name, severity):
    size = SIZES.get(name, USUAL_SIZE)
    found = differences(name, severity, photographs(size, size))
    if name == "spatter":  # its distances to the nearest edge are rounded differently
        assert (found > 1).mean() < 0.005 and found.mean() < 0.05
    else:
        assert found.max() <= 1 and found.mean() < 0.15


@pytest.mark.parametrize("name", [name for name in SAME if name not in ("snow", "spatter")])
def test_same_oblong_picture(name):
    assert differences(name, 3, photographs(97, 151)).max() <= 1


@pytest.mark.parametrize("severity", SEVERITIES)
def test_frost_without_their_enlargement(severity, monkeypatch):
    monkeypatch.setattr(reference.cv2, "resize", lambda image, **_: image)
    pictures = photographs(180, 180)
    found = differences("frost", severity, np.concatenate([pictures] * 4))
    exact = found.max((1, 2, 3)) <= 1
    assert exact.any()
    assert found.mean() < 2.5  # the first of the photographs is stored as JPEG


@pytest.mark.parametrize("shear", [24.4, 4.88])
def test_affine_map_is_that_of_opencv(shear):
    picture = photographs(224, 224)[0] / np.float32(255)
    centre, arm = np.float32([112, 112]), 224 // 3
    corners = centre + arm * np.float32([[1, 1], [1, -1], [-1, -1]])
    moved = corners + np.random.default_rng(2).uniform(-shear, shear, (3, 2)).astype(np.float32)
    matrix = cv2.getAffineTransform(corners, moved)
    expected = cv2.warpAffine(picture, matrix, (224, 224), borderMode=cv2.BORDER_REFLECT_101)
    positions = digital._affine_positions(picture.shape, np.random.default_rng(2), shear)
    result = digital._warp(picture, positions, "mirror")
    # OpenCV before 5.0 rounds positions to 1/32 pixel.
    np.testing.assert_allclose(result, expected, atol=0.08)
    assert abs(result - expected).mean() < 2e-3


def test_edges_histogram_and_photographs_are_those_of_opencv():
    noise = np.random.default_rng(0).normal(0.65, 0.3, (120, 150))
    wet = reference.gaussian(noise, sigma=2)
    levels = (np.where(wet < 0.68, 0, wet) * 255).astype(np.uint8)
    edges = cv2.Canny(levels, 50, 150)
    np.testing.assert_array_equal(spatter.edges(levels, 50, 150), edges > 0)
    distance = cv2.distanceTransform(255 - edges, cv2.DIST_L2, 5)
    assert abs(spatter.distance_to(edges > 0) - distance).mean() < 0.01
    np.testing.assert_array_equal(spatter.equalized(levels), cv2.equalizeHist(levels))
    shrink = int(VARIANTS["cifar"]["frost"][0][2])
    path = reference.resource_filename("imagecorruptions.corruptions", "frost/frost5.jpg")
    smaller = cv2.resize(cv2.imread(path), (0, 0), fx=1 / shrink, fy=1 / shrink)
    np.testing.assert_allclose(weather._texture("frost5.jpg", shrink, 32, 32), smaller[..., ::-1], atol=3)
