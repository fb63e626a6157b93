"""Textured digits: handwritten digits on photographs, made from files that scikit-learn and scikit-image ship.

Ten classes, exact masks, and a background that goes with the class in training. `docs/embedded.md` says how the
set was calibrated. Nothing is downloaded: the ten photographs lie inside the scikit-image package.
"""

import functools
import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps
from sklearn.datasets import load_digits

SPLITS = ("train", "validation", "in_distribution", "shifted")
DEFAULT_NUM_IMAGES = {"train": 8000, "validation": 1000, "in_distribution": 2000, "shifted": 4000}

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
PHOTOGRAPH_SIZE = 224  # both sides, after shrinking: training uses the left part, the test splits the right part
GAP_COLUMNS = 24  # columns in the middle that no split uses
MARGIN_OF_ROUND_PHOTOGRAPHS = {"retina.jpg": 0.18}  # the share cut off each side, where the picture is a disc on black

# Of every ten digits of a class, in scikit-learn's order, which ones a split draws from.
DIGIT_TURNS = {
    "train": (0, 1, 2, 3, 4, 5),
    "validation": (6,),
    "in_distribution": (7, 8, 9),
    "shifted": (7, 8, 9),
}

UPSCALE = 4  # digits are interpolated once, from 8x8 to 48x48, a border of two empty pixels included
CHUNK = 250  # pictures rendered at a time, so that the arrays in between stay small


class Layout(NamedTuple):
    """What the pictures show, before a pixel is drawn; every field is an array over N pictures."""

    digit: np.ndarray  # int64 [N], index into scikit-learn's 1797 digits
    label: np.ndarray  # int32 [N], 0 to 9
    background: np.ndarray  # int32 [N], index into PHOTOGRAPHS; the class's own where it equals the label
    crop: np.ndarray  # int64 [N, 2], top and left of the background in the shrunk photograph
    position: np.ndarray  # [N, 2] in [0, 1]: from the top to the bottom and from left to right
    angle: np.ndarray  # [N], radians
    scale: np.ndarray  # [N, 2], height and width, relative to object_size
    contrast: np.ndarray  # [N], signed: grey of the ink minus grey of the background, full range 1
    opacity: np.ndarray  # [N] in [0, 1]: how much of the background the ink hides
    tint: np.ndarray  # [N, 3], colour of the ink minus its grey


class TexturedDigits:
    """One split of the textured digits, rendered into memory; picture i depends on (seed, split, i) only.

    Args:
        split: "train", "validation" (held-out digits, otherwise like "train"), "in_distribution" (test digits on test
            backgrounds, correlated as in training) or "shifted" (the same with a background independent of the class).
        num_images: N; by default 8000, 1000, 2000 and 4000, in the order of the splits above.
        size: height and width of the pictures in pixels, at most 100.
        object_size: height of an upright digit in pixels, from 8 to 2/3 of `size`.
        correlation: probability that the background is the class's own; else it is one of the other nine, uniformly.
        contrast: range of |ink - background|, within [0.1, 0.7] of the full range; dark and light ink alike.
        seed: any int >= 0. It does not move a digit or a part of a photograph from one split to another.

    Attributes:
        images, labels, masks, groups: uint8 [N, size, size, 3], int32 [N], bool [N, size, size], int32 [N].
            The mask is exactly where the picture differs from its background. The group is
            2 * label + (1 if the background is the class's own, else 0); `group_names` names the twenty.
        layout: what each picture shows.

    Raises:
        ValueError: an unknown split or an option outside its range.
    """

    num_classes = 10
    class_names = [str(digit) for digit in range(10)]
    group_names = [f"{digit} on {place} background" for digit in range(10) for place in ("another", "its own")]

    def __init__(
        self,
        split: str = "train",
        *,
        num_images: int | None = None,
        size: int = 48,
        object_size: int = 24,
        correlation: float = 0.6,
        contrast: tuple[float, float] = (0.3, 0.6),
        seed: int = 0,
    ) -> None:
        _check_options(split, num_images, size, object_size, correlation, contrast, seed)
        number = DEFAULT_NUM_IMAGES[split] if num_images is None else num_images
        if split == "shifted":
            correlation = 1 / self.num_classes
        self.image_shape = (size, size, 3)
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
    split: str, number: int, size: int, correlation: float, contrast: tuple[float, float], seed: int
) -> Layout:
    """What each of the first `number` pictures of a split shows."""
    # The generator fills row after row, so row i is the same for any number of rows.
    u = np.random.default_rng([seed, SPLITS.index(split)]).random((number, 16))
    pool, (left, right) = digit_indices(split), columns(split)
    digit = pool[_choice(u[:, 0], len(pool))]
    label = _digits()[1][digit]
    other = (label + 1 + _choice(u[:, 2], 9)) % 10
    low, high = contrast
    return Layout(
        digit=digit,
        label=label,
        background=np.where(u[:, 1] < correlation, label, other).astype(np.int32),
        crop=_choice(u[:, 3:5], np.array([PHOTOGRAPH_SIZE, right - left]) - size + 1) + [0, left],
        position=u[:, 5:7],
        angle=_between(u[:, 7], -0.2, 0.2),
        scale=_between(u[:, 8:9], 0.9, 1.1) * _between(u[:, 9:11], 0.95, 1.05),
        contrast=_between(u[:, 11], low, high) * np.where(u[:, 12] < 0.5, -1, 1),
        opacity=_between(u[:, 13], 0.8, 1.0),
        # Two draws make a hue that adds no grey.
        tint=_between(u[:, 14:15], 0, 0.2) * np.cos(2 * np.pi * (u[:, 15:16] + np.array([0, 1 / 3, 2 / 3]))),
    )


def digit_indices(split: str) -> np.ndarray:
    """Indices into scikit-learn's digits from which a split draws; disjoint between training, validation and test."""
    labels = _digits()[1]
    turn = np.empty(len(labels), int)
    for label in range(10):
        of_class = np.flatnonzero(labels == label)
        turn[of_class] = np.arange(len(of_class)) % 10
    return np.flatnonzero(np.isin(turn, DIGIT_TURNS[split]))


def columns(split: str) -> tuple[int, int]:
    """First column and one past the last column of the photographs that a split may show."""
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
    # With columns and colours on one axis a picture's rows are copied whole.
    rows = _photographs().reshape(len(PHOTOGRAPHS), PHOTOGRAPH_SIZE, 3 * PHOTOGRAPH_SIZE)
    windows = np.lib.stride_tricks.sliding_window_view(rows, (size, 3 * size), axis=(1, 2))
    top, left = layout.crop.T
    return windows[layout.background, top, 3 * left].reshape(-1, size, size, 3)


def _ink(layout: Layout, object_size: int) -> np.ndarray:
    """Opacity of the turned and scaled digits, float32 [N, P, P] in [0, 1], on a patch that holds every digit."""
    patch = int(1.4 * object_size) + 2
    steps = np.arange(patch, dtype=np.float32) - (patch - 1) / 2
    y, x = steps[:, None], steps[None, :]
    cos, sin = (f(layout.angle).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
    pixels = (8 * UPSCALE / object_size / layout.scale).astype(np.float32)  # digit pixels per patch pixel
    glyphs = _digits()[0]
    centre = np.float32((glyphs.shape[1] - 1) / 2)
    sampled = _bilinear(
        glyphs,
        layout.digit,
        centre + (cos * y - sin * x) * pixels[:, :1, None],
        centre + (sin * y + cos * x) * pixels[:, 1:, None],
    )
    # A steeper edge than the interpolated one; what lies below it is no ink at all, so that masks are crisp.
    edge = np.clip((sampled - 0.3) / 0.3, 0, 1)
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


def _draw(layout: Layout, size: int, object_size: int, images: np.ndarray, masks: np.ndarray) -> None:
    """Draw the digits over the backgrounds `images` and fill in `masks`, both in place."""
    ink = _ink(layout, object_size)
    # One entry per pixel with ink, in the order of the pictures; `first` is where each picture's entries begin.
    picture, y, x = np.nonzero(ink)
    weight = ink[picture, y, x]
    first = np.searchsorted(picture, np.arange(len(ink)))
    y = _placed(y, first, layout.position[:, 0], size)[picture] + y
    x = _placed(x, first, layout.position[:, 1], size)[picture] + x
    before = images[picture, y, x]
    below = before.astype(np.float32) / 255
    grey = np.add.reduceat(below.mean(1) * weight, first) / np.add.reduceat(weight, first)
    weight = (weight * layout.opacity.astype(np.float32)[picture])[:, None]
    after = np.rint(255 * (below + weight * (_colours(layout, grey)[picture] - below))).astype(np.uint8)
    images[picture, y, x] = after
    # Where ink and background agree to the bit, nothing can be seen and the mask is empty.
    masks[picture, y, x] = (after != before).any(1)


def _placed(along: np.ndarray, first: np.ndarray, position: np.ndarray, size: int) -> np.ndarray:
    """What to add to the ink's coordinates along one axis, per picture, so that it lies anywhere inside."""
    low, high = np.minimum.reduceat(along, first), np.maximum.reduceat(along, first)
    return _choice(position, size - (high - low)) - low


def _colours(layout: Layout, grey: np.ndarray) -> np.ndarray:
    """Colour of the ink, float32 [N, 3] in [0, 1], over backgrounds of mean `grey` [N]."""
    wanted = grey + layout.contrast
    # Without room on the wanted side the ink goes to the other: the contrast is kept, the polarity is not.
    wanted = np.where((wanted < 0) | (wanted > 1), grey - layout.contrast, wanted)
    return np.clip(wanted[:, None] + layout.tint, 0, 1).astype(np.float32)


def _between(u: np.ndarray, low: float, high: float) -> np.ndarray:
    return low + (high - low) * u


def _choice(u: np.ndarray, number: int | np.ndarray) -> np.ndarray:
    """A whole number from 0 to number - 1 from u in [0, 1)."""
    return (u * number).astype(int)


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """All digits, float32 [1797, 48, 48] in [0, 1] and upscaled smoothly, and their labels, int32 [1797]."""
    data = load_digits()
    pixels = np.pad(data.images / 16, ((0, 0), (2, 2), (2, 2)))
    smooth = [
        Image.fromarray(image.astype(np.float32)).resize((48, 48), Image.Resampling.BICUBIC) for image in pixels
    ]
    return np.stack([np.asarray(image) for image in smooth]), data.target.astype(np.int32)


@functools.cache
def _photographs() -> np.ndarray:
    """The ten photographs, shrunk, uint8 [10, 224, 224, 3]."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the embedded data set takes its photographs from scikit-image: pip install scikit-image")
    folder = Path(spec.submodule_search_locations[0]) / "data"
    photographs = []
    for name in PHOTOGRAPHS:
        with Image.open(folder / name) as photograph:
            photograph = ImageOps.crop(photograph.convert("RGB"), 0)
            margin = MARGIN_OF_ROUND_PHOTOGRAPHS.get(name, 0)
            fitted = ImageOps.fit(photograph, (PHOTOGRAPH_SIZE, PHOTOGRAPH_SIZE), bleed=margin)
        photographs.append(np.asarray(fitted))
    return np.stack(photographs)


def _check_options(
    split: str,
    num_images: int | None,
    size: int,
    object_size: int,
    correlation: float,
    contrast: tuple[float, float],
    seed: int,
) -> None:
    pass
