"""Wide residual network (Zagoruyko & Komodakis, 2016), in the form of the robustness literature."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from topgap_jax.models.features import FeatureInfo, run_blocks
from topgap_jax.nn.conv import conv
from topgap_jax.nn.dropout import dropout as drop_values
from topgap_jax.nn.dropout import fold
from topgap_jax.nn.flc_pooling import split_stride
from topgap_jax.nn.linear_head import LinearHead
from topgap_jax.nn.norm import BatchNorm

STEM_CHANNELS = 16
WIDTHS = (16, 32, 64)


class WideBlock(nnx.Module):
    """BatchNorm and ReLU before each of two 3x3 convolutions, and dropout between them.

    Where the number of channels changes, a 1x1 convolution after the first ReLU is the shortcut.
    """

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
        self.dropout, self.activation = rate, activation
        self.shrink, stride = split_stride(stride, downsampling)
        self.bn1 = BatchNorm(in_channels)
        self.conv1 = conv(in_channels, width, 3, stride, dtype=dtype, rngs=rngs)
        self.bn2 = BatchNorm(width)
        self.conv2 = conv(width, width, 3, dtype=dtype, rngs=rngs)
        self.project = in_channels != width
        if self.project:
            self.shortcut = conv(in_channels, width, 1, stride, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None) -> jax.Array:
        y = self.shrink(self.activation(self.bn1(x, train=train)))
        shortcut = self.shortcut(y) if self.project else x
        y = self.activation(self.bn2(self.conv1(y), train=train))
        y = drop_values(y, self.dropout, train=train, key=key)
        return self.conv2(y) + shortcut


class WideResNet(nnx.Module):
    """3x3 stem at full resolution, then three stages at strides 1, 2 and 4 of `(depth - 4) / 6` blocks each.

    The maps are the stages' sums; the last one also passes the final BatchNorm and ReLU.

    Args:
      depth: convolutional layers as the paper counts them, 6 n + 4.
      widen_factor: the stages have 16, 32 and 64 times as many channels.
      block_dropout: rate between the two convolutions of every block (paper: 0 or 0.3).
      activation: in the blocks; the one after the last block stays ReLU.
      downsampling: "strided" convolutions, or "flc" pooling before convolutions of stride 1.
      remat: recompute every block in the backward pass instead of keeping its activations.

    Raises:
      ValueError: a depth of another form.
    """

    def __init__(
        self,
        depth: int,
        widen_factor: int,
        *,
        in_channels: int = 3,
        activation: Callable[[jax.Array], jax.Array] = jax.nn.relu,
        downsampling: str = "strided",
        block_dropout: float = 0.0,
        remat: bool = False,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        blocks_per_stage, rest = divmod(depth - 4, 6)
        if rest or blocks_per_stage < 1:
            raise ValueError(f"depth={depth} is not 6 n + 4 with n >= 1, such as 28 or 40")
        self.remat = remat
        self.conv1 = conv(in_channels, STEM_CHANNELS, 3, dtype=dtype, rngs=rngs)
        new_block = partial(
            WideBlock, activation=activation, downsampling=downsampling, dtype=dtype, rngs=rngs
        )
        channels = STEM_CHANNELS
        stages, feature_info = [], []
        for index, base in enumerate(WIDTHS):
            width = base * widen_factor
            blocks = []
            for position in range(blocks_per_stage):
                stride = 2 if index > 0 and position == 0 else 1
                blocks.append(new_block(channels, width, stride, block_dropout))
                channels = width
            stages.append(nnx.List(blocks))
            feature_info.append(FeatureInfo(width, 2**index))
        self.stages = nnx.List(stages)
        self.final_norm = BatchNorm(channels)
        self.feature_info = tuple(feature_info)

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> tuple[jax.Array, ...]:
        """Normalised images `[B, H, W, C]` to one map `[B, h, w, channels]` per entry of `feature_info`."""
        x = self.conv1(x)
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


wide_resnet40_4 = partial(WideResNet, 40, 4)
wide_resnet28_10 = partial(WideResNet, 28, 10)

# Keys of the code of TRADES (Zhang et al., 2019), which RobustBench and its models follow.
KEYS = (
    (r"conv1", r"backbone.conv1"),
    *((rf"block{i + 1}\.layer\.(\d+\.(?:bn|conv)\d)", rf"backbone.stages.{i}.\1") for i in range(3)),
    *((rf"block{i + 1}\.layer\.(\d+)\.convShortcut", rf"backbone.stages.{i}.\1.shortcut") for i in range(3)),
    (r"bn1", r"backbone.final_norm"),
    (r"fc", r"head.classifier"),
)
