"""Which part of a picture is shown, and how large: one rule for its pixels, its mask and its box."""

from typing import NamedTuple

import numpy as np
from PIL import Image


class Framing(NamedTuple):
    """A part of an upright stored picture, and the size at which it is shown."""

    stored: tuple[int, int]  # height and width of the stored picture
    top: float  # the edges of the part, in pixels of the stored picture
    left: float
    bottom: float
    right: float
    height: int  # of the result
    width: int

    @property
    def scale(self) -> float:
        """Pixels of the stored picture per pixel of the result."""
        return (self.bottom - self.top) / self.height

    def pixels(self, pixels: np.ndarray) -> np.ndarray:
        """`[H0, W0, C]`, uint8 or float32, to `[H, W, C]`: bilinear, antialiased."""
        if self._keeps_all():
            return pixels
        if pixels.dtype == np.uint8 and pixels.shape[-1] == 3:
            return np.asarray(self.picture(Image.fromarray(np.ascontiguousarray(pixels))))
        planes = (Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(pixels, -1, 0))
        return np.stack([np.asarray(self.picture(plane)) for plane in planes], -1)

    def picture(self, picture: Image.Image, reduced: int = 1) -> Image.Image:
        """The same for a Pillow picture, which may have been decoded at 1/reduced of the stored size."""
        if self._keeps_all() and reduced == 1:
            return picture
        part = self.left / reduced, self.top / reduced, self.right / reduced, self.bottom / reduced
        return picture.resize((self.width, self.height), Image.Resampling.BILINEAR, box=part)

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """Bool `[H0, W0]` to `[H, W]`: the nearest pixel.

        Raises:
            ValueError: a mask of another size than the stored picture.
        """
        if mask.shape != self.stored:
            sizes = "x".join(map(str, mask.shape)), "x".join(map(str, self.stored))
            raise ValueError(f"the mask is {sizes[0]}, the picture {sizes[1]}: they must have the same size")
        if self._keeps_all():
            return mask
        stored = Image.fromarray(np.ascontiguousarray(mask, np.uint8))
        part = self.left, self.top, self.right, self.bottom
        return np.asarray(stored.resize((self.width, self.height), Image.Resampling.NEAREST, box=part), bool)

    def box(self, box: np.ndarray) -> np.ndarray:
        """Edges (top, left, bottom, right), cut off at the border; a box out of sight has no area."""
        down, across = self.height / (self.bottom - self.top), self.width / (self.right - self.left)
        moved = (np.asarray(box) - np.tile((self.top, self.left), 2)) * np.tile((down, across), 2)
        return np.clip(moved, 0, np.tile((self.height, self.width), 2)).astype(np.float32)

    def _keeps_all(self) -> bool:
        return self[1:] == (0, 0, *self.stored, *self.stored)


def frame(
    stored: tuple[int, int], size: tuple[int, int] | None = None, short_side: int | None = None
) -> Framing:
    """What becomes of a picture of height and width `stored`.

    Args:
        size: height and width: scaled to cover them and cropped about the centre.
        short_side: scaled so that the shorter side has so many pixels; with `size`, which must not be
            larger, the crop follows (the usual evaluation on ImageNet is 256 and 224).
    """
    height, width = stored
    shrink = min(stored) / short_side if short_side else 1.0  # stored pixels per shown pixel
    if size is None:
        shown = tuple(max(1, round(side / shrink)) for side in stored)
        return Framing(stored, 0, 0, height, width, *shown)
    if not short_side:
        shrink = min(height / size[0], width / size[1])
    rows, columns = min(height, size[0] * shrink), min(width, size[1] * shrink)
    top, left = (height - rows) / 2, (width - columns) / 2
    return Framing(stored, top, left, top + rows, left + columns, *size)
