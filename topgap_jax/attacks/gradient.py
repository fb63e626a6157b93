"""FGSM (Goodfellow et al., 2015) and PGD (Madry et al., 2018) in the Linf and L2 balls.

`recipe="paper"` is what the paper ran with Foolbox: small steps, everyone takes all of them, and the last
iterate counts. `recipe="strong"` takes steps that cross the ball, and stops at the first adversarial iterate.
Both want to miss the true label. The paper then compares the predictions before and after
(`base.prediction_consistency`) and not with the label (`base.robust_accuracy`); report both.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial, register_dataclass
from jax.typing import ArrayLike

from topgap_jax.attacks import base, checks, losses, networks, survivors, threat_models
from topgap_jax.attacks.base import AttackResult, Examples, Progress
from topgap_jax.attacks.journal import AttackLog

RECIPES = ("strong", "paper")
# Foolbox 3.3.4's steps as a share of eps: LinfPGD takes 0.01 where eps is 0.3, L2PGD 0.025.
PAPER_STEP = {"linf": 0.01 / 0.3, "l2": 0.025}


class State(NamedTuple):
    """PGD's own state."""

    images: jax.Array  # [B,H,W,C], the current iterate, not yet seen by the network
    passes: jax.Array  # int32 [B], gradients taken so far
    progress: Progress


@register_dataclass
@dataclasses.dataclass(frozen=True)
class ProjectedGradient:
    """`x <- project(x + step_size * steepest(grad loss(x)))`, the step of FGSM and PGD; see `base.Attack`.

    With `keep_best` an example is done at its first success, and the network sees every iterate, the last
    one included: up to `steps + 1` passes. Without, it is done after `steps` passes, and a forward pass
    judges the last iterate. FGSM and both recipes of PGD are one program; norm, loss, targets compile anew.
    """

    eps: float
    step_size: float
    steps: int
    random_start: bool
    keep_best: bool
    key: jax.Array
    norm: str = dataclasses.field(metadata={"static": True})
    loss: str = dataclasses.field(metadata={"static": True})
    targeted: bool = dataclasses.field(metadata={"static": True})

    def init(self, examples: Examples) -> State:
        images = examples.images
        if self.random_start:
            images = threat_models.random_start(
                self.key, examples.indices, examples.attempts, images, self.eps, norm=self.norm
            )
        return State(images, jnp.zeros_like(examples.labels), base.start_progress(examples))

    def step(self, logits_fn: networks.LogitsFn, examples: Examples, state: State) -> State:
        def total_loss(images: jax.Array) -> tuple[jax.Array, base.Judgement]:
            judgement = base.judge(logits_fn(images), examples, self.loss, self.targeted)
            return judgement.loss.sum(), judgement

        gradient, judgement = jax.grad(total_loss, has_aux=True)(state.images)
        progress = base.record(state.progress, state.images, judgement, keep_best=self.keep_best)
        passes = state.passes + 1
        done = jnp.where(self.keep_best, progress.success | (passes > self.steps), passes >= self.steps)
        moved = state.images + self.step_size * threat_models.NORMS[self.norm].steepest(gradient)
        images = threat_models.project(moved, examples.images, self.eps, self.norm)
        return State(images, passes, progress._replace(done=done))

    def conclude(self, logits_fn: networks.LogitsFn, examples: Examples, state: State) -> Progress:
        if self.keep_best:
            return state.progress
        return _judge_last(self, networks.forward(logits_fn, state.images), examples, state)


@jax.jit
def _judge_last(attack: ProjectedGradient, logits: jax.Array, examples: Examples, state: State) -> Progress:
    judgement = base.judge(logits, examples, attack.loss, attack.targeted)
    return base.record(state.progress, state.images, judgement, keep_best=False)


def fgsm(
    logits_fn: Any,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    eps: float,
    norm: str = "linf",
    loss: str = "ce",
    targets: ArrayLike | None = None,
    batch_size: int = 64,
    indices: ArrayLike | None = None,
    key: jax.Array | int = 0,
    log: AttackLog | None = None,
) -> AttackResult:
    """One step of eps from the clean image: `project(x + eps * steepest(grad loss(x)))`, in Linf the sign.

    Args:
      logits_fn: a classifier, see `networks.logits_fn`.
      images: [B,H,W,C] float in [0, 1].
      labels: the true classes, integers [B] in 0..K-1.
      eps: radius of the ball, in units of the image range, for instance 8/255.
      norm: "linf" or "l2".
      loss: "ce", "margin" or "dlr", see `losses.LOSSES`.
      targets: classes to reach, integers [B]; default: miss the label.
      batch_size: images per pass through the network.
      indices, key, log: as `pgd` has them; the key only matters to a randomised network.

    Returns:
      An `AttackResult`; its `config` has every setting.

    Raises:
      ValueError: input that cannot be meant, before any work; NaN logits.

    Goodfellow et al., 2015, "Explaining and Harnessing Adversarial Examples", section 4.
    """
    _check_not_l1(norm)
    checks.check_name(loss, "loss", losses.LOSSES)
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
    attack = ProjectedGradient(
        eps=float(eps),
        step_size=float(eps),
        steps=1,
        random_start=False,
        keep_best=False,
        key=networks.as_key(key),
        norm=norm,
        loss=loss,
        targeted=targets is not None,
    )
    return _run("fgsm", attack, network, examples, restarts=1, batch_size=batch_size, log=log)


def pgd(
    logits_fn: Any,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    eps: float,
    steps: int = 20,
    step_size: float | None = None,
    norm: str = "linf",
    loss: str = "ce",
    recipe: str = "strong",
    random_start: bool = True,
    restarts: int = 1,
    targets: ArrayLike | None = None,
    indices: ArrayLike | None = None,
    batch_size: int = 64,
    key: jax.Array | int = 0,
    log: AttackLog | None = None,
) -> AttackResult:
    """Gradient ascent from a random start: `x <- project(x + step_size * steepest(grad loss(x)))`.

    Args:
      logits_fn: a classifier, see `networks.logits_fn`.
      images: [B,H,W,C] float in [0, 1].
      labels: the true classes, integers [B] in 0..K-1.
      eps: radius of the ball, in units of the image range, for instance 8/255.
      steps: gradient steps per restart, at least 1.
      step_size: in units of the image range; default: 2.5 * eps / steps ("strong"), or Foolbox's eps / 30 in
        Linf and eps / 40 in L2 ("paper"), whatever the number of steps.
      norm: "linf" or "l2".
      loss: "ce", "margin" or "dlr", see `losses.LOSSES`.
      recipe: "strong": the first adversarial iterate counts, else the one with the highest loss. "paper": the
        last iterate counts, whatever came before.
      random_start: start uniformly inside the ball, else at the clean image.
      restarts: attempts with new random starts; only survivors get the next.
      targets: classes to reach, integers [B]; default: miss the label.
      indices: where each image stands in its data set, integers [B], default 0..B-1. They choose the random
        starts, so that an image fares alike in whatever batch it comes.
      batch_size: most images in one pass through the network.
      key: a JAX key, or a seed.
      log: where finished attempts are written and read from, see `journal`.

    Returns:
      An `AttackResult`; its `config` has every setting.

    Raises:
      ValueError: input that cannot be meant, before any work; NaN logits.

    Madry et al., 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks", section 2.1; recipe
    "paper": Top-GAP, sections 4.3 and E.1.
    """
    checks.check_name(recipe, "recipe", RECIPES)
    _check_not_l1(norm)
    checks.check_name(loss, "loss", losses.LOSSES)
    checks.check_counts(steps=steps, restarts=restarts, batch_size=batch_size)
    if restarts > 1 and not random_start:
        raise ValueError(f"restarts={restarts} without random_start would repeat the same attempt")
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
    if step_size is None:
        step_size = 2.5 * eps / steps if recipe == "strong" else PAPER_STEP[norm] * eps
    if not step_size > 0:
        raise ValueError(f"step_size={step_size} must be positive")
    attack = ProjectedGradient(
        eps=float(eps),
        step_size=float(step_size),
        steps=int(steps),
        random_start=bool(random_start),
        keep_best=recipe == "strong",
        key=networks.as_key(key),
        norm=norm,
        loss=loss,
        targeted=targets is not None,
    )
    return _run(
        "pgd", attack, network, examples, restarts=restarts, batch_size=batch_size, log=log, recipe=recipe
    )


def _check_not_l1(norm: str) -> None:
    if norm == "l1":
        raise ValueError("norm 'l1': the steepest step would change a single value; use apgd, made for it")


def _run(
    name: str,
    attack: ProjectedGradient,
    network: Partial,
    examples: Examples,
    *,
    restarts: int,
    batch_size: int,
    log: AttackLog | None,
    **settings: Any,
) -> AttackResult:
    # Below 2, the attack may not even cross the ball.
    reach = attack.steps * attack.step_size / attack.eps
    return survivors.run(
        name,
        attack,
        network,
        examples,
        norm=attack.norm,
        attempts=restarts,
        batch_size=batch_size,
        log=log,
        restarts=restarts,
        reach=reach,
        **settings,
    )
