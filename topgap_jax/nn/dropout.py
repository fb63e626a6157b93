"""Dropout of single values and of whole residual branches, with explicit keys."""

import jax
import jax.numpy as jnp


def fold(key: jax.Array | None, index: int) -> jax.Array | None:
    """The key of part `index`; None stays None, which is what a model without dropout is given."""
    return None if key is None else jax.random.fold_in(key, index)


def dropout(x: jax.Array, rate: float, *, train: bool, key: jax.Array | None) -> jax.Array:
    """Sets values of `x` `[...]` to zero with probability `rate` while training (Srivastava et al., 2014).

    What is kept is divided by `1 - rate`. Without training, or with rate 0, `x` comes back.

    Raises:
      ValueError: no key where one is needed.
    """
    return _drop(x, x.shape, rate, train, key)


def drop_path(y: jax.Array, rate: float, *, train: bool, key: jax.Array | None) -> jax.Array:
    """Stochastic depth (Huang et al., 2016): drops the residual branch `y` `[B, ...]` of whole examples.

    What is kept is divided by `1 - rate`. Without training, or with rate 0, `y` comes back.

    Raises:
      ValueError: no key where one is needed.
    """
    return _drop(y, (y.shape[0],) + (1,) * (y.ndim - 1), rate, train, key)


def _drop(x: jax.Array, shape: tuple[int, ...], rate: float, train: bool, key: jax.Array | None) -> jax.Array:
    if not train or rate == 0:
        return x
    if key is None:
        raise ValueError(f"a model with a dropout or drop path of {rate:g} needs a key while training")
    keep = jax.random.bernoulli(key, 1 - rate, shape)
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)
