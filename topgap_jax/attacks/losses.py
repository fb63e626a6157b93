"""What an attack increases: functions of logits [B,K] and classes [B], one value per example."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

# Logits [B,K] and classes [B] -> loss [B]; the larger, the more adversarial.
LossFn = Callable[[jax.Array, jax.Array], jax.Array]


def cross_entropy(logits: jax.Array, classes: jax.Array) -> jax.Array:
    """`-log softmax(z)_y`, per example [B] in nats."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), classes[:, None], axis=-1)[:, 0]


def margin(logits: jax.Array, classes: jax.Array) -> jax.Array:
    """`max_(j != y) z_j - z_y`, per example [B]; positive where y is missed (Carlini & Wagner, 2017, f_6)."""
    chosen = jax.nn.one_hot(classes, logits.shape[-1], dtype=bool)
    return jnp.where(chosen, -jnp.inf, logits).max(-1) - jnp.where(chosen, logits, 0).sum(-1)


LOSSES: Mapping[str, LossFn] = {"ce": cross_entropy, "margin": margin}
