"""The diagnostics that look at PGD itself: its steps, restarts, radii, losses and gradients.

Each is a function of a `Case` with its threshold beside it. What they warn of: Athalye et al., 2018,
"Obfuscated Gradients Give a False Sense of Security", section 3.1, and Carlini et al., 2019, "On Evaluating
Adversarial Robustness", section 4; where these give no number, the number is ours.
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from topgap_jax.attacks.evidence import (
    INFO,
    PAPER_DIVISOR,
    SKIPPED,
    STEP_DIVISORS,
    STRONG_STEPS,
    Case,
    Diagnostic,
    verdict,
)
from topgap_jax.attacks.threat_models import NORMS
from topgap_jax.attacks.trajectories import float64_gradients, input_gradients

# More than this share of the examples is more than chance; 2 examples of 128 are not.
SHARE_TOLERANCE = 0.02


def steps_curve(case: Case) -> Diagnostic:
    """3 More steps must not leave the attack weaker, and its curve must have levelled off (figure A3)."""
    curves = {
        f"eps/{divisor}": [case.accuracy(curve.fooled(case.labels, steps)) for steps in case.steps]
        for divisor, curve in case.curves.items()
    }
    paper = case.curves[PAPER_DIVISOR].predictions[list(case.steps)]
    last = [case.accuracy(predictions != case.labels) for predictions in paper]
    consistency = [float((predictions == case.clean).mean()) for predictions in paper]
    weaker = last[-1] - min(last)
    falling = {name: curve[-2] - curve[-1] for name, curve in curves.items() if len(curve) > 1}
    steepest = max(falling, key=lambda name: falling[name], default="eps/30")
    figures = {
        "steps": list(case.steps),
        "robust_accuracy": curves,
        "last_iterate": {"step": "eps/30", "robust_accuracy": last, "prediction_consistency": consistency},
        "weaker": weaker,
        "still_falling": falling,
    }
    warn = weaker > SHARE_TOLERANCE or max(falling.values(), default=0.0) > SHARE_TOLERANCE
    sentence = (
        f"From {case.steps[-2:][0]} to {case.steps[-1]} steps of {steepest} robust accuracy falls by another "
        f"{falling.get(steepest, 0):.1%} to {curves[steepest][-1]:.1%}, and the last iterate after "
        f"{case.steps[-1]} steps of eps/30 leaves {weaker:.1%} more standing than the best shorter "
        f"run; {'a longer attack would tell more' if warn else 'the curve has levelled off'}."
    )
    return Diagnostic(3, "steps curve", verdict(warn), figures, sentence)


def restarts(case: Case, restarts: int = 5) -> Diagnostic:
    """5 Neither restarts nor the best iterate, instead of the last one, may change much."""
    first = case.curves[4].fooled(case.labels, min(STRONG_STEPS, case.steps[-1]))
    best = first | ~case.right
    for number in range(1, restarts):
        rows = np.flatnonzero(~best)
        if len(rows):
            key = jax.random.fold_in(case.key, number)
            best[rows] |= case.ascend(rows, key=key).fooled(case.labels[rows])
    paper = case.curves[PAPER_DIVISOR]
    lost = case.right & paper.fooled(case.labels) & (paper.predictions[-1] == case.labels)
    figures = {
        "restarts": restarts,
        "robust_accuracy_1": case.accuracy(first),
        "robust_accuracy_all": case.accuracy(best),
        "lost_by_last_iterate": float(lost.mean()),
    }
    gain = figures["robust_accuracy_1"] - figures["robust_accuracy_all"]
    warn = gain > SHARE_TOLERANCE or figures["lost_by_last_iterate"] > SHARE_TOLERANCE
    sentence = (
        f"{restarts} restarts instead of one lower robust accuracy by {gain:.1%}, and the last of "
        f"{case.steps[-1]} iterates loses {lost.mean():.1%} that an earlier one had fooled: "
        f"{'one run is not enough here' if warn else 'the outcome hardly depends on luck'}."
    )
    return Diagnostic(5, "restarts and best iterate", verdict(warn), figures, sentence)


def fgsm_against_pgd(case: Case) -> Diagnostic:
    """6 One step must not be stronger than many (Athalye et al., 2018, section 3.1)."""
    single = case.ascend(steps=1, step_size=case.eps, random_start=False).fooled(case.labels)
    many = case.curves[4].fooled(case.labels, min(STRONG_STEPS, case.steps[-1]))
    only = case.right & single & ~many
    figures = {
        "fgsm_robust_accuracy": case.accuracy(single),
        "pgd_robust_accuracy": case.accuracy(many),
        "fooled_by_fgsm_only": float(only.mean()),
    }
    stronger = figures["fgsm_robust_accuracy"] < figures["pgd_robust_accuracy"]
    warn = stronger or figures["fooled_by_fgsm_only"] > SHARE_TOLERANCE
    meaning = "which smells of masked gradients" if warn else "so following the gradient pays"
    sentence = (
        f"FGSM leaves {figures['fgsm_robust_accuracy']:.1%} standing and PGD "
        f"{figures['pgd_robust_accuracy']:.1%}; {only.sum()} of {len(only)} examples fall to the single step "
        f"only, {meaning}."
    )
    return Diagnostic(6, "FGSM against PGD", verdict(warn), figures, sentence)


# The radii of the sweep, as multiples of eps; the whole image range comes last.
SWEEP = (0.5, 1.0, 2.0, 4.0)
NOTHING_LEFT = 0.01  # of the examples, where nothing must stand


def eps_sweep(case: Case) -> Diagnostic:
    """7 A larger ball cannot be safer, and in the whole image range nothing stands (Carlini et al., 2019)."""
    order = NORMS[case.norm].order
    whole = 1.0 if order == np.inf else float(np.prod(case.examples.images.shape[1:])) ** (1 / order)
    radii = [case.eps * factor for factor in SWEEP if case.eps * factor < whole] + [whole]
    curve = [case.accuracy(case.ascend(eps=radius).fooled(case.labels)) for radius in radii]
    rise = max(float(later - earlier) for earlier, later in itertools.pairwise(curve))
    figures = {"eps": radii, "robust_accuracy": curve, "largest_rise": rise}
    warn = rise > SHARE_TOLERANCE or curve[-1] > NOTHING_LEFT
    verdict_words = "some gradients lead nowhere" if warn else "as it must"
    sentence = (
        f"From eps={radii[0]:.3g} to {whole:.3g} robust accuracy goes from {curve[0]:.1%} to {curve[-1]:.1%}"
        f", with a largest rise of {max(rise, 0):.1%} on the way: {verdict_words}."
    )
    return Diagnostic(7, "eps sweep", verdict(warn), figures, sentence)


# Honest networks lose 1 to 4 points between cross-entropy and the margin.
LOSS_TOLERANCE = 0.05


def loss_swap(case: Case) -> Diagnostic:
    """8 Another loss must not find much more (Croce & Hein, 2020, section 4)."""
    figures: dict[str, Any] = {name: case.accuracy(fooled) for name, fooled in case.swapped.items()}
    best = min(figures, key=lambda name: figures[name])
    gap = figures["ce"] - figures[best]
    warn = gap > LOSS_TOLERANCE
    meaning = "cross-entropy hides the weakness" if warn else "the loss is not the obstacle"
    sentence = (
        f"The strong PGD leaves {figures['ce']:.1%} standing with cross-entropy and {figures[best]:.1%} with "
        f"its best loss ({best}): {meaning}."
    )
    return Diagnostic(8, "loss swap", verdict(warn), {"robust_accuracy": figures, "gap": gap}, sentence)


ZERO_TOLERANCE = 0.01  # of the examples may have no gradient at all
DOUBLE_COSINE = 0.99  # below, the direction in float32 is rounding noise
DOUBLE_EXAMPLES = 32


def zero_gradients(case: Case, float64_network: Callable[[Any], Any] | None, reason: str) -> Diagnostic:
    """9 Input gradients must exist, and must not be rounding noise: double precision is the judge."""
    images = np.asarray(case.examples.images)
    gradients = input_gradients(
        case.network, case.examples, images, norm=case.norm, batch_size=case.batch_size
    )
    zero = ~gradients.any((1, 2, 3))
    figures: dict[str, Any] = {
        "zero_gradients": float(zero.mean()),
        "zero_entries": float((gradients == 0).mean()),
    }
    rows = np.arange(min(DOUBLE_EXAMPLES, len(images)))
    exact = (
        None
        if float64_network is None
        else float64_gradients(float64_network, images[rows], case.labels[rows])
    )
    words, noise = f"no check in float64 ({reason})", False
    if exact is not None:
        cosines = _cosines(gradients[rows].astype(np.float64), exact)
        figures |= {
            "float64_zero_gradients": float((~exact.any((1, 2, 3))).mean()),
            "float64_median_cosine": float(np.median(cosines)),
        }
        noise = figures["float64_median_cosine"] < DOUBLE_COSINE
        words = f"the median cosine with float64 is {figures['float64_median_cosine']:.4f}"
    warn = figures["zero_gradients"] > ZERO_TOLERANCE or noise
    meaning = "attacks with gradients are blind there" if warn else "gradients exist and can be trusted"
    sentence = f"{figures['zero_gradients']:.1%} of the input gradients are zero and {words}: {meaning}."
    return Diagnostic(9, "zero gradients", verdict(warn), figures, sentence)


def _cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine of each pair [B,...]; 0 where one is zero."""
    first, second = (array.reshape(len(array), -1).astype(np.float64) for array in (first, second))
    first, second = (
        array / np.maximum(np.abs(array).max(-1, keepdims=True), 1e-300) for array in (first, second)
    )
    norms = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    return (first * second).sum(-1) / np.maximum(norms, 1e-300)


# Catastrophic overfitting drives it to 0 (Andriushchenko & Flammarion, 2020, figure 2).
ALIGNED = 0.1


def gradient_alignment(case: Case) -> Diagnostic:
    """13 Gradients at x and at a random point of its ball must have something in common (GradAlign)."""
    noisy = next(case.noise(np.arange(len(case.labels)), 1))
    settings: dict[str, Any] = dict(norm=case.norm, batch_size=case.batch_size)
    clean = np.asarray(case.examples.images)
    gradients = [
        input_gradients(case.network, case.examples, images, **settings) for images in (clean, noisy)
    ]
    cosines = _cosines(*gradients)
    figures = {"mean_cosine": float(cosines.mean()), "share_negative": float((cosines < 0).mean())}
    warn = figures["mean_cosine"] < ALIGNED
    meaning = "the loss is not even locally linear" if warn else "a step helps its neighbour"
    sentence = (
        f"Gradients at an image and at a random point of its ball have a mean cosine of "
        f"{figures['mean_cosine']:.2f}: {meaning}."
    )
    return Diagnostic(13, "gradient alignment", verdict(warn), figures, sentence)


WINDOW = 10  # the last steps
STILL_MOVING = 0.05  # of the whole gain
NOT_MOVED = 1e-6  # nats


def loss_converged(case: Case) -> Diagnostic:
    """14 On those that stand, the loss must have risen, and come to rest before the end."""
    figures: dict[str, Any] = {
        "window": min(WINDOW, case.steps[-1]),
        "standing": {},
        "gain": {},
        "share_at_the_end": {},
    }
    for divisor in STEP_DIVISORS:
        curve = case.curves[divisor]
        rows = case.right & ~curve.fooled(case.labels)
        highest = np.maximum.accumulate(curve.losses, axis=0)[:, rows].astype(np.float64)
        gain = (highest[-1] - highest[0]).mean() if rows.any() else 0.0
        end = (highest[-1] - highest[-1 - figures["window"]]).mean() if rows.any() else 0.0
        figures["standing"][f"eps/{divisor}"] = int(rows.sum())
        figures["gain"][f"eps/{divisor}"] = float(gain)
        figures["share_at_the_end"][f"eps/{divisor}"] = float(end / gain) if gain > NOT_MOVED else 0.0
    stuck = any(count and figures["gain"][step] <= NOT_MOVED for step, count in figures["standing"].items())
    moving = max(figures["share_at_the_end"].values())
    status = verdict(stuck or moving > STILL_MOVING)
    words = {True: "it never rose at all: there is no gradient to follow"}.get(
        stuck, f"{moving:.1%} of its rise came in the last {figures['window']} steps"
    )
    sentence = f"On those that stand after {case.steps[-1]} steps the loss was watched: {words}."
    if not any(figures["standing"].values()):
        status, sentence = verdict(False), "Nobody stands, so no attack was stopped too early."
    return Diagnostic(14, "loss at the end", status, figures, sentence)


EXPLAINED = (0.5, 1.5)  # times the scale that l1 predicts: then l1 sets it


def logit_scale(case: Case, expected: float | None, controls: dict[str, tuple[float, float]]) -> Diagnostic:
    """16 Small logits alone can look like robustness: squeezed controls must not be as robust.

    `expected` is the target logit that l1 predicts; `controls` have robust accuracy and mean margin by name.
    """
    others = case.logits.copy()
    target = others[np.arange(len(others)), case.labels].astype(np.float64)
    others[np.arange(len(others)), case.labels] = -np.inf
    robust = case.accuracy(case.swapped["ce"])
    figures: dict[str, Any] = {
        "mean_margin": float((target - others.max(-1)).mean()),
        "mean_target_logit": float(target.mean()),
        "logit_std": float(case.logits.std()),
        "expected_target_logit": expected,
        "robust_accuracy": robust,
        "controls": {name: {"robust_accuracy": r, "mean_margin": m} for name, (r, m) in controls.items()},
    }
    scale = f"The mean margin is {figures['mean_margin']:.2f}"
    if expected is not None:
        scale += f", where l1 predicts a target logit of {expected:.2f}"
    if controls:
        name = max(controls, key=lambda control: controls[control][0])
        as_good = robust > 0 and controls[name][0] >= robust - SHARE_TOLERANCE
        meaning = "the logit scale alone explains it" if as_good else "more than the logit scale is at work"
        sentence = (
            f"{scale}; the control {name} keeps {controls[name][0]:.1%} against {robust:.1%}: {meaning}."
        )
        return Diagnostic(16, "logit scale", verdict(as_good), figures, sentence)
    squeezed = expected is not None and EXPLAINED[0] <= figures["mean_margin"] / expected <= EXPLAINED[1]
    meaning = "so l1 squeezes the logits, and" if squeezed else "and"
    sentence = f"{scale}, {meaning} no control (label smoothing, logit squeezing) was given to compare with."
    return Diagnostic(16, "logit scale", verdict(True) if squeezed else INFO, figures, sentence)


UNDEFENDED = 0.05


def undefended(twin: tuple[np.ndarray, np.ndarray] | None) -> Diagnostic:
    """17 The same PGD on a network without defence must leave about nothing: else the attack is broken.

    `twin`: who is fooled, and who is right on the clean image, bool [n] each.
    """
    if twin is None:
        sentence = "No undefended twin was given, so the attack itself was not put to the test."
        return Diagnostic(17, "undefended network", SKIPPED, {}, sentence)
    fooled, right = twin
    left = float((right & ~fooled).mean())
    figures = {"clean_accuracy": float(right.mean()), "robust_accuracy": left}
    warn = left > UNDEFENDED
    meaning = "too weak at this eps to say much about a defended one" if warn else "the attack works"
    sentence = f"The strong PGD leaves {left:.1%} of the undefended twin's answers standing: {meaning}."
    return Diagnostic(17, "undefended network", verdict(warn), figures, sentence)
