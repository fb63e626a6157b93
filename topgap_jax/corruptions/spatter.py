"""Drops of water or mud on the lens, with the steps of OpenCV that the published code takes."""

import numpy as np
from scipy.ndimage import correlate, distance_transform_edt, label, sobel, uniform_filter

from topgap_jax.corruptions.blur import smooth
from topgap_jax.corruptions.weather import luma

Image = np.ndarray

WATER = np.array([175, 238, 238]) / 255  # pale turquoise
MUD = np.array([63, 42, 20]) / 255
RELIEF = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])


def spatter(
    image: Image,
    rng: np.random.Generator,
    mean: float,
    deviation: float,
    sigma: float,
    threshold: float,
    strength: float,
    mud: bool,
) -> Image:
    """Drops where smoothed normal noise exceeds `threshold`.

    Args:
      image: [H, W, C] in [0, 1].
      rng: of the noise.
      mean, deviation: of the noise.
      sigma: of the Gaussian that smooths it.
      threshold: above it the lens is wet.
      strength: of water's highlights; of mud the Gaussian that smooths the edge of its drops.
      mud: covers the picture; water adds light.
    """
    liquid = smooth(rng.normal(size=image.shape[:2], loc=mean, scale=deviation), sigma)
    colour = (MUD if mud else WATER)[None, None]
    colour = colour if image.shape[-1] == 3 else luma(colour)
    if mud:
        cover = smooth((liquid > threshold).astype(float), strength)[..., None]
        cover = np.where(cover < 0.8, 0, cover)
        return image * (1 - cover) + colour * cover
    return image + strength * _highlights(np.where(liquid < threshold, 0, liquid))[..., None] * colour


def _highlights(liquid: np.ndarray) -> np.ndarray:
    """Light in drops as if they were raised at their edges, [H, W] with maximum 1, or 0 without drops."""
    levels = np.clip(liquid * 255, 0, 255).astype(np.uint8)
    distance = np.minimum(distance_to(edges(levels, 50, 150)), 20)
    height = np.floor(_mean_of_nine(distance) + 1e-6).astype(np.uint8)  # 20 on plains, not 19.999
    relief = np.clip(correlate(equalized(height).astype(int), RELIEF, mode="mirror"), 0, 255)
    light = levels * np.rint(_mean_of_nine(relief.astype(float)))
    return light / max(light.max(), 1)


def _mean_of_nine(image: np.ndarray) -> np.ndarray:
    return uniform_filter(image, 3, mode="mirror")


def distance_to(marked: np.ndarray) -> np.ndarray:
    """Distance of each pixel to the nearest marked one in OpenCV's 5 x 5 steps; infinite if there is none."""
    if not marked.any():
        return np.full(marked.shape, np.inf)
    nearest = distance_transform_edt(~marked, return_distances=False, return_indices=True)
    offsets = np.sort(abs(nearest - np.indices(marked.shape)), axis=0)
    short, long = offsets
    straight, diagonal, knight = 1, 1.4, 2.1969
    return np.where(
        2 * short <= long,
        straight * (long - 2 * short) + knight * short,
        knight * (long - short) + diagonal * (2 * short - long),
    )


def equalized(levels: np.ndarray) -> np.ndarray:
    """The histogram equalisation of OpenCV, uint8 to uint8."""
    counts = np.bincount(levels.ravel(), minlength=256)
    first = counts.nonzero()[0][0]
    if counts[first] == levels.size:
        return levels
    counts[first] = 0
    table = np.rint(np.cumsum(counts) * (255 / counts.sum()))
    return table.astype(np.uint8)[levels]


def edges(levels: np.ndarray, low: int, high: int) -> np.ndarray:
    """The edges of Canny (1986) as OpenCV finds them (3 x 3 Sobel, |dx| + |dy|), bool [H, W]."""
    right, down = (sobel(levels.astype(int), axis, mode="nearest") for axis in (1, 0))
    strength = abs(right) + abs(down)
    ridge = (strength > low) & _is_ridge(strength, right, down)
    parts, _ = label(ridge, np.ones((3, 3)))
    return ridge & np.isin(parts, np.unique(parts[ridge & (strength > high)]))


def _is_ridge(strength: np.ndarray, right: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Whether a pixel is the strongest across its edge; the direction is one of four."""
    padded = np.pad(strength, 1)
    height, width = strength.shape

    def at(y: int, x: int) -> np.ndarray:
        return padded[1 + y : 1 + y + height, 1 + x : 1 + x + width]

    slope = int(np.tan(np.pi / 8) * 2**15 + 0.5)
    run, rise = abs(right) * slope, abs(down) * 2**15
    falling = (right ^ down) < 0
    diagonal = np.where(
        falling,
        (strength > at(-1, 1)) & (strength > at(1, -1)),
        (strength > at(-1, -1)) & (strength > at(1, 1)),
    )
    return np.select(
        [rise < run, rise > run + abs(right) * 2**16],
        [(strength > at(0, -1)) & (strength >= at(0, 1)), (strength > at(-1, 0)) & (strength >= at(1, 0))],
        diagonal,
    )
