"""The convolution that the backbones share."""

import jax
import jax.numpy as jnp
from flax import nnx

from topgap_jax.nn.depthwise import depthwise

he_normal = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


def conv(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int = 1,
    *,
    groups: int = 1,
    bias: bool = False,
    padding: int | str | None = None,
    kernel_init: nnx.Initializer = he_normal,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """A square convolution over maps `[B, H, W, in_channels]`, by default without bias.

    `padding` counts positions on every side, by default `kernel // 2` as in PyTorch; "SAME" is TensorFlow's,
    which puts the odd position below and to the right.
    """
    return nnx.Conv(
        in_channels,
        out_channels,
        (kernel, kernel),
        strides=stride,
        padding=kernel // 2 if padding is None else padding,
        feature_group_count=groups,
        use_bias=bias,
        kernel_init=kernel_init,
        conv_general_dilated=depthwise
        if groups == in_channels == out_channels > 1
        else jax.lax.conv_general_dilated,
        dtype=dtype,
        rngs=rngs,
    )
