"""DenseNet-BC (Huang et al., 2017), in the form of torchvision and timm."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from topgap_jax.models.features import FeatureInfo, run_blocks
from topgap_jax.nn.conv import conv
from topgap_jax.nn.dropout import dropout, fold
from topgap_jax.nn.linear_head import LinearHead
from topgap_jax.nn.norm import BatchNorm

conv_init = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")
_conv = partial(conv, kernel_init=conv_init)


class DenseLayer(nnx.Module):
    """Adds `growth` channels to the map, computed from all that it has.

    `x -> [x, conv3x3(relu(bn(conv1x1(relu(bn(x))))))]`; the 1x1 convolution leaves `4 * growth` channels.
    """

    def __init__(self, in_channels: int, growth: int, dropout: float, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.dropout = dropout
        self.bn1 = BatchNorm(in_channels)
        self.conv1 = _conv(in_channels, 4 * growth, 1, dtype=dtype, rngs=rngs)
        self.bn2 = BatchNorm(4 * growth)
        self.conv2 = _conv(4 * growth, growth, 3, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None) -> jax.Array:
        y = self.conv1(jax.nn.relu(self.bn1(x, train=train)))
        y = self.conv2(jax.nn.relu(self.bn2(y, train=train)))
        y = dropout(y, self.dropout, train=train, key=key)
        return jnp.concatenate([x, y], axis=-1)


class Transition(nnx.Module):
    """Half the channels by a 1x1 convolution, half the size by 2x2 mean pooling."""

    def __init__(self, in_channels: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.bn = BatchNorm(in_channels)
        self.conv = _conv(in_channels, in_channels // 2, 1, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None) -> jax.Array:
        x = jax.nn.relu(self.bn(x, train=train))
        # The original convolves first. Both steps are linear and commute, and this order costs a quarter.
        return self.conv(nnx.avg_pool(x, (2, 2), strides=(2, 2)))


class DenseNet(nnx.Module):
    """Stem and dense blocks with transitions between them; returns the map after every dense block.

    The last map also passes the final BatchNorm and ReLU. The transition before a dense block is part of its
    stage.

    Args:
      depths: number of layers per dense block.
      growth: channels that every layer adds.
      block_dropout: rate on the channels that a layer adds.
      remat: recompute every layer in the backward pass instead of keeping its activations.
    """

    def __init__(
        self,
        depths: Sequence[int],
        *,
        growth: int = 32,
        in_channels: int = 3,
        block_dropout: float = 0.0,
        remat: bool = False,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        channels = 2 * growth
        self.remat = remat
        self.conv1 = _conv(in_channels, channels, 7, 2, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(channels)

        stages, feature_info = [], []
        for index, depth in enumerate(depths):
            layers: list[Transition | DenseLayer] = []
            if index > 0:
                layers.append(Transition(channels, dtype=dtype, rngs=rngs))
                channels //= 2
            for _ in range(depth):
                layers.append(DenseLayer(channels, growth, block_dropout, dtype=dtype, rngs=rngs))
                channels += growth
            stages.append(nnx.List(layers))
            feature_info.append(FeatureInfo(channels, 4 * 2**index))
        self.stages = nnx.List(stages)
        self.final_norm = BatchNorm(channels)
        self.feature_info = tuple(feature_info)

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> tuple[jax.Array, ...]:
        """Normalised images `[B, H, W, C]` to one map `[B, h, w, channels]` per entry of `feature_info`.

        Raises:
          ValueError: images so small that the last map would be empty.
        """
        smallest = self.feature_info[-1].stride - 3  # the stem rounds up, the transitions down
        if min(x.shape[1:3]) < smallest:
            raise ValueError(
                f"images of {x.shape[1]}x{x.shape[2]} px are too small: {smallest}x{smallest} at least"
            )
        x = jax.nn.relu(self.bn1(self.conv1(x), train=train))
        x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        features = []
        for index, layers in enumerate(self.stages):
            x = run_blocks(layers, x, train=train, key=fold(key, index), remat=self.remat)
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


DENSENET121_DEPTHS = (6, 12, 24, 16)
densenet121 = partial(DenseNet, DENSENET121_DEPTHS)


def _keys(depths: Sequence[int]) -> tuple[tuple[str, str], ...]:
    """Keys of timm and torchvision, and of torchvision's published files, which say norm.1 for norm1."""
    names = (("conv", "conv"), ("norm", "bn"))
    return (
        (r"features\.conv0", r"backbone.conv1"),
        (r"features\.norm0", r"backbone.bn1"),
        *(
            (
                rf"features\.denseblock{i + 1}\.denselayer{j + 1}\.{theirs}\.?([12])",
                rf"backbone.stages.{i}.{j + (i > 0)}.{ours}\1",
            )
            for i, depth in enumerate(depths)
            for j in range(depth)
            for theirs, ours in names
        ),
        *(
            (rf"features\.transition{i + 1}\.{theirs}", f"backbone.stages.{i + 1}.0.{ours}")
            for i in range(len(depths) - 1)
            for theirs, ours in names
        ),
        (r"features\.norm5", r"backbone.final_norm"),
        (r"classifier", r"head.classifier"),
    )


KEYS = _keys(DENSENET121_DEPTHS)
