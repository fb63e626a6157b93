"""The figures of `cross_validation.json` under the names that people read, in reading order."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from topgap_jax.reports import wording
from topgap_jax.reports.comparison import GROUP_ROWS, Figure, Interval, attack_name, split_name

Json = dict[str, Any]
ATTACKS = {  # a figure of an attack: its section here
    "clean_accuracy": "Robust accuracy",
    "robust_accuracy": "Robust accuracy",
    "prediction_consistency": "Prediction consistency",
}
HEAT_MAPS = {
    "sparsity": ("CAM sparsity", "fraction", "mean of the scaled map: small is sparse"),
    "iou_global": ("IoU, global threshold", "fraction", "chosen on validation pictures"),
    "iou_oracle": ("IoU, oracle threshold", "fraction", "best per picture: an upper bound"),
    "energy_in_mask": ("Energy in mask", "share", "share of the heat on the object"),
    "pointing_game": ("Pointing game", "share", "hottest pixel on the object"),
    "global_threshold": ("Global threshold", "fraction", ""),
    "mask_coverage": ("Mask coverage", "share", "share of the picture that the object covers"),
}
DESCRIPTIVE = ("global_threshold", "mask_coverage")  # neither has a better side
COST = {
    "step_milliseconds": ("Training step", "milliseconds", "median"),
    "training_seconds": ("Training", "seconds", "of one fold"),
}
FORMATS = {  # scale, digits and what follows
    "share": (100, ".1f", "%"),
    "fraction": (1, ".3f", ""),
    "milliseconds": (1, ".1f", " ms"),
    "seconds": (1, ".1f", " s"),
}
SECTIONS = ("Clean accuracy", "Robust accuracy", "Prediction consistency", "Heat maps", "Cost")


class Spread(NamedTuple):
    """A figure's mean and sample standard deviation over the folds, and its value in each."""

    mean: float
    sd: float | None
    values: tuple[float | None, ...]


class Line(NamedTuple):
    """One figure: of each run, and the paired difference."""

    section: str
    name: str
    unit: str  # as in `comparison.Row`
    note: str
    runs: tuple[Spread | None, ...]
    difference: Spread | None
    interval: Interval | None
    counts: tuple[int | None, ...]  # examples behind the value of each fold
    attack: bool = False
    clean: bool = False  # the accuracy on an attack's pictures without the attack
    descriptive: bool = False  # says how the other figures came about

    @property
    def mean(self) -> float:
        """Of the run."""
        return self.runs[0].mean if self.runs[0] else 0.0

    @property
    def clear(self) -> bool | None:
        """Whether the difference exceeds the deviation between folds; None where that is not known."""
        return None if self.interval is None else self.interval[0] > 0 or self.interval[1] < 0


def lines(figures: Sequence[Json]) -> tuple[Line, ...]:
    """Every figure that a run has a value for, in reading order; what attacks share (no attack) once."""
    found = [_line(figure) for figure in figures]
    order = [*SECTIONS, *(line.section for line in found)]
    found.sort(key=lambda line: (order.index(line.section), not line.clean))
    clean = [line for line in found if line.clean]
    if len({line.runs for line in clean}) == 1:
        found = [line for line in found if not line.clean or line is clean[0]]
    return tuple(line for line in found if any(line.runs))


def spread_text(spread: Spread | None, unit: str) -> str:
    """97.8 ± 0.5%, 0.412 ± 0.010, 12.3 ± 0.4 ms; a dash where there is none."""
    if spread is None:
        return wording.MISSING
    return _with_deviation(spread, *FORMATS[unit])


def value_text(value: float | None, unit: str) -> str:
    """The value of one fold."""
    return wording.MISSING if value is None else wording.value_text(Figure(value), unit)


def difference_text(spread: Spread | None, unit: str) -> str:
    """+0.6 ± 0.4 points, −0.012 ± 0.003."""
    if spread is None:
        return wording.MISSING
    scale, spec, ending = FORMATS[unit]
    text = _with_deviation(spread, scale, spec, " points" if unit == "share" else ending)
    if float(f"{spread.mean * scale:{spec}}") == 0:
        return text.removeprefix("-")
    return text.replace("-", "−") if spread.mean < 0 else f"+{text}"


def mean_text(spread: Spread | None, unit: str) -> str:
    """97.8%."""
    return wording.MISSING if spread is None else _with_deviation(spread._replace(sd=None), *FORMATS[unit])


def deviation_text(spread: Spread, unit: str) -> str:
    """0.5, in the unit of the mean."""
    scale, spec, _ = FORMATS[unit]
    return f"{(spread.sd or 0) * scale:{spec}}"


def interval_text(line: Line) -> str:
    """ "−0.3 to +1.5" in the unit of the difference, empty where there is none."""
    if line.interval is None:
        return ""
    scale, spec, _ = FORMATS[line.unit]
    return " to ".join(wording.signed(end * scale, spec) for end in line.interval)


def _with_deviation(spread: Spread, scale: float, spec: str, ending: str) -> str:
    deviation = "" if spread.sd is None else f" ± {spread.sd * scale:{spec}}"
    return f"{spread.mean * scale:{spec}}{deviation}{ending}"


def _line(figure: Json) -> Line:
    section, name, unit, note = _names(figure)
    descriptive = figure["section"] == "cam" and figure["figure"] in DESCRIPTIVE
    difference = None if descriptive else figure.get("difference")
    interval = difference and difference.get("interval")
    return Line(
        section=section,
        name=name,
        unit=unit,
        note=note,
        runs=tuple(_spread(run) for run in figure["runs"]),
        difference=_spread(difference) if difference else None,
        interval=tuple(interval) if interval else None,
        counts=tuple(figure.get("counts") or ()),
        attack=figure["section"] == "attacks",
        clean=figure["section"] == "attacks" and figure["figure"] == "clean_accuracy",
        descriptive=descriptive,
    )


def _names(figure: Json) -> tuple[str, str, str, str]:
    """Section, name, unit and note."""
    section, field = figure["section"], figure["figure"]
    if section == "accuracy":
        group = figure.get("group")
        note = "another group in each fold" if group == "worst" else ""
        return (
            "Clean accuracy",
            f"{GROUP_ROWS.get(group, group)}, {split_name(figure['split'])}",
            "share",
            note,
        )
    if section == "attacks" and field in ATTACKS:
        clean = field == "clean_accuracy"
        name = "No attack, same pictures" if clean else attack_name(figure)
        return ATTACKS[field], name, "share", ""
    if section == "cam":
        return "Heat maps", *HEAT_MAPS.get(field, (_words(field), "fraction", ""))
    if section == "cost":
        return "Cost", *COST.get(field, (_words(field), "fraction", ""))
    if section == "training_time":
        return "Cost", f"Training: {field}", "seconds", "of one fold"
    return _words(section), ", ".join([_words(field), *_rest(figure)]), "fraction", ""


def _rest(figure: Json) -> Iterator[str]:
    """What else tells a figure of an unknown section apart."""
    known = ("section", "figure", "runs", "difference", "counts")
    return (str(value) for name, value in figure.items() if name not in known)


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _spread(found: Json) -> Spread | None:
    if found["mean"] is None:
        return None
    return Spread(found["mean"], found["sd"], tuple(found["values"]))
