"""Bad input: one clear message, before any work."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from topgap_jax.attacks.threat_models import NORMS


def check_numbers(values: np.ndarray, rows: np.ndarray) -> None:
    """A ValueError where the network returned NaN; `values` [B] belong to the images `rows` [B]."""
    broken = np.isnan(values)
    if broken.any():
        raise ValueError(
            f"the network returned NaN for {broken.sum()} of {len(values)} images, the first is images"
            f"[{rows[broken].min()}]; nothing can be said about their robustness"
        )


def check_images(images: Any) -> np.ndarray:
    """Images as float32 [B,H,W,C] on the host, or a ValueError."""
    images = np.asarray(images)
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images have dtype {images.dtype}, not float: divide 8-bit images by 255")
    if images.ndim != 4 or not images.size:
        raise ValueError(f"images must have shape (B, H, W, C), none of them 0, got {images.shape}")
    images = images.astype(np.float32)
    low, high = images.min(), images.max()
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"images must lie in [0, 1], got {low:g} to {high:g}; normalisation belongs inside the model"
        )
    return images


def check_classes(classes: Any, name: str, count: int, num_classes: int) -> np.ndarray:
    """Labels or targets as int32 [B] in 0..K-1, or a ValueError."""
    classes = np.asarray(classes)
    if classes.shape != (count,):
        raise ValueError(f"{name} must have shape ({count},), one class per image, got {classes.shape}")
    if not np.issubdtype(classes.dtype, np.integer):
        raise ValueError(f"{name} must be integers, got {classes.dtype}")
    wrong = (classes < 0) | (classes >= num_classes)
    if wrong.any():
        raise ValueError(
            f"{name}[{wrong.argmax()}] is {classes[wrong][0]}, outside the network's classes "
            f"0 to {num_classes - 1}"
        )
    return classes.astype(np.int32)


def check_eps(eps: float, norm: str, shape: tuple[int, ...]) -> None:
    """A ValueError where eps makes no sense for images of this shape (H,W,C) in [0, 1]."""
    check_name(norm, "norm", NORMS)
    if not eps > 0:
        raise ValueError(f"eps={eps} must be positive")
    largest = 1.0 if norm == "linf" else float(np.prod(shape)) ** (1 / NORMS[norm].order)
    if eps > largest:
        limit = "the image range [0, 1]" if norm == "linf" else f"the images' {norm} diameter {largest:.4g}"
        raise ValueError(f"eps={eps:g} is larger than {limit}; did you mean {eps:g}/255?")


def check_name(name: str, what: str, known: Mapping[str, Any] | tuple[str, ...]) -> None:
    """A ValueError that lists what exists."""
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}; there are {', '.join(known)}")


def check_counts(**counts: int) -> None:
    """A ValueError where one of them is not an integer of at least 1."""
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
            raise ValueError(f"{name}={count!r} must be an integer of at least 1")
