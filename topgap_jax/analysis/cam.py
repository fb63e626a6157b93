"""Class activation maps: heat maps, how sparse they are and how well they cover the object.

Everything works on a batch, one result per image, and under `jax.jit` unless its docstring says otherwise. An
image whose mask is empty has no overlap to speak of: its IoU, energy and pointing game are NaN, so that a
mean can leave it out (`jnp.nanmean`) and count it.
"""

import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

THRESHOLDS = tuple(percent / 100 for percent in range(1, 100))


def heatmap(cam: jax.Array, labels: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Heat map of each image's label: its channel of the CAM, upsampled to `size`, min-max scaled.

    Args:
      cam: class activation map, [B,h,w,K].
      labels: the class to show, integers in [0, K), [B]; under `jit` a label outside gives NaN, not an error.
      size: (H, W) in pixels, each at least 1.

    Returns:
      [B,H,W] in [0, 1]; zeros where the channel is constant, NaN where it is not finite.

    Raises:
      ValueError: a label outside [0, K), a size below 1, or arrays that do not fit together.
    """
    labels = jnp.asarray(labels)
    if cam.ndim != 4 or labels.shape != cam.shape[:1]:
        raise ValueError(f"heatmap wants cam [B,h,w,K] and labels [B], got {cam.shape} and {labels.shape}")
    _check_labels(labels, cam.shape[-1])
    channel = jnp.take_along_axis(cam, labels[:, None, None, None], axis=-1, mode="fill", fill_value=jnp.nan)
    return resize_and_scale(channel[..., 0], size)


def resize_and_scale(maps: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bilinear resize, then min-max scaling.

    Half-pixel centres and no antialiasing: Torch's `align_corners=False`.

    Args:
      maps: one map per image, any finite values, [B,h,w].
      size: (H, W) in pixels, each at least 1.

    Returns:
      [B,H,W] in [0, 1], float32 or wider; zeros where the map is constant.
    """
    height, width = (operator.index(length) for length in size)
    if min(height, width) < 1:
        raise ValueError(f"size must be at least (1, 1) pixels, got ({height}, {width})")
    maps = maps.astype(jnp.promote_types(maps.dtype, jnp.float32))
    # Scaled before the resize as well: rounding cannot turn a constant map into noise.
    resized = jax.image.resize(
        _min_max(maps), (maps.shape[0], height, width), method="bilinear", antialias=False
    )
    return _min_max(resized)


def sparsity(heat: jax.Array) -> jax.Array:
    """Mean of the min-max scaled map: the smaller, the fewer pixels are lit.

    (1 / HW) * ||X||_1

    Args:
      heat: heat maps, [B,H,W]; scaled once more here, which changes nothing for the result of `heatmap`.

    Returns:
      [B] in [0, 1].

    Source: paper section 4.2.
    """
    return _min_max(heat).mean(axis=(1, 2))


def iou(heat: jax.Array, mask: jax.Array, threshold: float | jax.Array) -> jax.Array:
    """Intersection over union of `heat >= threshold` with the mask.

    Args:
      heat: heat maps in [0, 1], [B,H,W].
      mask: the object, boolean or zero / non-zero, [B,H,W].
      threshold: one value in [0, 1].

    Returns:
      [B] in [0, 1]; NaN where the mask is empty.

    Raises:
      ValueError: the mask has another shape than the heat map.
    """
    return iou_curve(heat, mask, (threshold,))[0]


def iou_curve(
    heat: jax.Array, mask: jax.Array, thresholds: Sequence[float | jax.Array] = THRESHOLDS
) -> jax.Array:
    """`iou` at every threshold, [T,B]: what a sweep over batches adds up to find one global threshold."""
    return _iou_curve(heat, _object(heat, mask), jnp.asarray(thresholds, heat.dtype))


def iou_oracle(heat: jax.Array, mask: jax.Array, thresholds: Sequence[float] = THRESHOLDS) -> jax.Array:
    """IoU at the best threshold of each image, found with its mask: an upper bound, not a method.

    Args:
      heat: heat maps in [0, 1], [B,H,W].
      mask: the object, boolean or zero / non-zero, [B,H,W].
      thresholds: the thresholds to try.

    Returns:
      [B] in [0, 1]; NaN where the mask is empty.
    """
    return iou_curve(heat, mask, thresholds).max(axis=0)


def best_threshold(heat: jax.Array, mask: jax.Array, thresholds: Sequence[float] = THRESHOLDS) -> float:
    """The threshold with the highest mean IoU over these (held-out) images. Not for `jit`.

    Raises:
      ValueError: every mask is empty.
    """
    curve = np.asarray(iou_curve(heat, mask, thresholds), np.float64)
    usable = curve[:, ~np.isnan(curve[0])]
    if usable.shape[1] == 0:
        raise ValueError(f"best_threshold needs an image with a mask, all {curve.shape[1]} masks are empty")
    return float(thresholds[int(usable.mean(axis=1).argmax())])


def energy_in_mask(heat: jax.Array, mask: jax.Array) -> jax.Array:
    """Share of the heat that falls on the object; an even map scores the share of the image that it covers.

    sum(heat * mask) / sum(heat)

    Args:
      heat: heat maps, at least 0, [B,H,W].
      mask: the object, boolean or zero / non-zero, [B,H,W].

    Returns:
      [B] in [0, 1]; 0 where the map is dark everywhere, NaN where the mask is empty.
    """
    mask = _object(heat, mask)
    total = heat.sum(axis=(1, 2))
    share = (heat * mask).sum(axis=(1, 2)) / jnp.where(total == 0, 1, total)
    return jnp.where(mask.any(axis=(1, 2)), share, jnp.nan)


def pointing_game(heat: jax.Array, mask: jax.Array) -> jax.Array:
    """1 where the hottest pixel lies on the object, else 0, without tolerance around it.

    Pixels that tie for the maximum count by their share, so a constant map scores what a blind guess would.

    Args:
      heat: heat maps, [B,H,W].
      mask: the object, boolean or zero / non-zero, [B,H,W].

    Returns:
      [B] in [0, 1]; NaN where the mask is empty.

    Source: Zhang et al., "Top-down neural attention by excitation backprop", 2016, section 4.2
      (there with 15 pixels of tolerance).
    """
    mask = _object(heat, mask)
    hottest = heat == heat.max(axis=(1, 2), keepdims=True)
    share = (hottest & mask).sum(axis=(1, 2)) / hottest.sum(axis=(1, 2))
    return jnp.where(mask.any(axis=(1, 2)), share, jnp.nan)


def cam_metrics(
    heat: jax.Array, mask: jax.Array | None = None, threshold: float | None = None
) -> dict[str, float | int | dict[str, float]]:
    """Means over all images, with their standard errors. Not for `jit`.

    Args:
      heat: heat maps of all images, in [0, 1], [B,H,W].
      mask: the objects, [B,H,W]; without masks only the sparsity can be told.
      threshold: the global one, from `best_threshold` on other images; without it there is no `iou_global`.

    Returns:
      `sparsity`, `iou_oracle`, `iou_global`, `energy_in_mask`, `pointing_game` as far as they are defined,
      `standard_error` of each, `count` of images, `empty_masks` left out of all but the sparsity.

    Raises:
      ValueError: a heat map is not finite, or heat and mask differ in shape.
    """
    if broken := int((~jnp.isfinite(heat)).any(axis=(1, 2)).sum()):
        raise ValueError(f"{broken} of {heat.shape[0]} heat maps are not finite: did the training diverge?")
    values = {"sparsity": sparsity(heat)}
    if mask is not None:
        values["iou_oracle"] = iou_oracle(heat, mask)
        if threshold is not None:
            values["iou_global"] = iou(heat, mask, threshold)
        values["energy_in_mask"] = energy_in_mask(heat, mask)
        values["pointing_game"] = pointing_game(heat, mask)
    counted = {name: _mean_and_error(value) for name, value in values.items()}
    result: dict[str, float | int | dict[str, float]] = {
        name: mean for name, (mean, _) in counted.items() if mean is not None
    }
    errors = {name: error for name, (_, error) in counted.items() if error is not None}
    empty = 0 if mask is None else int((~_object(heat, mask).any(axis=(1, 2))).sum())
    return result | {"standard_error": errors, "count": int(heat.shape[0]), "empty_masks": empty}


@jax.jit  # once per shape: outside of `jit`, every call of `map` would compile anew
def _iou_curve(heat: jax.Array, mask: jax.Array, thresholds: jax.Array) -> jax.Array:
    present = mask.any(axis=(1, 2))

    def at(threshold: jax.Array) -> jax.Array:
        lit = heat >= threshold
        overlap, union = (lit & mask).sum(axis=(1, 2)), (lit | mask).sum(axis=(1, 2))
        return jnp.where(present, overlap / jnp.maximum(union, 1), jnp.nan)

    return jax.lax.map(at, thresholds)


def _mean_and_error(values: jax.Array) -> tuple[float | None, float | None]:
    defined = np.asarray(values, np.float64)
    defined = defined[~np.isnan(defined)]
    mean = float(defined.mean()) if defined.size else None
    error = float(defined.std(ddof=1) / np.sqrt(defined.size)) if defined.size > 1 else None
    return mean, error


def _min_max(maps: jax.Array) -> jax.Array:
    low, high = maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)
    span = high - low
    return jnp.where(span == 0, 0, (maps - low) / jnp.where(span == 0, 1, span))


def _object(heat: jax.Array, mask: jax.Array) -> jax.Array:
    mask = jnp.asarray(mask)
    if heat.ndim != 3 or mask.shape != heat.shape:
        raise ValueError(f"heat and mask must both be [B,H,W] of one size, got {heat.shape} and {mask.shape}")
    return mask != 0


def _check_labels(labels: jax.Array, classes: int) -> None:
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    if isinstance(labels, jax.core.Tracer) or labels.size == 0:
        return
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(f"labels must lie in [0, {classes - 1}] for {classes} classes, got {low} to {high}")
