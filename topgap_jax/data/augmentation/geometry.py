"""Moving a picture, its mask and its box together: functions `example, where to -> example`.

The box keeps to the object: it moves with the picture and is clipped to it. Of an object that is out of sight
nothing is left: an empty mask and a box without area, at the border behind which the object lies.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image

from topgap_jax.data.sources import Example

Transform = Callable[[Example, np.random.Generator], Example]
Window = tuple[int, int, int, int]  # top, left, height and width, inside the picture


def crop(example: Example, window: Window) -> Example:
    """The part of the picture inside the window."""
    top, left, height, width = window
    cut = _map_pixels(example, lambda pixels: pixels[top : top + height, left : left + width])
    return _with_box(cut, lambda box: box - np.array([top, left, top, left]))


def scale(example: Example, height: int, width: int) -> Example:
    """Resized to height and width: antialiased bilinear, the mask by the nearest pixel."""
    before = example["image"].shape[:2]
    if before == (height, width):
        return example
    resized = {**example, "image": resize_image(example["image"], height, width)}
    if "mask" in example:
        mask = Image.fromarray(example["mask"].view(np.uint8))
        resized["mask"] = np.asarray(mask.resize((width, height), Image.Resampling.NEAREST)).view(bool)
    return _with_box(resized, lambda box: box * np.tile(np.divide((height, width), before), 2))


def flip(example: Example, axis: int) -> Example:
    """Mirrored top to bottom (axis 0) or left to right (axis 1)."""
    length = example["image"].shape[axis]
    flipped = _map_pixels(example, lambda pixels: np.flip(pixels, axis))
    if axis == 1:
        flipped["image"] = _copied_by_channel(flipped["image"])

    def mirror(box: np.ndarray) -> np.ndarray:
        box = box.copy()
        box[[axis, axis + 2]] = length - box[[axis + 2, axis]]
        return box

    return _with_box(flipped, mirror)


def transpose(example: Example) -> Example:
    """Mirrored at the diagonal from the top left: rows become columns."""
    turned = _map_pixels(example, lambda pixels: pixels.swapaxes(0, 1))
    turned["image"] = _copied_by_channel(turned["image"])
    return _with_box(turned, lambda box: box[[1, 0, 3, 2]])


def shift(example: Example, down: int, right: int) -> Example:
    """The window `down` and `right` of the picture, which goes on mirrored beyond its border.

    What is mirrored into sight belongs to the object too: the box then spans both.
    """
    height, width = example["image"].shape[:2]
    rows, columns = _mirrored(height, down), _mirrored(width, right)
    moved = _map_pixels(example, lambda pixels: pixels.take(rows, 0).take(columns, 1))

    def follow(box: np.ndarray) -> np.ndarray:
        top, bottom = _mirrored_span(box[0], box[2], height, down)
        left, right_edge = _mirrored_span(box[1], box[3], width, right)
        return np.array([top, left, bottom, right_edge])

    return _with_box(moved, follow)


def affine(example: Example, matrix: np.ndarray) -> Example:
    """Pixel (x, y) of the result shows point `matrix @ (x, y, 1)` of the picture, by the nearest pixel.

    What lies outside is black. A box becomes the smallest upright one that holds it.

    Args:
        example: pictures of uint8 with 1 or 3 channels.
        matrix: `[2, 3]`; x to the right, y down, in pixels from the top left corner.
    """
    height, width = example["image"].shape[:2]

    def sample(pixels: np.ndarray) -> np.ndarray:
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)
        method, nearest = Image.Transform.AFFINE, Image.Resampling.NEAREST
        moved = picture.transform((width, height), method, matrix.ravel().tolist(), nearest)
        return np.asarray(moved).reshape(pixels.shape)

    moved = {**example, "image": sample(example["image"])}
    if "mask" in example:
        moved["mask"] = sample(example["mask"].view(np.uint8)).view(bool)

    def follow(box: np.ndarray) -> np.ndarray:
        corners = np.array([[x, y] for x in box[[1, 3]] for y in box[[0, 2]]])
        placed = np.linalg.solve(matrix[:, :2], (corners - matrix[:, 2]).T)
        return np.concatenate([placed.min(1)[::-1], placed.max(1)[::-1]])

    return _with_box(moved, follow)


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """`[H, W, C]`, uint8 or float32, to `[height, width, C]` of the same dtype."""
    if image.dtype == np.uint8 and image.shape[-1] == 3:
        picture = Image.fromarray(np.ascontiguousarray(image))
        return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
    channels = [
        Image.fromarray(np.ascontiguousarray(image[..., channel])) for channel in range(image.shape[-1])
    ]
    resized = [channel.resize((width, height), Image.Resampling.BILINEAR) for channel in channels]
    return np.stack([np.asarray(channel) for channel in resized], -1)


def _map_pixels(example: Example, function: Callable[[np.ndarray], np.ndarray]) -> Example:
    return {**example, **{name: function(example[name]) for name in ("image", "mask") if name in example}}


def _with_box(moved: Example, follow: Callable[[np.ndarray], np.ndarray]) -> Example:
    """The example with its box moved by `follow` and clipped to the picture."""
    if "box" not in moved:
        return moved
    edges = follow(moved["box"].astype(np.float64))
    inside = np.clip(edges, 0, np.tile(moved["image"].shape[:2], 2))
    return {**moved, "box": inside.astype(np.float32)}


def _copied_by_channel(image: np.ndarray) -> np.ndarray:
    """A contiguous copy of a turned `[H, W, C]`: four times as fast as NumPy's, pixel by pixel."""
    copy = np.empty_like(image, order="C")
    for channel in range(image.shape[-1]):
        copy[..., channel] = image[..., channel]
    return copy


def _mirrored(length: int, offset: int) -> np.ndarray:
    """Indices offset, ..., offset + length - 1, reflected into 0, ..., length - 1; the border comes once."""
    last = length - 1
    return last - np.abs(last - np.abs(np.arange(offset, offset + length)))


def _mirrored_span(low: float, high: float, length: int, offset: int) -> tuple[float, float]:
    """Where [low, high] and its two mirror images are seen from `offset` on; if nowhere, where it went."""
    far = 2 * length - 1
    copies = [(low, high), (1 - high, 1 - low), (far - high, far - low)]
    seen = [(a, b) for a, b in copies if a < b and a < offset + length and b > offset] or [(low, high)]
    return min(a for a, _ in seen) - offset, max(b for _, b in seen) - offset
