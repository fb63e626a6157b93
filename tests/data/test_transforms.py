"""Augmentation: the geometry is right, mask and box follow, the same generator gives the same result."""

from functools import cache

import numpy as np
import pytest
from skimage import data

from topgap_jax.data.arrays import ArraySource
from topgap_jax.data.augmentation.geometry import resize_image
from topgap_jax.data.augmentation.transforms import (
    TRANSFORMS,
    augmentation,
    check_augmentation,
    dihedral,
    horizontal_flip,
    pad_crop,
    random_erasing,
    random_resized_crop,
    resize,
    to_float,
)
from topgap_jax.data.embedded import TexturedDigits, backgrounds


def example(height: int = 12, width: int = 9) -> dict:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return {"image": image, "label": np.int32(3), "mask": image[..., 0] > 127, "box": box(2, 1, 7, 5)}


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def box(*edges: float) -> np.ndarray:
    return np.array(edges, np.float32)


def bounding_box(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return box(rows[0], columns[0], rows[-1] + 1, columns[-1] + 1)


@cache
def digits() -> list[dict]:
    """Textured digits, each with the same picture without the digit."""
    source = TexturedDigits("train", num_images=6)
    empty = backgrounds(source.layout, 48)
    return [
        source[i] | {"box": bounding_box(source.masks[i]), "background": empty[i]} for i in range(len(source))
    ]


PIXEL_EXACT = ["pad_crop:4", "pad_crop:40", "horizontal_flip", "vertical_flip", "dihedral", "center_crop:30"]
PIXEL_EXACT += ["center_crop:6", "random_resized_crop:20:0.1736111:0.1736111:1:1"]  # crops of just 20 pixels
RESAMPLED = ["resize:31", "resize:120", "resize_short:77", "random_resized_crop:64", "random_resized_crop:24"]


@pytest.mark.parametrize("spec", PIXEL_EXACT)
def test_mask_and_box_are_exactly_where_the_object_is_drawn(spec):
    (transform,) = augmentation([spec])
    in_sight = 0
    for seed, before in enumerate(digits() * 5):
        after = transform(before, generator(seed))
        empty = transform({"image": before["background"]}, generator(seed))["image"]
        drawn = (after["image"] != empty).any(-1)
        np.testing.assert_array_equal(after["mask"], drawn)
        in_sight += drawn.any()
        if drawn.any():
            # The box of the whole object, clipped, may go beyond what is drawn of an irregular one.
            assert (after["box"][:2] <= bounding_box(drawn)[:2]).all()
            assert (after["box"][2:] >= bounding_box(drawn)[2:]).all()
        if drawn.sum() == before["mask"].sum():
            np.testing.assert_array_equal(after["box"], bounding_box(drawn))
    assert in_sight


@pytest.mark.parametrize("spec", RESAMPLED)
def test_mask_and_box_keep_to_the_object_when_pixels_are_resampled(spec):
    (transform,) = augmentation([spec])
    for seed, before in enumerate(digits() * 3):
        drawn = {"image": np.repeat(before["mask"][..., None], 3, -1).astype(np.uint8) * 255}
        after, shown = transform(before, generator(seed)), transform(drawn, generator(seed))["image"][..., 0]
        assert after["mask"].shape == after["image"].shape[:2] and after["box"].dtype == np.float32
        # A pixel that is clearly inside or outside must be so in the mask.
        assert after["mask"][shown > 250].mean() > 0.98 and after["mask"][shown < 5].mean() < 0.02
        if after["mask"].any():
            zoom = after["image"].shape[0] / 4  # generous where the crop was small
            assert (abs(bounding_box(after["mask"]) - after["box"]) <= max(2, zoom)).all()


def test_a_resized_box_is_exactly_the_scaled_one():
    before = example(20, 30) | {"box": box(2, 3, 10.5, 30)}
    np.testing.assert_allclose(resize((40, 10))(before, generator())["box"], [4, 1, 21, 10])
    np.testing.assert_array_equal(dihedral()(example(9, 9), generator(3))["box"].dtype, np.float32)


def test_of_an_object_out_of_sight_an_empty_mask_and_a_box_without_area_are_left():
    before = example(20, 20) | {"mask": np.zeros((20, 20), bool), "box": box(0, 2, 4, 9)}
    before["mask"][0:4, 2:9] = True
    after = augmentation(["center_crop:8"])[0](before, generator())
    top, left, bottom, right = after["box"]
    assert not after["mask"].any() and (bottom - top) * (right - left) == 0
    assert 0 <= top <= bottom <= 8 and 0 <= left <= right <= 8


def test_what_pad_crop_mirrors_into_sight_belongs_to_the_object():
    """For an object that fills its box, the box is the mask's at every shift."""
    before = example(12, 10)
    for edges in ((0, 0, 3, 4), (5, 6, 12, 10), (1, 2, 4, 9)):
        top, left, bottom, right = edges
        mask = np.zeros((12, 10), bool)
        mask[top:bottom, left:right] = True
        for seed in range(40):
            after = pad_crop(6)(before | {"mask": mask, "box": box(*edges)}, generator(seed))
            if after["mask"].any():
                np.testing.assert_array_equal(after["box"], bounding_box(after["mask"]))
            else:
                assert np.prod(after["box"][2:] - after["box"][:2]) == 0


def test_pad_crop_is_a_window_of_the_mirrored_picture():
    before = example()
    padded = np.pad(before["image"], ((3, 3), (3, 3), (0, 0)), mode="reflect")
    windows = {padded[top : top + 12, left : left + 9].tobytes() for top in range(7) for left in range(7)}
    seen = {pad_crop(3)(before, generator(seed))["image"].tobytes() for seed in range(300)}
    assert seen == windows


def test_random_resized_crop_draws_the_wanted_areas_and_aspect_ratios():
    """Crops of a picture whose pixels say where they are."""
    rows, columns = np.mgrid[0:200, 0:300].astype(np.float32) / 300
    places = {"image": np.stack([rows, columns, columns], -1)}
    transform = random_resized_crop(16, 0.2, 0.6)
    areas, aspects, centres = [], [], []
    for seed in range(400):
        crop = transform(places, generator(seed))["image"].astype(float) * 300
        height, width = (16 / 15 * np.ptp(crop[..., channel].mean(1 - channel)) for channel in (0, 1))
        areas.append(height * width / 60_000)
        aspects.append(width / height)
        centres.append(crop[..., :2].mean((0, 1)))
    assert 0.17 < min(areas) < 0.23 and 0.55 < max(areas) < 0.63 and abs(np.mean(areas) - 0.4) < 0.02
    assert min(aspects) > 0.7 and max(aspects) < 1.4 and abs(np.mean(np.log(aspects))) < 0.03
    assert 0.14 < np.std(np.log(aspects)) < 0.19  # even between log 3/4 and log 4/3
    np.testing.assert_allclose(np.mean(centres, 0), [99.5, 149.5], atol=6)


def test_random_resized_crop_falls_back_to_the_middle_of_a_long_picture():
    strip = {"image": np.arange(1000, dtype=np.float32).reshape(1, 1000, 1).repeat(10, 0) / 1000}
    for seed in range(5):
        crop = random_resized_crop(13, 1, 1)(strip, generator(seed))["image"]
        assert abs(crop.mean() - 0.4995) < 1e-3 and np.ptp(crop) < 0.014


def test_center_crop_is_the_middle():
    before = example(12, 9)
    after = augmentation(["center_crop:5"])[0](before, generator())
    np.testing.assert_array_equal(
        after["image"], before["image"][4:9, 2:7]
    )  # 3.5 rows above: rounded to even


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


def test_dihedral_shows_all_eight_symmetries():
    image = example(9, 9)["image"]
    symmetries = {np.rot90(side, turns).tobytes() for side in (image, image[::-1]) for turns in range(4)}
    seen = {dihedral()({"image": image}, generator(seed))["image"].tobytes() for seed in range(200)}
    assert seen == symmetries and len(seen) == 8


def test_random_erasing_blacks_out_one_rectangle_and_leaves_the_mask():
    before = example(40, 50) | {"image": np.full((40, 50, 3), 9, np.uint8)}
    shares = []
    for seed in range(200):
        after = random_erasing(0.5)(before, generator(seed))
        black = (after["image"] == 0).all(-1)
        if black.any():
            top, left, bottom, right = bounding_box(black).astype(int)
            assert black[top:bottom, left:right].all()
        shares.append(black.mean())
        assert after["mask"].shape == (40, 50) and (after["mask"] == before["mask"][:40, :50]).all()
    assert 0.35 < np.mean(np.array(shares) == 0) < 0.65 and 0.25 < max(shares) < 0.34


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


def test_three_channels_at_once_are_resized_as_one_by_one():
    image = data.astronaut()[100:190, 50:201]
    each = [resize_image(image[..., channel, None], 33, 64) for channel in range(3)]
    np.testing.assert_array_equal(resize_image(image, 33, 64), np.concatenate(each, -1))


ARGUMENTS = {"random_resized_crop": (6,), "center_crop": (6,), "resize": (6,), "resize_short": (6,)}


@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_same_generator_same_result_and_the_input_stays(name):
    transform = TRANSFORMS[name](*ARGUMENTS.get(name, ()))
    before = example(12, 12)
    for seed in range(5):
        first, second = transform(before, generator(seed)), transform(before, generator(seed))
        assert first.keys() == second.keys() == before.keys()
        for field in first:
            np.testing.assert_array_equal(first[field], second[field])
            np.testing.assert_array_equal(before[field], example(12, 12)[field])
        assert first["mask"].shape == first["image"].shape[:2] and first["mask"].dtype == bool
        assert first["image"].dtype in (np.uint8, np.float32) and first["box"].dtype == np.float32


@pytest.mark.parametrize(
    "spec",
    [
        "random_resized_crop:8",
        "center_crop:8",
        "resize:8",
        "pad_crop:2",
        "horizontal_flip:1",
        "vertical_flip:1",
        "dihedral",
        "color_jitter:0.4:0.4:0",
        "gaussian_blur:1",
        "random_erasing:1",
    ],
)
def test_microscopy_with_five_float_channels_is_transformed_too(spec):
    cells = np.stack([data.cell()[100:112, 200:212]] * 5, -1) / np.float32(255)
    after = augmentation([spec])[0]({"image": cells}, generator(1))["image"]
    assert after.dtype == np.float32 and after.shape[-1] == 5 and 0 <= after.min() <= after.max() <= 1


def test_augmentation_reads_names_and_numbers_in_order():
    shift, shrink = augmentation(("pad_crop:2", "resize:6"))
    before = example()
    expected = resize(6)(pad_crop(2)(before, generator(1)), generator(2))
    np.testing.assert_array_equal(
        shrink(shift(before, generator(1)), generator(2))["image"], expected["image"]
    )
    assert augmentation(()) == []
    (crop,) = augmentation(["random_resized_crop:6:0.5:0.75:1:1.5"])
    expected = random_resized_crop(6, 0.5, 0.75, 1, 1.5)(before, generator(7))
    np.testing.assert_array_equal(crop(before, generator(7))["image"], expected["image"])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (("rotate",), "'rotate'; there are random_resized_crop, .*dihedral, .*trivialaugment, to_float"),
        (("pad_crop:0",), "'pad_crop:0': pad_crop takes a whole number of pixels, at least 1, not 0"),
        (("pad_crop:1.5",), "not 1.5"),
        (("pad_crop:x",), "'pad_crop:x'"),
        (("pad_crop:4:4",), "'pad_crop:4:4'"),
        (("horizontal_flip:2",), r"probability in \[0, 1\], not 2"),
        (("to_float:3",), "'to_float:3'"),
        (("resize",), "'resize'"),
        (("random_resized_crop:224:0.5:0.1",), "0 < smallest <= largest <= 1, not 0.5 to 0.1"),
        (("random_resized_crop:224:0.5:1:2:1",), "0 < narrowest <= widest, not 2.0 to 1.0"),
        (("color_jitter:-1",), "not -1.0"),
        (("color_jitter:0.4:0.4:0.4:0.6",), r"hue in \[0, 0.5\]"),
        (("gaussian_blur:0.5:0",), "0 < smallest <= largest"),
        (("randaugment:2:31",), "magnitude of 0, 1, ..., 30; not 2.0, 31.0"),
        (("randaugment:0",), "at least 1"),
        ("pad_crop", "sequence of names"),
    ],
)
def test_unusable_specifications_are_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        augmentation(spec)


def source_of(shape: tuple[int, ...], dtype: type = np.uint8) -> ArraySource:
    return ArraySource(np.zeros((2, *shape), dtype), np.array([0, 1]), "ab")


class OfSeveralSizes(ArraySource):
    def __init__(self):
        super().__init__(np.zeros((2, 20, 30, 3), np.uint8), np.array([0, 1]), "ab")
        self.image_shape = None


@pytest.mark.parametrize(
    ("source", "spec", "message"),
    [
        (source_of((12, 9, 3)), "pad_crop:9", "pad_crop(9) needs pictures larger than 9 px, not 12x9"),
        (source_of((12, 9, 3)), "dihedral", "needs square pictures, not 12x9; put center_crop or"),
        (
            source_of((12, 9, 3)),
            "center_crop:10",
            "10x10 is larger than the picture, 12x9; put resize_short:10",
        ),
        (source_of((9, 9, 1)), "color_jitter:0.3", "3 channels, not 1; write color_jitter:0.3:0.3:0"),
        (source_of((9, 9, 5)), "randaugment:2:9", "1 or 3 channels, not uint8 with 5; for others there are"),
        (source_of((9, 9, 3), np.float32), "trivialaugment", "not float32 with 3"),
        (source_of((9, 9, 3), np.float32), "color_jitter:0.4:0.4:0.4:0.1", "hue needs pictures of uint8"),
        (OfSeveralSizes(), "horizontal_flip", "the pictures differ in size, also after the augmentation"),
        (OfSeveralSizes(), "resize_short:20", "differ in size"),
    ],
)
def test_what_does_not_suit_the_pictures_is_found_before_training(source, spec, message):
    with pytest.raises(ValueError) as error:
        check_augmentation(["horizontal_flip:0", spec], source)
    assert message in str(error.value)


def test_the_check_says_what_shape_comes_out():
    assert check_augmentation([], source_of((12, 9, 3))) == (12, 9, 3)
    assert check_augmentation(["resize_short:20", "center_crop:18"], OfSeveralSizes()) == (18, 18, 3)
    assert check_augmentation(["random_resized_crop:16"], source_of((12, 9, 1))) == (16, 16, 1)
