"""Batch normalisation with float32 statistics and PyTorch's conventions."""

import jax
import jax.numpy as jnp
from flax import nnx

from topgap_jax.nn.precision import sum_dtype


class BatchNorm(nnx.Module):
    """Normalises every channel over the batch and the map (Ioffe & Szegedy, 2015).

    `y = (x - mean) / sqrt(var + eps) * scale + bias`. While training, mean and biased variance are those of
    the batch, and the running statistics follow them as in PyTorch: unbiased variance, and
    `running <- (1 - momentum) * running + momentum * batch`. Statistics are kept in float32. Under
    `jax.jit` with a sharded batch they are global.

    Args:
      channels: size of the last axis of the input.
      momentum: weight of the new batch in the running statistics (PyTorch's meaning, 0.1).
      eps: added to the variance.

    `freeze_batch_norm` makes the layer use its running statistics, and keep all its arrays, in training too.
    """

    def __init__(self, channels: int, *, momentum: float = 0.1, eps: float = 1e-5):
        self.momentum = momentum
        self.eps = eps
        self.frozen = False
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.mean = nnx.BatchStat(jnp.zeros(channels))
        self.var = nnx.BatchStat(jnp.ones(channels))

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`x` is `[..., channels]`; the result has its shape and dtype."""
        scale, bias = self.scale[...], self.bias[...]
        if self.frozen:
            scale, bias = jax.lax.stop_gradient((scale, bias))
        batch = train and not self.frozen
        mean, var = self._batch_statistics(x) if batch else (self.mean[...], self.var[...])
        factor = jax.lax.rsqrt(var + self.eps) * scale
        offset = bias - mean * factor
        return (x.astype(sum_dtype(x)) * factor + offset).astype(x.dtype)

    def _batch_statistics(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        # One pass over x. Moments are taken around the running mean, so that the difference of squares does
        # not cancel when the mean is large against the deviation.
        axes = tuple(range(x.ndim - 1))
        shift = jax.lax.stop_gradient(self.mean[...])
        centred = x.astype(sum_dtype(x)) - shift
        mean = centred.mean(axes)
        var = jnp.maximum(jnp.square(centred).mean(axes) - jnp.square(mean), 0.0)
        mean = mean + shift

        count = x.size // x.shape[-1]
        unbiased = var * (count / max(count - 1, 1))
        self.mean[...] = (1 - self.momentum) * self.mean[...] + self.momentum * jax.lax.stop_gradient(mean)
        self.var[...] = (1 - self.momentum) * self.var[...] + self.momentum * jax.lax.stop_gradient(unbiased)
        return mean, var


def freeze_batch_norm(model: nnx.Module) -> None:
    """Freezes every `BatchNorm` inside `model`, for fine-tuning with small batches."""
    for _, module in nnx.iter_graph(model):
        if isinstance(module, BatchNorm):
            module.frozen = True
