"""What the folds of a cross-validation measured: mean, deviation and paired difference of every figure."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

Key = tuple[tuple[str, Any], ...]
SETTINGS = ("machine", "eps", "effective_count")  # numbers in `evaluation.json` that nobody measured


def summarise(runs: Sequence[Sequence[Mapping[str, Any]]], ratio: float) -> list[dict[str, Any]]:
    """Every figure of the evaluations with its mean and standard deviation over the folds.

    Args:
      runs: the evaluations of the folds; of the run, and of its twin where there is one.
      ratio: test examples per training example, for the interval of the difference.

    Returns:
      One object per figure, in the order of `evaluation.json`: what it is (`section`, `figure`, and `split`,
      `group`, `name`, `eps`, `norm` where they tell figures apart), under `counts` the examples behind it per
      fold, under `runs` the `mean`, `sd` and `values` (one per fold, null where it has none) of each run, and
      with a twin under `difference` the same of the paired differences, with their 95% `interval`.
    """
    tables = [[dict(figures(evaluation)) for evaluation in evaluations] for evaluations in runs]
    keys = dict.fromkeys(key for table in tables for fold in table for key in fold)
    entries = []
    for key in keys:
        found = [[fold.get(key, (math.nan, None)) for fold in table] for table in tables]
        values = [np.array([value for value, _ in row]) for row in found]
        entry = dict(key) | {"counts": [count for _, count in found[0]]}
        entry["runs"] = [statistics(row) for row in values]
        if len(values) == 2:
            difference = values[0] - values[1]
            entry["difference"] = statistics(difference) | {"interval": corrected_interval(difference, ratio)}
        entries.append(entry)
    return entries


def figures(evaluation: Mapping[str, Any]) -> Iterator[tuple[Key, tuple[float, int | None]]]:
    """Every measured number of an `evaluation.json`, with what it is and the number of examples behind it."""
    for section, content in evaluation.items():
        if isinstance(content, float):
            yield (("section", "cost"), ("figure", section)), (content, None)
        if section in SETTINGS or not isinstance(content, list | dict):
            continue
        for entry in content if isinstance(content, list) else [content]:
            if isinstance(entry, dict):
                place = _place(entry) if isinstance(content, list) else ()
                for name, value in entry.items():
                    if isinstance(value, float) and name not in SETTINGS:
                        yield (
                            (("section", section), *place, ("figure", name)),
                            (value, entry.get("count")),
                        )


def _place(entry: Mapping[str, Any]) -> Key:
    """What tells the entries of a list apart; the worst group has another name in every fold."""
    skipped = {"count", "name"} if "group" in entry else {"count"}
    return tuple(
        (name, value)
        for name, value in entry.items()
        if name == "eps" or (isinstance(value, str | int) and name not in skipped)
    )


def statistics(values: np.ndarray) -> dict[str, Any]:
    """Mean and sample standard deviation (divisor: n - 1) over the folds that have a finite value."""
    finite = values[np.isfinite(values)]
    return {
        "mean": float(finite.mean()) if finite.size else None,
        "sd": float(finite.std(ddof=1)) if finite.size > 1 else None,
        "values": [float(value) if np.isfinite(value) else None for value in values],
    }


def corrected_interval(differences: np.ndarray, ratio: float) -> list[float] | None:
    """95% interval of a mean difference over folds whose training sets overlap.

    `mean ± t * sd * sqrt(1/n + ratio)`: t is Student's with n - 1 degrees of freedom, `ratio` the number of
    test examples per training example (Nadeau and Bengio, "Inference for the generalization error", 2003).
    The naive interval, without `ratio`, takes folds for independent and is too short. None with fewer than 2.
    """
    finite = differences[np.isfinite(differences)]
    if finite.size < 2:
        return None
    reach = stats.t.ppf(0.975, finite.size - 1) * finite.std(ddof=1) * math.sqrt(1 / finite.size + ratio)
    return [float(finite.mean() - reach), float(finite.mean() + reach)]
