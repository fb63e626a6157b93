"""RaWideResNet: a wide residual network designed for robustness (Peng et al., 2023, "Robust Principles")."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from topgap_jax.models.features import FeatureInfo, run_blocks
from topgap_jax.nn.conv import conv, he_normal
from topgap_jax.nn.dropout import fold
from topgap_jax.nn.linear_head import LinearHead
from topgap_jax.nn.norm import BatchNorm
from topgap_jax.nn.pooling import gap

MOMENTUM = 0.01  # of every BatchNorm
SQUEEZE_RATIO = 0.25


class SqueezeExcite(nnx.Module):
    """Channel attention (Hu et al., 2018): `x * sigmoid(expand(relu(reduce(mean(x)))))`."""

    def __init__(self, channels: int, squeezed: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        linear = partial(nnx.Linear, kernel_init=he_normal, dtype=dtype, rngs=rngs)
        self.reduce = linear(channels, squeezed)
        self.expand = linear(squeezed, channels)

    def __call__(self, x: jax.Array) -> jax.Array:
        gate = jax.nn.sigmoid(self.expand(jax.nn.relu(self.reduce(gap(x)))))
        return x * gate[:, None, None]


class RaWideBlock(nnx.Module):
    """BatchNorm and SiLU before each of two 3x3 convolutions, then squeeze-and-excitation.

    Where the shape changes, a 1x1 convolution after the first SiLU is the shortcut.
    """

    def __init__(self, in_channels: int, width: int, stride: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.bn1 = BatchNorm(in_channels, momentum=MOMENTUM)
        # With stride 2 the published network pads below and to the right only.
        self.conv1 = conv(in_channels, width, 3, stride, padding="SAME", dtype=dtype, rngs=rngs)
        self.bn2 = BatchNorm(width, momentum=MOMENTUM)
        self.conv2 = conv(width, width, 3, dtype=dtype, rngs=rngs)
        self.se = SqueezeExcite(width, round(SQUEEZE_RATIO * width), dtype=dtype, rngs=rngs)
        self.project = stride != 1 or in_channels != width
        if self.project:
            self.shortcut = conv(in_channels, width, 1, stride, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None) -> jax.Array:
        y = jax.nn.silu(self.bn1(x, train=train))
        shortcut = self.shortcut(y) if self.project else x
        y = jax.nn.silu(self.bn2(self.conv1(y), train=train))
        return self.se(self.conv2(y)) + shortcut


class RaWideResNet(nnx.Module):
    """3x3 stem at full resolution, then three stages at strides 1, 2 and 4.

    The maps are the stages' sums; the last one also passes the final BatchNorm and SiLU.

    Args:
      depths: number of blocks per stage.
      widths: channels per stage.
      stem_channels: of the first convolution.
      remat: recompute every block in the backward pass instead of keeping its activations.
    """

    def __init__(
        self,
        depths: Sequence[int],
        widths: Sequence[int],
        stem_channels: int,
        *,
        in_channels: int = 3,
        remat: bool = False,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.remat = remat
        self.conv1 = conv(in_channels, stem_channels, 3, dtype=dtype, rngs=rngs)
        channels = stem_channels
        stages = []
        for index, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            blocks = []
            for position in range(depth):
                stride = 2 if index > 0 and position == 0 else 1
                blocks.append(RaWideBlock(channels, width, stride, dtype=dtype, rngs=rngs))
                channels = width
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)
        self.final_norm = BatchNorm(channels, momentum=MOMENTUM)
        self.feature_info = tuple(FeatureInfo(width, 2**index) for index, width in enumerate(widths))

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> tuple[jax.Array, ...]:
        """Normalised images `[B, H, W, C]` to one map `[B, h, w, channels]` per entry of `feature_info`."""
        x = self.conv1(x)
        features = []
        for index, blocks in enumerate(self.stages):
            x = run_blocks(blocks, x, train=train, key=fold(key, index), remat=self.remat)
            features.append(x)
        features[-1] = jax.nn.silu(self.final_norm(x, train=train))
        return tuple(features)

    def original_head(
        self, num_classes: int, *, dropout: float = 0.0, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> LinearHead:
        """Global average pooling and a linear layer."""
        return LinearHead(
            self.feature_info[-1].channels, num_classes, dropout=dropout, dtype=dtype, rngs=rngs
        )


ra_wide_resnet70_16 = partial(RaWideResNet, (30, 31, 10), (216, 432, 864), 96)

# Keys of the authors' code and of RobustBench.
KEYS = (
    (r"init_conv", r"backbone.conv1"),
    (r"layer\.(\d)\.block\.(\d+)\.batchnorm_0", r"backbone.stages.\1.\2.bn1"),
    (r"layer\.(\d)\.block\.(\d+)\.conv_0", r"backbone.stages.\1.\2.conv1"),
    (r"layer\.(\d)\.block\.(\d+)\.batchnorm_1", r"backbone.stages.\1.\2.bn2"),
    (r"layer\.(\d)\.block\.(\d+)\.conv_1", r"backbone.stages.\1.\2.conv2"),
    (r"layer\.(\d)\.block\.(\d+)\.se\.fc1", r"backbone.stages.\1.\2.se.reduce"),
    (r"layer\.(\d)\.block\.(\d+)\.se\.fc2", r"backbone.stages.\1.\2.se.expand"),
    (r"layer\.(\d)\.block\.(\d+)\.shortcut", r"backbone.stages.\1.\2.shortcut"),
    (r"batchnorm", r"backbone.final_norm"),
    (r"logits", r"head.classifier"),
)
