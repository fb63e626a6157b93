"""Augmentation per example, `f(example, rng) -> example`, by name; mask and box follow the picture.

`geometry.py` says how they follow, `docs/input.md` has the table of transforms.
"""

from collections.abc import Callable, Sequence

import numpy as np

from topgap_jax.data.augmentation import geometry
from topgap_jax.data.augmentation.colour import color_jitter, gaussian_blur
from topgap_jax.data.augmentation.geometry import Transform
from topgap_jax.data.augmentation.policies import randaugment, trivialaugment
from topgap_jax.data.sources import Example, Source


def random_resized_crop(
    size: int | tuple[int, int],
    smallest: float = 0.08,
    largest: float = 1.0,
    narrowest: float = 3 / 4,
    widest: float = 4 / 3,
) -> Transform:
    """A random part of the picture, resized: Inception's crop (Szegedy et al. 2015), as torchvision draws it.

    Args:
        size: height and width of the result in pixels, or one number for both.
        smallest, largest: of the part's area, relative to the picture's, in (0, 1].
        narrowest, widest: of the part's width over its height; drawn evenly on a logarithmic scale.

    Raises:
        ValueError: a size below 1, or limits outside their range or in the wrong order.
    """
    height, width = _sides("random_resized_crop", size)
    if not 0 < smallest <= largest <= 1:
        raise ValueError(
            f"the area of random_resized_crop needs 0 < smallest <= largest <= 1, not {smallest} to {largest}"
        )
    if not 0 < narrowest <= widest:
        raise ValueError(
            f"random_resized_crop needs aspect ratios 0 < narrowest <= widest, not {narrowest} to {widest}"
        )

    def transform(example: Example, rng: np.random.Generator) -> Example:
        shape = example["image"].shape[:2]
        window = _random_window(shape, (smallest, largest), (narrowest, widest), rng)
        if window is None:
            window = _largest_window(shape, narrowest, widest)
        return geometry.scale(geometry.crop(example, window), height, width)

    return transform


def center_crop(size: int | tuple[int, int]) -> Transform:
    """The middle of the picture, `size` pixels high and wide.

    Raises:
        ValueError: a size below 1; in the transform, one that is larger than the picture.
    """
    height, width = _sides("center_crop", size)

    def transform(example: Example, rng: np.random.Generator) -> Example:
        there = example["image"].shape[:2]
        if height > there[0] or width > there[1]:
            raise ValueError(
                f"center_crop to {height}x{width} is larger than the picture, {there[0]}x{there[1]}; "
                f"put resize_short:{max(height, width)} before it"
            )
        top, left = (round((there[0] - height) / 2), round((there[1] - width) / 2))
        return geometry.crop(example, (top, left, height, width))

    return transform


def resize(size: int | tuple[int, int]) -> Transform:
    """Resize to `size` (height and width, or one number for both): antialiased bilinear, the mask nearest.

    Raises:
        ValueError: a size below 1.
    """
    height, width = _sides("resize", size)
    return lambda example, rng: geometry.scale(example, height, width)


def resize_short(size: int) -> Transform:
    """Resize so that the shorter side has `size` pixels; the aspect ratio stays.

    Raises:
        ValueError: a size below 1.
    """
    size = _whole("resize_short", size)

    def transform(example: Example, rng: np.random.Generator) -> Example:
        height, width = example["image"].shape[:2]
        shorter = min(height, width)  # the longer side is rounded down, as torchvision does
        return geometry.scale(example, height * size // shorter, width * size // shorter)

    return transform


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
        down, right = rng.integers(-padding, padding + 1, 2).tolist()
        return geometry.shift(example, down, right)

    return transform


def horizontal_flip(probability: float = 0.5) -> Transform:
    """Mirror left and right with this probability. Not for digits or text.

    Raises:
        ValueError: a probability outside [0, 1].
    """
    probability = _probability("horizontal_flip", probability)
    return lambda example, rng: geometry.flip(example, 1) if rng.random() < probability else example


def vertical_flip(probability: float = 0.5) -> Transform:
    """Mirror top and bottom with this probability. For pictures without an up.

    Raises:
        ValueError: a probability outside [0, 1].
    """
    probability = _probability("vertical_flip", probability)
    return lambda example, rng: geometry.flip(example, 0) if rng.random() < probability else example


def dihedral() -> Transform:
    """One of the eight symmetries of the square, for pictures without an up, as under a microscope.

    Raises:
        ValueError: in the transform, a picture that is not square.
    """

    def transform(example: Example, rng: np.random.Generator) -> Example:
        height, width = example["image"].shape[:2]
        if height != width:
            raise ValueError(
                f"dihedral needs square pictures, not {height}x{width}; "
                "put center_crop or random_resized_crop before it, or take horizontal_flip and vertical_flip"
            )
        upside_down, mirrored, transposed = rng.integers(0, 2, 3).astype(bool).tolist()
        example = geometry.flip(example, 0) if upside_down else example
        example = geometry.flip(example, 1) if mirrored else example
        return geometry.transpose(example) if transposed else example

    return transform


def random_erasing(probability: float = 0.25) -> Transform:
    """Black out a rectangle of 2-33% of the picture (Zhong et al. 2020), with an aspect ratio of 0.3-3.3.

    Mask and box stay: they still say where the object is.

    Raises:
        ValueError: a probability outside [0, 1].
    """
    probability = _probability("random_erasing", probability)

    def transform(example: Example, rng: np.random.Generator) -> Example:
        if rng.random() >= probability:
            return example
        window = _random_window(example["image"].shape[:2], (0.02, 0.33), (0.3, 3.3), rng)
        if window is None:
            return example
        top, left, height, width = window
        image = example["image"].copy()
        image[top : top + height, left : left + width] = 0
        return {**example, "image": image}

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
    "random_resized_crop": random_resized_crop,
    "center_crop": center_crop,
    "resize": resize,
    "resize_short": resize_short,
    "pad_crop": pad_crop,
    "horizontal_flip": horizontal_flip,
    "vertical_flip": vertical_flip,
    "dihedral": dihedral,
    "color_jitter": color_jitter,
    "gaussian_blur": gaussian_blur,
    "random_erasing": random_erasing,
    "randaugment": randaugment,
    "trivialaugment": trivialaugment,
    "to_float": to_float,
}


def augmentation(spec: Sequence[str]) -> list[Transform]:
    """Transforms by name, with numbers after colons: `("random_resized_crop:224:0.35:1", "horizontal_flip")`.

    Raises:
        ValueError: a name that does not exist, or an argument that the transform does not take.
    """
    if isinstance(spec, str):
        raise ValueError(f"augmentation takes a sequence of names, not one string: write ({spec!r},)")
    return [_transform(entry) for entry in spec]


def check_augmentation(spec: Sequence[str], source: Source) -> tuple[int, int, int]:
    """Tries the transforms on pictures like those of the source, so that mistakes show before training.

    Returns:
        The shape `(H, W, C)` of the pictures that come out.

    Raises:
        ValueError: what `augmentation` refuses, a transform that such pictures do not suit, or results that
            differ in size, which cannot form a batch.
    """
    transforms = augmentation(spec)
    like = source[0]["image"]
    shapes = [source.image_shape or like.shape]
    if source.image_shape is None:  # one wide and one high
        shapes += [(300, 400, like.shape[-1]), (500, 300, like.shape[-1])]
    results = []
    for shape in shapes:
        example = {"image": np.zeros(shape, like.dtype)}
        for entry, transform in zip(spec, transforms, strict=True):
            try:
                example = transform(example, np.random.default_rng(0))
            except ValueError as error:
                raise ValueError(f"augmentation {entry!r}: {error}") from error
        results.append(example["image"].shape)
    if len(set(results)) > 1:
        raise ValueError(
            "the pictures differ in size, also after the augmentation: give the source the option size, "
            "or let a transform bring them to one, such as random_resized_crop:224"
        )
    return results[0]


def _transform(entry: str) -> Transform:
    name, *arguments = entry.split(":")
    if name not in TRANSFORMS:
        raise ValueError(f"unknown transform {name!r}; there are {', '.join(TRANSFORMS)}")
    try:
        return TRANSFORMS[name](*map(float, arguments))
    except (TypeError, ValueError) as error:
        raise ValueError(f"augmentation {entry!r}: {error}") from error


def _random_window(
    shape: tuple[int, int], area: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> geometry.Window | None:
    """A random part of a picture, by its relative area and aspect ratio; None if ten draws do not fit."""
    for _ in range(10):
        pixels = rng.uniform(*area) * shape[0] * shape[1]
        aspect = np.exp(rng.uniform(*np.log(ratio)))
        height, width = round((pixels / aspect) ** 0.5), round((pixels * aspect) ** 0.5)
        if 0 < height <= shape[0] and 0 < width <= shape[1]:
            top, left = rng.integers(0, (shape[0] - height + 1, shape[1] - width + 1)).tolist()
            return top, left, height, width
    return None


def _largest_window(shape: tuple[int, int], narrowest: float, widest: float) -> geometry.Window:
    """The largest part about the centre whose aspect ratio is allowed."""
    height = min(shape[0], max(1, round(shape[1] / narrowest)))
    width = min(shape[1], max(1, round(shape[0] * widest)))
    return (shape[0] - height) // 2, (shape[1] - width) // 2, height, width


def _sides(name: str, size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (_whole(name, side) for side in np.broadcast_to(size, 2).tolist())
    return height, width


def _whole(name: str, value: float) -> int:
    if value != int(value) or value < 1:
        raise ValueError(f"{name} takes a whole number of pixels, at least 1, not {value}")
    return int(value)


def _probability(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} takes a probability in [0, 1], not {value}")
    return value
