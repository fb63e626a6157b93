"""Colour changes and the two policies: ranges, kinds of pictures, and mask and box under their geometry."""

import numpy as np
import pytest
from skimage import data

from topgap_jax.data.augmentation.colour import (
    color_jitter,
    gaussian_blur,
    scale_brightness,
    scale_contrast,
    scale_saturation,
    turn_hue,
)
from topgap_jax.data.augmentation.policies import (
    MATRICES,
    OPERATIONS,
    RANDAUGMENT,
    SIGNED,
    TRIVIALAUGMENT,
    operate,
    randaugment,
    trivialaugment,
)
from topgap_jax.data.embedded import TexturedDigits

PHOTOGRAPH = data.chelsea()[60:124, 100:180]


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def bounding_box(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1], np.float32)


@pytest.mark.parametrize("limits", [RANDAUGMENT, TRIVIALAUGMENT])
@pytest.mark.parametrize("name", OPERATIONS)
def test_mask_and_box_follow_every_operation(name, limits):
    source = TexturedDigits("train", num_images=4)
    for i, strength in enumerate((0.3, 0.9, -0.5, -1.0)):
        mask = source.masks[i]
        drawn = np.repeat(mask[..., None], 3, -1).astype(np.uint8) * 255
        before = {"image": drawn, "mask": mask, "box": bounding_box(mask)}
        after = operate(before, name, strength if name in SIGNED else abs(strength), limits)
        if name in MATRICES:
            np.testing.assert_array_equal(after["mask"], after["image"][..., 0] == 255)
            assert (after["mask"] != mask).any()
        else:
            assert after["mask"] is mask and after["box"] is before["box"]
        if after["mask"].any():
            around, seen = after["box"], bounding_box(after["mask"])
            assert (around[:2] <= seen[:2] + 1).all() and (around[2:] >= seen[2:] - 1).all()
            if name.startswith("translate") and after["mask"].sum() == mask.sum():
                np.testing.assert_array_equal(around, seen)
        assert (after["box"] >= 0).all() and (after["box"] <= 48).all()


def test_operations_go_where_they_should():
    dot = np.zeros((41, 41, 3), np.uint8)
    dot[10, 30] = 255

    def place(name: str, strength: float) -> tuple[int, ...]:
        moved = operate({"image": dot}, name, strength, TRIVIALAUGMENT)["image"]
        return tuple(np.argwhere(moved[..., 0])[0].tolist())

    assert place("translate_x", -0.25) == (10, 22) and place("translate_y", 0.5) == (26, 30)
    assert place("rotate", 90 / 135) == (10, 10)  # counter-clockwise: from the upper right to the upper left
    assert place("rotate", -90 / 135) == (30, 30)
    row, column = place("shear_x", 0.5)
    assert row == 10 and column == pytest.approx(30 - 0.5 * 0.99 * 10.5, abs=1)


def test_randaugment_and_trivialaugment_use_every_operation():
    kept = set()
    for transform in (randaugment(1, 30), trivialaugment()):
        outcomes = [transform({"image": PHOTOGRAPH}, generator(seed))["image"] for seed in range(150)]
        kept = {outcome.tobytes() for outcome in outcomes}
        assert len(kept) > 15 and PHOTOGRAPH.tobytes() in kept
        assert all(outcome.dtype == np.uint8 and outcome.shape == PHOTOGRAPH.shape for outcome in outcomes)
    grey = {"image": PHOTOGRAPH[..., :1]}
    assert all(randaugment()(grey, generator(seed))["image"].shape == (64, 80, 1) for seed in range(40))


def test_more_operations_and_magnitude_change_a_picture_more():
    def change(num_ops: int, magnitude: int) -> float:
        transform, example = randaugment(num_ops, magnitude), {"image": PHOTOGRAPH}
        changed = [transform(example, generator(seed))["image"].astype(float) for seed in range(60)]
        return np.mean([abs(image - PHOTOGRAPH).mean() for image in changed])

    assert change(1, 9) < change(2, 9) < change(4, 9) and change(2, 3) < change(2, 27)


@pytest.mark.parametrize("change", [scale_brightness, scale_contrast, scale_saturation])
def test_floats_change_as_their_bytes_do(change):
    for factor in (0.0, 0.4, 1.0, 1.6):
        ours = change(PHOTOGRAPH / np.float32(255), factor)
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, change(PHOTOGRAPH, factor) / 255, atol=2.5 / 255)
    np.testing.assert_allclose(change(PHOTOGRAPH, 1.0), PHOTOGRAPH)


def test_each_channel_of_a_stack_keeps_its_own_mean():
    stack = np.stack([data.cell()[100:150, 200:250], data.coins()[:50, :50]], -1)
    changed = scale_contrast(stack, 0.5)
    assert changed.dtype == np.uint8
    np.testing.assert_allclose(changed.mean((0, 1)), stack.mean((0, 1)), atol=0.5)
    np.testing.assert_allclose(changed.std((0, 1)), stack.std((0, 1)) / 2, rtol=0.05)


def test_a_third_of_the_circle_turns_red_into_green():
    red = np.full((2, 2, 3), (200, 0, 0), np.uint8)
    np.testing.assert_allclose(turn_hue(red, 1 / 3)[0, 0], (0, 200, 0), atol=6)
    np.testing.assert_allclose(turn_hue(red, -1 / 3)[0, 0], (0, 0, 200), atol=6)


def test_color_jitter_draws_from_the_wanted_range():
    grey = {"image": np.full((4, 4, 3), 0.5, np.float32)}
    drawn = [color_jitter(0.4, 0, 0)(grey, generator(seed))["image"][0, 0, 0] / 0.5 for seed in range(300)]
    assert 0.6 <= min(drawn) < 0.63 and 1.37 < max(drawn) <= 1.4 and abs(np.mean(drawn) - 1) < 0.06
    before = {"image": PHOTOGRAPH}
    same = color_jitter(0, 0, 0)(before, generator(0))["image"]
    np.testing.assert_array_equal(same, PHOTOGRAPH)
    full = [color_jitter(0.4, 0.4, 0.4, 0.1)(before, generator(seed))["image"] for seed in range(20)]
    assert len({image.tobytes() for image in full}) == 20 and all(image.dtype == np.uint8 for image in full)


def test_blur_smooths_within_each_channel():
    before = {"image": PHOTOGRAPH}
    after = gaussian_blur(1, 2, 2)(before, generator(0))["image"]
    assert after.dtype == np.uint8
    assert (
        np.abs(np.diff(after.astype(int), axis=0)).mean()
        < np.abs(np.diff(PHOTOGRAPH.astype(int), axis=0)).mean()
    )
    np.testing.assert_allclose(after.mean((0, 1)), PHOTOGRAPH.mean((0, 1)), atol=2)
    np.testing.assert_array_equal(gaussian_blur(0)(before, generator(0))["image"], PHOTOGRAPH)
