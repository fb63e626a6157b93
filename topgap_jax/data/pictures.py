"""Picture files to arrays."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".ppm", ".pgm")


class Decoder:
    """A Pillow picture to uint8 `[H, W, channels]`, upright and of the wanted size."""

    def __init__(self, size: int | Sequence[int] | None, channels: int) -> None:
        if channels not in (1, 3):
            raise ValueError(f"channels is 3 (RGB) or 1 (grey), not {channels}")
        self.mode = "RGB" if channels == 3 else "L"
        self.size = None if size is None else tuple(np.broadcast_to(size, 2).tolist())
        if self.size is not None and not all(isinstance(side, int) and side >= 1 for side in self.size):
            raise ValueError(f"size is a whole number of pixels or (height, width), not {size}")

    def __call__(self, picture: Image.Image, where: str) -> np.ndarray:
        if picture.mode in ("F", "I") or picture.mode.startswith("I;"):
            raise ValueError(
                f"{where} has more than 8 bits per channel (mode {picture.mode}); save it with 8"
            )
        upright = ImageOps.exif_transpose(picture).convert(self.mode)
        if self.size is not None and upright.size != self.size[::-1]:
            upright = ImageOps.fit(upright, self.size[::-1], Image.Resampling.BILINEAR)
        pixels = np.asarray(upright)
        return pixels if pixels.ndim == 3 else pixels[..., None]
