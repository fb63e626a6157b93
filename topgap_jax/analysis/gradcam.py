"""Grad-CAM, for networks whose head gives no class activation map of its own."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

LogitsFromFeatures = Callable[[jax.Array], jax.Array]


def grad_cam(logits_from_features: LogitsFromFeatures, features: jax.Array, labels: jax.Array) -> jax.Array:
    """Grad-CAM of a network cut in two at `features`.

    relu( sum_c  a_c * features[..., c] ),   a_c = mean over (h, w) of  d logit_label / d features[..., c]

    Before global average pooling and a linear layer this is the positive part of the exact CAM, over h*w.

    Args:
      logits_from_features: the second half, [B,h,w,C] -> [B,K]; examples must not influence each other
        (normalisation layers in evaluation mode).
      features: activations where the network is cut, [B,h,w,C].
      labels: the class to explain, integers in [0, K), [B].

    Returns:
      Maps [B,h,w], at least 0; `resize_and_scale(maps, size)` makes heat maps of them.

    Source: Selvaraju et al., "Grad-CAM", 2019, equations 1 and 2.
    """

    def label_logit(features: jax.Array) -> jax.Array:
        logits = logits_from_features(features)
        return jnp.take_along_axis(logits, labels[:, None], axis=1).sum()

    weights = jax.grad(label_logit)(features).mean(axis=(1, 2), keepdims=True)
    return jax.nn.relu((weights * features).sum(axis=-1))
