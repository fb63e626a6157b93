"""In what sums, statistics and logits are taken."""

import jax
import jax.numpy as jnp


def sum_dtype(x: jax.Array | jnp.dtype) -> jnp.dtype:
    """float32 at least, float64 for float64."""
    return jnp.promote_types(getattr(x, "dtype", x), jnp.float32)
