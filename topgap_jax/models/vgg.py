"""VGG with batch normalisation (Simonyan & Zisserman, 2014), in the form of torchvision and timm."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from topgap_jax.models.features import FeatureInfo, run_blocks
from topgap_jax.nn.conv import conv
from topgap_jax.nn.dropout import dropout, fold
from topgap_jax.nn.norm import BatchNorm
from topgap_jax.nn.precision import sum_dtype

fc_init = nnx.initializers.normal(0.01)


class ConvBlock(nnx.Module):
    """3x3 convolution, BatchNorm, ReLU."""

    def __init__(self, in_channels: int, width: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        # BatchNorm makes the bias superfluous, but the published weights have it.
        self.conv = conv(in_channels, width, 3, bias=True, dtype=dtype, rngs=rngs)
        self.bn = BatchNorm(width)

    def __call__(self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None) -> jax.Array:
        return jax.nn.relu(self.bn(self.conv(x), train=train))


class VGG(nnx.Module):
    """Five stages of 3x3 convolutions with 2x2 max pooling between them.

    The maps are those of the last three stages: before the pooling that follows, after the ReLU.

    Args:
      depths: number of convolutions per stage.
      widths: channels per stage.
      remat: recompute every block in the backward pass instead of keeping its activations.
    """

    def __init__(
        self,
        depths: Sequence[int],
        *,
        widths: Sequence[int] = (64, 128, 256, 512, 512),
        in_channels: int = 3,
        remat: bool = False,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.remat = remat
        channels = in_channels
        stages = []
        for depth, width in zip(depths, widths, strict=True):
            blocks = []
            for _ in range(depth):
                blocks.append(ConvBlock(channels, width, dtype=dtype, rngs=rngs))
                channels = width
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)
        self.feature_info = tuple(FeatureInfo(width, 2**i) for i, width in enumerate(widths) if i >= 2)

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> tuple[jax.Array, ...]:
        """Normalised images `[B, H, W, C]` to one map `[B, h, w, channels]` per entry of `feature_info`.

        Raises:
          ValueError: images so small that the last map would be empty.
        """
        smallest = self.feature_info[-1].stride
        if min(x.shape[1:3]) < smallest:
            raise ValueError(
                f"images of {x.shape[1]}x{x.shape[2]} px are too small: {smallest}x{smallest} at least"
            )
        features = []
        for index, blocks in enumerate(self.stages):
            x = halve(x) if index else x
            x = run_blocks(blocks, x, train=train, key=fold(key, index), remat=self.remat)
            features.append(x)
        return tuple(features[-len(self.feature_info) :])

    def original_head(
        self, num_classes: int, *, dropout: float = 0.0, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> "VGGHead":
        """The last pooling and three fully connected layers."""
        return VGGHead(self.feature_info[-1].channels, num_classes, dropout=dropout, dtype=dtype, rngs=rngs)


class VGGHead(nnx.Module):
    """2x2 max pooling, the mean over a grid of 7x7 cells and three fully connected layers.

    The layers see the whole map at once, so there is no class activation map in it: `cam` is the 1x1 map of
    the logits without their bias. Use `grad_cam` to see where a class was found.

    Args:
      in_channels: of the map.
      num_classes: K.
      dropout: rate after the first two layers while training (paper: 0.5).
      hidden: size of the first two layers.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        dropout: float = 0.0,
        hidden: int = 4096,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        linear = partial(nnx.Linear, kernel_init=fc_init, rngs=rngs)
        self.dropout = dropout
        # A layer over all positions and channels, kept in the shape that says which weight is which.
        self.fc1 = conv(
            in_channels, hidden, 7, bias=True, padding="VALID", kernel_init=fc_init, dtype=dtype, rngs=rngs
        )
        self.fc2 = linear(hidden, hidden, dtype=dtype)
        self.classifier = linear(hidden, num_classes, dtype=sum_dtype(dtype))

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """The last map `[B, h, w, in_channels]` to logits `[B, K]` and `[B, 1, 1, K]`.

        Raises:
          ValueError: a map that the pooling would leave empty.
        """
        if min(x.shape[1:3]) < 2:
            raise ValueError(
                f"a map of {x.shape[1]}x{x.shape[2]} positions is too small for the original head of VGG: "
                "it needs images of 32x32 px at least"
            )
        x = adaptive_mean(halve(x), 7)
        x = jax.nn.relu(self.fc1(x))[:, 0, 0]
        x = dropout(x, self.dropout, train=train, key=fold(key, 0))
        x = jax.nn.relu(self.fc2(x))
        x = dropout(x, self.dropout, train=train, key=fold(key, 1))
        cam = x @ self.classifier.kernel[...].astype(x.dtype)
        return self.classifier(x), cam[:, None, None]


def halve(x: jax.Array) -> jax.Array:
    """2x2 max pooling; an odd last row or column is left out."""
    return nnx.max_pool(x, (2, 2), strides=(2, 2))


def adaptive_mean(x: jax.Array, size: int) -> jax.Array:
    """Means over `size` x `size` cells that cover the map `[B, H, W, C]`, as PyTorch's AdaptiveAvgPool2d.

    Cell i spans positions floor(i H / size) to ceil((i + 1) H / size), so that neighbours overlap where size
    does not divide H, and share positions where H < size.
    """
    if x.shape[1:3] == (size, size):
        return x
    rows, columns = (_cell_weights(length, size) for length in x.shape[1:3])
    means = jnp.einsum("bhwc,ih,jw->bijc", x.astype(sum_dtype(x)), rows, columns, precision="highest")
    return means.astype(x.dtype)


def _cell_weights(length: int, size: int) -> np.ndarray:
    """`[size, length]` float32: row i averages over cell i."""
    start = np.arange(size) * length // size
    end = -(-np.arange(1, size + 1) * length // size)
    position = np.arange(length)
    inside = (start[:, None] <= position) & (position < end[:, None])
    return (inside / inside.sum(1, keepdims=True)).astype(np.float32)


VGG11_DEPTHS = (1, 1, 2, 2, 2)
VGG16_DEPTHS = (2, 2, 3, 3, 3)
vgg11_bn = partial(VGG, VGG11_DEPTHS)
vgg16_bn = partial(VGG, VGG16_DEPTHS)


def _keys(depths: Sequence[int]) -> tuple[tuple[str, str], ...]:
    """timm and torchvision number all layers in a row: three per block, and the pooling after a stage."""
    keys, index = [], 0
    for stage, depth in enumerate(depths):
        for block in range(depth):
            keys.append((rf"features\.{index}", f"backbone.stages.{stage}.{block}.conv"))
            keys.append((rf"features\.{index + 1}", f"backbone.stages.{stage}.{block}.bn"))
            index += 3
        index += 1
    return (
        *keys,
        (r"pre_logits\.(fc[12])", r"head.\1"),  # timm
        (r"head\.fc", r"head.classifier"),
        (r"classifier\.0", r"head.fc1"),  # torchvision
        (r"classifier\.3", r"head.fc2"),
        (r"classifier\.6", r"head.classifier"),
    )


VGG11_KEYS = _keys(VGG11_DEPTHS)
VGG16_KEYS = _keys(VGG16_DEPTHS)
