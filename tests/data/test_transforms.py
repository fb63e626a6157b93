"""Augmentation: the geometry is right, the mask follows, the same generator gives the same result."""

import numpy as np
import pytest

from topgap_jax.data.transforms import TRANSFORMS, augmentation, horizontal_flip, pad_crop, resize, to_float


def example(height: int = 12, width: int = 9) -> dict:
    """A picture whose mask can be read off its pixels: the mask is where the first channel is above 127."""
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return {"image": image, "label": np.int32(3), "mask": image[..., 0] > 127}


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_pad_crop_is_a_window_of_the_mirrored_picture():
    before = example()
    padded = np.pad(before["image"], ((3, 3), (3, 3), (0, 0)), mode="reflect")
    windows = {padded[top : top + 12, left : left + 9].tobytes() for top in range(7) for left in range(7)}
    seen = {pad_crop(3)(before, generator(seed))["image"].tobytes() for seed in range(300)}
    assert seen == windows


@pytest.mark.parametrize("name", ["pad_crop", "horizontal_flip"])
def test_the_mask_follows_the_picture(name):
    for seed in range(10):
        after = TRANSFORMS[name]()(example(), generator(seed))
        np.testing.assert_array_equal(after["mask"], after["image"][..., 0] > 127)
        assert after["label"] == 3


def test_flip_mirrors_left_and_right_half_of_the_time():
    before = example()
    flipped = [
        (horizontal_flip()(before, generator(seed))["image"] == before["image"][:, ::-1]).all()
        for seed in range(400)
    ]
    assert 0.4 < np.mean(flipped) < 0.6
    np.testing.assert_array_equal(
        horizontal_flip(1.0)(before, generator())["image"], before["image"][:, ::-1]
    )
    np.testing.assert_array_equal(horizontal_flip(0.0)(before, generator())["image"], before["image"])


def test_to_float_divides_by_255_and_lets_floats_pass():
    after = to_float()(example(), generator())
    assert after["image"].dtype == np.float32
    np.testing.assert_array_equal(after["image"], example()["image"] / np.float32(255))
    np.testing.assert_array_equal(to_float()(after, generator())["image"], after["image"])


def test_resize_keeps_constants_ranges_and_places():
    image = np.zeros((8, 8, 3), np.uint8)
    image[:4, 4:] = 200
    after = resize((16, 24))({"image": image, "mask": image[..., 0] > 0}, generator())
    assert after["image"].shape == (16, 24, 3) and after["image"].dtype == np.uint8
    assert after["mask"].shape == (16, 24) and after["mask"].dtype == bool
    assert (after["image"][:6, 15:] == 200).all() and (after["image"][10:] == 0).all()
    np.testing.assert_array_equal(after["mask"][:8, 12:], True)
    assert after["mask"].mean() == 0.25


def test_resize_of_a_float_picture_agrees_with_that_of_its_bytes():
    before = example(20, 20)
    floats = resize(10)(to_float()(before, generator()), generator())["image"]
    assert floats.dtype == np.float32
    np.testing.assert_allclose(floats, resize(10)(before, generator())["image"] / 255, atol=1 / 255)


@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_same_generator_same_result_and_the_input_stays(name):
    transform = TRANSFORMS[name](6) if name == "resize" else TRANSFORMS[name]()
    before = example()
    first, second = transform(before, generator(5)), transform(before, generator(5))
    np.testing.assert_array_equal(first["image"], second["image"])
    np.testing.assert_array_equal(before["image"], example()["image"])
    np.testing.assert_array_equal(before["mask"], example()["mask"])


def test_augmentation_reads_names_and_numbers_in_order():
    shift, shrink = augmentation(("pad_crop:2", "resize:6"))
    before = example()
    expected = resize(6)(pad_crop(2)(before, generator(1)), generator(2))
    np.testing.assert_array_equal(
        shrink(shift(before, generator(1)), generator(2))["image"], expected["image"]
    )
    assert augmentation(()) == []


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (("rotate",), "'rotate'; there are pad_crop, horizontal_flip, resize, to_float"),
        (("pad_crop:0",), "'pad_crop:0': pad_crop takes a whole number of pixels, at least 1, not 0"),
        (("pad_crop:1.5",), "not 1.5"),
        (("pad_crop:x",), "'pad_crop:x'"),
        (("horizontal_flip:2",), r"probability in \[0, 1\], not 2"),
        (("to_float:3",), "'to_float:3'"),
        (("resize",), "'resize'"),
        ("pad_crop", "sequence of names"),
    ],
)
def test_unusable_specifications_are_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        augmentation(spec)


def test_padding_must_be_smaller_than_the_picture():
    with pytest.raises(ValueError, match=r"pad_crop\(9\) needs pictures larger than 9 px, not 12x9"):
        pad_crop(9)(example(), generator())
