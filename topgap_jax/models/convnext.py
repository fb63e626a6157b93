"""ConvNeXt (Liu et al., 2022)."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from topgap_jax.models.features import FeatureInfo, drop_path_rates, run_blocks
from topgap_jax.nn.conv import conv
from topgap_jax.nn.dropout import drop_path, dropout, fold
from topgap_jax.nn.precision import sum_dtype

# The paper truncates at +-2, a hundred standard deviations: no value is ever cut off.
normal = nnx.initializers.normal(0.02)


class LayerNorm(nnx.Module):
    """Normalises every position over its channels (Ba et al., 2016), in float32.

    `y = (x - mean) / sqrt(var + eps) * scale + bias` with the biased variance.
    """

    def __init__(self, channels: int, *, eps: float = 1e-6):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: jax.Array) -> jax.Array:
        """`x` is `[..., channels]`; the result has its shape and dtype."""
        y = centred(x) * self.factor(x) + self.bias[...]
        return y.astype(x.dtype)

    def factor(self, x: jax.Array) -> jax.Array:
        """`scale / sqrt(var + eps)` of `x` `[..., channels]`, in float32."""
        var = jnp.square(centred(x)).mean(-1, keepdims=True)
        return jax.lax.rsqrt(var + self.eps) * self.scale[...]


def centred(x: jax.Array) -> jax.Array:
    """`x` `[..., C]` minus its mean over the channels, in float32 at least."""
    x = x.astype(sum_dtype(x))
    return x - x.mean(-1, keepdims=True)


class Block(nnx.Module):
    """A depthwise 7x7 convolution, LayerNorm and two linear layers, scaled per channel, and a shortcut.

    The first block of a stage may halve the map before.
    """

    def __init__(self, in_channels: int, channels: int, rate: float, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        linear = partial(nnx.Linear, kernel_init=normal, dtype=dtype, rngs=rngs)
        self.drop_path = rate
        self.downsample = Downsample(in_channels, channels, dtype=dtype, rngs=rngs)
        self.conv = conv(
            channels, channels, 7, groups=channels, bias=True, kernel_init=normal, dtype=dtype, rngs=rngs
        )
        self.norm = LayerNorm(channels)
        self.expand = linear(channels, 4 * channels)
        self.reduce = linear(4 * channels, channels)
        self.layer_scale = nnx.Param(jnp.full(channels, 1e-6))

    def __call__(self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None) -> jax.Array:
        x = self.downsample(x)
        y = self.norm(self.conv(x))
        y = self.reduce(jax.nn.gelu(self.expand(y), approximate=False))
        y = y * self.layer_scale[...].astype(y.dtype)
        return x + drop_path(y, self.drop_path, train=train, key=key)


class Downsample(nnx.Module):
    """Identity where the channels stay, else LayerNorm and a 2x2 convolution with stride 2."""

    def __init__(self, in_channels: int, out_channels: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.identity = in_channels == out_channels
        if not self.identity:
            self.norm = LayerNorm(in_channels)
            self.conv = patches(in_channels, out_channels, 2, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x if self.identity else self.conv(self.norm(x))


def patches(in_channels: int, out_channels: int, size: int, *, dtype: jnp.dtype, rngs: nnx.Rngs) -> nnx.Conv:
    """A convolution over patches that do not overlap; odd rows and columns at the end are ignored."""
    return conv(
        in_channels,
        out_channels,
        size,
        size,
        bias=True,
        padding=0,
        kernel_init=normal,
        dtype=dtype,
        rngs=rngs,
    )


class ConvNeXt(nnx.Module):
    """Stem and stages; returns the map after every stage.

    Args:
      depths: number of blocks per stage.
      widths: channels per stage, different from stage to stage.
      drop_path: stochastic depth of the last block (paper: 0.1 tiny, 0.4 small, 0.5 base).
      remat: recompute every block in the backward pass instead of keeping its activations.
    """

    def __init__(
        self,
        depths: Sequence[int],
        widths: Sequence[int],
        *,
        in_channels: int = 3,
        drop_path: float = 0.0,
        remat: bool = False,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        channels = widths[0]
        self.remat = remat
        self.stem = patches(in_channels, channels, 4, dtype=dtype, rngs=rngs)
        self.stem_norm = LayerNorm(channels)

        stages = []
        for width, rates in zip(widths, drop_path_rates(drop_path, depths), strict=True):
            blocks = []
            for rate in rates:
                blocks.append(Block(channels, width, rate, dtype=dtype, rngs=rngs))
                channels = width
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)
        self.feature_info = tuple(FeatureInfo(width, 4 * 2**stage) for stage, width in enumerate(widths))

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> tuple[jax.Array, ...]:
        """Normalised images `[B, H, W, C]` to one map `[B, h, w, channels]` per entry of `feature_info`.

        Raises:
          ValueError: images smaller than one position of the last map.
        """
        smallest = self.feature_info[-1].stride
        if min(x.shape[1:3]) < smallest:
            raise ValueError(
                f"images of {x.shape[1]}x{x.shape[2]} are too small: at least {smallest}x{smallest}"
            )
        x = self.stem_norm(self.stem(x))
        features = []
        for index, blocks in enumerate(self.stages):
            x = run_blocks(blocks, x, train=train, key=fold(key, index), remat=self.remat)
            features.append(x)
        return tuple(features)

    def original_head(
        self, num_classes: int, *, dropout: float = 0.0, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> "ConvNeXtHead":
        """Global average pooling, LayerNorm and a linear layer."""
        return ConvNeXtHead(
            self.feature_info[-1].channels, num_classes, dropout=dropout, dtype=dtype, rngs=rngs
        )


class ConvNeXtHead(nnx.Module):
    """Pools the last map by its mean, normalises the vector and maps it to the classes.

    LayerNorm follows the pooling and divides by one number per image, so the CAM decomposes the logits:
    `cam = ((x - mean(x)) / sigma(p) * scale) @ W` with the mean over the channels of x and the deviation over
    those of the pooled vector `p`, and `logits = cam.mean((1, 2)) + norm.bias @ W + classifier.bias`.

    Args:
      in_channels: of the map.
      num_classes: K.
      dropout: rate on the normalised vector while training.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        dropout: float = 0.0,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.dropout = dropout
        self.norm = LayerNorm(in_channels)
        self.classifier = nnx.Linear(
            in_channels, num_classes, kernel_init=normal, dtype=sum_dtype(dtype), rngs=rngs
        )

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """The last map `[B, h, w, in_channels]` to logits `[B, K]` and CAM `[B, h, w, K]`."""
        pooled = x.mean((1, 2), dtype=sum_dtype(x))
        normalised = dropout(self.norm(pooled), self.dropout, train=train, key=key)
        # Where nobody uses the CAM, XLA does not compute it.
        parts = centred(x) * self.norm.factor(pooled)[:, None, None]
        cam = parts.astype(x.dtype) @ self.classifier.kernel[...].astype(x.dtype)
        return self.classifier(normalised), cam


convnext_tiny = partial(ConvNeXt, (3, 3, 9, 3), (96, 192, 384, 768))
convnext_small = partial(ConvNeXt, (3, 3, 27, 3), (96, 192, 384, 768))
convnext_base = partial(ConvNeXt, (3, 3, 27, 3), (128, 256, 512, 1024))

TIMM_KEYS = (
    (r"stem\.0", r"backbone.stem"),
    (r"stem\.1", r"backbone.stem_norm"),
    (r"stages\.([1-3])\.downsample\.0", r"backbone.stages.\1.0.downsample.norm"),
    (r"stages\.([1-3])\.downsample\.1", r"backbone.stages.\1.0.downsample.conv"),
    *(
        (rf"stages\.([0-3])\.blocks\.(\d+)\.{source}", rf"backbone.stages.\1.\2.{target}")
        for source, target in (
            (r"conv_dw", "conv"),
            (r"norm", "norm"),
            (r"mlp\.fc1", "expand"),
            (r"mlp\.fc2", "reduce"),
            (r"gamma", "layer_scale"),
        )
    ),
    (r"head\.norm", r"head.norm"),
    (r"head\.fc", r"head.classifier"),
)
# There, layers are numbered: stage i is features.{2i + 1}, and what halves the map before it features.{2i}.
TORCHVISION_KEYS = (
    (r"features\.0\.0", r"backbone.stem"),
    (r"features\.0\.1", r"backbone.stem_norm"),
    *(
        (rf"features\.{2 * i}\.{j}", rf"backbone.stages.{i}.0.downsample.{name}")
        for i in (1, 2, 3)
        for j, name in enumerate(("norm", "conv"))
    ),
    *(
        (rf"features\.{2 * i + 1}\.(\d+)\.{source}", rf"backbone.stages.{i}.\1.{target}")
        for i in range(4)
        for source, target in (
            (r"block\.0", "conv"),
            (r"block\.2", "norm"),
            (r"block\.3", "expand"),
            (r"block\.5", "reduce"),
            (r"layer_scale", "layer_scale"),
        )
    ),
    (r"classifier\.0", r"head.norm"),
    (r"classifier\.2", r"head.classifier"),
)
