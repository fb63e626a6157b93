"""What a sweep measured: every figure of every k, and the k that the validation chooses."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from topgap_jax.training.fold_figures import corrected_interval, statistics, summarise
from topgap_jax.training.metrics import training_time

RULE = "the highest accuracy on the validation split, over several seeds their mean; of equals the smallest k"


def choose(rows: Sequence[Mapping[str, Any]], validation: str) -> int:
    """The k that `RULE` chooses; the test splits play no part."""
    return max(rows, key=lambda row: (_validated(row, validation)["mean"], -row["k"]))["k"]


def compare_with(
    chosen: int, rows: Sequence[Mapping[str, Any]], validation: str
) -> list[dict[str, Any] | None]:
    """By how much every k stays below the chosen one on the validation split, seed by seed.

    The `interval` is Student's, at 95%; None with one seed, and for the chosen k itself.
    """
    values = {row["k"]: np.array(_validated(row, validation)["values"]) for row in rows}
    below = {k: values[chosen] - own for k, own in values.items()}
    return [
        statistics(below[row["k"]]) | {"interval": corrected_interval(below[row["k"]], ratio=0.0)}
        if row["k"] != chosen
        else None
        for row in rows
    ]


def _validated(row: Mapping[str, Any], validation: str) -> Any:
    wanted = {"section": "accuracy", "split": validation, "figure": "value"}
    own = next(f for f in row["figures"] if wanted.items() <= f.items() and "group" not in f)
    return own["runs"][0]


def validation_accuracy(directory: Path, config: Any) -> dict[str, Any]:
    """Accuracy of the evaluated checkpoint on the validation split, as an entry of `evaluation.json`."""
    lines = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    split = config.data.validation
    measured = [line for line in lines if line["kind"] == "eval" and line["split"] == split]
    if config.evaluation.weights == "best":
        measured.sort(key=lambda line: line["accuracy"])
    return {"split": split, "value": measured[-1]["accuracy"], "count": measured[-1]["count"]}


def run_figures(directories: Sequence[Path], config: Any) -> dict[str, Any]:
    """Every figure of the runs of one k, with mean and deviation over their seeds."""
    evaluations = []
    for directory in directories:
        path = directory / "evaluation.json"
        found = json.loads(path.read_text()) if path.exists() else training_time(directory)
        found["accuracy"] = [validation_accuracy(directory, config), *found.get("accuracy", [])]
        evaluations.append(found)
    names = [directory.name for directory in directories]
    return {"folders": names, "figures": summarise([evaluations], ratio=0.0)}
