"""Does the network need what a heat map lights? Insertion and deletion of pixels, hottest first."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from scipy import ndimage

BLUR_SIGMA = 5.0  # pixels, as in RISE


class Curves(NamedTuple):
    """Probability of the label while pixels come or go."""

    shares: np.ndarray  # [S+1] share of the pixels that are changed, 0 to 1
    deletion: np.ndarray  # [S+1,B] the hottest pixels are removed first: a good map lets it fall fast
    insertion: np.ndarray  # [S+1,B] the hottest pixels are shown first: a good map lets it rise fast

    @property
    def deletion_auc(self) -> np.ndarray:
        """Area under the deletion curve, [B] in [0, 1]; low is good."""
        return np.trapezoid(self.deletion, self.shares, axis=0)

    @property
    def insertion_auc(self) -> np.ndarray:
        """Area under the insertion curve, [B] in [0, 1]; high is good."""
        return np.trapezoid(self.insertion, self.shares, axis=0)


def insertion_deletion(
    logits_fn: Callable[[jax.Array], jax.Array],
    images: np.ndarray | jax.Array,
    heat: np.ndarray | jax.Array,
    labels: np.ndarray | jax.Array,
    *,
    steps: int = 32,
    deleted: np.ndarray | float = 0.0,
    blur_sigma: float = BLUR_SIGMA,
) -> Curves:
    """Insertion and deletion curves of a batch; two forward passes per step. Not for `jit`.

    Pixels of equal heat are taken in a fixed random order: a constant map does as well as a blind one.

    Args:
      logits_fn: images [B,H,W,C] to logits [B,K]; a `Partial` compiles once.
      images: [B,H,W,C] float.
      heat: heat maps [B,H,W].
      labels: integers [B].
      steps: S, in how many equal parts the pixels are taken.
      deleted: what a removed pixel shows: a value, or anything that broadcasts with the images.
      blur_sigma: standard deviation in pixels of the blur that insertion starts from.

    Raises:
      ValueError: arrays that do not fit together, a heat map that is not finite, or fewer than one step.

    Source: Petsiuk et al., "RISE", 2018, section 4.3.
    """
    images, heat = jnp.asarray(images), np.asarray(heat)
    if images.ndim != 4 or heat.shape != images.shape[:3] or np.shape(labels) != heat.shape[:1]:
        shapes = f"{images.shape}, {heat.shape} and {np.shape(labels)}"
        raise ValueError(f"insertion_deletion wants [B,H,W,C], heat [B,H,W] and labels [B], got {shapes}")
    if not np.isfinite(heat).all():
        raise ValueError("a heat map is not finite")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    network = logits_fn if isinstance(logits_fn, Partial) else Partial(logits_fn)
    order = jnp.asarray(_order(heat))
    counts = np.rint(np.linspace(0, heat[0].size, steps + 1)).astype(int)
    without = jnp.broadcast_to(jnp.asarray(deleted, images.dtype), images.shape)
    blurred = jnp.asarray(ndimage.gaussian_filter(np.asarray(images), (0, blur_sigma, blur_sigma, 0)))
    labels = jnp.asarray(labels)
    deletion = [_probability(network, without, images, order, count, labels) for count in counts]
    insertion = [_probability(network, images, blurred, order, count, labels) for count in counts]
    return Curves(counts / heat[0].size, np.asarray(deletion), np.asarray(insertion))


def _order(heat: np.ndarray) -> np.ndarray:
    """The place of every pixel when the hottest comes first, int32 [B,H,W]."""
    flat = heat.reshape(len(heat), -1)
    ties = np.random.default_rng(0).permutation(flat.shape[1])
    hottest_first = np.stack([np.lexsort((ties, -row)) for row in flat])
    order = np.empty_like(hottest_first, np.int32)
    np.put_along_axis(order, hottest_first, np.arange(flat.shape[1], dtype=np.int32)[None], axis=1)
    return order.reshape(heat.shape)


@jax.jit
def _probability(
    network: Partial,
    changed: jax.Array,
    images: jax.Array,
    order: jax.Array,
    count: jax.Array,
    labels: jax.Array,
) -> jax.Array:
    """The label's probability with the first `count` pixels taken from `changed`; [B]."""
    mixed = jnp.where((order < count)[..., None], changed, images)
    return jnp.take_along_axis(jax.nn.softmax(network(mixed)), labels[:, None], axis=1)[:, 0]
