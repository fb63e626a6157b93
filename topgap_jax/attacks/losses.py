"""What an attack increases: functions of logits [B,K] and classes [B], one value per example."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import lax

# Logits [B,K] and classes [B] -> loss [B]; the larger, the more adversarial.
LossFn = Callable[[jax.Array, jax.Array], jax.Array]
# Logits [B,K], labels [B] and targets [B] -> loss [B]; the larger, the nearer to the targets.
TargetedLossFn = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def cross_entropy(logits: jax.Array, classes: jax.Array) -> jax.Array:
    """`-log softmax(z)_y`, per example [B] in nats."""
    return -_logit_of(jax.nn.log_softmax(logits), classes)


def margin(logits: jax.Array, classes: jax.Array) -> jax.Array:
    """`max_(j != y) z_j - z_y`, per example [B]; positive where y is missed (Carlini & Wagner, 2017, f_6)."""
    chosen = jax.nn.one_hot(classes, logits.shape[-1], dtype=bool)
    return jnp.where(chosen, -jnp.inf, logits).max(-1) - jnp.where(chosen, logits, 0).sum(-1)


def dlr(logits: jax.Array, classes: jax.Array) -> jax.Array:
    """Difference of logits ratio, `(max_(j != y) z_j - z_y) / (z_pi1 - z_pi3)`, per example [B].

    It does not change when the logits are scaled or shifted; 0 where the three largest are equal. Needs 3
    classes. Croce & Hein, 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", equation 6; targeted, equation 7.
    """
    largest = _largest(logits, 3, "dlr")
    other = jnp.where(logits.argmax(-1) == classes, largest[:, 1], largest[:, 0])
    return (other - _logit_of(logits, classes)) / (largest[:, 0] - largest[:, 2] + 1e-12)


def cross_entropy_targeted(logits: jax.Array, labels: jax.Array, targets: jax.Array) -> jax.Array:
    """`log softmax(z)_t`, per example [B] in nats."""
    return -cross_entropy(logits, targets)


def margin_targeted(logits: jax.Array, labels: jax.Array, targets: jax.Array) -> jax.Array:
    """`z_t - z_y`, per example [B]."""
    return _logit_of(logits, targets) - _logit_of(logits, labels)


def dlr_targeted(logits: jax.Array, labels: jax.Array, targets: jax.Array) -> jax.Array:
    """`(z_t - z_y) / (z_pi1 - (z_pi3 + z_pi4) / 2)`, per example [B]; needs 4 classes. See `dlr`."""
    largest = _largest(logits, 4, "dlr-targeted")
    scale = largest[:, 0] - (largest[:, 2] + largest[:, 3]) / 2
    return margin_targeted(logits, labels, targets) / (scale + 1e-12)


def _logit_of(logits: jax.Array, classes: jax.Array) -> jax.Array:
    return jnp.take_along_axis(logits, classes[:, None], axis=-1)[:, 0]


def _largest(logits: jax.Array, count: int, loss: str) -> jax.Array:
    if logits.shape[-1] < count:
        raise ValueError(
            f"loss {loss!r} needs {count} classes, the network has {logits.shape[-1]}; use 'margin'"
        )
    return lax.top_k(logits, count)[0]


LOSSES: Mapping[str, LossFn] = {"ce": cross_entropy, "margin": margin, "dlr": dlr}
TARGETED_LOSSES: Mapping[str, TargetedLossFn] = {
    "ce-targeted": cross_entropy_targeted,
    "margin-targeted": margin_targeted,
    "dlr-targeted": dlr_targeted,
}
