"""The classifier that most networks come with: global average pooling and a linear layer."""

import jax
import jax.numpy as jnp
from flax import nnx

from topgap_jax.nn.dropout import dropout
from topgap_jax.nn.pooling import gap
from topgap_jax.nn.precision import sum_dtype
from topgap_jax.nn.pyramid import kernel_init


class LinearHead(nnx.Module):
    """Pools the last map by its mean and maps it to the classes.

    Its CAM is that of Zhou et al. (2015): the linear layer, without its bias, at every position of the map.

    Args:
      in_channels: of the map.
      num_classes: K.
      dropout: rate on the pooled vector while training.
      kernel_init: of the linear layer, by default PyTorch's.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        dropout: float = 0.0,
        kernel_init: nnx.Initializer = kernel_init,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.dropout = dropout
        self.classifier = nnx.Linear(
            in_channels, num_classes, kernel_init=kernel_init, dtype=sum_dtype(dtype), rngs=rngs
        )

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """The last map `[B, h, w, in_channels]` to logits `[B, K]` and CAM `[B, h, w, K]`."""
        pooled = dropout(gap(x, dtype=sum_dtype(x)), self.dropout, train=train, key=key)
        # Where nobody uses the CAM, XLA does not compute it.
        cam = x @ self.classifier.kernel[...].astype(x.dtype)
        return self.classifier(pooled), cam
