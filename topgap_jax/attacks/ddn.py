"""DDN (Rony et al., 2019): adversarial images at the smallest L2 distance, direction and norm decoupled."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import register_dataclass
from jax.typing import ArrayLike

from topgap_jax.attacks import base, checks, networks, survivors, threat_models
from topgap_jax.attacks.base import AttackResult, Examples, Judgement, Progress
from topgap_jax.attacks.journal import AttackLog
from topgap_jax.attacks.threat_models import lengths

FIRST_STEP, LAST_STEP = 1.0, 0.01  # L2 lengths, as in Foolbox; a cosine leads from one to the other


class State(NamedTuple):
    """DDN's own state."""

    images: jax.Array  # [B,H,W,C], the current iterate, not yet seen by the network
    radius: jax.Array  # float32 [B], of the sphere that the iterate was projected to
    passes: jax.Array  # int32 [B], gradients taken so far
    progress: Progress


@register_dataclass
@dataclasses.dataclass(frozen=True)
class DecoupledDirectionNorm:
    """A gradient step for the direction; the norm shrinks by gamma where the iterate fools, and else grows.

    An example is done after `steps` passes, or at an adversarial image within a finite `eps`. See
    `base.Attack`.
    """

    steps: int
    init_eps: float
    gamma: float
    eps: float  # a success is at most that far away; inf: anywhere
    key: jax.Array
    targeted: bool = dataclasses.field(metadata={"static": True})

    def init(self, examples: Examples) -> State:
        radius = jnp.full(len(examples.labels), self.init_eps, jnp.float32)
        return State(examples.images, radius, jnp.zeros_like(examples.labels), base.start_progress(examples))

    def step(self, logits_fn: networks.LogitsFn, examples: Examples, state: State) -> State:
        def total_loss(images: jax.Array) -> tuple[jax.Array, Judgement]:
            judgement = base.judge(logits_fn(images), examples, "ce", self.targeted)
            return judgement.loss.sum(), judgement

        gradient, judgement = jax.grad(total_loss, has_aux=True)(state.images)
        progress = self._record(examples, state, judgement)
        radius = state.radius * jnp.where(judgement.success, 1 - self.gamma, 1 + self.gamma)
        radius = jnp.minimum(radius, _farthest(examples.images))
        images = self._move(self._direction(gradient, examples, state), radius, examples, state)
        passes = state.passes + 1
        # At distance 0 nothing can improve: the label is missed without any perturbation.
        near_enough = jnp.where(jnp.isfinite(self.eps), self.eps, 0)
        done = (passes >= self.steps) | (progress.success & (-progress.loss <= near_enough))
        return State(images, radius, passes, progress._replace(done=done))

    def conclude(self, logits_fn: networks.LogitsFn, examples: Examples, state: State) -> Progress:
        return state.progress

    def _record(self, examples: Examples, state: State, judgement: Judgement) -> Progress:
        """Keeps the nearest adversarial image, the clean one until there is any."""
        distance = lengths(state.images - examples.images, 2).reshape(-1)
        loss = jnp.where(jnp.isnan(judgement.loss), jnp.nan, -distance)
        judgement = judgement._replace(loss=loss, success=judgement.success & (distance <= self.eps))
        return base.record(state.progress, state.images, judgement, keep_best=True)

    def _direction(self, gradient: jax.Array, examples: Examples, state: State) -> jax.Array:
        """The gradient at length 1, a random direction where it is zero."""

        def sample(*numbers: jax.Array) -> jax.Array:
            key = functools.reduce(jax.random.fold_in, numbers, self.key)
            return jax.random.normal(key, gradient.shape[1:])

        noise = jax.vmap(sample)(examples.indices, examples.attempts, state.passes)
        zero = lengths(gradient, jnp.inf) == 0
        return threat_models.NORMS["l2"].steepest(jnp.where(zero, noise, gradient))

    def _move(self, direction: jax.Array, radius: jax.Array, examples: Examples, state: State) -> jax.Array:
        """A step along the direction, scaled to the radius, then clipped to [0, 1]."""
        cosine = (1 + jnp.cos(jnp.pi * state.passes / self.steps)) / 2
        step_size = LAST_STEP + (FIRST_STEP - LAST_STEP) * cosine
        moved = state.images - examples.images + step_size.reshape(-1, 1, 1, 1) * direction
        scale = radius.reshape(-1, 1, 1, 1) / jnp.maximum(lengths(moved, 2), 1e-12)
        return jnp.clip(examples.images + scale * moved, 0, 1)


def _farthest(images: jax.Array) -> jax.Array:
    """L2 distance [B] of the farthest corner of [0, 1]: more than that no image can be away."""
    return lengths(jnp.maximum(images, 1 - images), 2).reshape(-1)


def ddn(
    logits_fn: Any,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    steps: int = 100,
    init_eps: float = 1.0,
    gamma: float = 0.05,
    eps: float | None = None,
    targets: ArrayLike | None = None,
    indices: ArrayLike | None = None,
    batch_size: int = 64,
    key: jax.Array | int = 0,
    log: AttackLog | None = None,
) -> AttackResult:
    r"""Looks for the nearest adversarial image in L2.

    .. math::
        \delta \leftarrow \delta + \alpha \frac{g}{\lVert g \rVert}, \quad
        \epsilon \leftarrow (1 \mp \gamma) \epsilon, \quad
        \delta \leftarrow \epsilon \frac{\delta}{\lVert \delta \rVert}

    with minus where the iterate fools the network, and :math:`\alpha` from 1 to 0.01 along a cosine.

    Args:
      logits_fn: a classifier, see `networks.logits_fn`.
      images: [B,H,W,C] float in [0, 1].
      labels: the true classes, integers [B] in 0..K-1.
      steps: gradients per example, at least 1.
      init_eps: the norm to start with, an L2 length in units of the image range.
      gamma: relative change of the norm per step, in (0, 1).
      eps: success is an adversarial image within this L2 ball, and the search for it ends there. Default:
        success is an adversarial image at any distance, and the search for a nearer one goes on.
      targets: classes to reach, integers [B]; default: miss the label.
      indices: where each image stands in its data set, integers [B], default 0..B-1.
      batch_size: most images in one pass through the network.
      key: a JAX key, or a seed; of the directions that replace a gradient of zero.
      log: where outcomes are written, and read from after a restart of the process.

    Returns:
      An `AttackResult` with the nearest adversarial images and `loss = -distance`. Without success, the
      image is the clean one. Its `config` has every setting.

    Raises:
      ValueError: input that cannot be meant, before any work; NaN logits.

    Rony et al., 2019, "Decoupling Direction and Norm for Efficient Gradient-Based L2 Adversarial Attacks and
    Defenses", algorithm 1; without its quantisation, like Foolbox.
    """
    checks.check_counts(steps=steps, batch_size=batch_size)
    if not init_eps > 0:
        raise ValueError(f"init_eps={init_eps} must be positive")
    if not 0 < gamma < 1:
        raise ValueError(f"gamma={gamma} must lie between 0 and 1")
    network, examples = base.prepare(
        logits_fn,
        images,
        labels,
        norm="l2",
        eps=eps,
        targets=targets,
        indices=indices,
        batch_size=batch_size,
    )
    attack = DecoupledDirectionNorm(
        steps=int(steps),
        init_eps=float(init_eps),
        gamma=float(gamma),
        eps=float("inf") if eps is None else float(eps),
        key=networks.as_key(key),
        targeted=targets is not None,
    )
    return survivors.run("ddn", attack, network, examples, norm="l2", batch_size=batch_size, log=log, eps=eps)
