"""The figures of `sweep.json` in reading order: a value per k and, last, that of the plain twin."""

from typing import Any, NamedTuple

from topgap_jax.reports.comparison import Figure, Interval, share, split_name, subtract
from topgap_jax.reports.fold_lines import FORMATS, Line, lines
from topgap_jax.reports.wording import percent, signed

Json = dict[str, Any]
ATTACKED = ("Robust accuracy", "Prediction consistency")
COMPILATION = "First step, with compilation"
IDENTITY = ("runs", "counts", "difference")  # what does not say which figure it is


class Column(NamedTuple):
    """One k, or the twin."""

    name: str
    k: int | None
    share: str  # of the map
    chosen: bool
    folders: tuple[str, ...]


def columns(summary: Json) -> tuple[Column, ...]:
    """The columns of the table, the twin last."""
    found = [
        Column(
            f"k = {row['k']}",
            row["k"],
            percent(row["share"]),
            row["k"] == summary["chosen"],
            tuple(row["folders"]),
        )
        for row in summary["rows"]
    ]
    if twin := summary.get("twin"):
        found.append(Column(twin["title"], None, "", False, tuple(twin["folders"])))
    return tuple(found)


def sweep_lines(summary: Json) -> tuple[Line, ...]:
    """Every figure that a run has a value for, in reading order, with a run per column."""
    parts = [*summary["rows"], *[summary["twin"]] * bool(summary.get("twin"))]
    tables = [{_key(figure): figure for figure in part["figures"]} for part in parts]
    keys = dict.fromkeys(key for table in tables for key in table)
    missing: Json = {"mean": None, "sd": None, "values": []}
    merged = []
    for key in keys:
        found = [table.get(key) for table in tables]
        counts = next(figure["counts"] for figure in found if figure)
        runs = [figure["runs"][0] if figure else missing for figure in found]
        merged.append(dict(key) | {"counts": counts, "runs": runs})
    return tuple(map(_renamed, lines([figure for figure in merged if _shown(figure)])))


def validated(summary: Json) -> Line:
    """The accuracy on the validation split, by which k is chosen."""
    name = f"Accuracy, {split_name(summary['validation'])}"
    return next(line for line in sweep_lines(summary) if line.name == name)


def tied(summary: Json) -> list[Json]:
    """The rows whose validation accuracy cannot be told from that of the chosen k."""
    return [
        row
        for row in summary["rows"]
        if row["k"] != summary["chosen"] and below_chosen(row, summary).interval[0] <= 0
    ]


class Below(NamedTuple):
    """By how much a k stays below the chosen one on the validation split."""

    mean: float
    interval: Interval  # 95%


def below_chosen(row: Json, summary: Json) -> Below:
    """The difference with its interval: over the seeds, or with one seed of the sampled pictures."""
    found = row["below_chosen"]
    if found["interval"]:
        return Below(found["mean"], tuple(found["interval"]))
    line = validated(summary)
    ks = [other["k"] for other in summary["rows"]]
    best, own = (_figure(line, ks.index(k)) for k in (summary["chosen"], row["k"]))
    difference = subtract(best, own)
    assert difference.interval is not None  # shares of a known number of pictures have one
    return Below(difference.value, difference.interval)


def difference_text(row: Json, summary: Json) -> str:
    """ "0.4 points less, 95%: −0.6 to +1.4"."""
    mean, (low, high) = below_chosen(row, summary)
    text = f"{signed(low * 100, '.1f')} to {signed(high * 100, '.1f')}"
    return f"{mean * 100:.1f} points less, 95%: {text}"


def interval(line: Line, column: int) -> Interval | None:
    """95% interval of a share of pictures that one run got; with several seeds there is the deviation."""
    spread = line.runs[column]
    of_pictures = line.section in ATTACKED or line.name.startswith("Accuracy")  # not of groups
    if spread is None or not of_pictures or len(spread.values) != 1:
        return None
    return _figure(line, column).interval


def interval_text(line: Line, column: int) -> str:
    """ "95.2 to 96.9", empty where there is none."""
    ends = interval(line, column)
    if ends is None:
        return ""
    scale, spec, _ = FORMATS[line.unit]
    return " to ".join(f"{end * scale:{spec}}" for end in ends)


def _figure(line: Line, column: int) -> Figure:
    spread = line.runs[column]
    figure = share(spread.mean, line.counts[0]) if spread else None
    assert figure is not None
    return figure


def _key(figure: Json) -> tuple[tuple[str, Any], ...]:
    return tuple((name, value) for name, value in figure.items() if name not in IDENTITY)


def _shown(figure: Json) -> bool:
    """Of where the time of a training went, what a traced k saves: the compilation."""
    return figure["section"] != "training_time" or figure["figure"] == "compile"


def _renamed(line: Line) -> Line:
    """For the runs of a sweep, where `lines` speaks of folds."""
    name = COMPILATION if line.name == "Training: compile" else line.name
    return line._replace(name=name, note=line.note.replace("fold", "run"))
