"""PGD watched at every step: the raw material of the diagnostics.

One program per network serves every loss, radius, step size and number of steps, since all of them are data
to it. The images stay on the host between two steps; who is fooled leaves, and the batch has one size.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.tree_util import Partial

from topgap_jax.attacks import checks, losses, networks, threat_models
from topgap_jax.attacks.base import Examples

SPAN = 10.0  # of the rescaled logits, largest minus smallest: the softmax neither saturates nor flattens


def rescaled_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy of logits brought to one span, where it neither saturates nor vanishes."""
    span = lax.stop_gradient(logits.max(-1, keepdims=True) - logits.min(-1, keepdims=True))
    return losses.cross_entropy(logits * (SPAN / jnp.maximum(span, 1e-12)), labels)


def _untargeted(loss: losses.LossFn) -> losses.TargetedLossFn:
    return lambda logits, labels, targets: loss(logits, labels)


# Logits, labels, targets -> loss to increase. The order is that of `lax.switch`.
WATCHED: Mapping[str, losses.TargetedLossFn] = {
    "ce": _untargeted(losses.cross_entropy),
    "ce-rescaled": _untargeted(rescaled_cross_entropy),
    "margin": _untargeted(losses.margin),
    "dlr": _untargeted(losses.dlr),
    "targeted": losses.margin_targeted,
}
NAMES = tuple(WATCHED)


class Seen(NamedTuple):
    """One pass through the network with its gradient; [B,...]."""

    moved: jax.Array  # [B,H,W,C], the next iterate
    gradient: jax.Array  # [B,H,W,C], of the loss
    predictions: jax.Array  # int32 [B]
    losses: jax.Array  # float32 [B]


@functools.partial(jax.jit, static_argnames="norm")
def _watch(
    network: Partial,
    examples: Examples,
    images: jax.Array,
    number: jax.Array | int,
    loss: jax.Array | int,
    eps: jax.Array | float,
    step_size: jax.Array | float,
    norm: str,
) -> Seen:
    logits_fn = networks.at_pass(
        network, examples.indices, examples.attempts, jnp.full_like(examples.labels, number)
    )

    def total_loss(images: jax.Array) -> tuple[jax.Array, Any]:
        logits = logits_fn(images)
        # With 2 classes there is no DLR loss, and the margin stands in.
        known = dict(WATCHED) if logits.shape[1] > 2 else {**WATCHED, "dlr": WATCHED["margin"]}
        values = lax.switch(loss, list(known.values()), logits, examples.labels, examples.targets)
        return values.sum(), (logits.argmax(-1).astype(jnp.int32), values)

    gradient, (predictions, values) = jax.grad(total_loss, has_aux=True)(images)
    moved = images + step_size * threat_models.NORMS[norm].steepest(gradient)
    return Seen(threat_models.project(moved, examples.images, eps, norm), gradient, predictions, values)


class Trajectory(NamedTuple):
    """What PGD saw at the start and after each step, t = 0..T; NumPy arrays on the host."""

    predictions: np.ndarray  # int32 [T+1,B]
    losses: np.ndarray  # float32 [T+1,B]
    images: np.ndarray  # [B,H,W,C], the last iterate

    def fooled(self, labels: np.ndarray, steps: int | None = None) -> np.ndarray:
        """Whether any of the first `steps` iterates misses the label, bool [B]; default: all of them."""
        last = len(self.predictions) - 1 if steps is None else steps
        return (self.predictions[: last + 1] != labels).any(0)


def ascend(
    network: Partial,
    examples: Examples,
    *,
    eps: float,
    norm: str,
    step_size: float,
    steps: int,
    loss: str = "ce",
    random_start: bool = True,
    until_fooled: bool = True,
    batch_size: int = 32,
    key: jax.Array | int = 0,
) -> Trajectory:
    """`x <- project(x + step_size * steepest(grad loss(x)))`, and everything that happens on the way.

    Args:
      network: see `networks.logits_fn`.
      examples: on the host; `targets` matters for loss "targeted" only.
      eps, norm: see `threat_models.project`.
      step_size: in units of the image range.
      steps: at least 0; with 0 only the start is looked at.
      loss: a name in `WATCHED`.
      random_start: start uniformly inside the ball, else at the clean image.
      until_fooled: an example stays at its first adversarial iterate; else it takes every step.
      batch_size: images in one pass through the network, whoever is left.
      key: a JAX key, or a seed.

    Raises:
      ValueError: the network returned NaN.
    """
    labels = np.asarray(examples.labels)
    images = (
        _start(examples, eps, norm, networks.as_key(key), batch_size) if random_start else examples.images
    )
    images = np.array(images)
    predictions = np.zeros((steps + 1, len(labels)), np.int32)
    values = np.zeros((steps + 1, len(labels)), np.float32)
    going = np.ones(len(labels), bool)
    network = networks.replicate(network)
    for number in range(steps + 1):
        if number:
            predictions[number], values[number] = predictions[number - 1], values[number - 1]
        for rows, batch in _batches(examples, np.flatnonzero(going), batch_size):
            current = networks.place(images[np.resize(rows, batch_size)])
            seen = _watch(network, batch, current, number, NAMES.index(loss), eps, step_size, norm=norm)
            predictions[number, rows] = np.asarray(seen.predictions)[: len(rows)]
            values[number, rows] = np.asarray(seen.losses)[: len(rows)]
            checks.check_numbers(values[number, rows], rows)
            going[rows] = (not until_fooled) | (predictions[number, rows] == labels[rows])
            if number < steps:
                moving = going[rows]
                images[rows[moving]] = np.asarray(seen.moved)[: len(rows)][moving]
    return Trajectory(predictions, values, images)


def input_gradients(
    network: Partial, examples: Examples, images: np.ndarray, *, norm: str, batch_size: int = 32
) -> np.ndarray:
    """Gradient of the cross-entropy with respect to each of the images [B,H,W,C]; `ascend`'s program."""
    gradients = np.zeros_like(images)
    network = networks.replicate(network)
    for rows, batch in _batches(examples, np.arange(len(images)), batch_size):
        current = networks.place(images[np.resize(rows, batch_size)])
        seen = _watch(network, batch, current, 0, NAMES.index("ce"), 1.0, 0.0, norm=norm)
        gradients[rows] = np.asarray(seen.gradient)[: len(rows)]
    return gradients


def random_images(
    examples: Examples, *, eps: float, norm: str, number: int, key: jax.Array | int = 0, batch_size: int = 32
) -> np.ndarray:
    """The `number`-th draw from each example's ball, [B,H,W,C]."""
    attempts: Any = np.full_like(examples.attempts, number)
    return _start(examples._replace(attempts=attempts), eps, norm, networks.as_key(key), batch_size)


def float64_gradients(
    function: Callable[[jax.Array], Any], images: np.ndarray, labels: np.ndarray
) -> np.ndarray | None:
    """Gradient of the cross-entropy in double precision [B,H,W,C]; None where `function` computes in less."""

    def total_loss(images: jax.Array) -> jax.Array:
        output = function(images)
        return losses.cross_entropy(getattr(output, "logits", output), jnp.asarray(labels)).sum()

    with jax.enable_x64(True):
        doubles = jnp.asarray(images, jnp.float64)
        if jax.eval_shape(total_loss, doubles).dtype != jnp.float64:
            return None
        return np.asarray(jax.jit(jax.grad(total_loss))(doubles))


def in_float64(model: nnx.Module) -> Callable[[jax.Array], Any]:
    """A copy of the model that computes in double precision, to be called under `jax.enable_x64`."""
    with jax.enable_x64(True):
        graphdef, state = nnx.split(model)
        twin = nnx.merge(graphdef, jax.tree.map(_as_double, state))
        for _, module in nnx.iter_graph(twin):
            if isinstance(module, nnx.Module) and getattr(module, "dtype", None) is not None:
                module.dtype = jnp.float64  # type: ignore[attr-defined]
        graphdef, parameters = nnx.split(twin)

    def function(images: jax.Array) -> Any:
        return nnx.merge(graphdef, parameters)(images)

    return function


def _as_double(leaf: Any) -> Any:
    return leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def _start(examples: Examples, eps: float, norm: str, key: jax.Array, batch_size: int) -> np.ndarray:
    images = np.array(examples.images)
    for rows, batch in _batches(examples, np.arange(len(images)), batch_size):
        drawn = threat_models.random_start(key, batch.indices, batch.attempts, batch.images, eps, norm=norm)
        images[rows] = np.asarray(drawn)[: len(rows)]
    return images


def _batches(examples: Examples, rows: np.ndarray, batch_size: int) -> Iterator[tuple[np.ndarray, Examples]]:
    """These rows in batches of one size; the last one repeats its own to fill up."""
    for start in range(0, len(rows), batch_size):
        chosen = rows[start : start + batch_size]
        filled = np.resize(chosen, batch_size)
        yield chosen, networks.place(jax.tree.map(lambda field: np.asarray(field)[filled], examples))  # noqa: B023
