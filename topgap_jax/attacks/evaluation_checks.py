"""The diagnostics that look at the evaluation: its numbers, the reach of its attacks, its configurations."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from topgap_jax.attacks import base
from topgap_jax.attacks.evidence import SKIPPED, STEP_DIVISORS, Case, Diagnostic, Outcome, is_part, verdict

CONSISTENCY_GAP = 0.05  # consistency may pass for robust accuracy up to here


def clean_robust_consistency(
    given: Mapping[str, Outcome], clean: np.ndarray, labels: np.ndarray
) -> Diagnostic:
    """1 Clean accuracy, robust accuracy and prediction consistency are three numbers."""
    right = clean == labels
    rows: dict[str, Any] = {}
    for name, outcome in given.items():
        if outcome.predictions is not None:
            rows[name] = {
                "robust_accuracy": float((right & ~outcome.success).mean()),
                "prediction_consistency": base.prediction_consistency(clean, outcome.predictions),
            }
    figures = {"clean_accuracy": float(right.mean()), "attacks": rows}
    if not rows:
        sentence = f"Clean accuracy is {right.mean():.1%}; no attack's predictions were given."
        return Diagnostic(1, "clean, robust, consistent", SKIPPED, figures, sentence)
    gaps = {name: row["prediction_consistency"] - row["robust_accuracy"] for name, row in rows.items()}
    widest = max(gaps, key=lambda name: gaps[name])
    warn = gaps[widest] > CONSISTENCY_GAP
    sentence = (
        f"Clean accuracy is {right.mean():.1%}; {widest} leaves {rows[widest]['robust_accuracy']:.1%} "
        f"robust, while {rows[widest]['prediction_consistency']:.1%} of the predictions stay the same: "
        f"{'never quote the one for the other' if warn else 'the two hardly differ'}."
    )
    return Diagnostic(1, "clean, robust, consistent", verdict(warn), figures, sentence)


def worst_case(case: Case, given: Mapping[str, Outcome], clean: np.ndarray, labels: np.ndarray) -> Diagnostic:
    """2 An example is robust if it stands against every attack, those of the diagnostics included."""
    right = clean == labels
    whole = {name: outcome for name, outcome in given.items() if not is_part(name)}
    alone = {name: float((right & ~outcome.success).mean()) for name, outcome in whole.items()}
    together = np.any([outcome.success for outcome in whole.values()], axis=0) if whole else ~right
    known = ~case.right
    for outcome in case.given.values():
        known = known | outcome.success
    new = case.found & ~known
    figures = {
        "robust_accuracy": alone,
        "worst_case": float((right & ~together).mean()),
        "examples_of_the_diagnostics": len(known),
        "newly_fooled": int(new.sum()),
        "worst_case_with_diagnostics": case.accuracy(known | case.found),
    }
    if not whole:
        left = figures["worst_case_with_diagnostics"]
        sentence = f"No evaluation was given; {left:.1%} stand against the attacks of the diagnostics."
        return Diagnostic(2, "worst case", SKIPPED, figures, sentence)
    sentence = (
        f"Against all {len(whole)} attacks together {figures['worst_case']:.1%} stand (the strongest alone: "
        f"{min(alone.values()):.1%}), and the diagnostics fooled {new.sum()} more of {len(new)} examples: "
        f"{'the evaluation was not strong enough' if new.any() else 'the evaluation missed none'}."
    )
    return Diagnostic(2, "worst case", verdict(new.any()), figures, sentence)


def _single_configs(given: Mapping[str, Outcome]) -> dict[str, Mapping[str, Any] | None]:
    """The configuration of every single attack; an ensemble's `config` has those of its attacks."""
    configs: dict[str, Mapping[str, Any] | None] = {}
    for name, outcome in given.items():
        inner = (outcome.config or {}).get("attacks")
        if isinstance(inner, Mapping):
            configs |= {f"{name}: {part}": config for part, config in inner.items()}
        elif not is_part(name):
            configs[name] = outcome.config
    return configs


CROSSING = 2.0  # radii: from one side of the ball to the other; from its centre, 1


def reach(case: Case, given: Mapping[str, Outcome]) -> Diagnostic:
    """4 All steps together must cross the ball: steps * step_size / eps >= 2."""
    found = {f"steps curve, eps/{divisor}": (case.steps[-1] / divisor, CROSSING) for divisor in STEP_DIVISORS}
    for name, config in _single_configs(given).items():
        if config and {"steps", "step_size", "eps"} <= config.keys():
            reached = config["steps"] * config["step_size"] / config["eps"]
            found[name] = (reached, CROSSING if config.get("random_start") else CROSSING / 2)
    short = [name for name, (reached, needed) in found.items() if reached < needed * (1 - 1e-6)]
    figures = {name: reached for name, (reached, _) in found.items()}
    sentence = f"All {len(found)} attacks with a fixed step size can cross the ball."
    if short:
        listed = ", ".join(f"{name} ({figures[name]:.2f} radii)" for name in short)
        sentence = f"Too short to cross the ball of 2 radii, so no evidence of robustness: {listed}."
    return Diagnostic(4, "reach", verdict(bool(short)), {"radii": figures, "short": short}, sentence)


NEEDED = ("attack", "norm", "eps", "key", "batch_size")


def configurations(given: Mapping[str, Outcome]) -> Diagnostic:
    """18 Every result must carry the whole configuration of its attack."""
    missing: dict[str, list[str]] = {}
    for name, config in _single_configs(given).items():
        lacking = list(NEEDED) if config is None else [field for field in NEEDED if field not in config]
        try:
            json.dumps(config)
        except (TypeError, ValueError):
            lacking.append("JSON")
        if lacking:
            missing[name] = lacking
    total = len(_single_configs(given))
    if not total:
        return Diagnostic(18, "configurations", SKIPPED, {}, "No results were given.")
    figures = {"attacks": total, "missing": missing}
    sentence = f"All {total} results carry the whole configuration of their attack."
    if missing:
        listed = ", ".join(f"{name} (lacks {', '.join(fields)})" for name, fields in missing.items())
        sentence = f"{len(missing)} of {total} results cannot be repeated from their configuration: {listed}."
    return Diagnostic(18, "configurations", verdict(bool(missing)), figures, sentence)
