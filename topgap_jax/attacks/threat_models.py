"""The balls that perturbations must stay in, and what an attack has to know about them."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from topgap_jax.nn.pooling import among_largest

# Perturbations [B,...] and eps -> the nearest perturbations in the ball.
ProjectFn = Callable[[jax.Array, jax.Array], jax.Array]


def lengths(perturbations: jax.Array, order: float) -> jax.Array:
    """Norm of each example's perturbation, [B,1,...,1] so that it scales them."""
    magnitudes = jnp.abs(perturbations).reshape(len(perturbations), -1)
    norms = magnitudes.max(-1) if order == np.inf else jnp.linalg.norm(magnitudes, order, axis=-1)
    return norms.reshape(-1, *[1] * (perturbations.ndim - 1))


def _project_linf(perturbations: jax.Array, eps: jax.Array) -> jax.Array:
    return jnp.clip(perturbations, -eps, eps)


def _project_l2(perturbations: jax.Array, eps: jax.Array) -> jax.Array:
    return perturbations * jnp.minimum(1, eps / jnp.maximum(lengths(perturbations, 2), 1e-12))


def _project_l1(
    perturbations: jax.Array, eps: jax.Array | float, room: jax.Array | float = jnp.inf
) -> jax.Array:
    """`sign(p) * clip(|p| - t, 0, room)` with the smallest t >= 0 that lands in the ball."""
    magnitudes = jnp.abs(perturbations)
    shrunk = jnp.clip(magnitudes - _l1_threshold(magnitudes, eps, room), 0, room)
    return jnp.sign(perturbations) * shrunk


def _l1_threshold(magnitudes: jax.Array, eps: jax.Array | float, room: jax.Array | float) -> jax.Array:
    """Bisection, several times faster than a sort; [B,1,...,1]."""
    axes = tuple(range(1, magnitudes.ndim))

    def length(threshold: jax.Array) -> jax.Array:
        return jnp.clip(magnitudes - threshold, 0, room).sum(axes, keepdims=True)

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = (low + high) / 2
        outside = length(middle) > eps
        return jnp.where(outside, middle, low), jnp.where(outside, high, middle)

    high = magnitudes.max(axes, keepdims=True)
    low, high = lax.fori_loop(0, 24, halve, (jnp.zeros_like(high), high))
    # No kink is left between the bounds: the length falls by 1 for every entry that still shrinks.
    shrinking = ((magnitudes > low) & (magnitudes - low < room)).sum(axes, keepdims=True)
    step = jnp.maximum(length(low) - eps, 0) / jnp.maximum(shrinking, 1)
    return jnp.minimum(low + step, jnp.where(step > 0, high, low))


def _steepest_l1(gradients: jax.Array) -> jax.Array:
    flat = gradients.reshape(len(gradients), -1)
    largest = jax.nn.one_hot(jnp.abs(flat).argmax(-1), flat.shape[-1], dtype=flat.dtype)
    return (jnp.sign(flat) * largest).reshape(gradients.shape)


def sparse_steepest(gradients: jax.Array, share: jax.Array) -> jax.Array:
    """The signs of the `share` [B] of each gradient's values that are largest, in L1 one unit long."""
    count = gradients[0].size
    rank = jnp.clip((1 - share) * count, 0, count - 1).astype(jnp.int32)  # of the smallest that moves
    moves = among_largest(jnp.abs(gradients).reshape(-1, count), (count - rank)[:, None, None])
    signs = jnp.where(moves.reshape(gradients.shape), jnp.sign(gradients), 0)
    return signs / jnp.maximum(jnp.abs(signs).sum((1, 2, 3), keepdims=True), 1)


def _steepest_l2(gradients: jax.Array) -> jax.Array:
    # The largest entry becomes 1 first: squares of a saturated network's gradients underflow.
    largest = lengths(gradients, np.inf)
    gradients = gradients / jnp.where(largest > 0, largest, 1)
    return gradients / jnp.maximum(lengths(gradients, 2), 1e-12)


def _sample_linf(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)


def _sample_l2(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    direction_key, radius_key = jax.random.split(key)
    direction = jax.random.normal(direction_key, shape)
    # The volume within radius r grows as r^n, so U^(1/n) is uniform in volume.
    radius = jax.random.uniform(radius_key) ** (1 / direction.size)
    return direction * (radius / jnp.linalg.norm(direction.ravel()))


def _sample_l1(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    direction_key, radius_key = jax.random.split(key)
    # Signed exponentials over their sum are uniform on the sphere.
    direction = jax.random.laplace(direction_key, shape)
    radius = jax.random.uniform(radius_key) ** (1 / direction.size)
    return direction * (radius / jnp.abs(direction).sum())


class Norm(NamedTuple):
    """A ball of perturbations, and what an attack has to know about it."""

    order: float
    project: ProjectFn
    steepest: Callable[[jax.Array], jax.Array]  # gradients [B,...] -> unit steps that gain most
    sample: Callable[[jax.Array, tuple[int, ...]], jax.Array]  # key, shape -> uniform in the unit ball


NORMS: Mapping[str, Norm] = {
    "linf": Norm(np.inf, _project_linf, jnp.sign, _sample_linf),
    "l2": Norm(2, _project_l2, _steepest_l2, _sample_l2),
    "l1": Norm(1, _project_l1, _steepest_l1, _sample_l1),
}


def distances(perturbations: np.ndarray, norm: str) -> np.ndarray:
    """Norm of each perturbation [B,H,W,C], float32 [B]; on the host."""
    return np.linalg.norm(perturbations.reshape(len(perturbations), -1), NORMS[norm].order, axis=-1)


def project(images: jax.Array, clean: jax.Array, eps: jax.Array | float, norm: str) -> jax.Array:
    """Brings images into the eps ball around the clean ones and into [0, 1], in this order; both then hold.

    In L1 it is the nearest point of both at once, for clipping would leave much of the ball unused.

    Args:
      images: [B,H,W,C], anything finite.
      clean: the ball's centres, [B,H,W,C] in [0, 1].
      eps: radius, in units of the image range [0, 1]; or one per image, [B,1,1,1].
      norm: a name in `NORMS`.

    Croce & Hein, 2021, "Mind the box: l1-APGD for sparse adversarial attacks on image classifiers".
    """
    if norm == "l1":
        perturbations = images - clean
        room = jnp.where(perturbations > 0, 1 - clean, clean)
        excess = perturbations - _project_l1(perturbations, eps, room)
        return jnp.clip(clean + perturbations - excess, 0, 1)
    return jnp.clip(clean + NORMS[norm].project(images - clean, jnp.asarray(eps)), 0, 1)


# Its own program, so that attacks which differ elsewhere share it: the generator compiles slowly.
@functools.partial(jax.jit, static_argnames="norm")
def random_start(
    key: jax.Array,
    indices: jax.Array,
    attempts: jax.Array,
    clean: jax.Array,
    eps: jax.Array | float,
    norm: str,
) -> jax.Array:
    """Draws a start uniformly inside each example's eps ball, clipped to [0, 1].

    Args:
      key: of the attack; each example's is `fold_in(fold_in(key, index), attempt)`, so batches do not enter.
      indices: integers [B], where the examples stand in their data set.
      attempts: integers [B], 0 in the first one.
      clean: [B,H,W,C] in [0, 1].
      eps, norm: see `project`.
    """

    def sample(index: jax.Array, attempt: jax.Array) -> jax.Array:
        example_key = jax.random.fold_in(jax.random.fold_in(key, index), attempt)
        return NORMS[norm].sample(example_key, clean.shape[1:])

    return jnp.clip(clean + eps * jax.vmap(sample)(indices, attempts), 0, 1)
