"""Every corruption on real photographs: what comes out, what it depends on, and what it refuses."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from corruptions.photographs import photographs, psnr
from topgap_jax.corruptions import (
    CORRUPTIONS,
    EXTRA,
    PAPER,
    VARIANTS,
    chosen_variant,
    corrupt,
    needs_colour,
)
from topgap_jax.corruptions.blur import glass_blur, smooth
from topgap_jax.corruptions.weather import plasma_fractal

SEVERITIES = (1, 2, 3, 4, 5)
GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())
# Where more must be worse; the others change their kind (spatter), their scale (elastic_transform) or both.
MONOTONE = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "zoom_blur",
    "brightness",
    "contrast",
    "pixelate",
    "jpeg_compression",
    "speckle_noise",
    "gaussian_blur",
)
WITHOUT_CHANCE = (
    "defocus_blur",
    "zoom_blur",
    "brightness",
    "contrast",
    "pixelate",
    "jpeg_compression",
    "gaussian_blur",
    "saturate",
)
# What draws no random number, or as many for one channel as for three.
SAME_IN_GREY = (
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "fog",
    "contrast",
    "brightness",
    "elastic_transform",
    "pixelate",
    "gaussian_blur",
    "snow",
)


def test_there_are_nineteen():
    assert len(PAPER) == 15 and len(EXTRA) == 4 and set(CORRUPTIONS) == {*PAPER, *EXTRA}
    assert all(set(table) == set(CORRUPTIONS) for table in VARIANTS.values())
    assert all(len(rows) == 5 for table in VARIANTS.values() for rows in table.values())


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("size", [(32, 32), (224, 160)], ids=str)
def test_every_severity_runs(name, size):
    pictures = photographs(*size)[:1]
    for severity in SEVERITIES:
        result = corrupt(pictures, name, severity)
        assert result.dtype == np.uint8 and result.shape == pictures.shape
        assert (result != pictures).mean() > 0.005
    exact = corrupt(pictures.astype(np.float32) / 255, name, 5)
    assert exact.dtype == np.float32 and 0 <= exact.min() <= exact.max() <= 1
    assert abs(exact * 255 - result).max() < 1.001  # the same, but cut off to whole levels


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_depends_on_seed_index_name_and_severity_alone(name):
    pictures = photographs(32, 32)
    together = corrupt(pictures[[0, 1, 0]], name, 3, seed=4, indices=[7, 2, 9])
    alone = corrupt(pictures[1:], name, 3, seed=4, indices=np.array([2]), workers=1)
    np.testing.assert_array_equal(together[1:2], alone)
    np.testing.assert_array_equal(corrupt(pictures, name, 3), corrupt(pictures, name, 3, indices=[0, 1]))
    random = name not in (
        "defocus_blur",
        "zoom_blur",
        "gaussian_blur",
        *EXTRA[3:],
        *PAPER[10:12],
        *PAPER[13:],
    )
    for other in (dict(seed=5, indices=[2]), dict(seed=4, indices=[3])):
        assert np.array_equal(corrupt(pictures[1:], name, 3, **other), alone) != random


def test_the_input_stays_as_it_is():
    pictures = photographs(32, 32).copy()
    for name in CORRUPTIONS:
        corrupt(pictures, name, 5)
    np.testing.assert_array_equal(pictures, photographs(32, 32))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", MONOTONE)
def test_more_severe_is_further_from_the_picture(name, variant):
    pictures = photographs(96, 96)
    found = [psnr(pictures, corrupt(pictures, name, severity, variant=variant)) for severity in SEVERITIES]
    assert all(later < earlier for earlier, later in itertools.pairwise(found)), found
    assert 3 < found[-1] < found[0] < 60


@pytest.mark.parametrize("name", GOLDEN["statistics"])
def test_statistics_of_the_reference(name):
    """Mean, standard deviation and PSNR that imagecorruptions gives with the same random numbers."""
    size = GOLDEN["sizes"][name]
    pictures = photographs(size, size)
    for severity in SEVERITIES:
        result = corrupt(pictures, name, severity, variant="imagenet")
        expected = GOLDEN["statistics"][name][str(severity)]
        assert result.mean() == pytest.approx(expected["mean"], abs=0.3)
        assert result.std() == pytest.approx(expected["std"], abs=0.3)
        assert psnr(pictures, result) == pytest.approx(expected["psnr"], abs=0.2)


def grey_level(level, size=96):
    return np.full((1, size, size, 3), level, np.float32)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_noise_has_the_published_strength(severity):
    grey = grey_level(0.5, 128)

    def constant(name):
        return VARIANTS["cifar"][name][severity - 1][0]

    def found(name):
        return corrupt(grey, name, severity, variant="cifar").astype(float)

    assert found("gaussian_noise").std() == pytest.approx(constant("gaussian_noise"), rel=0.03)
    assert found("speckle_noise").std() == pytest.approx(0.5 * constant("speckle_noise"), rel=0.03)
    assert found("shot_noise").std() == pytest.approx((0.5 / constant("shot_noise")) ** 0.5, rel=0.03)
    impulses = found("impulse_noise")
    assert (impulses != 0.5).mean() == pytest.approx(constant("impulse_noise"), rel=0.1)
    assert (impulses == 1).sum() == pytest.approx((impulses == 0).sum(), rel=0.2)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_light_changes_by_the_published_amount(severity):
    pictures = photographs(96, 96).astype(np.float32) / 255
    spread = corrupt(pictures[:1], "contrast", severity).std() / pictures[:1].std()
    factor = VARIANTS["imagenet"]["contrast"][severity - 1][0]
    assert spread < 1.2 * factor + 0.75  # the three channels keep their means
    by_channel = corrupt(pictures[:1], "contrast", severity).std((1, 2)) / pictures[:1].std((1, 2))
    np.testing.assert_allclose(by_channel, factor, rtol=1e-3)
    amount = VARIANTS["imagenet"]["brightness"][severity - 1][0]
    brighter = corrupt(pictures, "brightness", severity)
    np.testing.assert_allclose(brighter.max(-1), np.minimum(pictures.max(-1) + amount, 1), atol=1e-6)


def test_grey_and_black_pixels_have_no_hue_to_keep():
    levels = np.zeros((1, 32, 32, 3), np.float32)
    levels[:, :16] = 0.5
    assert corrupt(levels, "brightness", 3)[0, 20, 5] == pytest.approx([0.15] * 3)  # "cifar": 32 pixels
    tinted = corrupt(levels, "saturate", 5)
    assert tinted[0, 5, 5] == pytest.approx([0.5, 0.4, 0.4]) and (tinted[0, 20:] == 0).all()


def test_blur_keeps_even_areas():
    for name in ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "gaussian_blur"):
        result = corrupt(grey_level(0.5), name, 2)
        np.testing.assert_allclose(result, 0.5, atol=0.005)  # glass_blur works on 255 levels


@pytest.mark.parametrize(("reach", "rounds"), [(1, 1), (2, 3), (4, 2)])
def test_glass_blur_is_the_published_loop(reach, rounds):
    picture = photographs(40, 33)[0] / 255
    levels = np.uint8(np.floor(smooth(picture, 0.7) * 255 + 1e-4))
    rng = np.random.default_rng(3)
    for _ in range(rounds):
        for row in range(40 - reach, reach, -1):
            for column in range(33 - reach, reach, -1):
                right, down = rng.integers(-reach, reach, size=2)
                levels[row, column] = levels[row + down, column + right]
    result = glass_blur(picture, np.random.default_rng(3), 0.7, reach, rounds)
    np.testing.assert_allclose(result, smooth(levels / 255, 0.7), atol=1e-12)


def test_fog_has_clouds_of_every_size():
    cloud = plasma_fractal(64, 2, np.random.default_rng(0))
    assert cloud.min() == 0 and cloud.max() == 1
    steps = [abs(cloud[:, distance:] - cloud[:, :-distance]).mean() for distance in (1, 4, 16)]
    assert steps[0] < steps[1] < steps[2]


@pytest.mark.parametrize("name", SAME_IN_GREY)
def test_one_channel_is_like_three_equal_ones(name):
    grey = photographs(48, 40)[..., :1]
    one, three = (corrupt(pictures, name, 2) for pictures in (grey, grey.repeat(3, -1)))
    assert one.shape == grey.shape
    assert abs(one.astype(int) - three).max() <= 1


def test_grey_pictures_take_all_but_one():
    grey = photographs(32, 32)[..., :1]
    for name in CORRUPTIONS:
        if not needs_colour(name):
            assert corrupt(grey, name, 4).shape == grey.shape
    with pytest.raises(ValueError, match="saturate needs colour"):
        corrupt(grey, "saturate", 1)


def test_pictures_larger_than_the_frost_photographs():
    large = np.zeros((1, 700, 1000, 3), np.uint8)
    assert corrupt(large, "frost", 3).std() > 10


def test_variant_goes_with_the_size():
    assert chosen_variant((32, 32, 3)) == chosen_variant((1, 84, 300, 3)) == "cifar"
    assert chosen_variant((85, 90, 3)) == chosen_variant((224, 224, 3)) == "imagenet"
    pictures = photographs(32, 32)
    auto, cifar, imagenet = (
        corrupt(pictures, "gaussian_noise", 1, variant=variant) for variant in ("auto", "cifar", "imagenet")
    )
    assert np.array_equal(auto, cifar) and psnr(pictures, imagenet) < psnr(pictures, cifar) - 3


def test_an_empty_batch():
    assert corrupt(np.zeros((0, 32, 32, 3), np.uint8), "fog", 1).shape == (0, 32, 32, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(name="rain"), "unknown corruption 'rain'; there are: gaussian_noise, shot_noise"),
        (dict(severity=0), "severity=0 must be 1, 2, 3, 4 or 5"),
        (dict(severity=6), "severity=6 must be"),
        (dict(variant="coco"), "unknown variant 'coco'; there are: auto, imagenet, cifar"),
        (dict(seed=-1), "seed=-1 must be at least 0"),
        (dict(indices=[1, 2, 3]), "indices must be 2 numbers"),
        (dict(indices=[-1, 2]), "indices must be 2 numbers of at least 0"),
        (dict(images=np.zeros((32, 32, 3), np.uint8)), r"shape \(32, 32, 3\); a batch \[B, H, W, C\]"),
        (dict(images=np.zeros((2, 31, 64, 3), np.uint8)), "pictures of 31x64 are too small"),
        (dict(images=np.zeros((2, 64, 31, 3), np.uint8)), "pictures of 64x31 are too small"),
        (dict(images=np.zeros((2, 32, 32, 2), np.uint8)), "pictures of 2 channels"),
        (dict(images=np.zeros((2, 32, 32, 3))), "images is float64; uint8, or float32"),
        (dict(images=np.full((2, 32, 32, 3), 255, np.float32)), r"values from 255 to 255, outside \[0, 1\]"),
        (dict(images=np.full((2, 32, 32, 3), np.nan, np.float32)), r"outside \[0, 1\]"),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    arguments = {"images": photographs(32, 32), "name": "fog", "severity": 1, "seed": 0} | changes
    with pytest.raises(ValueError, match=message):
        corrupt(**arguments)
