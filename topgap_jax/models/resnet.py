"""ResNet (He et al., 2015), in the form of torchvision and timm, and with a stem for CIFAR."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from topgap_jax.models.features import FeatureInfo, drop_path_rates, run_blocks
from topgap_jax.nn.conv import conv
from topgap_jax.nn.dropout import drop_path, fold
from topgap_jax.nn.flc_pooling import flc_pool, split_stride, unchanged
from topgap_jax.nn.linear_head import LinearHead
from topgap_jax.nn.norm import BatchNorm


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        rate: float,
        *,
        activation: Callable[[jax.Array], jax.Array],
        downsampling: str,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.drop_path, self.activation = rate, activation
        self.shrink, conv_stride = split_stride(stride, downsampling)
        self.conv1 = conv(in_channels, width, 3, conv_stride, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(width)
        self.conv2 = conv(width, width, 3, dtype=dtype, rngs=rngs)
        self.bn2 = BatchNorm(width)
        self.downsample = Downsample(in_channels, width, stride, downsampling, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None) -> jax.Array:
        y = self.activation(self.bn1(self.conv1(self.shrink(x)), train=train))
        y = self.bn2(self.conv2(y), train=train)
        y = drop_path(y, self.drop_path, train=train, key=key)
        return self.activation(y + self.downsample(x, train=train))


class Bottleneck(nnx.Module):
    """1x1, 3x3 (which carries the stride) and 1x1 convolutions and a shortcut."""

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        rate: float,
        *,
        activation: Callable[[jax.Array], jax.Array],
        downsampling: str,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        out_channels = width * self.expansion
        self.drop_path, self.activation = rate, activation
        self.shrink, conv_stride = split_stride(stride, downsampling)
        self.conv1 = conv(in_channels, width, 1, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(width)
        self.conv2 = conv(width, width, 3, conv_stride, dtype=dtype, rngs=rngs)
        self.bn2 = BatchNorm(width)
        self.conv3 = conv(width, out_channels, 1, dtype=dtype, rngs=rngs)
        self.bn3 = BatchNorm(out_channels)
        self.downsample = Downsample(in_channels, out_channels, stride, downsampling, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None) -> jax.Array:
        y = self.activation(self.bn1(self.conv1(x), train=train))
        y = self.activation(self.bn2(self.conv2(self.shrink(y)), train=train))
        y = self.bn3(self.conv3(y), train=train)
        y = drop_path(y, self.drop_path, train=train, key=key)
        return self.activation(y + self.downsample(x, train=train))


class Downsample(nnx.Module):
    """The shortcut: identity where the shape stays, else a strided 1x1 convolution with BatchNorm."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        downsampling: str,
        *,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.identity = stride == 1 and in_channels == out_channels
        self.shrink, stride = split_stride(stride, downsampling)
        if not self.identity:
            self.conv = conv(in_channels, out_channels, 1, stride, dtype=dtype, rngs=rngs)
            self.bn = BatchNorm(out_channels)

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        return x if self.identity else self.bn(self.conv(self.shrink(x)), train=train)


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
      activation: in the blocks; the stem's stays ReLU.
      downsampling: "strided" convolutions and max pooling, or "flc" pooling in place of the latter and before
        convolutions of stride 1.
      drop_path: stochastic depth of the last block.
      remat: recompute every block in the backward pass instead of keeping its activations.
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
        activation: Callable[[jax.Array], jax.Array] = jax.nn.relu,
        downsampling: str = "strided",
        drop_path: float = 0.0,
        remat: bool = False,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        kernel, stride = {"imagenet": (7, 2), "half": (3, 2), "cifar": (3, 1)}[stem]
        channels = stem_channels or widths[0]
        self.remat = remat
        self.pool = {"strided": _max_pool, "flc": flc_pool}[downsampling] if stem == "imagenet" else unchanged
        total_stride = stride * (2 if stem == "imagenet" else 1)
        self.shrink, stride = split_stride(stride, downsampling)
        self.conv1 = conv(in_channels, channels, kernel, stride, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(channels)

        new_block = partial(block, activation=activation, downsampling=downsampling, dtype=dtype, rngs=rngs)
        rates = drop_path_rates(drop_path, depths)
        stages, feature_info = [], []
        for width, first_stride, stage_rates in zip(widths, strides, rates, strict=True):
            blocks = []
            for position, rate in enumerate(stage_rates):
                stride = first_stride if position == 0 else 1
                blocks.append(new_block(channels, width, stride, rate))
                channels, total_stride = width * block.expansion, total_stride * stride
            stages.append(nnx.List(blocks))
            feature_info.append(FeatureInfo(channels, total_stride))
        self.stages = nnx.List(stages)
        self.feature_info = tuple(feature_info)

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> tuple[jax.Array, ...]:
        """Normalised images `[B, H, W, C]` to one map `[B, h, w, channels]` per entry of `feature_info`."""
        x = self.pool(jax.nn.relu(self.bn1(self.conv1(self.shrink(x)), train=train)))
        features = []
        for index, blocks in enumerate(self.stages):
            x = run_blocks(blocks, x, train=train, key=fold(key, index), remat=self.remat)
            features.append(x)
        return tuple(features)

    def original_head(
        self, num_classes: int, *, dropout: float = 0.0, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> LinearHead:
        """Global average pooling and a linear layer."""
        return LinearHead(
            self.feature_info[-1].channels, num_classes, dropout=dropout, dtype=dtype, rngs=rngs
        )


def _max_pool(x: jax.Array) -> jax.Array:
    return nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


resnet18 = partial(ResNet, (2, 2, 2, 2), BasicBlock)
resnet34 = partial(ResNet, (3, 4, 6, 3), BasicBlock)
resnet50 = partial(ResNet, (3, 4, 6, 3), Bottleneck)
resnet101 = partial(ResNet, (3, 4, 23, 3), Bottleneck)
resnet152 = partial(ResNet, (3, 8, 36, 3), Bottleneck)
cifar_resnet18 = partial(resnet18, stem="cifar")
cifar_resnet34 = partial(resnet34, stem="cifar")
cifar_resnet50 = partial(resnet50, stem="cifar")
# A network for 32 to 64 px pictures that trains within two minutes on two cores.
resnet_narrow = partial(
    ResNet, (1, 1, 1), BasicBlock, widths=(32, 64, 64), strides=(2, 2, 1), stem="half", stem_channels=16
)

# Keys of timm and torchvision (downsample, fc) and of the CIFAR variant of the literature (shortcut, linear).
KEYS = (
    (r"conv1|bn1", r"backbone.\g<0>"),
    *((rf"layer{i + 1}\.(\d+\.(?:conv|bn)\d)", rf"backbone.stages.{i}.\1") for i in range(4)),
    *(
        (rf"layer{i + 1}\.(\d+)\.(?:downsample|shortcut)\.{j}", rf"backbone.stages.{i}.\1.downsample.{name}")
        for i in range(4)
        for j, name in enumerate(("conv", "bn"))
    ),
    (r"fc|linear", r"head.classifier"),
)
