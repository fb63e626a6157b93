"""Eighteen signs of gradient masking, each PASS or WARN with its raw figures and one plain sentence.

A network can look robust because attacks find no gradient to follow. These checks look for that from all
sides: what the evaluation says (`evaluation_checks`), how PGD behaves (`gradient_checks`), and what attacks
find that do not follow the network's own gradients (here).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from topgap_jax.attacks import base, checks, evaluation_checks, gradient_checks, networks
from topgap_jax.attacks.adaptive import adaptive
from topgap_jax.attacks.evidence import (
    SKIPPED,
    STRONG_STEP,
    STRONG_STEPS,
    Case,
    Diagnostic,
    Outcome,
    is_white_box,
    outcomes,
    verdict,
)
from topgap_jax.attacks.square import square
from topgap_jax.attacks.trajectories import Trajectory, ascend, in_float64

STEPS = (1, 2, 5, 10, 20, 50, 100)


# --- What attacks without our gradients find --------------------------------------------------------------

# Of the examples. AutoAttack's own flag for Square, see the reference implementation's checks.
SURPLUS = 0.002


def square_surplus(case: Case, given: Mapping[str, Outcome], right: np.ndarray, queries: int) -> Diagnostic:
    """10 Square sees no gradient, so it must not beat those that do by more than 0.2%."""
    known = [outcome.success for name, outcome in given.items() if "square" in name.lower()]
    white = [outcome.success for name, outcome in given.items() if is_white_box(name, given)]
    figures: dict[str, Any] = {"source": "evaluation"}
    if known and white:
        beaten = right & np.any(known, axis=0) & ~np.any(white, axis=0)
    else:
        figures = {"source": "diagnostics", "queries": queries}
        beaten = np.zeros(len(case.labels), bool)
        beaten[case.standing] = _attack(case, square, queries=queries)
    figures |= {"surplus": float(beaten.mean()), "fooled": int(beaten.sum()), "examples": len(beaten)}
    warn = figures["surplus"] > SURPLUS
    meaning = "gradients hide what a blind search finds" if warn else "gradients see at least as much"
    sentence = (
        f"Square fooled {beaten.sum()} of {len(beaten)} examples ({beaten.mean():.1%}) that every "
        f"attack with gradients left standing: {meaning}."
    )
    return Diagnostic(10, "Square against gradients", verdict(warn), figures, sentence)


def _attack(case: Case, attack: Callable[..., base.AttackResult], **settings: Any) -> np.ndarray:
    """Success of an attack on those that stand; bool, one per `case.standing`."""
    rows = case.standing
    if not len(rows):
        return np.zeros(0, bool)
    part = case.part(rows)
    network = settings.pop("network", case.network)
    success = attack(
        network,
        part.images,
        part.labels,
        eps=case.eps,
        norm=case.norm,
        indices=part.indices,
        batch_size=case.batch_size,
        key=case.key,
        **settings,
    ).success
    case.found[rows] |= success
    return success


def random_noise(case: Case, samples: int) -> Diagnostic:
    """11 A random point must not fool what gradients cannot (Athalye et al., 2018, section 3.1)."""
    rows = case.standing
    fooled = np.zeros(len(rows), bool)
    for drawn in case.noise(rows, samples if len(rows) else 0):
        predictions = networks.predict(case.network, jnp.asarray(drawn), batch_size=case.batch_size)
        fooled |= predictions != case.labels[rows]
    case.found[rows] |= fooled
    figures = {"standing": len(rows), "samples": samples, "fooled": int(fooled.sum())}
    meaning = "they stand only against attacks with gradients" if fooled.any() else "as it should be"
    sentence = (
        f"Of {len(rows)} that stand against gradients {fooled.sum()} fall to one of {samples} random points "
        f"of their ball: {meaning}."
    )
    return Diagnostic(11, "random noise", verdict(fooled.any()), figures, sentence)


def transfers(case: Case, twins: Mapping[str, Trajectory]) -> Diagnostic:
    """12 Adversarial images of another network must not fool what its own gradients cannot."""
    if not twins:
        sentence = "Neither a plain twin nor an adversarially trained one was given to transfer attacks from."
        return Diagnostic(12, "transfer", SKIPPED, {}, sentence)
    figures: dict[str, Any] = {"robust_accuracy": {}, "beats_white_box": {}}
    for name, trajectory in twins.items():
        images = jnp.asarray(trajectory.images)
        fooled = networks.predict(case.network, images, batch_size=case.batch_size) != case.labels
        case.found |= fooled
        figures["robust_accuracy"][name] = case.accuracy(fooled)
        figures["beats_white_box"][name] = float((fooled & ~case.white_box).mean())
    worst = max(figures["beats_white_box"], key=lambda name: figures["beats_white_box"][name])
    surplus = figures["beats_white_box"][worst]
    meaning = "its own gradients are masked" if surplus > SURPLUS else "its own gradients see more"
    sentence = (
        f"Adversarial images of the {worst} leave {figures['robust_accuracy'][worst]:.1%} standing and fool "
        f"{surplus:.1%} that the network's own gradients do not: {meaning}."
    )
    return Diagnostic(12, "transfer", verdict(surplus > SURPLUS), figures, sentence)


def adapted(case: Case, cam_network: Any, k: int | None) -> Diagnostic:
    """15 Attacks that know Top-GAP's pooling must not find more than those that do not."""
    if cam_network is None or k is None:
        sentence = "No network with a class activation map and its k was given to adapt an attack to."
        return Diagnostic(15, "adapted to Top-GAP", SKIPPED, {}, sentence)
    standing = len(case.standing)
    success = _attack(case, adaptive, network=cam_network, k=k, steps=STRONG_STEPS)
    surplus = float(success.sum() / len(case.labels))
    figures = {"standing": standing, "fooled": int(success.sum()), "surplus": surplus}
    warn = surplus > SURPLUS
    sentence = (
        f"Attacks adapted to the pooling fool {success.sum()} of {standing} that stand against gradients: "
        f"{'the top-k selection hides them' if warn else 'the selection hides nothing'}."
    )
    return Diagnostic(15, "adapted to Top-GAP", verdict(warn), figures, sentence)


# --- All of them ------------------------------------------------------------------------------------------


def expected_target_logit(l1: float, k: int, positions: int, classes: int) -> float:
    """`ln((K-1)(1-d)/d)` with `d = l1*k/(H*W*K)`: where cross-entropy and l1 of the CAM balance.

    Args:
      l1: weight of `mean |CAM|` in the loss.
      k: positions that are averaged.
      positions: H*W of the CAM.
      classes: K.
    """
    d = l1 * k / (positions * classes)
    if not 0 < d < 1:
        raise ValueError(f"l1*k/(H*W*K) = {d:g} must lie between 0 and 1")
    return math.log((classes - 1) * (1 - d) / d)


def diagnose(
    logits_fn: Any,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    eps: float,
    norm: str = "linf",
    attacks: Mapping[str, Any] | None = None,
    cam_network: Any = None,
    k: int | None = None,
    l1: float | None = None,
    plain_twin: Any = None,
    robust_twin: Any = None,
    controls: Mapping[str, Any] | None = None,
    float64_network: Callable[[Any], Any] | None = None,
    steps: tuple[int, ...] = STEPS,
    restarts: int = 5,
    queries: int = 1000,
    samples: int = 100,
    examples: int = 128,
    batch_size: int = 32,
    key: jax.Array | int = 0,
    log: Callable[[Diagnostic], None] | None = None,
) -> list[Diagnostic]:
    """Looks for gradient masking in eighteen ways.

    Args:
      logits_fn: a classifier, see `networks.logits_fn`.
      images: [B,H,W,C] float in [0, 1].
      labels: the true classes, integers [B] in 0..K-1.
      eps: radius of the ball, in units of the image range, for instance 8/255.
      norm: "linf" or "l2".
      attacks: the evaluation so far, by name: `AttackResult`s or an `AutoAttackResult` on these images, or
        predictions (integers) or successes (bool) [B]. Attacks without gradients need "square", "noise",
        "transfer" or the like in their name.
      cam_network: the model itself, if its output has `.logits` and `.cam`.
      k: positions of the CAM that it averages.
      l1: weight of the l1 loss in its training.
      plain_twin: the same network trained without defence.
      robust_twin: an adversarially trained network.
      controls: networks whose logits were squeezed as much in another way (label smoothing, an l2 penalty).
      float64_network: the network in double precision, called under `jax.enable_x64`; made from an
        `nnx.Module` if left out.
      steps: numbers of PGD steps on the curve, ascending.
      restarts: of PGD, in diagnostic 5.
      queries: of Square on those that stand, unless `attacks` has it.
      samples: random points per example that stands.
      examples: how many of the images are looked at, drawn at random; what `attacks` says is taken of all.
      batch_size: images in one pass through the network.
      key: a JAX key, or a seed.
      log: called with each diagnostic as soon as it is there.

    Returns:
      Eighteen diagnostics, in the order of their numbers.

    Raises:
      ValueError: input that cannot be meant, before any work; NaN logits.
    """
    checks.check_counts(examples=examples, queries=queries, samples=samples, restarts=restarts)
    if not steps or list(steps) != sorted(set(steps)) or steps[0] < 1:
        raise ValueError(f"steps must be ascending numbers of at least 1, got {steps}")
    if norm == "l1":
        raise ValueError("norm 'l1': PGD, which the diagnostics look at, is too weak there; use linf or l2")
    network, everything = base.prepare(logits_fn, images, labels, norm=norm, eps=eps, batch_size=batch_size)
    truth = np.asarray(everything.labels)
    given = outcomes(attacks or {}, truth)
    logits = networks.logits_of(network, everything.images, batch_size=batch_size)
    clean = logits.argmax(-1)
    rows = _draw(len(truth), examples, networks.as_key(key))
    case = Case(
        network,
        jax.tree.map(lambda field: np.asarray(field)[rows], everything),
        logits[rows],
        {name: _part(outcome, rows) for name, outcome in given.items()},
        float(eps),
        norm,
        tuple(int(number) for number in steps),
        batch_size,
        networks.as_key(key),
    )
    twins = {
        name: _attack_twin(case, twin)
        for name, twin in (("plain twin", plain_twin), ("adversarially trained twin", robust_twin))
        if twin is not None
    }
    plain = twins.get("plain twin")
    double, reason = _double(float64_network, logits_fn, cam_network)
    todo: list[Callable[[], Diagnostic]] = [
        lambda: evaluation_checks.clean_robust_consistency(given, clean, truth),
        lambda: gradient_checks.steps_curve(case),
        lambda: evaluation_checks.reach(case, given),
        lambda: gradient_checks.restarts(case, restarts),
        lambda: gradient_checks.fgsm_against_pgd(case),
        lambda: gradient_checks.eps_sweep(case),
        lambda: gradient_checks.loss_swap(case),
        lambda: gradient_checks.zero_gradients(case, double, reason),
        lambda: square_surplus(case, given, clean == truth, queries),
        lambda: random_noise(case, samples),
        lambda: transfers(case, {name: twin.trajectory for name, twin in twins.items()}),
        lambda: gradient_checks.gradient_alignment(case),
        lambda: gradient_checks.loss_converged(case),
        lambda: adapted(case, cam_network, k),
        lambda: gradient_checks.logit_scale(
            case, _expected(case, cam_network, k, l1), _controls(case, controls)
        ),
        lambda: gradient_checks.undefended(None if plain is None else (plain.fooled, plain.right)),
        lambda: evaluation_checks.configurations(given),
        # Last, for it counts what the others found.
        lambda: evaluation_checks.worst_case(case, given, clean, truth),
    ]
    found = []
    for diagnostic in todo:
        found.append(diagnostic())
        if log is not None:
            log(found[-1])
    return sorted(found, key=lambda diagnostic: diagnostic.number)


def _draw(count: int, examples: int, key: jax.Array) -> np.ndarray:
    return np.sort(np.asarray(jax.random.permutation(key, count))[:examples])


def _part(outcome: Outcome, rows: np.ndarray) -> Outcome:
    predictions = None if outcome.predictions is None else outcome.predictions[rows]
    return outcome._replace(success=outcome.success[rows], predictions=predictions)


@dataclasses.dataclass
class Twin:
    """Another network under the strong PGD, every step taken."""

    trajectory: Trajectory
    right: np.ndarray  # bool [n], on the clean images
    mean_margin: float
    fooled: np.ndarray  # bool [n]


def _attack_twin(case: Case, model: Any) -> Twin:
    network = networks.logits_fn(model)
    logits = networks.logits_of(network, case.examples.images, batch_size=case.batch_size)
    if logits.shape[1] != case.logits.shape[1]:
        raise ValueError(f"a twin has {logits.shape[1]} classes, the network {case.logits.shape[1]}")
    trajectory = ascend(
        network,
        case.examples,
        eps=case.eps,
        norm=case.norm,
        step_size=STRONG_STEP * case.eps,
        steps=STRONG_STEPS,
        until_fooled=False,
        batch_size=case.batch_size,
        key=case.key,
    )
    right = logits.argmax(-1) == case.labels
    others = np.where(np.arange(logits.shape[1]) == case.labels[:, None], -np.inf, logits).max(-1)
    margin = logits[np.arange(len(logits)), case.labels] - others
    return Twin(trajectory, right, float(margin.mean()), trajectory.fooled(case.labels))


def _controls(case: Case, controls: Mapping[str, Any] | None) -> dict[str, tuple[float, float]]:
    """Robust accuracy and mean margin of each control."""
    twins = {name: _attack_twin(case, control) for name, control in (controls or {}).items()}
    return {
        name: (float((twin.right & ~twin.fooled).mean()), twin.mean_margin) for name, twin in twins.items()
    }


def _expected(case: Case, cam_network: Any, k: int | None, l1: float | None) -> float | None:
    if cam_network is None or k is None or not l1:
        return None
    image = jax.ShapeDtypeStruct((1, *case.examples.images.shape[1:]), jnp.float32)
    height, width, classes = jax.eval_shape(lambda images: cam_network(images).cam, image).shape[1:]
    # Where d reaches 1, the logits collapse and nothing can be predicted.
    return (
        expected_target_logit(l1, k, height * width, classes) if l1 * k < height * width * classes else None
    )


def _double(given: Any, logits_fn: Any, cam_network: Any) -> tuple[Callable[[Any], Any] | None, str]:
    """The network in double precision, and why there is none."""
    modules = [model for model in (logits_fn, cam_network) if isinstance(model, nnx.Module)]
    if given is not None or modules:
        return given if given is not None else in_float64(
            modules[0]
        ), "the network computes in less than float64"
    return None, "no network in float64 was given"
