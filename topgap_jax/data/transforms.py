"""Augmentation with NumPy, per example: `f(example, rng) -> example`; the mask follows the picture."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

Example = dict[str, Any]
Transform = Callable[[Example, np.random.Generator], Example]


def pad_crop(padding: int = 4) -> Transform:
    """Move the picture by up to `padding` pixels each way, mirroring it at its border.

    Args:
        padding: in pixels, at least 1 and less than the picture's height and width.

    Raises:
        ValueError: a padding below 1; in the transform, one that the picture is too small for.
    """
    padding = _whole("pad_crop", padding)

    def transform(example: Example, rng: np.random.Generator) -> Example:
        height, width = example["image"].shape[:2]
        if padding >= min(height, width):
            raise ValueError(
                f"pad_crop({padding}) needs pictures larger than {padding} px, not {height}x{width}"
            )
        down, right = rng.integers(-padding, padding + 1, 2)
        rows, columns = _mirrored(height, down), _mirrored(width, right)
        return _map_pixels(example, lambda pixels: pixels.take(rows, 0).take(columns, 1))

    return transform


def horizontal_flip(probability: float = 0.5) -> Transform:
    """Mirror left and right with this probability. Not for digits or text.

    Raises:
        ValueError: a probability outside [0, 1].
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"horizontal_flip takes a probability in [0, 1], not {probability}")

    def transform(example: Example, rng: np.random.Generator) -> Example:
        return _map_pixels(example, lambda pixels: pixels[:, ::-1]) if rng.random() < probability else example

    return transform


def resize(size: int | tuple[int, int]) -> Transform:
    """Resize to `size` (height and width, or one number for both): antialiased bilinear, the mask nearest.

    Raises:
        ValueError: a size below 1.
    """
    height, width = (_whole("resize", side) for side in np.broadcast_to(size, 2).tolist())

    def transform(example: Example, rng: np.random.Generator) -> Example:
        if example["image"].shape[:2] == (height, width):
            return example
        resized = {**example, "image": resize_image(example["image"], height, width)}
        if "mask" in example:
            mask = Image.fromarray(example["mask"].astype(np.uint8))
            resized["mask"] = np.asarray(mask.resize((width, height), Image.Resampling.NEAREST), bool)
        return resized

    return transform


def to_float() -> Transform:
    """uint8 to float32 in [0, 1]; float images pass."""

    def transform(example: Example, rng: np.random.Generator) -> Example:
        image = example["image"]
        if image.dtype != np.uint8:
            return example
        return {**example, "image": image.astype(np.float32) / np.float32(255)}

    return transform


TRANSFORMS: dict[str, Callable[..., Transform]] = {
    "pad_crop": pad_crop,
    "horizontal_flip": horizontal_flip,
    "resize": resize,
    "to_float": to_float,
}


def augmentation(spec: Sequence[str]) -> list[Transform]:
    """Transforms by name, each with an optional number after a colon: `("pad_crop:4", "horizontal_flip")`.

    Raises:
        ValueError: a name that does not exist, or an argument that the transform does not take.
    """
    if isinstance(spec, str):
        raise ValueError(f"augmentation takes a sequence of names, not one string: write ({spec!r},)")
    return [_transform(entry) for entry in spec]


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """`[H, W, C]`, uint8 or float32, to `[height, width, C]` of the same dtype."""
    channels = [
        Image.fromarray(np.ascontiguousarray(image[..., channel])) for channel in range(image.shape[-1])
    ]
    resized = [channel.resize((width, height), Image.Resampling.BILINEAR) for channel in channels]
    return np.stack([np.asarray(channel) for channel in resized], -1)


def _transform(entry: str) -> Transform:
    name, _, argument = entry.partition(":")
    if name not in TRANSFORMS:
        raise ValueError(f"unknown transform {name!r}; there are {', '.join(TRANSFORMS)}")
    try:
        return TRANSFORMS[name](float(argument)) if argument else TRANSFORMS[name]()
    except (TypeError, ValueError) as error:
        raise ValueError(f"augmentation {entry!r}: {error}") from error


def _map_pixels(example: Example, function: Callable[[np.ndarray], np.ndarray]) -> Example:
    return {**example, **{name: function(example[name]) for name in ("image", "mask") if name in example}}


def _mirrored(length: int, offset: int) -> np.ndarray:
    """Indices offset, ..., offset + length - 1, reflected into 0, ..., length - 1; the border comes once."""
    last = length - 1
    return last - np.abs(last - np.abs(np.arange(offset, offset + length)))


def _whole(name: str, value: float) -> int:
    if value != int(value) or value < 1:
        raise ValueError(f"{name} takes a whole number of pixels, at least 1, not {value}")
    return int(value)
