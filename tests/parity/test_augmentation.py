"""Augmentation against torchvision's, on Pillow pictures: the same operation gives the same bytes."""

from importlib import import_module

import numpy as np
import pytest
from PIL import Image
from skimage import data

from topgap_jax.data.augmentation import colour, geometry, policies
from topgap_jax.data.augmentation.transforms import _random_window, augmentation

pytest.importorskip("parity.references")  # makes torchvision importable beside a torch without CUDA
v2 = import_module("torchvision.transforms.v2")
F = v2.functional

PHOTOGRAPH = data.chelsea()[40:240, 50:350]
PICTURE = Image.fromarray(PHOTOGRAPH)
NAMES = {
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateX",
    "translate_y": "TranslateY",
    "autocontrast": "AutoContrast",
}


@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment"])
@pytest.mark.parametrize("name", policies.OPERATIONS)
def test_operations_of_the_policies(name, policy):
    reference = {"randaugment": v2.RandAugment(), "trivialaugment": v2.TrivialAugmentWide()}[policy]
    limits = {"randaugment": policies.RANDAUGMENT, "trivialaugment": policies.TRIVIALAUGMENT}[policy]
    theirs_name = NAMES.get(name, name.capitalize())
    magnitudes, signed = reference._AUGMENTATION_SPACE[theirs_name]
    assert signed == (name in policies.SIGNED)
    values = magnitudes(policies.BINS, *PHOTOGRAPH.shape[:2])
    for strength in (0, 1, 9, 17, 30):
        for sign in (1, -1) if signed else (1,):
            magnitude = 0.0 if values is None else sign * float(values[strength])
            theirs = reference._apply_image_or_video_transform(
                PICTURE, theirs_name, magnitude, interpolation=v2.InterpolationMode.NEAREST, fill={}
            )
            ours = policies.operate({"image": PHOTOGRAPH}, name, sign * strength / 30, limits)["image"]
            difference = abs(ours.astype(int) - np.asarray(theirs))
            # The reference has float32 magnitudes, which may round to the neighbouring value or place.
            assert (difference > 0).any(-1).mean() <= 0.03, (strength, sign)
            assert name in policies.MATRICES or difference.max() <= 1, (strength, sign)


def test_the_policies_have_the_same_operations():
    for reference in (v2.RandAugment, v2.TrivialAugmentWide):
        ours = {NAMES.get(name, name.capitalize()) for name in policies.OPERATIONS}
        assert ours == set(reference._AUGMENTATION_SPACE)


@pytest.mark.parametrize("value", [0.0, 0.37, 1.0, 1.8])
def test_color_jitter(value):
    for ours, theirs in (
        (colour.scale_brightness, F.adjust_brightness),
        (colour.scale_contrast, F.adjust_contrast),
        (colour.scale_saturation, F.adjust_saturation),
    ):
        np.testing.assert_array_equal(ours(PHOTOGRAPH, value), np.asarray(theirs(PICTURE, value)))
    turn = (value - 0.9) / 2
    np.testing.assert_array_equal(colour.turn_hue(PHOTOGRAPH, turn), np.asarray(F.adjust_hue(PICTURE, turn)))


def test_crops_and_resizing():
    window = (13, 57, 151, 101)
    ours = geometry.scale(geometry.crop({"image": PHOTOGRAPH}, window), 96, 96)["image"]
    np.testing.assert_array_equal(ours, np.asarray(F.resized_crop(PICTURE, *window, [96, 96])))
    shrink, middle = augmentation(["resize_short:131", "center_crop:100"])
    ours = middle(shrink({"image": PHOTOGRAPH}, None), None)["image"]
    theirs = F.center_crop(F.resize(PICTURE, [131]), [100, 100])
    np.testing.assert_array_equal(ours, np.asarray(theirs))


def test_random_resized_crop_draws_from_the_same_distribution():
    """Means and quantiles of 4000 windows: height, width, top, left."""
    reference = v2.RandomResizedCrop(224)
    theirs = [list(reference.make_params([PICTURE]).values()) for _ in range(4000)]
    generator = np.random.default_rng(0)
    drawn = [_random_window((200, 300), (0.08, 1.0), (3 / 4, 4 / 3), generator) for _ in range(4000)]
    ours = np.array([window for window in drawn if window is not None])
    quantiles = [0.05, 0.25, 0.5, 0.75, 0.95]
    np.testing.assert_allclose(
        np.quantile(ours, quantiles, 0), np.quantile(np.array(theirs), quantiles, 0), atol=12
    )
