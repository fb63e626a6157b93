"""Losses per example; the caller takes the mean."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

L1_OF = ("cam", "last", "all")


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


def activation_l1(features: Sequence[jax.Array], of: str) -> jax.Array:
    """l1 of the backbone's activations, the ablation of the paper's appendix F.

    "last": `mean |last map|` over positions and channels. "all": the sum of `|activation|` over every map of
    `features`, its positions and channels; tables A7 to A9 fit a sum (lambda 1e-3 or 1e-5), not a mean. What
    counts as "all activations" the paper leaves open; here it is every map that the backbone returns, the
    output of each of its stages.

    Args:
      features: maps `[B, h_i, w_i, C_i]`, largest first.
      of: "last" or "all".

    Returns:
      `[B]` float32.
    """
    if of == "last":
        return cam_l1(features[-1])
    return jnp.stack([jnp.abs(x).sum((1, 2, 3), dtype=jnp.float32) for x in features]).sum(0)


def logit_squeezing(logits: jax.Array) -> jax.Array:
    """`||z||^2 = sum_c z_c^2`, the squared l2 norm of the logits.

    Kannan et al., "Adversarial logit pairing" (2018) penalise the size of the logits, there of pictures with
    Gaussian noise. Here the norm is squared, which is smooth at 0, and no noise is added: as a control for
    Top-GAP only the scale of the logits is of interest.

    Args:
      logits: `[B, K]`.

    Returns:
      `[B]` float32.
    """
    return jnp.square(logits.astype(jnp.float32)).sum(-1)


def kl_divergence(logits: jax.Array, other_logits: jax.Array) -> jax.Array:
    """`KL(p || q) = sum_c p_c (log p_c - log q_c)` of the softmax of both.

    With p of a clean image and q of its neighbour, `CE(clean) + beta * KL` is the loss of TRADES; the
    gradient flows through both.

    Args:
      logits: `[B, K]`, of p.
      other_logits: `[B, K]`, of q.

    Returns:
      `[B]` float32, in nats.

    Source: Zhang et al., "Theoretically principled trade-off between robustness and accuracy" (2019), eq. 5.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    log_q = jax.nn.log_softmax(other_logits.astype(jnp.float32))
    return (jnp.exp(log_p) * (log_p - log_q)).sum(-1)


def grad_align(gradient: jax.Array, other_gradient: jax.Array) -> jax.Array:
    """`1 - cos(gradient, other_gradient)`; the gradient flows only through the second.

    Where one of them is zero there is no angle, and the penalty is 0.

    Args:
      gradient: `[B, H, W, C]`, of the cross-entropy with respect to the images x.
      other_gradient: the same at `x + U(-eps, eps)`.

    Returns:
      `[B]` float32 in [0, 2].

    Source: Andriushchenko & Flammarion, "Understanding and improving fast adversarial training" (2020).
    """
    direction, exists = _direction(jax.lax.stop_gradient(gradient))
    other_direction, other_exists = _direction(other_gradient)
    return jnp.where(exists & other_exists, 1 - (direction * other_direction).sum(-1), 0)


def _direction(gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Unit vectors `[B, n]`, and where there is one, `[B]`."""
    flat = gradient.astype(jnp.float32).reshape(len(gradient), -1)
    # Of a network that is certain the squares would underflow. 1 instead of 0, so that no gradient is NaN.
    largest = jax.lax.stop_gradient(jnp.abs(flat).max(-1, keepdims=True))
    exists = largest > 0
    scaled = jnp.where(exists, flat / jnp.where(exists, largest, 1), 1)
    return scaled / jnp.sqrt(jnp.square(scaled).sum(-1, keepdims=True)), exists[:, 0]


def top_gap_loss(
    logits: jax.Array,
    cam: jax.Array,
    labels: jax.Array,
    *,
    l1: float = 1.0,
    l1_of: str = "cam",
    features: Sequence[jax.Array] = (),
    squeezing: float = 0.0,
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
      l1_of: "cam", or "last" or "all" of `features` instead, see `activation_l1`.
      features: the backbone's maps; they are needed for the latter only.
      squeezing: weight >= 0 of `logit_squeezing`.
      label_smoothing, class_weights: see `cross_entropy`.
      other_labels: integers `[B]`, where each picture shows two examples (Mixup, CutMix): the cross-entropies
        of both labels are then averaged.
      share: weight in [0, 1] of `labels` in that average.

    Returns:
      `loss`, `cross_entropy` and `l1` (before its weight), each `[B]` float32; with `squeezing` also
      `logit_squeezing` (before its weight).
    """
    settings: dict[str, Any] = {"label_smoothing": label_smoothing, "class_weights": class_weights}
    ce = cross_entropy(logits, labels, **settings)
    if other_labels is not None:
        ce = share * ce + (1 - share) * cross_entropy(logits, other_labels, **settings)
    penalty = cam_l1(cam) if l1_of == "cam" else activation_l1(features, l1_of)
    # Without a penalty the CAM stays out of the loss, so that its gradient is not computed.
    losses = {"loss": ce + l1 * penalty if l1 else ce, "cross_entropy": ce, "l1": penalty}
    if squeezing:
        losses["logit_squeezing"] = logit_squeezing(logits)
        losses["loss"] += squeezing * losses["logit_squeezing"]
    return losses
