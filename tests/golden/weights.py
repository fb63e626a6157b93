"""Weights that follow from their names alone, the same wherever they are drawn: no file has to hold them."""

import zlib
from collections.abc import Mapping, Sequence

import numpy as np


def weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """A state dict for keys and shapes: float32 arrays of a size that keeps activations near one."""
    return {key: _array(key, tuple(shape)) for key, shape in shapes.items()}


def images(size: Sequence[int]) -> np.ndarray:
    """Two normalised pictures `[2, H, W, 3]`."""
    return np.random.RandomState(0).standard_normal((2, *size, 3)).astype(np.float32)


def _array(key: str, shape: tuple[int, ...]) -> np.ndarray:
    # RandomState's streams are frozen by NumPy; those of newer generators may change.
    random = np.random.RandomState(zlib.crc32(key.encode()))
    if len(shape) >= 2 and "layer_scale" not in key:
        values = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    elif key.endswith(("bias", "running_mean")):
        values = 0.2 * random.standard_normal(shape)
    else:
        values = random.uniform(0.5, 1.5, shape)
    return values.astype(np.float32)
