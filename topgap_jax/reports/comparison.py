"""The twin comparison: every figure with its sampling error, the twin's beside it, and the difference."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from topgap_jax.reports.runs import Json, Run

Z95 = 1.959963984540054  # the normal distribution's 97.5% quantile
NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1"}
GROUP_ROWS = {None: "Accuracy", "re-weighted": "Re-weighted accuracy", "worst": "Worst group"}
Interval = tuple[float, float]


class Figure(NamedTuple):
    """One measured value, with the number of examples behind it and its 95% interval where there is one."""

    value: float
    examples: int | None = None
    interval: Interval | None = None


class Row(NamedTuple):
    """One line of the comparison: the same figure of each run, and the first minus the second."""

    section: str
    name: str
    unit: str  # "share" and "fraction" in [0, 1], "number", "milliseconds" or "seconds"
    figures: tuple[Figure | None, ...]  # one per run
    note: str = ""
    better: str = ""  # "higher", "lower" or, where neither is good in itself, ""

    @property
    def examples(self) -> int | None:
        """The number of examples, where it is the same for every run."""
        counts = {figure.examples for figure in self.figures if figure is not None}
        return counts.pop() if len(counts) == 1 else None

    @property
    def difference(self) -> Figure | None:
        own, twin = self.figures if len(self.figures) == 2 else (None, None)
        return None if own is None or twin is None else subtract(own, twin)

    @property
    def clear(self) -> bool | None:
        """Whether the difference exceeds the sampling error of the test set; None where that is not known."""
        difference = self.difference
        if difference is None or difference.interval is None:
            return None
        low, high = difference.interval
        return low > 0 or high < 0


def wilson_interval(share: float, count: float) -> Interval:
    """95% interval of a binomial share (Wilson, 1927): sensible near 0 and 1, where the usual one is not."""
    spread = Z95**2 / count
    centre = (share + spread / 2) / (1 + spread)
    reach = Z95 / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(0.0, centre - reach), min(1.0, centre + reach)


def subtract(a: Figure, b: Figure) -> Figure:
    """a - b, with the interval of a difference of independent estimates (Newcombe, 1998, method 10).

    Both networks see the same pictures, so the true error of the difference is rather smaller.
    """
    value = a.value - b.value
    if a.interval is None or b.interval is None:
        return Figure(value)
    down = math.hypot(a.value - a.interval[0], b.interval[1] - b.value)
    up = math.hypot(a.interval[1] - a.value, b.value - b.interval[0])
    return Figure(value, interval=(value - down, value + up))


def compare(runs: tuple[Run, ...]) -> tuple[Row, ...]:
    """Every row of the comparison, in reading order; a row that no run has a figure for is left out."""
    evaluations = [run.evaluation for run in runs]
    rows = (*_accuracy(evaluations), *_attacks(evaluations), *_heat_maps(evaluations), *_cost(evaluations))
    return tuple(row for row in rows if any(figure is not None for figure in row.figures))


def share(value: float | None, count: int | None) -> Figure | None:
    """A share of `count` examples with its interval; None for a figure that is missing or not a number."""
    if value is None or not math.isfinite(value):
        return None
    return Figure(value, count, wilson_interval(value, count) if count else None)


def attack_name(entry: Json) -> str:
    """The attack with its budget, "FGSM at L∞ 8/255"."""
    return f"{entry['name']} at {budget(entry)}"


def budget(entry: Json) -> str:
    """How far an attack may go, "L∞ 8/255"."""
    return f"{NORMS.get(entry['norm'], entry['norm'])} {format_eps(entry['eps'])}"


def format_eps(eps: float) -> str:
    """8/255 where that is what it is, else the plain number."""
    steps = eps * 255
    if steps >= 0.5 and abs(steps - round(steps)) < 0.02 and round(steps) <= 64:
        return f"{round(steps)}/255"
    return f"{eps:.4g}"


def split_name(split: str) -> str:
    return split.replace("_", " ")


def _accuracy(evaluations: list[Json]) -> Iterator[Row]:
    tables = [{(e["split"], e.get("group")): e for e in evaluation["accuracy"]} for evaluation in evaluations]
    for key in dict.fromkeys(key for table in tables for key in table):
        entries = [table.get(key) for table in tables]
        split, group = key
        name = f"{GROUP_ROWS.get(group, group)}, {split_name(split)}"
        names = [str(entry["name"]) for entry in entries if entry and "name" in entry]
        yield Row(
            section="Clean accuracy",
            name=name,
            unit="share",
            figures=tuple(entry and _accuracy_figure(entry) for entry in entries),
            note=" / ".join(dict.fromkeys(names)),
            better="higher",
        )


def _accuracy_figure(entry: Json) -> Figure:
    """A mean over groups has the interval of a plain mean over as many examples as give its variance."""
    value, count = entry["value"], entry["count"]
    examples: Any = entry.get("effective_count", count)
    return Figure(value, count, wilson_interval(value, examples))


def _attacks(evaluations: list[Json]) -> Iterator[Row]:
    tables = [{attack_name(entry): entry for entry in evaluation["attacks"]} for evaluation in evaluations]
    names = list(dict.fromkeys(name for table in tables for name in table))

    def figures(name: str, field: str) -> tuple[Figure | None, ...]:
        entries = [table.get(name, {}) for table in tables]
        return tuple(share(entry.get(field), entry.get("count")) for entry in entries)

    clean = {name: figures(name, "clean_accuracy") for name in names}
    shared = len(set(clean.values())) == 1
    for name in names[:1] if shared else names:
        label = "No attack, same pictures" if shared else f"No attack, pictures of {name}"
        yield Row("Robust accuracy", label, "share", clean[name], better="higher")
    for name in names:
        yield Row("Robust accuracy", name, "share", figures(name, "robust_accuracy"), better="higher")
    for name in names:
        yield Row(
            "Prediction consistency", name, "share", figures(name, "prediction_consistency"), better="higher"
        )


def _heat_maps(evaluations: list[Json]) -> Iterator[Row]:
    sections = [evaluation["cam"] for evaluation in evaluations]

    def row(name: str, field: str, unit: str, note: str, better: str = "higher") -> Row:
        return Row("Heat maps", name, unit, tuple(_cam_figure(cam, field) for cam in sections), note, better)

    yield row("CAM sparsity", "sparsity", "fraction", "mean of the scaled map: small is sparse", better="")
    yield row("IoU, global threshold", "iou_global", "fraction", _threshold_note(sections))
    yield row("IoU, oracle threshold", "iou_oracle", "fraction", "best per picture: an upper bound")
    yield row("Energy in mask", "energy_in_mask", "share", "share of the heat on the object")
    yield row("Pointing game", "pointing_game", "share", "hottest pixel on the object")


def _threshold_note(sections: list[Json]) -> str:
    thresholds = [
        f"{cam['global_threshold']:.2f}" for cam in sections if cam.get("global_threshold") is not None
    ]
    splits = dict.fromkeys(
        split_name(cam["threshold_split"]) for cam in sections if cam.get("threshold_split")
    )
    return " / ".join(thresholds) + (f", chosen on {' / '.join(splits)}" if splits else "")


def _cam_figure(cam: Json, field: str) -> Figure | None:
    value, count, error = cam.get(field), cam.get("count"), cam.get("standard_error", {}).get(field)
    if value is None or not math.isfinite(value):
        return None
    if error is None:
        return Figure(value, count)
    return Figure(value, count, (max(0.0, value - Z95 * error), min(1.0, value + Z95 * error)))


def _cost(evaluations: list[Json]) -> Iterator[Row]:
    def row(name: str, field: str, unit: str, note: str = "", section: str | None = None) -> Row:
        found = [evaluation.get(section, {}) if section else evaluation for evaluation in evaluations]
        values = [part.get(field) for part in found]
        figures = tuple(None if value is None else Figure(value) for value in values)
        return Row("Cost", name, unit, figures, note, better="lower")

    yield row("Parameters", "parameters", "number")
    yield row("Training step", "step_milliseconds", "milliseconds", "median")
    yield row("Training", "training_seconds", "seconds")
    yield row("Waiting for input", "input", "seconds", "of the training", "training_time")
    yield row("Compiling the step", "compile", "seconds", "of the training", "training_time")
    yield row("Waiting for checkpoints", "checkpoint", "seconds", "besides", "training_time")
