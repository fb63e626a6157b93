"""APGD (Croce & Hein, 2020): PGD that chooses its own step sizes, in the Linf, L2 and L1 balls.

In Linf and L2 the step starts at 2 eps and has momentum; at checkpoints that draw nearer and nearer, it is
halved where the loss rose too seldom, and the attack goes on from its best point. In L1 (Croce & Hein, 2021)
the steps are sparse, as sparse as the best perturbation so far, and the attack may begin in larger balls.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import register_dataclass
from jax.typing import ArrayLike

from topgap_jax.attacks import base, checks, losses, networks, survivors, threat_models
from topgap_jax.attacks.base import AttackResult, Examples, Progress
from topgap_jax.attacks.journal import AttackLog

MOMENTUM = 0.75
# What replaces a loss where the network has fewer classes than it needs.
FEW_CLASSES = {"dlr": (3, "margin"), "dlr-targeted": (4, "margin-targeted")}


class Phase(NamedTuple):
    """A part of the attack in one ball; as arrays [B], each example's own."""

    eps: Any
    steps: Any
    window: Any  # steps to the first checkpoint
    shrink: Any  # by so much every window is shorter than the one before
    shortest: Any  # window


class Halving(NamedTuple):
    """What decides about the step size in Linf and L2, arrays [B]."""

    window: jax.Array  # int32, steps between the last checkpoint and the next
    elapsed: jax.Array  # int32, steps since the last checkpoint
    rises: jax.Array  # int32, how many of them raised the loss
    last_loss: jax.Array
    checked_loss: jax.Array  # the highest loss at the last checkpoint
    halved: jax.Array  # bool, at the last checkpoint


class Sparsity(NamedTuple):
    """What decides about the step in L1, arrays [B]."""

    elapsed: jax.Array  # int32, steps since the last checkpoint
    support: jax.Array  # float32, values that the best perturbation changed at the last checkpoint
    share: jax.Array  # of the values that a step changes


class Draws(NamedTuple):
    """Sums over a randomised network's answers to the current iterate."""

    gradient: jax.Array  # [B,H,W,C]
    loss: jax.Array  # [B]
    number: jax.Array  # int32 [B]


class State(NamedTuple):
    """APGD's own state; the best point and its loss are those of `progress`."""

    images: jax.Array  # [B,H,W,C], the current iterate, not yet seen by the network
    previous: jax.Array | None  # [B,H,W,C], the iterate before; None in L1, which has no momentum
    best_gradient: jax.Array  # [B,H,W,C], at the best point
    step_size: jax.Array  # float32 [B]
    phase: jax.Array  # int32 [B]
    steps: jax.Array  # int32 [B], taken in this phase
    control: Halving | Sparsity
    draws: Draws | None  # None where one draw is enough
    progress: Progress


@register_dataclass
@dataclasses.dataclass(frozen=True)
class AutoPGD:
    """Algorithm 1 of Croce & Hein, 2020, and algorithm 1 of Croce & Hein, 2021; see `base.Attack`.

    The network sees every iterate, the start and the last one included. Only the last phase is in the ball
    that counts: no example succeeds before.
    """

    phases: tuple[Phase, ...]
    rho: float
    key: jax.Array
    eot: int = dataclasses.field(metadata={"static": True})
    norm: str = dataclasses.field(metadata={"static": True})
    loss: str = dataclasses.field(metadata={"static": True})
    targeted: bool = dataclasses.field(metadata={"static": True})

    def init(self, examples: Examples) -> State:
        return _begin(self, examples, random_start(self.key, examples, self.phases[0].eps, norm=self.norm))

    def step(self, logits_fn: networks.LogitsFn, examples: Examples, state: State) -> State:
        def total_loss(images: jax.Array) -> tuple[jax.Array, base.Judgement]:
            judgement = base.judge(logits_fn(images), examples, self.loss, self.targeted)
            return judgement.loss.sum(), judgement

        gradient, judgement = jax.grad(total_loss, has_aux=True)(state.images)
        if state.draws is None:
            return self._move(examples, state, gradient, judgement)
        draws = jax.tree.map(jnp.add, state.draws, Draws(gradient, judgement.loss, jnp.int32(1)))
        queries = state.progress.queries + 1
        again = state._replace(draws=draws, progress=state.progress._replace(queries=queries))
        cleared = state._replace(draws=jax.tree.map(jnp.zeros_like, draws))
        mean = judgement._replace(loss=draws.loss / self.eot)
        moved = self._move(examples, cleared, draws.gradient / self.eot, mean)
        return base.select(draws.number == self.eot, moved, again)

    def conclude(self, logits_fn: networks.LogitsFn, examples: Examples, state: State) -> Progress:
        return state.progress

    def _move(
        self, examples: Examples, state: State, gradient: jax.Array, judgement: base.Judgement
    ) -> State:
        """Keeps the best point, adapts the step size, takes a step."""
        phase, last_phase = self.phase_of(state.phase), state.phase == len(self.phases) - 1
        judgement = judgement._replace(success=judgement.success & last_phase)
        first, over = state.steps == 0, state.steps >= phase.steps
        improved = first | (judgement.loss > state.progress.loss)
        best_gradient = base.select(improved, gradient, state.best_gradient)
        progress = base.record(state.progress, state.images, judgement, keep_best=~first)
        state = state._replace(
            best_gradient=best_gradient,
            progress=progress._replace(done=progress.success | (over & last_phase)),
        )
        if isinstance(state.control, Sparsity):
            state, restart = _sparsify(state, state.control, phase, examples.images, len(self.phases) > 1)
        else:
            state, restart = _halve(state, state.control, phase, self.rho, judgement.loss)
        images, gradient = base.select(restart, (progress.images, best_gradient), (state.images, gradient))
        state = state._replace(steps=state.steps + 1)
        if state.previous is None:
            return self._sparse_step(examples.images, state, images, gradient, over & ~last_phase)
        momentum = _wide(jnp.where(first, 1, MOMENTUM))
        eps, norm = _wide(phase.eps), threat_models.NORMS[self.norm]
        ahead = images + _wide(state.step_size) * norm.steepest(gradient)
        ahead = threat_models.project(ahead, examples.images, eps, self.norm)
        moved = images + momentum * (ahead - images) + (1 - momentum) * (images - state.previous)
        moved = threat_models.project(moved, examples.images, eps, self.norm)
        return state._replace(images=moved, previous=images)

    def _sparse_step(
        self, clean: jax.Array, state: State, images: jax.Array, gradient: jax.Array, over: jax.Array
    ) -> State:
        """A step in L1; or, where a phase is over, the best point brought into the next ball."""
        assert isinstance(state.control, Sparsity)
        phase = state.phase + over
        eps = self.phase_of(phase).eps
        moved = images + _wide(state.step_size) * threat_models.sparse_steepest(gradient, state.control.share)
        moved = base.select(over, state.progress.images, moved)
        return state._replace(
            images=threat_models.project(moved, clean, _wide(eps), "l1"),
            step_size=jnp.where(over, eps, state.step_size),
            phase=phase,
            steps=jnp.where(over, 0, state.steps),
            control=state.control._replace(elapsed=jnp.where(over, 0, state.control.elapsed)),
        )

    def phase_of(self, number: jax.Array) -> Phase:
        """The phases with these numbers [B]."""
        return jax.tree.map(lambda *values: jnp.stack(values)[number], *self.phases)


def _wide(values: jax.Array) -> jax.Array:
    return values[:, None, None, None]


@jax.jit
def _begin(attack: AutoPGD, examples: Examples, start: jax.Array) -> State:
    number = jnp.zeros_like(examples.labels)
    phase, nothing = attack.phase_of(number), jnp.zeros(len(number), jnp.float32)
    sparse = attack.norm == "l1"
    control: Halving | Sparsity = Halving(phase.window, number, number, nothing, nothing, number == 0)
    if sparse:
        control = Sparsity(number, nothing + start[0].size, nothing + 0.2)
    return State(
        images=start,
        previous=None if sparse else start,
        best_gradient=jnp.zeros_like(start),
        step_size=phase.eps if sparse else 2 * phase.eps,
        phase=number,
        steps=number,
        control=control,
        draws=None if attack.eot == 1 else Draws(jnp.zeros_like(start), nothing, number),
        progress=base.start_progress(examples),
    )


# Its own program, as `threat_models.random_start`.
@functools.partial(jax.jit, static_argnames="norm")
def random_start(key: jax.Array, examples: Examples, eps: jax.Array | float, norm: str) -> jax.Array:
    """Noise stretched to the ball's surface, clipped to [0, 1]; in L1 projected onto ball and box.

    Args:
      key: of the attack; see `threat_models.random_start`.
      examples: with their clean images.
      eps, norm: the ball.
    """
    clean = examples.images

    def noise_of(index: jax.Array, attempt: jax.Array) -> jax.Array:
        example_key = jax.random.fold_in(jax.random.fold_in(key, index), attempt)
        if norm == "linf":
            return jax.random.uniform(example_key, clean.shape[1:], minval=-1.0)
        return jax.random.normal(example_key, clean.shape[1:])

    noise = jax.vmap(noise_of)(examples.indices, examples.attempts)
    if norm == "l1":
        return threat_models.project(clean + noise, clean, eps, norm)
    length = threat_models.lengths(noise, threat_models.NORMS[norm].order)
    return jnp.clip(clean + eps * noise / length, 0, 1)


# --- Step sizes -------------------------------------------------------------------------------------------


def _halve(
    state: State, control: Halving, phase: Phase, rho: jax.Array | float, loss: jax.Array
) -> tuple[State, jax.Array]:
    """Halves the step size at checkpoints that it does not pass; there, bool [B], restart from the best.

    It fails them where the loss rose in no more than a share rho of the steps; or where neither the best loss
    nor the step size has changed since the last checkpoint (Croce & Hein, 2020, section 3.2).
    """
    first, best_loss = state.steps == 0, state.progress.loss
    elapsed = control.elapsed + ~first
    rises = control.rises + (~first & (loss > control.last_loss))
    check = elapsed == control.window
    stuck = ~control.halved & (control.checked_loss >= best_loss)
    halve = check & ((rises <= rho * control.window) | stuck)
    checked = Halving(
        window=jnp.maximum(control.window - phase.shrink, phase.shortest),
        elapsed=jnp.zeros_like(elapsed),
        rises=jnp.zeros_like(rises),
        last_loss=loss,
        checked_loss=best_loss,
        halved=halve,
    )
    # The reference compares the loss after the first step with 0, and not with that of the start.
    last_loss = jnp.where(first, 0, loss)
    control = control._replace(elapsed=elapsed, rises=rises, last_loss=last_loss)
    step_size = jnp.where(halve, state.step_size / 2, state.step_size)
    return state._replace(control=base.select(check, checked, control), step_size=step_size), halve


def _sparsify(
    state: State, control: Sparsity, phase: Phase, clean: jax.Array, from_start: bool
) -> tuple[State, jax.Array]:
    """Steps follow the support of the best point; where it shrank by 5%, bool [B], restart from the best.

    There the step size is eps again, elsewhere it shrinks, down to eps / 10 (Croce & Hein, 2021, 4.1).
    With `from_start`, the start of a phase says how sparse its first steps are.
    """
    first = state.steps == 0
    elapsed = control.elapsed + ~first
    check = elapsed == phase.window
    support = (state.progress.images != clean).sum((1, 2, 3)).astype(jnp.float32)
    sparser = check & (support < 0.95 * control.support)
    smaller = jnp.clip(state.step_size / 1.5, phase.eps / 10, phase.eps)
    step_size = jnp.where(check, jnp.where(sparser, phase.eps, smaller), state.step_size)
    share = support / clean[0].size / 1.5
    checked = Sparsity(jnp.zeros_like(elapsed), support, share)
    control = base.select(check | (first & from_start), checked, control._replace(elapsed=elapsed))
    return state._replace(control=control, step_size=step_size), sparser


# --- The attack -------------------------------------------------------------------------------------------


def apgd(
    logits_fn: Any,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    eps: float,
    norm: str = "linf",
    loss: str = "ce",
    steps: int = 100,
    restarts: int = 1,
    rho: float = 0.75,
    eot: int = 1,
    num_targets: int = 9,
    larger_eps: bool | None = None,
    targets: ArrayLike | None = None,
    indices: ArrayLike | None = None,
    batch_size: int = 64,
    key: jax.Array | int = 0,
    log: AttackLog | None = None,
) -> AttackResult:
    """Auto-PGD: gradient ascent with momentum and a step size that is halved where the loss rises too seldom.

    Args:
      logits_fn: a classifier, see `networks.logits_fn`.
      images: [B,H,W,C] float in [0, 1].
      labels: the true classes, integers [B] in 0..K-1.
      eps: radius of the ball, in units of the image range, for instance 8/255.
      norm: "linf", "l2" or "l1".
      loss: "ce", "margin" or "dlr"; or towards a target "ce-targeted", "margin-targeted" or "dlr-targeted".
        With too few classes, DLR gives way to the margin, see `config["loss_fallback"]`.
      steps: gradient steps per attempt, at least 1.
      restarts: attempts with new random starts (per target); only survivors get the next.
      rho: share of steps that must raise the loss, or else the step size is halved; in 0..1.
      eot: answers of a randomised network whose loss and gradient are averaged for one step; the last one
        decides about success.
      num_targets: attempts of the losses towards a target: the likeliest classes besides the label.
      larger_eps: begin with 30% of the steps in a ball of 3 eps and 30% in one of 2 eps; only in L1, where
        it is the default.
      targets: classes to reach, integers [B]; default: miss the label, whatever the loss.
      indices: where each image stands in its data set, integers [B], default 0..B-1; they choose the random
        starts.
      batch_size: most images in one pass through the network.
      key: a JAX key, or a seed.
      log: where finished attempts are written and read from, see `journal`.

    Returns:
      An `AttackResult`; its `config` has every setting.

    Raises:
      ValueError: input that cannot be meant, before any work; NaN logits.

    Croce & Hein, 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks"; in L1 Croce & Hein, 2021, "Mind the box: l1-APGD for sparse adversarial attacks
    on image classifiers".
    """
    checks.check_name(loss, "loss", (*losses.LOSSES, *losses.TARGETED_LOSSES))
    checks.check_counts(steps=steps, restarts=restarts, eot=eot, num_targets=num_targets)
    if not 0 <= rho <= 1:
        raise ValueError(f"rho={rho} is a share of the steps, from 0 to 1")
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
    larger_eps = norm == "l1" if larger_eps is None else bool(larger_eps)
    if larger_eps and norm != "l1":
        raise ValueError(f"larger_eps is for norm 'l1', not {norm!r}")
    fallback = _fallback(loss, network, examples.images)
    targeted = targets is not None
    if loss in losses.TARGETED_LOSSES and not targeted:
        likeliest: Any = networks.likeliest_targets(
            network, examples.images, np.asarray(examples.labels), num_targets, batch_size=batch_size
        )
        num_targets = likeliest.shape[1]
        likeliest = np.repeat(likeliest, restarts, axis=1)
        examples = examples._replace(targets=likeliest)
    else:
        num_targets = 1
    attack = AutoPGD(
        phases=schedule(float(eps), int(steps), norm, larger_eps=larger_eps),
        rho=float(rho),
        key=networks.as_key(key),
        eot=int(eot),
        norm=norm,
        loss=fallback or loss,
        targeted=targeted,
    )
    return survivors.run(
        "apgd",
        attack,
        network,
        examples,
        norm=norm,
        attempts=restarts * num_targets,
        batch_size=batch_size,
        log=log,
        loss=loss,
        loss_fallback=fallback,
        eps=float(eps),
        steps=int(steps),
        restarts=int(restarts),
        num_targets=int(num_targets),
        larger_eps=larger_eps,
    )


def schedule(eps: float, steps: int, norm: str, *, larger_eps: bool) -> tuple[Phase, ...]:
    """The balls and the checkpoints in them."""
    if not larger_eps:
        return (_phase(eps, steps, norm),)
    early = math.ceil(0.3 * steps)
    return (
        _phase(3 * eps, early, norm),
        _phase(2 * eps, early, norm),
        _phase(eps, max(steps - 2 * early, 0), norm),
    )


def _phase(eps: float, steps: int, norm: str) -> Phase:
    if norm == "l1":
        window = max(int(0.04 * steps), 1)
        return Phase(eps, steps, window, shrink=0, shortest=window)
    window, shrink, shortest = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    return Phase(eps, steps, window, shrink, shortest)


def _fallback(loss: str, network: networks.LogitsFn, images: jax.Array) -> str | None:
    """What replaces the loss where the network has too few classes for it."""
    least, instead = FEW_CLASSES.get(loss, (0, None))
    shape = jax.ShapeDtypeStruct(images[:1].shape, jnp.float32)
    return instead if networks.forward.eval_shape(network, shape).shape[-1] < least else None
