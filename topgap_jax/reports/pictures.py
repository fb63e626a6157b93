"""Test pictures, mask outlines and heat maps as pixels."""

import base64
import io

import matplotlib
import numpy as np
from PIL import Image
from scipy import ndimage

COLOR_MAP = "inferno"  # perceptually uniform, told apart with any colour vision and in grey
TILE = 192  # pixels of the longer side, about


def picture(image: np.ndarray) -> np.ndarray:
    """The picture itself, [H,W,C] in [0, 1] -> uint8 [H',W',3], enlarged with its pixels left visible."""
    return _fit(_to_bytes(to_rgb(image)))


def object_picture(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The object in its colours, the background faded, the outline drawn."""
    grey = 0.35 + 0.25 * _grey(image)
    faded = np.where(mask[..., None], to_rgb(image), grey[..., None])
    return draw_outline(_fit(_to_bytes(faded)), mask)


def heat_picture(image: np.ndarray, heat: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """The heat map laid over the grey picture, with the mask's outline where there is a mask."""
    grey = np.repeat(_fit(_to_bytes(_grey(image)))[..., None], 3, axis=-1)
    smooth = _fit(np.asarray(heat, np.float32), smooth=True)
    color = matplotlib.colormaps[COLOR_MAP](np.clip(smooth, 0, 1))[..., :3] * 255
    # The hotter, the less of the picture shines through: dark regions keep their texture.
    opacity = (0.6 + 0.3 * np.clip(smooth, 0, 1))[..., None]
    blended = (color * opacity + grey * (1 - opacity)).round().astype(np.uint8)
    return blended if mask is None else draw_outline(blended, mask)


def draw_outline(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`trace` around a mask that still has to be enlarged."""
    return trace(pixels, _fit(mask.astype(np.uint8)) > 0, 2)


def trace(pixels: np.ndarray, mask: np.ndarray, width: int) -> np.ndarray:
    """A white line with a dark rim just outside the mask: visible on any background."""
    line = ndimage.binary_dilation(mask, iterations=width) & ~mask
    rim = ndimage.binary_dilation(mask, iterations=width + 1) & ~mask & ~line
    drawn = pixels.copy()
    drawn[line], drawn[rim] = (255, 255, 255), (20, 20, 20)
    return drawn


def data_uri(pixels: np.ndarray) -> str:
    """uint8 pixels as a PNG inside a `data:` address."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def color_stops(count: int = 9) -> list[str]:
    """Evenly spaced colours of the heat maps, cold to hot, as #rrggbb."""
    colors = matplotlib.colormaps[COLOR_MAP](np.linspace(0, 1, count))
    return [matplotlib.colors.to_hex(color) for color in colors]


def to_rgb(image: np.ndarray) -> np.ndarray:
    """`[H, W, C]` in [0, 1] to three channels: grey and RGB as they are, else the sum of coloured channels.

    Two channels are magenta and green, which are told apart with any colour vision and add up to white.
    """
    channels = image.shape[-1]
    if channels in (1, 3):
        return np.broadcast_to(image, (*image.shape[:2], 3))
    hues = (5 / 6 + np.arange(channels) / channels) % 1
    colors = matplotlib.colors.hsv_to_rgb(np.stack([hues, np.ones(channels), np.ones(channels)], axis=-1))
    return np.clip(image @ colors, 0, 1)


def _grey(image: np.ndarray) -> np.ndarray:
    return image @ np.array([0.299, 0.587, 0.114]) if image.shape[-1] == 3 else image.mean(axis=-1)


def _to_bytes(values: np.ndarray) -> np.ndarray:
    return (np.clip(values, 0, 1) * 255).round().astype(np.uint8)


def _fit(pixels: np.ndarray, smooth: bool = False) -> np.ndarray:
    """Enlarged by a whole factor, or shrunk, to a longer side of about `TILE`."""
    height, width = pixels.shape[:2]
    longer = max(height, width)
    scale = TILE // longer if longer <= TILE else TILE / longer
    # A box enlarges a pixel to a square and shrinks by averaging.
    resampling = Image.Resampling.BILINEAR if smooth else Image.Resampling.BOX
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(pixels).resize(size, resampling))
