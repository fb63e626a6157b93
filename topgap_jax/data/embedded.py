"""Textured digits: handwritten digits on photographs, from files that scikit-learn and scikit-image ship.

Ten classes, exact masks, and a background that goes with the class in training. `docs/embedded.md` says how
the set was calibrated. Nothing is downloaded: the photographs lie inside the scikit-image package.
"""

import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps
from sklearn.datasets import load_digits

from topgap_jax.data.sources import check_split

SPLITS = ("train", "validation", "in_distribution", "shifted")
DEFAULT_NUM_IMAGES = {"train": 16000, "validation": 1000, "in_distribution": 2000, "shifted": 4000}

# One photograph per class, in the order of the classes.
PHOTOGRAPHS = (
    "brick.png",
    "grass.png",
    "gravel.png",
    "coins.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "retina.jpg",
    "moon.png",
)
PHOTOGRAPH_SIZE = 224  # both sides, once shrunk; training shows the left part, the test splits the right part
GAP_COLUMNS = 24  # columns in the middle that no split shows
MARGINS = {"retina.jpg": 0.18}  # share cut off each side: this picture is a disc on black

# Of every ten digits of a class, in scikit-learn's order, the ones from which a split draws.
DIGIT_TURNS = {
    "train": (0, 1, 2, 3, 4, 5),
    "validation": (6,),
    "in_distribution": (7, 8, 9),
    "shifted": (7, 8, 9),
}

UPSCALE = 4  # digits are interpolated once, from 8x8 pixels and a border of two empty ones
CHUNK = 250  # pictures rendered at a time, so that the arrays in between stay small


class Layout(NamedTuple):
    """What the pictures show, before a pixel is drawn; every field is an array over N pictures."""

    digit: np.ndarray  # int64 [N], index into scikit-learn's 1797 digits
    label: np.ndarray  # int32 [N], 0 to 9
    background: np.ndarray  # int32 [N], index into PHOTOGRAPHS; the class's own where it equals the label
    crop: np.ndarray  # int64 [N, 2], top and left of the background in the shrunk photograph
    position: np.ndarray  # [N, 2] in [0, 1], from the top to the bottom and from left to right
    angle: np.ndarray  # [N], radians
    scale: np.ndarray  # [N, 2], height and width relative to object_size
    contrast: np.ndarray  # [N], signed: grey of the ink minus grey of the background, full range 1
    opacity: np.ndarray  # [N] in [0, 1]: how much of the background the ink hides
    tint: np.ndarray  # [N, 3], colour of the ink minus its grey


class TexturedDigits:
    """One split of the textured digits, rendered into memory; picture i depends on (seed, split, i) only.

    Args:
        split: "train", "validation" (held-out digits, otherwise like "train"), "in_distribution" (test digits
            on test backgrounds, correlated as in training) or "shifted" (the same, but with a background that
            is independent of the class).
        num_images: N; by default 16000, 1000, 2000 and 4000, in the order of the splits above.
        size: height and width of the pictures in pixels, at most 100.
        object_size: height of an upright digit in pixels, from 8 to 2/3 of `size`.
        correlation: probability that the background is the class's own; else it is any of the other nine.
        contrast: smallest and largest |ink - background|, within 0.1 to 0.7 of the full range. Dark and light
            ink come alike, where there is room for both.
        seed: any whole number >= 0. It moves no digit and no part of a photograph to another split.

    Attributes:
        images, labels, masks, groups: uint8 [N, size, size, 3], int32 [N], bool [N, size, size], int32 [N].
            A mask is exactly where the picture differs from its background. The group is 2 * label, plus 1
            where the background is the class's own; `group_names` names the twenty.
        layout: what each picture shows.

    Raises:
        ValueError: an unknown split, or an option outside its range.
    """

    num_classes = 10

    def __init__(
        self,
        split: str = "train",
        *,
        num_images: int | None = None,
        size: int = 48,
        object_size: int = 24,
        correlation: float = 0.75,
        contrast: Sequence[float] = (0.5, 0.7),
        seed: int = 0,
    ) -> None:
        check_split(split, SPLITS, "the embedded set")
        number = DEFAULT_NUM_IMAGES[split] if num_images is None else num_images
        _check_options(number, size, object_size, correlation, contrast, seed)
        if split == "shifted":
            correlation = 1 / self.num_classes
        self.class_names = [str(label) for label in range(10)]
        self.group_names = [
            f"{label} on {place}" for label in range(10) for place in ("another's", "its own")
        ]
        self.image_shape: tuple[int, int, int] | None = (size, size, 3)
        self.layout = draw_layout(split, number, size, correlation, contrast, seed)
        self.images, self.masks = render(self.layout, size, object_size)
        self.labels = self.layout.label
        self.groups = 2 * self.labels + (self.layout.background == self.labels).astype(np.int32)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "image": self.images[index],
            "label": self.labels[index],
            "mask": self.masks[index],
            "group": self.groups[index],
        }


def draw_layout(
    split: str, number: int, size: int, correlation: float, contrast: Sequence[float], seed: int
) -> Layout:
    """What each of the first `number` pictures of a split shows."""
    # The generator fills row after row, so row i is the same for any number of rows.
    u = np.random.default_rng([seed, SPLITS.index(split)]).random((number, 16))
    pool, (left, right) = digit_indices(split), columns(split)
    digit = pool[_choice(u[:, 0], len(pool))]
    label = _digits()[1][digit]
    another = (label + 1 + _choice(u[:, 2], 9)) % 10
    return Layout(
        digit=digit,
        label=label,
        background=np.where(u[:, 1] < correlation, label, another).astype(np.int32),
        crop=_choice(u[:, 3:5], np.array([PHOTOGRAPH_SIZE, right - left]) - size + 1) + np.array([0, left]),
        position=u[:, 5:7],
        angle=_between(u[:, 7], -0.2, 0.2),
        scale=_between(u[:, 8:9], 0.94, 1.06) * _between(u[:, 9:11], 0.96, 1.04),
        contrast=_between(u[:, 11], *contrast) * np.where(u[:, 12] < 0.5, -1, 1),
        opacity=_between(u[:, 13], 0.9, 1.0),
        # A hue: three waves that add up to no grey.
        tint=_between(u[:, 14:15], 0, 0.2) * np.cos(2 * np.pi * (u[:, 15:16] + np.array([0, 1 / 3, 2 / 3]))),
    )


def digit_indices(split: str) -> np.ndarray:
    """Indices of the digits from which a split draws; training, validation and test share none."""
    labels = _digits()[1]
    turn = np.empty(len(labels), int)
    for label in range(10):
        of_class = np.flatnonzero(labels == label)
        turn[of_class] = np.arange(len(of_class)) % 10
    return np.flatnonzero(np.isin(turn, DIGIT_TURNS[split]))


def columns(split: str) -> tuple[int, int]:
    """First column of the photographs that a split may show, and one past the last."""
    half = (PHOTOGRAPH_SIZE - GAP_COLUMNS) // 2
    return (0, half) if split in ("train", "validation") else (PHOTOGRAPH_SIZE - half, PHOTOGRAPH_SIZE)


def render(layout: Layout, size: int, object_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 [N, size, size, 3] and masks bool [N, size, size] of a layout."""
    number = len(layout.label)
    images, masks = np.empty((number, size, size, 3), np.uint8), np.zeros((number, size, size), bool)
    for start in range(0, number, CHUNK):
        part = slice(start, start + CHUNK)
        chunk = Layout(*(field[part] for field in layout))
        images[part] = backgrounds(chunk, size)
        _draw(chunk, size, object_size, images[part], masks[part])
    return images, masks


def backgrounds(layout: Layout, size: int) -> np.ndarray:
    """The pictures without their digits, uint8 [N, size, size, 3]."""
    # With columns and colours on one axis, the rows of a picture are copied whole.
    rows = _photographs().reshape(len(PHOTOGRAPHS), PHOTOGRAPH_SIZE, 3 * PHOTOGRAPH_SIZE)
    windows = np.lib.stride_tricks.sliding_window_view(rows, (size, 3 * size), axis=(1, 2))
    top, left = layout.crop.T
    return windows[layout.background, top, 3 * left].reshape(-1, size, size, 3)


def _draw(layout: Layout, size: int, object_size: int, images: np.ndarray, masks: np.ndarray) -> None:
    """Draw the digits over the backgrounds `images` and fill in `masks`, both in place."""
    ink = _ink(layout, object_size)
    # One entry per pixel with ink, picture after picture; `first` is where each picture's entries begin.
    picture, y, x = np.nonzero(ink)
    weight = ink[picture, y, x]
    first = np.searchsorted(picture, np.arange(len(ink)))
    y = y + _offset(y, first, layout.position[:, 0], size)[picture]
    x = x + _offset(x, first, layout.position[:, 1], size)[picture]
    before = images[picture, y, x]
    below = before.astype(np.float32) / 255
    grey = np.add.reduceat(below.mean(1) * weight, first) / np.add.reduceat(weight, first)
    weight = (weight * layout.opacity.astype(np.float32)[picture])[:, None]
    blended = below + weight * (_colours(layout, grey)[picture] - below)
    images[picture, y, x] = np.rint(255 * blended).astype(np.uint8)
    # Where the ink happens to equal the background, nothing is seen and the mask stays empty.
    masks[picture, y, x] = (images[picture, y, x] != before).any(1)


def _ink(layout: Layout, object_size: int) -> np.ndarray:
    """Opacity of the turned and scaled digits, float32 [N, P, P] in [0, 1], P enough for any of them."""
    patch = int(1.4 * object_size) + 2
    steps = np.arange(patch, dtype=np.float32) - (patch - 1) / 2
    y, x = steps[:, None], steps[None, :]
    cos, sin = (wave(layout.angle).astype(np.float32)[:, None, None] for wave in (np.cos, np.sin))
    step = (8 * UPSCALE / object_size / layout.scale).astype(np.float32)  # digit pixels per patch pixel
    glyphs = _digits()[0]
    centre = (glyphs.shape[1] - 1) / 2
    value = _bilinear(
        glyphs,
        layout.digit,
        centre + (cos * y - sin * x) * step[:, :1, None],
        centre + (sin * y + cos * x) * step[:, 1:, None],
    )
    # A steeper edge than interpolation leaves; what lies below it is no ink at all, so that masks are crisp.
    edge = np.clip((value - 0.3) / 0.3, 0, 1)
    return np.where(edge < 0.15, 0, edge)


def _bilinear(glyphs: np.ndarray, index: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Value of glyph `index` [N] at the points (y, x), each [N, P, P]."""
    side = glyphs.shape[1]
    y, x = np.clip(y, 0, side - 1.001), np.clip(x, 0, side - 1.001)
    top, left = y.astype(np.int32), x.astype(np.int32)
    flat, corner = glyphs.ravel(), index[:, None, None] * side**2 + top * side + left
    y, x = y - top, x - left
    upper = flat[corner] * (1 - x) + flat[corner + 1] * x
    lower = flat[corner + side] * (1 - x) + flat[corner + side + 1] * x
    return upper * (1 - y) + lower * y


def _offset(along: np.ndarray, first: np.ndarray, position: np.ndarray, size: int) -> np.ndarray:
    """What to add to the ink's coordinates along one axis, per picture, so that it lies anywhere inside."""
    low, high = np.minimum.reduceat(along, first), np.maximum.reduceat(along, first)
    return _choice(position, size - (high - low)) - low


def _colours(layout: Layout, grey: np.ndarray) -> np.ndarray:
    """Colour of the ink, float32 [N, 3] in [0, 1], over backgrounds of mean `grey` [N]."""
    wanted = grey + layout.contrast
    # Without room on the wanted side, the ink goes to the other: the contrast stays, the polarity does not.
    wanted = np.where((wanted < 0) | (wanted > 1), grey - layout.contrast, wanted)
    return np.clip(wanted[:, None] + layout.tint, 0, 1).astype(np.float32)


def _between(u: np.ndarray, low: float, high: float) -> np.ndarray:
    return low + (high - low) * u


def _choice(u: np.ndarray, number: int | np.ndarray) -> np.ndarray:
    """A whole number from 0 to number - 1, from u in [0, 1)."""
    return (u * number).astype(int)


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """All digits, upscaled smoothly, float32 [1797, 48, 48], and their labels, int32 [1797]."""
    data = load_digits()
    pixels = np.pad(data.images / 16, ((0, 0), (2, 2), (2, 2))).astype(np.float32)
    size = (UPSCALE * pixels.shape[2], UPSCALE * pixels.shape[1])
    glyphs = [np.asarray(Image.fromarray(digit).resize(size, Image.Resampling.BICUBIC)) for digit in pixels]
    return np.stack(glyphs), data.target.astype(np.int32)


@functools.cache
def _photographs() -> np.ndarray:
    """The ten photographs, shrunk, uint8 [10, 224, 224, 3]."""
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
        raise ModuleNotFoundError(
            "the embedded set shows photographs of scikit-image: pip install scikit-image"
        )
    # The files themselves: `skimage.data` would download those that a future version no longer ships.
    folder = Path(package.origin).parent / "data"
    size = (PHOTOGRAPH_SIZE, PHOTOGRAPH_SIZE)
    shrunk = []
    for name in PHOTOGRAPHS:
        with Image.open(folder / name) as photograph:
            fitted = ImageOps.fit(photograph.convert("RGB"), size, bleed=MARGINS.get(name, 0))
        shrunk.append(np.asarray(fitted))
    return np.stack(shrunk)


def _check_options(
    number: int, size: int, object_size: int, correlation: float, contrast: Sequence[float], seed: int
) -> None:
    largest = (PHOTOGRAPH_SIZE - GAP_COLUMNS) // 2
    whole = {"num_images": number, "size": size, "object_size": object_size, "seed": seed}
    for name, value in whole.items():
        if not isinstance(value, int | np.integer):
            raise ValueError(f"{name} must be a whole number, not {value!r}")
    if number < 1:
        raise ValueError(f"num_images must be at least 1, not {number}")
    if not 12 <= size <= largest:
        raise ValueError(f"size must lie in 12..{largest} (the width of a photograph's part), not {size}")
    if not 8 <= object_size <= 2 * size / 3:
        raise ValueError(
            f"object_size must lie in 8..{2 * size // 3} (2/3 of size {size}), not {object_size}"
        )
    if not 0 <= correlation <= 1:
        raise ValueError(f"correlation must lie in [0, 1], not {correlation}")
    if len(contrast) != 2 or not 0.1 <= contrast[0] <= contrast[1] <= 0.7:
        raise ValueError(f"contrast must be (low, high) with 0.1 <= low <= high <= 0.7, not {contrast}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, not {seed}")
