"""Result lines of a comparison as Markdown: mean and deviation, differences, the paper's figures beside."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from topgap_jax.training.fold_figures import corrected_interval, statistics

MISSING = "–"
DIGITS = {"fraction": 3, "millions": 2, "seconds": 0, "number": 0}


class Column(NamedTuple):
    """A figure of `results.jsonl`, and how a table shows it."""

    title: str
    figure: str
    unit: str = "share"  # in percent; or one of `DIGITS`


def by_number(lines: Sequence[Mapping[str, Any]], method: str, figure: str) -> dict[int, float]:
    """A figure of a method by the number of the seed or fold."""
    return {
        line["number"]: line["figures"][figure]
        for line in lines
        if line["method"] == method and figure in line["figures"]
    }


def mean_of(lines: Sequence[Mapping[str, Any]], method: str, figure: str) -> dict[str, Any]:
    """`mean` and sample standard deviation `sd` over seeds or folds; None where there are too few."""
    return statistics(np.array([*by_number(lines, method, figure).values()]))


def difference(
    lines: Sequence[Mapping[str, Any]], method: str, baseline: str, figure: str
) -> dict[str, Any] | None:
    """The paired differences `method - baseline` over the numbers that both have.

    Returns:
      `mean`, `sd`, `values` and the 95% `interval` (Student's t, from two pairs on); None without a pair.
    """
    ours, theirs = (by_number(lines, name, figure) for name in (method, baseline))
    pairs = np.array([ours[number] - theirs[number] for number in sorted(ours.keys() & theirs.keys())])
    if not pairs.size:
        return None
    return statistics(pairs) | {"interval": corrected_interval(pairs, ratio=0.0)}


def best_of(
    lines: Sequence[Mapping[str, Any]], methods: Sequence[str], figure: str, small: bool = False
) -> tuple[str, dict[str, Any] | None]:
    """The method with the best mean of a figure, as the paper reports k, and that mean.

    Args:
      small: whether the smallest mean is the best one.
    """
    found = {method: mean_of(lines, method, figure) for method in methods}
    known = {method: entry for method, entry in found.items() if entry["mean"] is not None}
    if not known:
        return "", None
    best = (min if small else max)(known, key=lambda method: known[method]["mean"])
    return best, known[best]


def methods_table(
    lines: Sequence[Mapping[str, Any]], methods: Sequence[str], columns: Sequence[Column]
) -> str:
    """A row per method: mean ± standard deviation of each column, and n."""
    rows = []
    for method in methods:
        cells = [spread(mean_of(lines, method, column.figure), column.unit) for column in columns]
        n = max((len(by_number(lines, method, column.figure)) for column in columns), default=0)
        rows.append([method, *cells, str(n)])
    return markdown(["", *(column.title for column in columns), "n"], rows)


def differences_table(
    lines: Sequence[Mapping[str, Any]], methods: Sequence[str], baseline: str, columns: Sequence[Column]
) -> str:
    """A row per method: mean paired difference from `baseline` with its 95% interval."""
    rows = []
    for method in methods:
        if method != baseline:
            found = [difference(lines, method, baseline, column.figure) for column in columns]
            cells = [change(entry, column.unit) for entry, column in zip(found, columns, strict=True)]
            rows.append([method, *cells])
    return markdown([f"minus {baseline}", *(column.title for column in columns)], rows)


class Beside(NamedTuple):
    """One figure of the paper and ours."""

    name: tuple[str, ...]  # of the row
    ours: Mapping[str, Any] | None  # of `mean_of`
    paper: tuple[float, float | None]  # `published.Figure`: value and standard deviation
    unit: str = "share"


def paper_table(keys: Sequence[str], rows: Sequence[Beside]) -> str:
    """A row per figure: ours, the paper's, and the difference."""
    cells = []
    for row in rows:
        paper = dict(zip(("mean", "sd"), row.paper, strict=True))
        mean = None if row.ours is None else row.ours["mean"]
        gap = None if mean is None else {"mean": mean - row.paper[0], "interval": None}
        cells.append([*row.name, spread(row.ours, row.unit), spread(paper, row.unit), change(gap, row.unit)])
    return markdown([*keys, "ours", "paper", "difference"], cells, text=len(keys))


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], text: int = 1) -> str:
    """A Markdown table, its first `text` columns to the left."""
    lines = [header, [*["---"] * text, *["---:"] * (len(header) - text)], *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def spread(entry: Mapping[str, Any] | None, unit: str) -> str:
    """ "86.1 ± 0.3"; shares in percent."""
    if entry is None or entry["mean"] is None:
        return MISSING
    deviation = "" if entry["sd"] is None else f" ± {_number(entry['sd'], unit)}"
    return _number(entry["mean"], unit) + deviation


def change(entry: Mapping[str, Any] | None, unit: str) -> str:
    """ "+1.2 (−0.3 to +2.7)"; shares in points."""
    if entry is None or entry["mean"] is None:
        return MISSING
    if entry["interval"] is None:
        return _signed(entry["mean"], unit)
    low, high = (_signed(end, unit) for end in entry["interval"])
    return f"{_signed(entry['mean'], unit)} ({low} to {high})"


def _number(value: float, unit: str) -> str:
    return f"{100 * value:.1f}" if unit == "share" else f"{value:,.{DIGITS[unit]}f}"


def _signed(value: float, unit: str) -> str:
    text = _number(abs(value), unit)
    return text if not text.strip("0.,") else ("−" if value < 0 else "+") + text
