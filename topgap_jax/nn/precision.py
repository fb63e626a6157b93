"""In what sums and statistics are taken."""

import jax
import jax.numpy as jnp


def sum_dtype(x: jax.Array) -> jnp.dtype:
    """float32 at least, float64 for float64."""
    return jnp.promote_types(x.dtype, jnp.float32)
