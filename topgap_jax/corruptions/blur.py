"""Blur of lenses and movement: each function takes a picture [H, W, C] in [0, 1] and draws from `rng`."""

import functools
import math

import numpy as np
from scipy.ndimage import correlate1d, gaussian_filter
from scipy.signal import fftconvolve

Image = np.ndarray


def gaussian_blur(image: Image, rng: np.random.Generator, sigma: float) -> Image:
    """A Gaussian of `sigma` pixels."""
    return smooth(image, sigma)


def defocus_blur(image: Image, rng: np.random.Generator, radius: float, edge: float) -> Image:
    """A disk of `radius` pixels, its own edge smoothed with a Gaussian of `edge` pixels."""
    kernel = _disk(radius, edge)
    reach = len(kernel) // 2
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    return fftconvolve(padded, kernel[..., None], mode="valid", axes=(0, 1))


def glass_blur(image: Image, rng: np.random.Generator, sigma: float, reach: int, rounds: int) -> Image:
    """Pixels trade places with neighbours up to `reach` away, `rounds` times, between two Gaussians."""
    levels = np.floor(np.clip(smooth(image, sigma), 0, 1) * 255 + 1e-4) / 255
    for _ in range(rounds):
        levels = levels.reshape(-1, levels.shape[-1])[_moved_from(image.shape, rng, reach)].reshape(
            image.shape
        )
    return smooth(levels, sigma)


def motion_blur(image: Image, rng: np.random.Generator, radius: int, sigma: float) -> Image:
    """A smear of up to 2 `radius` pixels to one side, within 45 degrees of the horizontal."""
    return smear(image, radius, sigma, rng.uniform(-45, 45))


def zoom_blur(image: Image, rng: np.random.Generator, stop: float, step: float) -> Image:
    """The mean of the picture and of its enlargements by 1, 1 + step and so on, below `stop`."""
    factors = np.arange(1, stop, step)
    total = image + sum(zoom(image, factor) for factor in factors)
    return total / (len(factors) + 1)


def smooth(image: Image, sigma: float) -> Image:
    """The Gaussian of scikit-image (four sigma wide, edge values repeated) over height and width."""
    return gaussian_filter(image, (sigma, sigma, *[0] * (image.ndim - 2)), mode="nearest", truncate=4)


def smear(image: Image, radius: int, sigma: float, angle: float) -> Image:
    """ImageMagick's motion blur: half a Gaussian of 2 `radius` + 1 steps along `angle`, in degrees."""
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    radians = math.radians(angle)
    down = -np.ceil(steps * math.sin(radians) - 0.5).astype(int)
    right = -np.ceil(steps * math.cos(radians) - 0.5).astype(int)
    height, width = image.shape[:2]
    reach = len(steps)
    padded = np.pad(image, ((reach, reach), (reach, reach), *[(0, 0)] * (image.ndim - 2)), mode="edge")
    blurred = np.zeros_like(image)
    for weight, y, x in zip(weights / weights.sum(), down, right, strict=True):
        blurred += weight * padded[reach - y : reach - y + height, reach - x : reach - x + width]
    return blurred


def zoom(image: Image, factor: float) -> Image:
    """The centre, enlarged linearly to the picture's size as SciPy's `zoom` does."""
    for axis in (0, 1):
        lower, weight = _zoom_positions(image.shape[axis], float(factor))
        weight = weight.reshape(-1, *[1] * (image.ndim - axis - 1))
        low = np.take(image, lower, axis)
        image = low + (np.take(image, lower + 1, axis) - low) * weight
    return image


@functools.lru_cache(maxsize=128)
def _zoom_positions(length: int, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel of the enlarged centre lies: the pixel before it, and how far beyond that."""
    part = math.ceil(length / factor)
    enlarged = max(round(part * factor), length)
    trimmed = (enlarged - length) // 2
    positions = np.arange(trimmed, trimmed + length) * (part - 1) / (enlarged - 1)
    lower = np.minimum(np.floor(positions).astype(int), part - 2)
    return lower + (length - part) // 2, positions - lower


def _disk(radius: float, edge: float) -> np.ndarray:
    # As published, nothing is rescaled after smoothing: from a radius of 8 on, pictures get 1% brighter.
    reach, size = (8, 3) if radius <= 8 else (int(radius), 5)
    squares = np.arange(-reach, reach + 1) ** 2
    disk = (squares[:, None] + squares <= radius**2).astype(float)
    disk /= disk.sum()
    taps = np.exp(-(np.arange(-(size // 2), size // 2 + 1) ** 2) / (2 * edge**2))
    for axis in (0, 1):
        disk = correlate1d(disk, taps / taps.sum(), axis, mode="mirror")
    return disk


def _moved_from(shape: tuple[int, ...], rng: np.random.Generator, reach: int) -> np.ndarray:
    """Of every pixel, counted row by row, the pixel whose value it ends up with, [H * W].

    The published code visits the pixels from the last to the first and sets each to the present value of a
    random neighbour (it means to exchange the two, but NumPy's views make it a copy). A neighbour that was
    visited before has by then the value of its own neighbour, and so on: chains, followed here by doubling.
    """
    height, width = shape[:2]
    rows = np.arange(height - reach, reach, -1)
    columns = np.arange(width - reach, reach, -1)
    offsets = rng.integers(-reach, reach, size=(len(rows), len(columns), 2))  # to the right, down
    here = rows[:, None] * width + columns
    there = (rows[:, None] + offsets[..., 1]) * width + columns + offsets[..., 0]
    source = np.arange(height * width)
    source[here] = there
    visited = np.zeros(height * width, bool)
    visited[here] = True
    # The next pixel of the chain is the neighbour if it was visited before; else the chain ends here.
    following = np.arange(height * width)
    following[here] = np.where(visited[there] & (there > here), there, here)
    while not np.array_equal(further := following[following], following):
        following = further
    return source[following]
