"""FAB, the Fast Adaptive Boundary attack (Croce & Hein, 2020): the smallest perturbation that fools.

Every step takes the network for linear, finds the nearest hyperplane on which the label ties with a rival,
and moves onto it and a little beyond; a pull towards the clean image, and a step back from each adversarial,
keep the perturbation small. FAB-T looks at one rival at a time: one gradient instead of one per class.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import register_dataclass
from jax.typing import ArrayLike

from topgap_jax.attacks import base, checks, hyperplane, networks, survivors
from topgap_jax.attacks.base import AttackResult, Examples, Judgement, Progress
from topgap_jax.attacks.journal import AttackLog
from topgap_jax.attacks.threat_models import NORMS

DUAL_ORDERS = {"linf": 1, "l2": 2, "l1": np.inf}
# Random starts lie in half a ball of this radius where no eps is given, as in the reference.
START_EPS = {"linf": 0.3, "l2": 1.0, "l1": 5.0}
CLASSES_PER_PASS = 10  # gradients held at once


class State(NamedTuple):
    """FAB's own state."""

    images: jax.Array  # [B,H,W,C], the current iterate
    passes: jax.Array  # int32 [B], steps taken so far
    progress: Progress


class Boundary(NamedTuple):
    """Where two classes tie if the network is linear: `{x : gap + normal.(x - iterate) = 0}`."""

    normal: jax.Array  # [B,n], gradient of the rival's logit minus that of the class it runs against
    gap: jax.Array  # [B], this difference of logits at the iterate
    distance: jax.Array  # [B], from the iterate, without the box


@register_dataclass
@dataclasses.dataclass(frozen=True)
class FastAdaptiveBoundary:
    """A step is one pass with gradients at the iterate, and one without at the next; see `base.Attack`.

    With d and d0 the moves from x and from the clean x0 to the nearest boundary, within the box:

        x <- clip((1 - a) (x + eta d) + a (x0 + eta d0)),  a = min(|d| / (|d| + |d0|), alpha_max)
        x <- x0 + beta (x - x0)  where x is adversarial

    An example is done at the first adversarial within eps, or after `steps`. Among the adversarials within
    eps the nearest one is kept. Attempts 0, restarts, 2 restarts, ... start at the clean image.
    """

    eps: float  # infinite: look for the smallest perturbation, and take all steps
    start_eps: float
    steps: int
    restarts: int
    alpha_max: float
    eta: float
    beta: float
    key: jax.Array
    norm: str = dataclasses.field(metadata={"static": True})
    targeted: bool = dataclasses.field(metadata={"static": True})  # only the boundary to the target
    reach: bool = dataclasses.field(metadata={"static": True})  # the target, not just any other class

    def init(self, examples: Examples) -> State:
        images = examples.images
        if self.restarts > 1:
            images = _start(self, examples)
        return State(images, jnp.zeros_like(examples.labels), base.start_progress(examples))

    def step(self, logits_fn: networks.LogitsFn, examples: Examples, state: State) -> State:
        logits, boundary = self._boundary(logits_fn, state.images, examples)
        judgement, _ = self._judge(logits, state.images, examples)
        # The start is always kept: it is in the ball, and its prediction is known.
        progress = base.record(state.progress, state.images, judgement, keep_best=state.passes > 0)
        images = self._move(state.images, examples.images, boundary)
        judgement, fooled = self._judge(networks.another_draw(logits_fn, 1)(images), images, examples)
        progress = base.record(progress, images, judgement, keep_best=True)
        backward = examples.images + self.beta * (images - examples.images)
        passes = state.passes + 1
        enough = jnp.isfinite(self.eps) & progress.success | (progress.loss == 0)
        progress = progress._replace(done=enough | (passes >= self.steps))
        return State(base.select(fooled, backward, images), passes, progress)

    def conclude(self, logits_fn: networks.LogitsFn, examples: Examples, state: State) -> Progress:
        return state.progress

    def _judge(self, logits: jax.Array, images: jax.Array, examples: Examples) -> tuple[Judgement, jax.Array]:
        """A success is within eps, and its loss minus the distance; also, what fools at any distance."""
        margin, predictions, fooled = base.judge(logits, examples, "margin", self.reach)
        distance = _lengths(images - examples.images, NORMS[self.norm].order)
        success = fooled & (distance <= self.eps)
        loss = jnp.where(jnp.isnan(margin), jnp.nan, jnp.where(success, -distance, -jnp.inf))
        return Judgement(loss, predictions, success), fooled

    def _boundary(
        self, logits_fn: networks.LogitsFn, images: jax.Array, examples: Examples
    ) -> tuple[jax.Array, Boundary]:
        """The logits, and the nearest boundary of those that the attack looks at."""
        logits, pull_back = jax.vjp(logits_fn, images)
        rivals, against = self._rivals(logits, examples)

        def boundaries(rivals: jax.Array) -> Boundary:
            rises = jax.nn.one_hot(rivals, logits.shape[-1]) - jax.nn.one_hot(against, logits.shape[-1])
            (normals,) = jax.vmap(pull_back)(rises)
            gaps = _pick(logits, rivals) - _pick(logits, against[None])
            normals = normals.reshape(*rivals.shape, -1)
            lengths = jnp.linalg.norm(normals, DUAL_ORDERS[self.norm], axis=-1)
            return Boundary(normals, gaps, jnp.abs(gaps) / (lengths + 1e-12))

        groups = [rivals[i : i + CLASSES_PER_PASS] for i in range(0, len(rivals), CLASSES_PER_PASS)]
        nearest = _nearest(boundaries(groups[0]))
        for group in groups[1:]:
            found = _nearest(boundaries(group))
            nearest = base.select(found.distance < nearest.distance, found, nearest)
        return logits, nearest

    def _rivals(self, logits: jax.Array, examples: Examples) -> tuple[jax.Array, jax.Array]:
        """Classes that could win [R,B], and the one that they have to pass [B]."""
        if self.reach:  # whichever class is in the target's way
            chosen = jax.nn.one_hot(examples.targets, logits.shape[-1], dtype=bool)
            return examples.targets[None], jnp.where(chosen, -jnp.inf, logits).argmax(-1)
        if self.targeted:
            return examples.targets[None], examples.labels
        others = jnp.arange(1, logits.shape[-1])[:, None]
        return (examples.labels + others) % logits.shape[-1], examples.labels

    def _move(self, images: jax.Array, clean: jax.Array, boundary: Boundary) -> jax.Array:
        """Beyond the boundary, from the iterate and with weight a from the clean image."""
        points = jnp.stack([images, clean]).reshape(2, len(images), -1)
        offset = (boundary.normal * (points[1] - points[0])).sum(-1)
        gaps = boundary.gap + jnp.stack([jnp.zeros_like(offset), offset])
        moves = hyperplane.project(points, boundary.normal, gaps, self.norm)
        lengths = jnp.maximum(jnp.linalg.norm(moves, NORMS[self.norm].order, axis=-1), 1e-8)
        share = jnp.minimum(lengths[0] / lengths.sum(0), self.alpha_max)[:, None]
        beyond = points + self.eta * moves
        return jnp.clip((1 - share) * beyond[0] + share * beyond[1], 0, 1).reshape(images.shape)


def _lengths(perturbations: jax.Array, order: float) -> jax.Array:
    return jnp.linalg.norm(perturbations.reshape(len(perturbations), -1), order, axis=-1)


def _pick(logits: jax.Array, classes: jax.Array) -> jax.Array:
    """Logits [B,K] at classes [R,B]."""
    return jnp.take_along_axis(logits, classes.T, axis=-1).T


def _nearest(boundaries: Boundary) -> Boundary:
    """One of several per example: all fields have a further leading axis."""
    choice = boundaries.distance.argmin(0)[None]

    def leaf(field: jax.Array) -> jax.Array:
        return jnp.take_along_axis(field, choice.reshape(choice.shape + (1,) * (field.ndim - 2)), axis=0)[0]

    return jax.tree.map(leaf, boundaries)


# Its own program: the generator compiles slowly.
@jax.jit
def _start(attack: FastAdaptiveBoundary, examples: Examples) -> jax.Array:
    """The clean image in the first attempt (at each target), else a random one at `start_eps / 2` from it."""
    norm = NORMS[attack.norm]

    def direction(index: jax.Array, attempt: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.fold_in(attack.key, index), attempt)
        inside = norm.sample(key, examples.images.shape[1:])
        return inside / jnp.linalg.norm(inside.ravel(), norm.order)

    directions = jax.vmap(direction)(examples.indices, examples.attempts)
    away = jnp.clip(examples.images + attack.start_eps / 2 * directions, 0, 1)
    return base.select(examples.attempts % attack.restarts == 0, examples.images, away)


def fab(
    logits_fn: Any,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    eps: float | None = None,
    norm: str = "linf",
    targeted: bool = False,
    num_targets: int = 9,
    steps: int = 100,
    restarts: int = 1,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
    targets: ArrayLike | None = None,
    indices: ArrayLike | None = None,
    batch_size: int = 64,
    key: jax.Array | int = 0,
    log: AttackLog | None = None,
) -> AttackResult:
    """Walks along the decision boundary towards the clean image: `min |x' - x|` with x' adversarial.

    Args:
      logits_fn: a classifier, see `networks.logits_fn`.
      images: [B,H,W,C] float in [0, 1].
      labels: the true classes, integers [B] in 0..K-1.
      eps: radius of the ball, in units of the image range: an example is done at its first adversarial within
        it. Default: all steps and attempts are made, and the nearest adversarial at any distance is kept.
      norm: "linf", "l2" or "l1".
      targeted: FAB-T, one attempt per likely class, along the boundary with that class. Else every step takes
        the gradients of all classes, whose cost grows with their number.
      num_targets: of FAB-T; at most K - 1.
      steps: per attempt, at least 1; each is a pass with gradients and one without.
      restarts: attempts (per target), the first from the clean image, others from random images at eps / 2
        from it (without eps: 0.15, 0.5, 2.5 in Linf, L2, L1).
      alpha_max: most weight of the clean image's own move, in [0, 1].
      eta: how far to go beyond the boundary; 1 is onto it.
      beta: the step back from an adversarial, in (0, 1]; 1 is none.
      targets: classes to reach, integers [B]; default: miss the label. Takes the place of `targeted`.
      indices: where each image stands in its data set, integers [B], default 0..B-1; they choose the random
        starts.
      batch_size: most images in one pass through the network.
      key: a JAX key, or a seed.
      log: where attempts are written, and read from after a restart of the process.

    Returns:
      An `AttackResult`; its `config` has every setting, its loss is minus the distance of an adversarial
      (-inf: none was found), and its images are adversarial or a start inside the ball.

    Raises:
      ValueError: input that cannot be meant, before any work; NaN logits.

    Croce & Hein, 2020, "Minimally Distorted Adversarial Examples with a Fast Adaptive Boundary Attack";
    the version in AutoAttack, without the paper's final search. The iterates are the same, but all of them
    are judged, also those after a step back.
    """
    checks.check_counts(steps=steps, restarts=restarts, num_targets=num_targets)
    _check_shares(alpha_max, eta, beta)
    network, examples = base.prepare(
        logits_fn,
        images,
        labels,
        norm=norm,
        eps=eps,
        targets=targets,
        indices=indices,
        batch_size=batch_size,
    )
    attempts, reach = restarts, targets is not None
    if targeted and not reach:
        likeliest = networks.likeliest_targets(
            network, examples.images, np.asarray(examples.labels), num_targets, batch_size=batch_size
        )
        examples = examples._replace(targets=np.repeat(likeliest, restarts, axis=1))  # type: ignore[arg-type]
        attempts = examples.targets.shape[1]
    attack = FastAdaptiveBoundary(
        eps=np.inf if eps is None else float(eps),
        start_eps=START_EPS[norm] if eps is None else float(eps),
        steps=int(steps),
        restarts=int(restarts),
        alpha_max=float(alpha_max),
        eta=float(eta),
        beta=float(beta),
        key=networks.as_key(key),
        norm=norm,
        targeted=bool(targeted) or reach,
        reach=reach,
    )
    return survivors.run(
        "fab",
        attack,
        network,
        examples,
        norm=norm,
        attempts=attempts,
        all_attempts=eps is None,
        batch_size=batch_size,
        log=log,
        eps=eps,
        num_targets=attempts // restarts if targeted and not reach else 1,
    )


def _check_shares(alpha_max: float, eta: float, beta: float) -> None:
    if not 0 <= alpha_max <= 1:
        raise ValueError(f"alpha_max={alpha_max} must lie in [0, 1]")
    if not eta >= 1:
        raise ValueError(f"eta={eta} must be at least 1, or the boundary is never crossed")
    if not 0 < beta <= 1:
        raise ValueError(f"beta={beta} must lie in (0, 1]")
