"""Losses per example; the caller takes the mean."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] | jax.Array | None = None,
) -> jax.Array:
    """Cross-entropy of the softmax: `-sum_c q_c log p_c` with `q = (1 - s) onehot(y) + s / K`.

    Args:
      logits: `[B, K]`.
      labels: integers `[B]` in 0..K-1.
      label_smoothing: s in [0, 1).
      class_weights: `[K]`; the loss of an example is multiplied by the weight of its label.

    Returns:
      `[B]` float32, in nats.
    """
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
    targets = jax.nn.one_hot(labels, logits.shape[-1])
    targets = (1 - label_smoothing) * targets + label_smoothing / logits.shape[-1]
    loss = -(targets * log_probabilities).sum(-1)
    return loss if class_weights is None else loss * jnp.asarray(class_weights, jnp.float32)[labels]


def cam_l1(cam: jax.Array) -> jax.Array:
    """`mean |CAM|` over positions and classes (equation 1; a mean, since a sum collapses the logits).

    Args:
      cam: `[B, h, w, K]`.

    Returns:
      `[B]` float32.
    """
    return jnp.abs(cam).mean((1, 2, 3), dtype=jnp.float32)


def top_gap_loss(
    logits: jax.Array,
    cam: jax.Array,
    labels: jax.Array,
    *,
    l1: float = 1.0,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] | jax.Array | None = None,
    other_labels: jax.Array | None = None,
    share: jax.Array | float = 1.0,
) -> dict[str, jax.Array]:
    """`L = CE(logits, labels) + l1 * mean|CAM|` (equation 1), with its components.

    Args:
      logits: `[B, K]`.
      cam: `[B, h, w, K]`.
      labels: integers `[B]` in 0..K-1.
      l1: the paper's lambda >= 0.
      label_smoothing, class_weights: see `cross_entropy`.
      other_labels: integers `[B]`, where each picture shows two examples (Mixup, CutMix): the cross-entropies
        of both labels are then averaged.
      share: weight in [0, 1] of `labels` in that average.

    Returns:
      `loss`, `cross_entropy` and `l1` (before its weight), each `[B]` float32.
    """
    settings: dict[str, Any] = {"label_smoothing": label_smoothing, "class_weights": class_weights}
    ce = cross_entropy(logits, labels, **settings)
    if other_labels is not None:
        ce = share * ce + (1 - share) * cross_entropy(logits, other_labels, **settings)
    penalty = cam_l1(cam)
    # Without a penalty the CAM stays out of the loss, so that its gradient is not computed.
    return {"loss": ce + l1 * penalty if l1 else ce, "cross_entropy": ce, "l1": penalty}
