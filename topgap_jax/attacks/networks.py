"""Any classifier as a function from images to logits, and its predictions in padded batches of few sizes."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.tree_util import Partial

from topgap_jax.attacks import checks

# Images [B,H,W,C] -> logits [B,K].
LogitsFn = Callable[[jax.Array], jax.Array]


def logits_fn(model: nnx.Module | Callable[[jax.Array], Any]) -> Partial:
    """Turns a classifier into a function of images whose parameters are data to `jax.jit`.

    Another checkpoint of the same network then compiles nothing. This holds for an `nnx.Module` and for a
    `Partial(apply, parameters)`; parameters that a plain function closes over are constants of its program.

    Args:
      model: an `nnx.Module`, a `jax.tree_util.Partial` or any function, from images [B,H,W,C] to logits [B,K]
        or to something that has them as `.logits`.

    Returns:
      A `Partial` from images to float32 logits [B,K]. Its own results it hands back unchanged.

    Raises:
      ValueError: `model` cannot be called.
    """
    if isinstance(model, nnx.Module):
        graphdef, state = nnx.split(model)
        return Partial(_network(graphdef), nnx.to_pure_dict(state))
    if not callable(model):
        raise ValueError(f"logits_fn takes a module or a function of images, got {type(model).__name__}")
    if not isinstance(model, Partial):
        model = Partial(model)
    return model if getattr(model.func, "returns_logits", False) else Partial(_logits, model)


def _logits(function: Callable[[jax.Array], Any], images: jax.Array) -> jax.Array:
    output = function(images)
    return jnp.asarray(getattr(output, "logits", output), jnp.float32)


@functools.cache
def _network(graphdef: nnx.GraphDef) -> Callable[[Any, jax.Array], jax.Array]:
    """One function per architecture: jit compares functions by identity, and graph definitions slowly."""

    def network(state: Any, images: jax.Array) -> jax.Array:
        return _logits(nnx.merge(graphdef, state), images)

    network.returns_logits = True  # type: ignore[attr-defined]
    return network


_logits.returns_logits = True  # type: ignore[attr-defined]


@jax.jit
def forward(logits_fn: LogitsFn, images: jax.Array) -> jax.Array:
    """Logits of one bucket: one program for all forward passes without a gradient."""
    return logits_fn(images)


def buckets(batch_size: int) -> list[int]:
    """The batch sizes that may get compiled: `batch_size`, then half of the one before, never under 16."""
    sizes = [batch_size]
    while sizes[-1] // 2 >= 16:
        sizes.append(sizes[-1] // 2)
    return sizes


def smallest_bucket(count: int, batch_size: int) -> int:
    """The smallest of the `buckets` that holds `count` examples, else the largest."""
    return min((size for size in buckets(batch_size) if size >= count), default=batch_size)


def predict(model: Callable[[jax.Array], Any], images: jax.Array, *, batch_size: int = 64) -> np.ndarray:
    """Predicted class of every image, int32 [B], in padded batches of one size.

    Args:
      model: a classifier, see `logits_fn`.
      images: [B,H,W,C] float in [0, 1].
      batch_size: images per pass through the network.

    Raises:
      ValueError: images of another shape, dtype or range; NaN logits.
    """
    network, pictures = logits_fn(model), checks.check_images(images)
    size = smallest_bucket(len(pictures), batch_size)
    predictions = []
    for start in range(0, len(pictures), size):
        batch = pictures[start : start + size]
        padding = [(0, size - len(batch))] + [(0, 0)] * (pictures.ndim - 1)
        logits = np.asarray(forward(network, np.pad(batch, padding)))[: len(batch)]
        checks.check_numbers(logits.min(-1), start + np.arange(len(batch)))
        predictions.append(logits.argmax(-1))
    return np.concatenate(predictions).astype(np.int32)
