"""The balls that perturbations must stay in, and what an attack has to know about them."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

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


class Norm(NamedTuple):
    """A ball of perturbations, and what an attack has to know about it."""

    order: float
    project: ProjectFn
    steepest: Callable[[jax.Array], jax.Array]  # gradients [B,...] -> unit steps that gain most
    sample: Callable[[jax.Array, tuple[int, ...]], jax.Array]  # key, shape -> uniform in the unit ball


NORMS: Mapping[str, Norm] = {
    "linf": Norm(np.inf, _project_linf, jnp.sign, _sample_linf),
    "l2": Norm(2, _project_l2, _steepest_l2, _sample_l2),
}


def distances(perturbations: np.ndarray, norm: str) -> np.ndarray:
    """Norm of each perturbation [B,H,W,C], float32 [B]; on the host."""
    return np.linalg.norm(perturbations.reshape(len(perturbations), -1), NORMS[norm].order, axis=-1)


def project(images: jax.Array, clean: jax.Array, eps: jax.Array | float, norm: str) -> jax.Array:
    """Brings images into the eps ball around the clean ones and into [0, 1], in this order; both then hold.

    Args:
      images: [B,H,W,C], anything finite.
      clean: the ball's centres, [B,H,W,C] in [0, 1].
      eps: radius, in units of the image range [0, 1].
      norm: a name in `NORMS`.
    """
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
