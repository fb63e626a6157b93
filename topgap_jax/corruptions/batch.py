"""A batch of pictures, corrupted picture by picture with randomness that belongs to each."""

import math
import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from topgap_jax.corruptions import blur, digital, noise, weather
from topgap_jax.corruptions.severities import EXTRA, PAPER, VARIANTS
from topgap_jax.corruptions.spatter import spatter

MODULES = (noise, blur, weather, digital)
CORRUPTIONS: dict[str, Callable[..., np.ndarray]] = {
    name: spatter
    if name == "spatter"
    else next(getattr(module, name) for module in MODULES if hasattr(module, name))
    for name in (*PAPER, *EXTRA)
}
SMALLEST = 32  # pixels of a side
HALFWAY = math.sqrt(32 * 224)  # pixels; "auto" takes the constants of the nearer size
# Keeps whole levels whole where published code cuts off the fraction, whatever the last bits of a product.
ROUNDING = 1e-4


def corrupt(
    images: np.ndarray,
    name: str,
    severity: int,
    *,
    seed: int = 0,
    indices: Sequence[int] | np.ndarray | None = None,
    variant: str = "auto",
    workers: int | None = None,
) -> np.ndarray:
    """The pictures with one corruption.

    What happens to a picture depends on `seed`, its index, `name` and `severity`, not on the batch.

    Args:
      images: [B, H, W, C], uint8 or float32 in [0, 1], at least 32 pixels high and wide, 3 channels or 1.
        uint8 results are cut off to whole levels, as the published data are.
      name: one of `PAPER` (the 15 of ImageNet-C) or `EXTRA` (its 4 further ones).
      severity: 1 to 5.
      seed: at least 0.
      indices: [B], of the pictures in their data set, at least 0; default: 0, 1, 2 and so on.
      variant: whose constants: "imagenet" (of ImageNet-C, for 224 pixels), "cifar" (of CIFAR-10-C, for 32
        pixels) or "auto" (those for the nearer size: "cifar" where the shorter side is below 85 pixels).
      workers: threads; default: one per core.

    Returns:
      Pictures of the same shape and dtype.

    Raises:
      ValueError: an unknown name, severity or variant, or pictures that do not fit.

    Source: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
    Perturbations", ICLR 2019. docs/corruptions.md says where the published code leaves a choice.
    """
    images = np.asarray(images)
    _check(images, name, severity, seed)
    indices = range(len(images)) if indices is None else [int(index) for index in indices]
    if len(indices) != len(images) or min(indices, default=0) < 0:
        raise ValueError(f"indices must be {len(images)} numbers of at least 0, one for each picture")
    constants = VARIANTS[chosen_variant(images.shape, variant)][name][severity - 1]
    stream = zlib.crc32(name.encode())

    def one(image: np.ndarray, index: int) -> np.ndarray:
        rng = np.random.default_rng((seed, index, stream, severity))
        scaled = image / 255 if image.dtype == np.uint8 else image.astype(float)
        result = np.clip(CORRUPTIONS[name](scaled, rng, *constants), 0, 1)
        return np.floor(result * 255 + ROUNDING) if image.dtype == np.uint8 else result

    output = np.empty_like(images)
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for row, result in enumerate(pool.map(one, images, indices)):
            output[row] = result
    return output


def chosen_variant(shape: Sequence[int], variant: str = "auto") -> str:
    """The key of `VARIANTS` that `variant` means for pictures of `shape`, [..., H, W, C].

    Raises:
      ValueError: an unknown variant.
    """
    if variant == "auto":
        return "cifar" if min(shape[-3:-1]) < HALFWAY else "imagenet"
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; there are: auto, {', '.join(VARIANTS)}")
    return variant


def needs_colour(name: str) -> bool:
    """Whether a corruption means nothing for pictures of one channel."""
    return name == "saturate"


def _check(images: np.ndarray, name: str, severity: int, seed: int) -> None:
    if name not in CORRUPTIONS:
        raise ValueError(f"unknown corruption {name!r}; there are: {', '.join(CORRUPTIONS)}")
    if severity not in (1, 2, 3, 4, 5):
        raise ValueError(f"severity={severity} must be 1, 2, 3, 4 or 5")
    if seed < 0:
        raise ValueError(f"seed={seed} must be at least 0")
    if images.ndim != 4:
        raise ValueError(f"images has the shape {images.shape}; a batch [B, H, W, C] is needed")
    _, height, width, channels = images.shape
    if min(height, width) < SMALLEST:
        raise ValueError(f"pictures of {height}x{width} are too small: corruptions need {SMALLEST} pixels")
    if channels not in (1, 3):
        raise ValueError(
            f"pictures of {channels} channels: corruptions take 3 (red, green, blue) or 1 (grey)"
        )
    if channels == 1 and needs_colour(name):
        raise ValueError(f"{name} needs colour; the pictures have one channel")
    if images.dtype not in (np.uint8, np.float32):
        raise ValueError(f"images is {images.dtype}; uint8, or float32 in [0, 1], is needed")
    if images.dtype == np.float32 and not (images.size == 0 or 0 <= images.min() <= images.max() <= 1):
        raise ValueError(f"images has values from {images.min():.4g} to {images.max():.4g}, outside [0, 1]")
