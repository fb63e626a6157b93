"""Snow, frost and fog: each function takes a picture [H, W, C] in [0, 1] and draws from `rng`."""

import functools
from pathlib import Path

import numpy as np
import PIL.Image

from topgap_jax.corruptions.blur import smear, zoom

Image = np.ndarray

# Drawn with equal chances; the third of the original's files is a copy of the second.
TEXTURES = ("frost1.jpg", "frost2.webp", "frost2.webp", "frost4.jpg", "frost5.jpg")


def snow(
    image: Image,
    rng: np.random.Generator,
    mean: float,
    deviation: float,
    flake: float,
    threshold: float,
    radius: int,
    sigma: float,
    keep: float,
) -> Image:
    """Flakes (normal noise enlarged by `flake`, above `threshold`, smeared downwards) on a paler picture."""
    layer = zoom(rng.normal(size=image.shape[:2], loc=mean, scale=deviation), flake)
    layer = np.clip(np.where(layer < threshold, 0, layer), 0, 1)
    layer = smear(layer, radius, sigma, rng.uniform(-135, -45))[..., None]
    layer = np.round(layer * 255) / 255
    pale = np.maximum(image, luma(image) * 1.5 + 0.5)
    return keep * image + (1 - keep) * pale + layer + np.rot90(layer, 2)


def frost(image: Image, rng: np.random.Generator, keep: float, strength: float, shrink: int) -> Image:
    """A random part of a photograph of ice flowers, every `shrink`-th pixel of it, added to the picture."""
    height, width, channels = image.shape
    ice = _texture(TEXTURES[rng.integers(5)], shrink, height, width)
    top, left = (rng.integers(0, max(ice.shape[axis] - image.shape[axis], 1)) for axis in (0, 1))
    part = ice[top : top + height, left : left + width] / 255
    return keep * image + strength * (part if channels == 3 else luma(part))


def fog(image: Image, rng: np.random.Generator, strength: float, decay: float) -> Image:
    """A random cloud, rougher for a lower `decay`; the picture's greatest value stays as it is."""
    height, width, _ = image.shape
    side = 1 << (max(height, width) - 1).bit_length()
    cloud = plasma_fractal(side, decay, rng)[:height, :width, None]
    brightest = image.max()
    return (image + strength * cloud) * brightest / (brightest + strength)


def plasma_fractal(side: int, decay: float, rng: np.random.Generator) -> np.ndarray:
    """A random height map in [0, 1] by diamonds and squares, [side, side], `side` a power of two."""
    heights = np.zeros((side, side))
    step, reach = side, 100.0

    def displaced(total: np.ndarray) -> np.ndarray:
        return total / 4 + reach * rng.uniform(-reach, reach, total.shape)

    while step >= 2:
        half = step // 2
        corners, centres = heights[::step, ::step], heights[half::step, half::step]
        across, down = corners + np.roll(corners, -1, 1), corners + np.roll(corners, -1, 0)
        centres[:] = displaced(down + np.roll(down, -1, 1))
        heights[::step, half::step] = displaced(across + centres + np.roll(centres, 1, 0))
        heights[half::step, ::step] = displaced(down + centres + np.roll(centres, 1, 1))
        step, reach = half, reach / decay
    heights -= heights.min()
    return heights / heights.max()


def luma(image: Image) -> Image:
    """Brightness as the eye weighs red, green and blue, [H, W, 1]; a grey picture is its own."""
    return image if image.shape[-1] == 1 else image @ np.array([[0.299], [0.587], [0.114]])


@functools.lru_cache(maxsize=16)
def _texture(name: str, shrink: int, height: int, width: int) -> np.ndarray:
    """A photograph of frost, uint8 [H, W, 3], enlarged if it is smaller than height x width."""
    with PIL.Image.open(Path(__file__).parent / "frost" / name) as file:
        ice = np.asarray(file.convert("RGB"))[shrink // 2 :: shrink, shrink // 2 :: shrink]
    factor = max(height / ice.shape[0], width / ice.shape[1])
    if factor <= 1:
        return ice
    size = (round(ice.shape[1] * factor * 1.1), round(ice.shape[0] * factor * 1.1))
    return np.asarray(PIL.Image.fromarray(ice).resize(size, PIL.Image.Resampling.BICUBIC))
