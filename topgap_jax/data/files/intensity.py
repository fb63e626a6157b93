"""From stored values to what a network sees: windows and channels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from topgap_jax.data.files.defects import PictureError, not_finite

Window = Sequence[Any]  # (low, high) in stored values, or ("percentile", low, high) of each channel
PERCENTILES = ("percentile", 0.1, 99.9)


def apply_window(stored: np.ndarray, window: Window, where: str = "the picture") -> np.ndarray:
    """Stored values `[H, W, N]` of any real dtype to float32 in [0, 1], each channel by itself.

    Args:
        window: `(low, high)` in stored values, or ("percentile", low, high).

    Raises:
        PictureError: values that are not finite.
    """
    if np.issubdtype(stored.dtype, np.floating) and not np.isfinite(stored).all():
        raise not_finite(where)
    scaled = np.empty(stored.shape, np.float32)
    for channel in range(stored.shape[-1]):
        values = stored[..., channel].astype(np.float32)
        low, high = np.percentile(values, window[1:]) if len(window) == 3 else window
        scaled[..., channel] = (values - np.float32(low)) / np.float32(max(high - low, 1e-30))
    return np.clip(scaled, 0, 1, out=scaled)


def fit_channels(pixels: np.ndarray, channels: int, where: str = "the picture") -> np.ndarray:
    """`[H, W, N]` to `[H, W, channels]`: grey to RGB, RGB to grey (BT.601), or as it is.

    Raises:
        PictureError: any other number of channels.
    """
    stored = pixels.shape[-1]
    if stored == channels:
        return pixels
    if (stored, channels) == (1, 3):
        return np.repeat(pixels, 3, -1)
    if (stored, channels) != (3, 1):
        raise channels_error(where, stored, channels)
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))[..., None]
    return pixels @ np.array([[0.299], [0.587], [0.114]], np.float32)


def channels_error(where: str, stored: int, channels: int) -> PictureError:
    message = f"has {stored} channels, not {channels}: give the option channels={stored}"
    return PictureError("channels", f"{where} {message}, or choose {channels} of them with pages")
