"""Mixup and CutMix, on the devices and from the step's key."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

MIXING = 2**31 - 1  # folded into the step's key; no part of a network has this index


class Mixed(NamedTuple):
    """A batch of pictures that each show two examples."""

    images: jax.Array  # [B, H, W, C]
    other_labels: jax.Array  # [B], of the second example
    share: jax.Array  # scalar in [0, 1]: the weight of the first label


def mix(
    key: jax.Array, images: jax.Array, labels: jax.Array, *, mixup: float = 0.0, cutmix: float = 0.0
) -> Mixed:
    """Blends every picture with a partner or pastes a box of the partner into it.

    `x_i <- w x_i + (1 - w) x_j` with a map w that the batch shares. Mixup: w is one number, drawn from
    Beta(mixup, mixup). CutMix: w is 0 in a box and 1 around it; the box covers 1 - Beta(cutmix, cutmix) of
    the picture before it is clipped at the border. With both, a fair coin decides for the batch. The partner
    of example i is B-1-i: batches are shuffled already, and on several devices this is an exchange between
    pairs of them, where a random permutation would gather the batch on each.

    Args:
      key: of this step.
      images: `[B, H, W, C]` float.
      labels: integers `[B]`.
      mixup, cutmix: parameters of the beta distributions, >= 0; 0 leaves the method out, not both are 0.

    Returns:
      The mixed pictures, the partners' labels and the share of the first label, the mean of w.

    Sources: Zhang et al., "mixup" (2018); Yun et al., "CutMix" (2019).
    """
    height, width = images.shape[1:3]
    coin, blend, cut = jax.random.split(key, 3)
    blended = jax.random.beta(blend, mixup, mixup) if mixup else jnp.float32(0)
    outside = outside_box(cut, height, width, cutmix) if cutmix else jnp.zeros((height, width))
    blends = jax.random.bernoulli(coin) if mixup and cutmix else bool(mixup)
    share = jnp.where(blends, blended, outside.mean())
    weight = jnp.where(blends, blended, outside)[..., None]
    return Mixed(weight * images + (1 - weight) * images[::-1], labels[::-1], share)


def outside_box(key: jax.Array, height: int, width: int, alpha: float) -> jax.Array:
    """`[H, W]`, 0 in a random box and 1 around it; the box has the shape of the picture."""
    area, down, right = jax.random.split(key, 3)
    side = jnp.sqrt(1 - jax.random.beta(area, alpha, alpha))
    rows = _inside(jax.random.randint(down, (), 0, height), side, height)
    columns = _inside(jax.random.randint(right, (), 0, width), side, width)
    return 1.0 - (rows[:, None] & columns)


def _inside(centre: jax.Array, side: jax.Array, length: int) -> jax.Array:
    """Which of `length` pixels lie in an interval of `side * length` about `centre`."""
    half = (side * length).astype(jnp.int32) // 2
    pixels = jnp.arange(length)
    return (centre - half <= pixels) & (pixels < centre + half)
