"""RandAugment and TrivialAugment: operations drawn at random, for pictures of uint8 with 1 or 3 channels.

Operations and ranges are those of torchvision (which differ slightly from the papers'), the resampling is by
the nearest pixel, and what comes from outside is black.
"""

from collections.abc import Callable
from math import ceil
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from topgap_jax.data.augmentation.geometry import Transform, affine
from topgap_jax.data.sources import Example

BINS = 31  # strengths 0, 1/30, ..., 1


class Limits(NamedTuple):
    """How far an operation goes at full strength."""

    shear: float  # pixels aside per pixel
    translate: Callable[[int], float]  # side of the picture in pixels -> pixels
    rotate: float  # degrees
    enhance: float  # brightness, color, contrast and sharpness change by this factor
    posterize: int  # bits lost, of 8


RANDAUGMENT = Limits(0.3, lambda side: 150 / 331 * side, 30, 0.9, 4)
TRIVIALAUGMENT = Limits(0.99, lambda side: 32, 135, 0.99, 6)


def randaugment(num_ops: int = 2, magnitude: int = 9) -> Transform:
    """`num_ops` random operations of one strength each (Cubuk et al. 2019, arXiv:1909.13719).

    Args:
        num_ops: at least 1.
        magnitude: 0 to 30; 30 is full strength.

    Raises:
        ValueError: a value outside its range; in the transform, pictures of another kind.
    """
    if num_ops != int(num_ops) or num_ops < 1 or magnitude != int(magnitude) or not 0 <= magnitude < BINS:
        raise ValueError(
            "randaugment takes a whole number of operations, at least 1, and a magnitude of "
            f"0, 1, ..., {BINS - 1}; not {num_ops}, {magnitude}"
        )

    def transform(example: Example, rng: np.random.Generator) -> Example:
        _check_kind("randaugment", example["image"])
        for name in rng.choice(OPERATIONS, int(num_ops)):
            example = operate(example, name, _signed(name, magnitude / (BINS - 1), rng), RANDAUGMENT)
        return example

    return transform


def trivialaugment() -> Transform:
    """One random operation of random strength: TrivialAugmentWide (Mueller & Hutter 2021, arXiv:2103.10158).

    Raises:
        ValueError: in the transform, pictures of another kind than uint8 with 1 or 3 channels.
    """

    def transform(example: Example, rng: np.random.Generator) -> Example:
        _check_kind("trivialaugment", example["image"])
        name, strength = rng.choice(OPERATIONS), rng.integers(BINS) / (BINS - 1)
        return operate(example, name, _signed(name, strength, rng), TRIVIALAUGMENT)

    return transform


def operate(example: Example, name: str, strength: float, limits: Limits) -> Example:
    """One operation of `OPERATIONS`; the strength lies in [-1, 1], or in [0, 1] for those without a sign."""
    image = example["image"]
    if name in MATRICES:
        return affine(example, np.array(MATRICES[name](strength, limits, *image.shape[:2]), np.float64))
    if name in CHANGES:
        picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        changed = CHANGES[name](picture, strength, limits)
        return {**example, "image": np.asarray(changed).reshape(image.shape)}
    return example


Rows = list[list[float]]


def _rotation(degrees: float, height: int, width: int) -> Rows:
    """Counter-clockwise about the centre."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    x, y = width / 2, height / 2
    return [[cosine, -sine, x - cosine * x + sine * y], [sine, cosine, y - sine * x - cosine * y]]


def _whole(pixels: float) -> int:
    """Without the fraction, but not less for a rounding error."""
    return int(round(pixels, 6))


# Matrices for `affine`, from the strength, the limits, height and width.
MATRICES: dict[str, Callable[[float, Limits, int, int], Rows]] = {
    "shear_x": lambda v, limits, height, width: [[1, v * limits.shear, 0], [0, 1, 0]],
    "shear_y": lambda v, limits, height, width: [[1, 0, 0], [v * limits.shear, 1, 0]],
    "translate_x": lambda v, limits, height, width: [[1, 0, -_whole(v * limits.translate(width))], [0, 1, 0]],
    "translate_y": lambda v, limits, height, width: [
        [1, 0, 0],
        [0, 1, -_whole(v * limits.translate(height))],
    ],
    "rotate": lambda v, limits, height, width: _rotation(v * limits.rotate, height, width),
}
CHANGES: dict[str, Callable[[Image.Image, float, Limits], Image.Image]] = {
    "brightness": lambda picture, v, limits: ImageEnhance.Brightness(picture).enhance(1 + v * limits.enhance),
    "color": lambda picture, v, limits: ImageEnhance.Color(picture).enhance(1 + v * limits.enhance),
    "contrast": lambda picture, v, limits: ImageEnhance.Contrast(picture).enhance(1 + v * limits.enhance),
    "sharpness": lambda picture, v, limits: ImageEnhance.Sharpness(picture).enhance(1 + v * limits.enhance),
    "posterize": lambda picture, v, limits: ImageOps.posterize(picture, 8 - round(v * limits.posterize)),
    "solarize": lambda picture, v, limits: ImageOps.solarize(picture, ceil(round(255 * (1 - v), 6))),
    "autocontrast": lambda picture, v, limits: ImageOps.autocontrast(picture),
    "equalize": lambda picture, v, limits: ImageOps.equalize(picture),
}
OPERATIONS = ["identity", *MATRICES, *CHANGES]
SIGNED = {*MATRICES, "brightness", "color", "contrast", "sharpness"}


def _signed(name: str, strength: float, rng: np.random.Generator) -> float:
    return -strength if name in SIGNED and rng.random() < 0.5 else strength


def _check_kind(name: str, image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.shape[-1] not in (1, 3):
        raise ValueError(
            f"{name} needs pictures of uint8 with 1 or 3 channels, not {image.dtype} with {image.shape[-1]}; "
            "for others there are pad_crop, random_resized_crop, dihedral, color_jitter:0.4:0.4:0"
        )
