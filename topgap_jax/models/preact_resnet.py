"""Pre-activation ResNet (He et al., 2016) with the CIFAR stem, as used in the robustness literature."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from topgap_jax.models.features import FeatureInfo, drop_path_rates, run_blocks
from topgap_jax.nn.conv import conv
from topgap_jax.nn.dropout import drop_path, fold
from topgap_jax.nn.flc_pooling import split_stride
from topgap_jax.nn.linear_head import LinearHead
from topgap_jax.nn.norm import BatchNorm


class PreActBlock(nnx.Module):
    """BatchNorm and ReLU before each of two 3x3 convolutions.

    Where the shape changes, a 1x1 convolution after the first ReLU is the shortcut.
    """

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
        self.project = stride != 1 or in_channels != width
        self.shrink, stride = split_stride(stride, downsampling)
        self.bn1 = BatchNorm(in_channels)
        self.conv1 = conv(in_channels, width, 3, stride, dtype=dtype, rngs=rngs)
        self.bn2 = BatchNorm(width)
        self.conv2 = conv(width, width, 3, dtype=dtype, rngs=rngs)
        if self.project:
            self.shortcut = conv(in_channels, width, 1, stride, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None) -> jax.Array:
        y = self.shrink(self.activation(self.bn1(x, train=train)))
        shortcut = self.shortcut(y) if self.project else x
        y = self.conv1(y)
        y = self.conv2(self.activation(self.bn2(y, train=train)))
        return drop_path(y, self.drop_path, train=train, key=key) + shortcut


class PreActBottleneck(nnx.Module):
    """BatchNorm and ReLU before each of a 1x1, a 3x3 (which carries the stride) and a 1x1 convolution.

    Where the shape changes, a 1x1 convolution after the first ReLU is the shortcut.
    """

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
        self.project = stride != 1 or in_channels != out_channels
        self.shrink, stride = split_stride(stride, downsampling)
        self.bn1 = BatchNorm(in_channels)
        self.conv1 = conv(in_channels, width, 1, dtype=dtype, rngs=rngs)
        self.bn2 = BatchNorm(width)
        self.conv2 = conv(width, width, 3, stride, dtype=dtype, rngs=rngs)
        self.bn3 = BatchNorm(width)
        self.conv3 = conv(width, out_channels, 1, dtype=dtype, rngs=rngs)
        if self.project:
            self.shortcut = conv(in_channels, out_channels, 1, stride, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None) -> jax.Array:
        y = self.activation(self.bn1(x, train=train))
        shortcut = self.shortcut(self.shrink(y)) if self.project else x
        y = self.conv1(y)
        y = self.conv2(self.shrink(self.activation(self.bn2(y, train=train))))
        y = self.conv3(self.activation(self.bn3(y, train=train)))
        return drop_path(y, self.drop_path, train=train, key=key) + shortcut


class PreActResNet(nnx.Module):
    """3x3 stem, then stages of which each but the first halves the map: strides 1, 2, 4 and 8.

    The maps are the stages' sums; the last one also passes the final BatchNorm and ReLU, as in the paper and
    in the published code of Rice et al. (2020). Other networks of this name differ: some pool the last sum
    itself, and in the basic block of Wong et al. (2020) the projection takes the block's input as it is.

    Args:
      depths: number of blocks per stage.
      block: `PreActBlock` or `PreActBottleneck`.
      widths: channels per stage, before the block's expansion.
      stem_stride: of the stem's convolution; 2 for small computers.
      activation: in the blocks; the one after the last block stays ReLU.
      downsampling: "strided" convolutions, or "flc" pooling before convolutions of stride 1.
      drop_path: stochastic depth of the last block.
      remat: recompute every block in the backward pass instead of keeping its activations.
    """

    def __init__(
        self,
        depths: Sequence[int],
        block: type[PreActBlock] | type[PreActBottleneck],
        *,
        widths: Sequence[int] = (64, 128, 256, 512),
        stem_stride: int = 1,
        in_channels: int = 3,
        activation: Callable[[jax.Array], jax.Array] = jax.nn.relu,
        downsampling: str = "strided",
        drop_path: float = 0.0,
        remat: bool = False,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.remat = remat
        self.shrink, stride = split_stride(stem_stride, downsampling)
        self.conv1 = conv(in_channels, widths[0], 3, stride, dtype=dtype, rngs=rngs)
        new_block = partial(block, activation=activation, downsampling=downsampling, dtype=dtype, rngs=rngs)
        channels = widths[0]
        stages = []
        for index, (width, rates) in enumerate(zip(widths, drop_path_rates(drop_path, depths), strict=True)):
            blocks = []
            for position, rate in enumerate(rates):
                stride = 2 if index > 0 and position == 0 else 1
                blocks.append(new_block(channels, width, stride, rate))
                channels = width * block.expansion
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)
        self.final_norm = BatchNorm(channels)
        self.feature_info = tuple(
            FeatureInfo(width * block.expansion, stem_stride * 2**index) for index, width in enumerate(widths)
        )

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> tuple[jax.Array, ...]:
        """Normalised images `[B, H, W, C]` to one map `[B, h, w, channels]` per entry of `feature_info`."""
        x = self.conv1(self.shrink(x))
        features = []
        for index, blocks in enumerate(self.stages):
            x = run_blocks(blocks, x, train=train, key=fold(key, index), remat=self.remat)
            features.append(x)
        features[-1] = jax.nn.relu(self.final_norm(x, train=train))
        return tuple(features)

    def original_head(
        self, num_classes: int, *, dropout: float = 0.0, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> LinearHead:
        """Global average pooling and a linear layer."""
        return LinearHead(
            self.feature_info[-1].channels, num_classes, dropout=dropout, dtype=dtype, rngs=rngs
        )


preact_resnet18 = partial(PreActResNet, (2, 2, 2, 2), PreActBlock)
preact_resnet34 = partial(PreActResNet, (3, 4, 6, 3), PreActBlock)
preact_resnet50 = partial(PreActResNet, (3, 4, 6, 3), PreActBottleneck)
# For pictures of about 28 px and adversarial training on two cores: maps of 14x14, 7x7 and 4x4 there.
preact_resnet_narrow = partial(PreActResNet, (1, 1, 1), PreActBlock, widths=(16, 32, 64), stem_stride=2)

# Keys of the CIFAR implementations of the literature, RobustBench's among them.
KEYS = (
    (r"conv1", r"backbone.conv1"),
    (r"bn", r"backbone.final_norm"),
    *((rf"layer{i + 1}\.(\d+\.(?:bn|conv)\d)", rf"backbone.stages.{i}.\1") for i in range(4)),
    *((rf"layer{i + 1}\.(\d+\.shortcut)\.0", rf"backbone.stages.{i}.\1") for i in range(4)),
    (r"linear", r"head.classifier"),
)
