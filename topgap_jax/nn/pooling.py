"""PLACEHOLDER by the lead so that the package imports; the owner of pooling.py replaces it whole."""
import jax, jax.numpy as jnp
def gap(x, axis=(1, 2)): return x.mean(axis)
def topk_mean_reference(x, k, axis=(1, 2)):
    return jax.lax.top_k(x.reshape(x.shape[0], -1, x.shape[-1]).swapaxes(1, 2), k)[0].mean(-1)
def topk_mean(x, k, axis=(1, 2)):
    flat = -jnp.sort(-x.reshape(x.shape[0], -1, x.shape[-1]), axis=1)
    return jnp.where(jnp.arange(flat.shape[1])[None, :, None] < k, flat, 0).sum(1) / k
