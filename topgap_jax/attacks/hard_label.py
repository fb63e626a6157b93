"""RayS (Chen & Gu, 2020): a hard-label black-box attack in Linf; it sees predictions only, no logits.

It looks for the sign vector in whose direction the decision boundary is nearest, and flips the signs of ever
smaller blocks of pixels. A flip is first tried at the smallest radius so far; only if that image is still
adversarial does a bisection find the new, smaller radius.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import register_dataclass
from jax.typing import ArrayLike

from topgap_jax.attacks import base, checks, networks, survivors
from topgap_jax.attacks.base import AttackResult, Examples, Progress
from topgap_jax.attacks.journal import AttackLog


class State(NamedTuple):
    """The best direction, the block that is being flipped, and whether a bisection is under way."""

    signs: jax.Array  # int8 [B,H,W,C], the best direction
    radius: jax.Array  # float32 [B], where it is adversarial; infinite while no direction is
    level: jax.Array  # int32 [B], the image is cut into 2^level blocks
    start: jax.Array  # int32 [B], the first entry of the block
    bisecting: jax.Array  # bool [B], else the block is to be flipped
    low: jax.Array  # float32 [B], where the best direction is not adversarial, as far as the bisection knows
    progress: Progress


@register_dataclass
@dataclasses.dataclass(frozen=True)
class RayS:
    """Search over sign vectors; see `base.Attack`. One query a step, the first one with the clean image.

    An example is done when its radius is at most eps, or after `queries`.
    """

    eps: float
    queries: int
    tolerance: float
    targeted: bool = dataclasses.field(metadata={"static": True})

    def init(self, examples: Examples) -> State:
        count = len(examples.labels)
        return State(
            signs=jnp.ones_like(examples.images, jnp.int8),
            radius=jnp.full(count, jnp.inf, jnp.float32),
            level=jnp.zeros(count, jnp.int32),
            start=jnp.zeros(count, jnp.int32),
            bisecting=jnp.zeros(count, bool),
            low=jnp.zeros(count, jnp.float32),
            progress=base.start_progress(examples),
        )

    def step(self, logits_fn: networks.LogitsFn, examples: Examples, state: State) -> State:
        clean = state.progress.queries == 0
        middle = (state.low + state.radius) / 2
        tried = jnp.where(state.bisecting, middle, jnp.minimum(state.radius, 1))
        tried = jnp.where(clean, 0, tried)
        signs = base.select(state.bisecting, state.signs, _flip_block(state))
        images = jnp.clip(examples.images + tried[:, None, None, None] * signs, 0, 1)
        logits = logits_fn(images)
        judgement = base.judge(logits, examples, "margin", self.targeted)
        fooled = judgement.success

        radius = jnp.where(fooled, tried, state.radius)
        low = jnp.where(state.bisecting, jnp.where(fooled, state.low, tried), 0)
        bisecting = (state.bisecting | fooled) & ~clean & (radius - low > self.tolerance)
        level, start = base.select(bisecting | clean, (state.level, state.start), _next_block(state))
        return State(
            signs=base.select(fooled, signs, state.signs),
            radius=radius,
            level=level,
            start=start,
            bisecting=bisecting,
            low=low,
            progress=self._record(state.progress, images, logits, judgement, radius),
        )

    def _record(
        self,
        progress: Progress,
        images: jax.Array,
        logits: jax.Array,
        judgement: base.Judgement,
        radius: jax.Array,
    ) -> Progress:
        """The clean image, until there is an adversarial one in the ball."""
        success = judgement.success & (radius <= self.eps)
        first, queries = progress.queries == 0, progress.queries + 1
        seen = progress._replace(images=images, predictions=judgement.predictions, success=success)
        # NaN logits predict some class; the loss tells the host.
        loss = jnp.where(jnp.isnan(logits).any(-1), jnp.nan, -radius)
        kept = base.select(first | success, seen, progress)
        return kept._replace(loss=loss, queries=queries, done=success | (queries >= self.queries))

    def conclude(self, logits_fn: networks.LogitsFn, examples: Examples, state: State) -> Progress:
        return state.progress


def _block_size(level: jax.Array, entries: int) -> jax.Array:
    """ceil(entries / 2^level)"""
    return (entries + (1 << level) - 1) >> level


def _flip_block(state: State) -> jax.Array:
    """The best direction with the block's signs turned; blocks run channel by channel, in each row by row."""
    height, width, channels = state.signs.shape[1:]
    places = np.arange(channels * height * width).reshape(channels, height, width).transpose(1, 2, 0)
    start, size = (
        field[:, None, None, None] for field in (state.start, _block_size(state.level, places.size))
    )
    return jnp.where((places >= start) & (places < start + size), -state.signs, state.signs)


def _next_block(state: State) -> tuple[jax.Array, jax.Array]:
    """Level and start of the next block; after the last one they are half as large, down to one entry."""
    entries = state.signs[0].size
    start = state.start + _block_size(state.level, entries)
    finer = jnp.minimum(state.level + 1, (entries - 1).bit_length())
    return jnp.where(start >= entries, finer, state.level), jnp.where(start >= entries, 0, start)


def rays(
    logits_fn: Any,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    eps: float,
    queries: int = 1000,
    tolerance: float | None = None,
    targets: ArrayLike | None = None,
    indices: ArrayLike | None = None,
    batch_size: int = 64,
    key: jax.Array | int = 0,
    log: AttackLog | None = None,
) -> AttackResult:
    """The nearest decision boundary along sign vectors: `min over s of min { r : f(clip(x + r * s)) != y }`.

    Only the predicted class is used: logits that are one-hot, rounded or shifted change nothing. The search
    is deterministic.

    Args:
      logits_fn: a classifier, see `networks.logits_fn`.
      images: [B,H,W,C] float in [0, 1].
      labels: the true classes, integers [B] in 0..K-1.
      eps: radius of the Linf ball, in units of the image range, for instance 8/255.
      queries: passes through the network per image, the clean one included, at least 1; the paper has 10,000.
      tolerance: where a bisection ends, in units of the image range; default: `1e-3 / sqrt(HWC)`.
      targets: classes to reach, integers [B]; default: miss the label. Only the target itself then counts, so
        the search cannot begin before a direction of whole blocks leads there: usually weak.
      indices: where each image stands in its data set, integers [B]; matters to a randomised network only.
      key: taken as by every attack, and recorded; the search does not use it.
      batch_size: most images in one pass through the network.
      log: where finished attempts are written, see `journal`.

    Returns:
      An `AttackResult`: `loss` is minus the smallest radius found, whether or not it is within eps (minus
      infinity: none); `images` are clean where there was no success. `config` has every setting.

    Raises:
      ValueError: input that cannot be meant, before any work; NaN logits.

    Chen & Gu, 2020, "RayS: A Ray Searching Method for Hard-label Adversarial Attack", algorithms 1 to 3.
    """
    checks.check_counts(queries=queries)
    network, examples = base.prepare(
        logits_fn,
        images,
        labels,
        norm="linf",
        eps=eps,
        targets=targets,
        indices=indices,
        batch_size=batch_size,
    )
    if tolerance is None:
        tolerance = 1e-3 / float(np.sqrt(examples.images[0].size))
    if not tolerance > 0:
        raise ValueError(f"tolerance={tolerance} must be positive")
    attack = RayS(
        eps=float(eps), queries=int(queries), tolerance=float(tolerance), targeted=targets is not None
    )
    key_data = survivors.as_json(networks.as_key(key))
    return survivors.run(
        "rays", attack, network, examples, norm="linf", batch_size=batch_size, log=log, key=key_data
    )
