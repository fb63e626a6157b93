"""Class activation maps after the fact: Grad-CAM and its relatives, for any network cut in two.

Each method takes the second half of the network, `logits_from_features`, and the activations where it is cut.
Maps come out at the activations' size and unscaled; `resize_and_scale(maps, size)` makes heat maps of them.
With the original head the methods by gradients agree with pytorch-grad-cam.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

# [B,h,w,C] -> [B,K]; examples must not influence each other (normalisation layers in evaluation mode).
LogitsFromFeatures = Callable[[jax.Array], jax.Array]

# Recipro-CAM's neighbourhood of a position.
GAUSSIAN = np.outer((0.25, 0.5, 0.25), (0.25, 0.5, 0.25))


def grad_cam(logits_from_features: LogitsFromFeatures, features: jax.Array, labels: jax.Array) -> jax.Array:
    """Grad-CAM of a network cut in two at `features`.

    relu( sum_c  a_c * features[..., c] ),   a_c = mean over (h, w) of  d logit_label / d features[..., c]

    Before global average pooling and a linear layer this is the positive part of the exact CAM, over h*w.

    Args:
      logits_from_features: the second half, [B,h,w,C] -> [B,K].
      features: activations where the network is cut, [B,h,w,C].
      labels: the class to explain, integers in [0, K), [B]; or several of them at once, bool or weights
        [B,K], whose logits are added.

    Returns:
      [B,h,w], at least 0.

    Raises:
      ValueError: features that are no map [B,h,w,C], or labels that fit neither shape.

    Source: Selvaraju et al., "Grad-CAM", 2019, equations 1 and 2.
    """
    weights = _gradients(logits_from_features, features, labels).mean((1, 2), keepdims=True)
    return jax.nn.relu((weights * features).sum(-1))


def grad_cam_plus_plus(
    logits_from_features: LogitsFromFeatures, features: jax.Array, labels: jax.Array
) -> jax.Array:
    """Grad-CAM++: Grad-CAM with the positive gradients g weighted position by position.

    relu( sum_c  a_c * features[..., c] ),   a_c = sum over (h, w) of  relu(g) * g^2 / (2 g^2 + S_c g^3),

    where S_c is the sum of channel c over the map. Arguments, result and errors as `grad_cam`.

    Source: Chattopadhyay et al., "Grad-CAM++", 2018, equations 7 and 19.
    """
    g = _gradients(logits_from_features, features, labels)
    denominator = 2 * g**2 + features.sum((1, 2), keepdims=True) * g**3 + 1e-6
    share = jnp.where(g != 0, g**2 / denominator, 0)
    weights = (jax.nn.relu(g) * share).sum((1, 2), keepdims=True)
    return jax.nn.relu((weights * features).sum(-1))


def hires_cam(logits_from_features: LogitsFromFeatures, features: jax.Array, labels: jax.Array) -> jax.Array:
    """HiResCAM: gradient times activation, position by position, `relu(sum_c g * features)`.

    Arguments, result and errors as `grad_cam`.

    Source: Draelos and Carin, "Use HiResCAM instead of Grad-CAM", 2020, equation 4.
    """
    return jax.nn.relu((_gradients(logits_from_features, features, labels) * features).sum(-1))


def layer_cam(logits_from_features: LogitsFromFeatures, features: jax.Array, labels: jax.Array) -> jax.Array:
    """LayerCAM: positive gradients times activations, `relu(sum_c relu(g) * features)`.

    Arguments, result and errors as `grad_cam`.

    Source: Jiang et al., "LayerCAM", 2021, equations 5 to 7.
    """
    g = _gradients(logits_from_features, features, labels)
    return jax.nn.relu((jax.nn.relu(g) * features).sum(-1))


def score_cam(
    logits_fn: Callable[[jax.Array], jax.Array],
    features: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    *,
    baseline: float | jax.Array = 0.0,
    channels_per_pass: int = 16,
) -> jax.Array:
    """Score-CAM: every channel is weighted by the logit that the picture keeps where the channel is lit.

    relu( sum_c softmax_c(s) * features[..., c] ),  s_c = logit_label( b + (image - b) * lit_c ),

    with `lit_c` the channel, upsampled and min-max scaled. One forward pass per channel; not for `jit`.

    Args:
      logits_fn: the whole network, [B,H,W,C'] -> [B,K]; a `Partial` compiles once.
      features: activations, [B,h,w,C].
      images: [B,H,W,C'].
      labels: as for `grad_cam`.
      baseline: b, what the picture fades to: 0 is black; the mean of the data is what fading normalised
        pictures to 0 gives.
      channels_per_pass: channels times pictures are the batch of a pass.

    Returns:
      [B,h,w], at least 0.

    Raises:
      ValueError: as `grad_cam`; fewer than one channel per pass.

    Source: Wang et al., "Score-CAM", 2020; corners aligned in the upsampling, as in the authors' code.
    """
    _check_features(features)
    if channels_per_pass < 1:
        raise ValueError(f"channels_per_pass must be at least 1, not {channels_per_pass}")
    network = logits_fn if isinstance(logits_fn, Partial) else Partial(logits_fn)
    count = features.shape[-1]
    scores = []
    for start in range(0, count, channels_per_pass):
        channels = np.arange(start, start + channels_per_pass) % count  # the last pass is filled up
        scores.append(_scores(network, features[..., channels], images, labels, jnp.asarray(baseline)))
    weights = jax.nn.softmax(jnp.concatenate(scores, axis=1)[:, :count], axis=-1)
    return jax.nn.relu((weights[:, None, None] * features).sum(-1))


def recipro_cam(
    logits_from_features: LogitsFromFeatures,
    features: jax.Array,
    labels: jax.Array,
    *,
    gaussian: bool = True,
    positions_per_pass: int = 16,
) -> jax.Array:
    """Recipro-CAM: the probability of the label where one position alone is left of the map.

    One pass of the second half per position; no gradient. Not for `jit`.

    Args:
      logits_from_features, features, labels: as for `grad_cam`; a `Partial` compiles once.
      gaussian: the position's activations are spread over its 3x3 neighbourhood by a Gaussian.
      positions_per_pass: positions times pictures are the batch of a pass.

    Returns:
      [B,h,w] in [0, 1] (for several labels their sum).

    Raises:
      ValueError: as `grad_cam`; fewer than one position per pass.

    Source: Byun and Lee, "Recipro-CAM", 2022, section 3.
    """
    _check_features(features)
    if positions_per_pass < 1:
        raise ValueError(f"positions_per_pass must be at least 1, not {positions_per_pass}")
    network = logits_from_features
    network = network if isinstance(network, Partial) else Partial(network)
    height, width = features.shape[1:3]
    masks = _position_masks(height, width, gaussian)
    found = []
    for start in range(0, len(masks), positions_per_pass):
        chosen = np.arange(start, start + positions_per_pass) % len(masks)
        rows, columns = np.divmod(chosen, width)
        found.append(_alone(network, features[:, rows, columns], jnp.asarray(masks[chosen]), labels))
    return jnp.concatenate(found, axis=1)[:, : len(masks)].reshape(-1, height, width)


def _gradients(logits_from_features: LogitsFromFeatures, features: jax.Array, labels: jax.Array) -> jax.Array:
    _check_features(features)
    return jax.grad(lambda features: label_logits(logits_from_features(features), labels).sum())(features)


def label_logits(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The logits [B,K] of labels [B], or the sum over the labels marked in [B,K]; [B].

    Raises:
      ValueError: labels of another shape or, [B], of another kind than integers.
    """
    labels = jnp.asarray(labels)
    if labels.shape == logits.shape:
        return (labels * logits).sum(-1)
    if labels.shape != logits.shape[:1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"labels must be integers [{logits.shape[0]}] or weights {list(logits.shape)}, "
            f"not {labels.dtype} {list(labels.shape)}"
        )
    return jnp.take_along_axis(logits, labels[:, None], axis=1, mode="fill", fill_value=jnp.nan)[:, 0]


@jax.jit
def _scores(
    network: Partial, channels: jax.Array, images: jax.Array, labels: jax.Array, baseline: jax.Array
) -> jax.Array:
    """The label's logit for every picture and channel [B,h,w,c], as [B,c]."""
    batch, _, _, count = channels.shape
    lit = _aligned(channels, images.shape[1:3])
    low, high = lit.min((1, 2), keepdims=True), lit.max((1, 2), keepdims=True)
    lit = jnp.moveaxis((lit - low) / (high - low + 1e-8), -1, 1)[..., None]
    masked = baseline + (images - baseline)[:, None] * lit
    logits = network(masked.reshape(batch * count, *images.shape[1:]))
    return label_logits(logits, jnp.repeat(labels, count, axis=0)).reshape(batch, count)


def _aligned(maps: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Bilinear resize [B,h,w,C] -> [B,*size,C] that maps the corners' centres on each other."""
    scale = jnp.array([(out - 1) / max(n - 1, 1) for out, n in zip(size, maps.shape[1:3], strict=True)])
    shape = (maps.shape[0], *size, maps.shape[3])
    return jax.image.scale_and_translate(
        maps, shape, (1, 2), scale, 0.5 * (1 - scale), "bilinear", antialias=False
    )


def _position_masks(height: int, width: int, gaussian: bool) -> np.ndarray:
    """Per position, row by row, the weights of its neighbourhood: [h*w,h,w]."""
    masks = np.zeros((height * width, height + 2, width + 2), np.float32)
    kernel = GAUSSIAN if gaussian else np.pad([[1.0]], 1)
    for number, (row, column) in enumerate(np.ndindex(height, width)):
        masks[number, row : row + 3, column : column + 3] = kernel
    return masks[:, 1:-1, 1:-1]


@jax.jit
def _alone(network: Partial, vectors: jax.Array, masks: jax.Array, labels: jax.Array) -> jax.Array:
    """The label's probability with one position's activations [B,p,C] laid on its mask [p,h,w]; [B,p]."""
    batch, count, _ = vectors.shape
    features = masks[None, ..., None] * vectors[:, :, None, None]
    logits = network(features.reshape(batch * count, *features.shape[2:]))
    return label_logits(jax.nn.softmax(logits), jnp.repeat(labels, count, axis=0)).reshape(batch, count)


def _check_features(features: jax.Array) -> None:
    if features.ndim != 4:
        raise ValueError(
            f"features must be a map [B,h,w,C], not {list(features.shape)}: cut before the pooling"
        )
