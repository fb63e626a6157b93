"""Light, geometry and storage: each function takes a picture [H, W, C] in [0, 1] and draws from `rng`."""

import functools
import io

import numpy as np
import PIL.Image
from scipy.ndimage import gaussian_filter1d, map_coordinates

Image = np.ndarray


def brightness(image: Image, rng: np.random.Generator, amount: float) -> Image:
    """Adds `amount` to the value (the largest channel) at the same hue and saturation."""
    value = image.max(-1, keepdims=True)
    raised = np.clip(value + amount, 0, 1)
    return np.where(value > 0, image * (raised / np.where(value > 0, value, 1)), raised)


def saturate(image: Image, rng: np.random.Generator, factor: float, offset: float) -> Image:
    """Multiplies the saturation by `factor` and adds `offset`; grey counts as red, as its hue is 0."""
    value = image.max(-1, keepdims=True)
    below = value - image
    spread = below.max(-1, keepdims=True)
    saturation = spread / np.where(value > 0, value, 1)
    wanted = np.clip(saturation * factor + offset, 0, 1)
    shape = np.where(spread > 0, below / np.where(spread > 0, spread, 1), np.array([0.0, 1.0, 1.0]))
    return value - shape * wanted * value


def contrast(image: Image, rng: np.random.Generator, factor: float) -> Image:
    """Moves all values towards the mean of their channel."""
    mean = image.mean((0, 1), keepdims=True)
    return (image - mean) * factor + mean


def pixelate(image: Image, rng: np.random.Generator, factor: float) -> Image:
    """Shrinks the picture by averaging and enlarges it again by repeating."""
    height, width, _ = image.shape
    box = PIL.Image.Resampling.BOX
    small = _to_pillow(image).resize((int(width * factor), int(height * factor)), box)
    return _from_pillow(small.resize((width, height), box))


def jpeg_compression(image: Image, rng: np.random.Generator, quality: int) -> Image:
    """Stores the picture as JPEG and reads it again."""
    with io.BytesIO() as file:
        _to_pillow(image).save(file, "JPEG", quality=quality)
        with PIL.Image.open(file) as stored:
            return _from_pillow(stored)


def elastic_transform(
    image: Image, rng: np.random.Generator, strength: float, sigma: float, shear: float
) -> Image:
    """A random affine map, then a smooth random displacement; lengths in parts of the shorter side.

    Args:
      image: [H, W, C] in [0, 1].
      rng: of the three corners and of the displacements.
      strength: factor of the smoothed displacements, which are uniform in [-1, 1] before.
      sigma: of the Gaussian that smooths them.
      shear: how far each of three corners of a square moves at most.
    """
    side = min(image.shape[:2])
    image = _warp(image, _affine_positions(image.shape, rng, shear * side), "mirror")
    right, down = (_displacement(image.shape, rng, strength * side, sigma * side) for _ in range(2))
    rows, columns = np.indices(image.shape[:2])
    return _warp(image, np.stack([rows + down, columns + right]), "reflect")


def _affine_positions(shape: tuple[int, ...], rng: np.random.Generator, reach: float) -> np.ndarray:
    """Where each pixel comes from, row and column, [2, H, W], if three corners of a square move."""
    centre, arm = np.array([shape[1] // 2, shape[0] // 2]), min(shape[:2]) // 3
    corners = centre + arm * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = corners + rng.uniform(-reach, reach, size=(3, 2))
    # x, y of the source as a linear function of x, y and 1 of the result.
    back = np.linalg.solve(np.column_stack([moved, np.ones(3)]), corners.astype(float))
    rows, columns = np.indices(shape[:2])
    x, y = (columns * back[0, i] + rows * back[1, i] + back[2, i] for i in (0, 1))
    return np.stack([y, x])


def _displacement(
    shape: tuple[int, ...], rng: np.random.Generator, strength: float, sigma: float
) -> np.ndarray:
    noise = rng.uniform(-1, 1, size=shape[:2])
    return strength * (_smoothing(shape[0], sigma) @ noise @ _smoothing(shape[1], sigma).T)


@functools.lru_cache(maxsize=16)
def _smoothing(length: int, sigma: float) -> np.ndarray:
    """A Gaussian as a matrix: fast even where it is wider than the picture."""
    return (
        gaussian_filter1d(np.eye(length), sigma, axis=0, mode="reflect", truncate=3)
        if sigma
        else np.eye(length)
    )


def _warp(image: Image, positions: np.ndarray, mode: str) -> Image:
    channels = [map_coordinates(image[..., c], positions, order=1, mode=mode) for c in range(image.shape[-1])]
    return np.stack(channels, -1)


def _to_pillow(image: Image) -> PIL.Image.Image:
    levels = np.rint(image * 255).astype(np.uint8)
    return PIL.Image.fromarray(levels if levels.shape[-1] == 3 else levels[..., 0])


def _from_pillow(picture: PIL.Image.Image) -> Image:
    levels = np.asarray(picture) / 255
    return levels if levels.ndim == 3 else levels[..., None]
