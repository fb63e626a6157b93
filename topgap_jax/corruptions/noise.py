"""Noise of sensors: each function takes a picture [H, W, C] in [0, 1] and draws from `rng`."""

import numpy as np

Image = np.ndarray


def gaussian_noise(image: Image, rng: np.random.Generator, scale: float) -> Image:
    """Adds normal noise of standard deviation `scale`: little light."""
    return image + rng.normal(size=image.shape, scale=scale)


def shot_noise(image: Image, rng: np.random.Generator, photons: float) -> Image:
    """Counts light in portions, `photons` for white, as a Poisson process does."""
    return rng.poisson(image * photons) / photons


def impulse_noise(image: Image, rng: np.random.Generator, amount: float) -> Image:
    """Sets the share `amount` of all values to 0 or 1: salt and pepper, per channel."""
    hit, salt = rng.random(image.shape) <= amount, rng.random(image.shape) <= 0.5
    return np.where(hit, salt, image)


def speckle_noise(image: Image, rng: np.random.Generator, scale: float) -> Image:
    """Noise in proportion to the brightness."""
    return image + image * rng.normal(size=image.shape, scale=scale)
