"""Backbone and head: one forward pass gives the prediction and its explanation."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from topgap_jax.models.features import Backbone, OriginalHead
from topgap_jax.nn.dropout import fold
from topgap_jax.nn.pooling import gap, topk_mean
from topgap_jax.nn.precision import sum_dtype
from topgap_jax.nn.pyramid import PyramidHead, kernel_init

HEADS = ("pyramid", "last", "original")
POOLS = ("topk", "mean")


class ModelOutput(NamedTuple):
    """What a forward pass returns."""

    logits: jax.Array  # [B, K] float32 (float64 if the model is)
    cam: jax.Array  # [B, h, w, K], before pooling and without scaling
    features: tuple[jax.Array, ...]  # the backbone's maps [B, h_i, w_i, C_i], largest first


class PixelConstraint(nnx.Variable):
    """The k of Top-GAP. It is state, so that another k compiles nothing."""


class Classifier(nnx.Module):
    """A backbone, a head that ends in a class activation map, and the pooling of that map.

    Args:
      backbone: maps normalised images to a tuple of maps and declares `feature_info`.
      num_classes: K.
      head: "pyramid" (the paper's), "last" (1x1 convolution on the last map: the ablation without pyramid) or
        "original" (the network's own classifier; its CAM is that of Zhou et al., 2015).
      pool: "topk" (Top-GAP, definition 3.5) or "mean" (GAP, definition 3.2).
      k: positions of the CAM that are averaged, with `pool="topk"`.
      pyramid_channels: filters of the pyramid head.
      dropout: rate in the pyramid head, or in the original one.
      mean, std: per input channel, in units of the image range [0, 1].
      dtype: of the computation; parameters and statistics stay float32.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        head: str = "pyramid",
        pool: str = "topk",
        k: int = 256,
        pyramid_channels: int = 256,
        dropout: float = 0.0,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        channels = [info.channels for info in backbone.feature_info]
        self.backbone = backbone
        self.head_name, self.pool = head, pool
        self.mean, self.std, self.dtype = mean, std, dtype
        self.k = PixelConstraint(jnp.int32(k))
        self.settings: tuple[tuple[str, Any], ...] = ()  # the arguments of `create_model`, for `save_model`
        self.head: PyramidHead | nnx.Conv | OriginalHead
        if head == "pyramid":
            self.head = PyramidHead(
                channels, num_classes, channels=pyramid_channels, dropout=dropout, dtype=dtype, rngs=rngs
            )
        elif head == "last":
            self.head = nnx.Conv(
                channels[-1], num_classes, (1, 1), kernel_init=kernel_init, dtype=dtype, rngs=rngs
            )
        else:
            self.head = backbone.original_head(num_classes, dropout=dropout, dtype=dtype, rngs=rngs)

    def __call__(
        self, images: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> ModelOutput:
        """Classifies `images`, `[B, H, W, C]` float in [0, 1] (normalisation happens inside).

        With `train=True` BatchNorm uses and updates the batch's statistics, and `key` draws what dropout and
        stochastic depth drop.

        Raises:
          ValueError: images of an integer dtype or of another shape, or a k outside 1..h*w (only where k is
            concrete; under `jax.jit` it is clamped).
        """
        self._check(images)
        x = (images - jnp.asarray(self.mean)) / jnp.asarray(self.std)
        features = self.backbone(x.astype(self.dtype), train=train, key=fold(key, 0))
        if isinstance(self.head, nnx.Conv):
            cam = self.head(features[-1])
        elif isinstance(self.head, PyramidHead):
            cam = self.head(features, train=train, key=fold(key, 1))
        else:
            logits, cam = self.head(features[-1], train=train, key=fold(key, 1))
            return ModelOutput(logits, cam, features)
        return ModelOutput(self._pooled(cam), cam, features)

    def cam_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape `(1, h, w, K)` of the CAM of one image of shape `(H, W, C)`; nothing is computed."""
        graphdef, state = nnx.split(self)
        image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        return jax.eval_shape(lambda state, x: nnx.merge(graphdef, state)(x).cam, state, image).shape

    def _pooled(self, cam: jax.Array) -> jax.Array:
        if self.pool == "topk":
            return topk_mean(cam, self._pixels(cam), dtype=sum_dtype(cam))
        return gap(cam, dtype=sum_dtype(cam))

    def _pixels(self, cam: jax.Array) -> jax.Array | int:
        """k as it is under a trace, else as an `int` that `topk_mean` can check."""
        k = self.k[...]
        height, width = cam.shape[1:3]
        if isinstance(k, jax.core.Tracer):
            return k
        if not 1 <= int(k) <= height * width:
            raise ValueError(
                f"k={int(k)} does not fit the CAM of {height}x{width} positions: 1 <= k <= {height * width}"
            )
        return int(k)

    def _check(self, images: jax.Array) -> None:
        channels = len(self.mean)
        if images.ndim != 4 or images.shape[-1] != channels:
            raise ValueError(f"images must have shape [B, H, W, {channels}], not {list(images.shape)}")
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise ValueError(
                f"images must be float in [0, 1], not {images.dtype}: divide 8-bit images by 255 first"
            )
