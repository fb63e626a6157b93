"""Heads that turn a backbone's maps into a class activation map (paper, section 3.1 and figure 2)."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from topgap_jax.nn.dropout import dropout

# PyTorch's default. The maps that come in are not normalised: a larger start makes the first steps unstable.
kernel_init = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class PyramidHead(nnx.Module):
    """The paper's simplified feature pyramid.

    `CAM = conv1x1(dropout(sum_i upsample(conv3x3_i(features_i))))`: one 3x3 convolution to `channels` filters
    per map, all upsampled bilinearly to the first (largest) map, added, and mapped to one channel per class.
    There is no non-linearity between the backbone and the CAM.

    Args:
      in_channels: channels of the backbone's maps, largest map first.
      num_classes: channels of the CAM.
      channels: filters of the 3x3 convolutions (paper: 256).
      dropout: rate on the summed map while training.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 256,
        dropout: float = 0.0,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.dropout = dropout
        conv = partial(nnx.Conv, kernel_init=kernel_init, dtype=dtype, rngs=rngs)
        self.laterals = nnx.List([conv(c, channels, (3, 3), padding=1) for c in in_channels])
        self.classifier = conv(channels, num_classes, (1, 1))

    def __call__(
        self, features: Sequence[jax.Array], *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """Maps `[B, h_i, w_i, in_channels_i]`, largest first, to the CAM `[B, h_0, w_0, num_classes]`.

        `key` draws the dropout mask; it is needed only while training with `dropout > 0`.
        """
        drop = train and self.dropout > 0
        # The head is linear, so with few classes it is far cheaper to compose the kernels than the maps.
        if not drop and self.classifier.out_features < self.classifier.in_features:
            return self._composed(features)
        total = sum_upsampled([lateral(x) for lateral, x in zip(self.laterals, features, strict=True)])
        return self.classifier(dropout(total, self.dropout, train=train, key=key))

    def _composed(self, features: Sequence[jax.Array]) -> jax.Array:
        """The same function, with each 3x3 kernel multiplied by the 1x1 kernel beforehand."""
        to_classes, bias = kernel_and_bias(self.classifier)
        maps = []
        for lateral, x in zip(self.laterals, features, strict=True):
            lateral_kernel, lateral_bias = kernel_and_bias(lateral)
            kernel = (lateral_kernel @ to_classes[0, 0]).astype(x.dtype)
            bias += lateral_bias @ to_classes[0, 0]
            maps.append(
                jax.lax.conv_general_dilated(
                    x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
                )
            )
        return sum_upsampled(maps) + bias.astype(maps[0].dtype)


def kernel_and_bias(conv: nnx.Conv) -> tuple[jax.Array, jax.Array]:
    """Both in float32, whatever the layer computes in."""
    assert conv.bias is not None
    return conv.kernel[...], conv.bias[...]


def sum_upsampled(maps: Sequence[jax.Array]) -> jax.Array:
    """Maps `[B, h_i, w_i, C]`, brought bilinearly to the size of the first one and added."""
    total, (height, width) = maps[0], maps[0].shape[1:3]
    for x in maps[1:]:
        total += upsample(x, (height, width))
    return total


def upsample(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bilinear, half-pixel centres: maps `[B, h, w, C]` to `[B, *size, C]`."""
    if x.shape[1:3] == size:
        return x
    return jax.image.resize(x, (x.shape[0], *size, x.shape[3]), "bilinear")
