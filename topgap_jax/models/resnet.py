"""ResNet (He et al., 2015), in the form of torchvision and timm."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from topgap_jax.models.features import FeatureInfo
from topgap_jax.nn.norm import BatchNorm

he_normal = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


def conv(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, *, dtype: jnp.dtype, rngs: nnx.Rngs
) -> nnx.Conv:
    """A convolution without bias and with PyTorch's symmetric padding."""
    return nnx.Conv(
        in_channels,
        out_channels,
        (kernel, kernel),
        strides=stride,
        padding=kernel // 2,
        use_bias=False,
        kernel_init=he_normal,
        dtype=dtype,
        rngs=rngs,
    )


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.conv1 = conv(in_channels, width, 3, stride, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(width)
        self.conv2 = conv(width, width, 3, dtype=dtype, rngs=rngs)
        self.bn2 = BatchNorm(width)
        self.downsample = Downsample(in_channels, width, stride, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        y = jax.nn.relu(self.bn1(self.conv1(x), train=train))
        y = self.bn2(self.conv2(y), train=train)
        return jax.nn.relu(y + self.downsample(x, train=train))


class Bottleneck(nnx.Module):
    """1x1, 3x3 (which carries the stride) and 1x1 convolutions and a shortcut."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        out_channels = width * self.expansion
        self.conv1 = conv(in_channels, width, 1, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(width)
        self.conv2 = conv(width, width, 3, stride, dtype=dtype, rngs=rngs)
        self.bn2 = BatchNorm(width)
        self.conv3 = conv(width, out_channels, 1, dtype=dtype, rngs=rngs)
        self.bn3 = BatchNorm(out_channels)
        self.downsample = Downsample(in_channels, out_channels, stride, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        y = jax.nn.relu(self.bn1(self.conv1(x), train=train))
        y = jax.nn.relu(self.bn2(self.conv2(y), train=train))
        y = self.bn3(self.conv3(y), train=train)
        return jax.nn.relu(y + self.downsample(x, train=train))


class Downsample(nnx.Module):
    """The shortcut: identity where the shape stays, else a strided 1x1 convolution with BatchNorm."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.identity = stride == 1 and in_channels == out_channels
        if not self.identity:
            self.conv = conv(in_channels, out_channels, 1, stride, dtype=dtype, rngs=rngs)
            self.bn = BatchNorm(out_channels)

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        return x if self.identity else self.bn(self.conv(x), train=train)


class ResNet(nnx.Module):
    """Stem and stages; returns the map after every stage.

    Args:
      depths: number of blocks per stage.
      block: `BasicBlock` or `Bottleneck`.
      widths: channels per stage, before the block's expansion.
      strides: of the first block of every stage.
      stem: "imagenet" (7x7 stride 2, then 3x3 max pooling with stride 2), "half" (3x3 stride 2) or "cifar"
        (3x3 stride 1).
      stem_channels: by default those of the first stage.
    """

    def __init__(
        self,
        depths: Sequence[int],
        block: type[BasicBlock] | type[Bottleneck],
        *,
        widths: Sequence[int] = (64, 128, 256, 512),
        strides: Sequence[int] = (1, 2, 2, 2),
        stem: str = "imagenet",
        stem_channels: int | None = None,
        in_channels: int = 3,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        kernel, stride = {"imagenet": (7, 2), "half": (3, 2), "cifar": (3, 1)}[stem]
        channels = stem_channels or widths[0]
        self.max_pool = stem == "imagenet"
        self.conv1 = conv(in_channels, channels, kernel, stride, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(channels)

        total_stride = stride * (2 if self.max_pool else 1)
        stages, feature_info = [], []
        for depth, width, first_stride in zip(depths, widths, strides, strict=True):
            blocks = []
            for stride in (first_stride, *[1] * (depth - 1)):
                blocks.append(block(channels, width, stride, dtype=dtype, rngs=rngs))
                channels, total_stride = width * block.expansion, total_stride * stride
            stages.append(nnx.List(blocks))
            feature_info.append(FeatureInfo(channels, total_stride))
        self.stages = nnx.List(stages)
        self.feature_info = tuple(feature_info)

    def __call__(self, x: jax.Array, *, train: bool = False) -> tuple[jax.Array, ...]:
        """Normalised images `[B, H, W, C]` to one map `[B, h, w, channels]` per entry of `feature_info`."""
        x = jax.nn.relu(self.bn1(self.conv1(x), train=train))
        if self.max_pool:
            x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        features = []
        for stage in self.stages:
            for block in stage:
                x = block(x, train=train)
            features.append(x)
        return tuple(features)


resnet18 = partial(ResNet, (2, 2, 2, 2), BasicBlock)
resnet34 = partial(ResNet, (3, 4, 6, 3), BasicBlock)
resnet50 = partial(ResNet, (3, 4, 6, 3), Bottleneck)
cifar_resnet18 = partial(resnet18, stem="cifar")
# A network for 32 to 64 px pictures that trains within two minutes on two cores.
resnet_narrow = partial(
    ResNet, (1, 1, 1), BasicBlock, widths=(32, 64, 64), strides=(2, 2, 1), stem="half", stem_channels=16
)
