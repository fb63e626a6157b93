"""Pre-activation ResNet (He et al., 2016) with the CIFAR stem, as used in the robustness literature."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from topgap_jax.models.features import FeatureInfo
from topgap_jax.models.resnet import conv
from topgap_jax.nn.norm import BatchNorm


class PreActBlock(nnx.Module):
    """BatchNorm and ReLU before each 3x3 convolution; a projecting shortcut starts after the first."""

    def __init__(self, in_channels: int, width: int, stride: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.bn1 = BatchNorm(in_channels)
        self.conv1 = conv(in_channels, width, 3, stride, dtype=dtype, rngs=rngs)
        self.bn2 = BatchNorm(width)
        self.conv2 = conv(width, width, 3, dtype=dtype, rngs=rngs)
        self.project = stride != 1 or in_channels != width
        if self.project:
            self.shortcut = conv(in_channels, width, 1, stride, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        y = jax.nn.relu(self.bn1(x, train=train))
        shortcut = self.shortcut(y) if self.project else x
        y = jax.nn.relu(self.bn2(self.conv1(y), train=train))
        return self.conv2(y) + shortcut


class PreActResNet(nnx.Module):
    """3x3 stem at full resolution, then stages at strides 1, 2, 4 and 8.

    The maps are the stages' sums; the last one also passes the final BatchNorm and ReLU.
    """

    def __init__(
        self,
        depths: Sequence[int],
        *,
        widths: Sequence[int] = (64, 128, 256, 512),
        in_channels: int = 3,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.conv1 = conv(in_channels, widths[0], 3, dtype=dtype, rngs=rngs)
        channels = widths[0]
        stages = []
        for index, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            blocks = []
            for position in range(depth):
                stride = 2 if index > 0 and position == 0 else 1
                blocks.append(PreActBlock(channels, width, stride, dtype=dtype, rngs=rngs))
                channels = width
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)
        self.bn = BatchNorm(channels)
        self.feature_info = tuple(FeatureInfo(width, 2**index) for index, width in enumerate(widths))

    def __call__(self, x: jax.Array, *, train: bool = False) -> tuple[jax.Array, ...]:
        """Normalised images `[B, H, W, C]` to one map `[B, h, w, channels]` per entry of `feature_info`."""
        x = self.conv1(x)
        features = []
        for stage in self.stages:
            for block in stage:
                x = block(x, train=train)
            features.append(x)
        features[-1] = jax.nn.relu(self.bn(x, train=train))
        return tuple(features)


preact_resnet18 = partial(PreActResNet, (2, 2, 2, 2))
