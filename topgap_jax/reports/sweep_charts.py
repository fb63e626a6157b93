"""A small chart per figure, over k: a point per k with its 95% interval or deviation, the twin beside it."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from topgap_jax.reports.charts import Tick, axis
from topgap_jax.reports.fold_lines import Line, Spread, spread_text
from topgap_jax.reports.sweep_lines import Column, interval, validated

WIDTH, HEIGHT = 440, 220
LEFT, RIGHT, TOP, BOTTOM = 54, 20, 14, 32
TWIN = 70  # pixels for the twin's lane
HEAT_MAPS = ("CAM sparsity", "IoU, global threshold", "Energy in mask")


class Point(NamedTuple):
    """One column's value."""

    run: int  # 0: a k, 1: the twin
    x: float  # pixels
    y: float
    low: float
    high: float
    seeds: tuple[float, ...]  # the values of the seeds, where there are several
    chosen: bool
    label: str


class Chart(NamedTuple):
    title: str
    description: str  # every value, for those who do not see the picture
    points: tuple[Point, ...]
    path: str  # through the k
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    selects: bool  # whether k is chosen by this figure


def charts(table: Sequence[Line], shown: Sequence[Column], summary: dict[str, Any]) -> tuple[Chart, ...]:
    """A chart for each accuracy, each attack and the main figures of the heat maps."""
    return tuple(_chart(line, shown, summary) for line in table if _wanted(line))


def _wanted(line: Line) -> bool:
    robust = line.section == "Robust accuracy" and not line.clean
    return robust or line.name.startswith("Accuracy") or line.name in HEAT_MAPS


def _chart(line: Line, shown: Sequence[Column], summary: dict[str, Any]) -> Chart:
    places = _places(shown)
    y, y_ticks = _scale(line)
    points = [
        _point(line, number, column, x, y)
        for number, (column, x) in enumerate(zip(shown, places, strict=True))
        if line.runs[number] is not None
    ]
    title = f"{line.section}: {line.name}" if line.attack else line.name
    values = ", ".join(point.label for point in points)
    return Chart(
        title=title,
        description=f"{title}. {values}.",
        points=tuple(points),
        path=" ".join(f"{point.x},{point.y}" for point in points if point.run == 0),
        x_ticks=_x_ticks(shown, places),
        y_ticks=y_ticks,
        selects=line == validated(summary),
    )


def _places(shown: Sequence[Column]) -> list[float]:
    """k on a logarithmic axis, the twin in a lane of its own at the right."""
    ks = [column.k for column in shown if column.k is not None]
    right = WIDTH - RIGHT - (TWIN if len(ks) < len(shown) else 0)
    low, high = math.log2(ks[0]), math.log2(ks[-1])
    inset = 14

    def place(k: int) -> float:
        position = (math.log2(k) - low) / (high - low) if high > low else 0.5
        return round(LEFT + inset + position * (right - LEFT - 2 * inset), 1)

    return [WIDTH - RIGHT - TWIN / 2 if column.k is None else place(column.k) for column in shown]


def _x_ticks(shown: Sequence[Column], places: Sequence[float]) -> tuple[Tick, ...]:
    """As many labels as there is room for."""
    ticks: list[Tick] = []
    for column, x in zip(shown, places, strict=True):
        label = "twin" if column.k is None else str(column.k)
        if not ticks or x - ticks[-1].position > 7 * len(label) + 8:
            ticks.append(Tick(x, label))
    return tuple(ticks)


def _scale(line: Line) -> tuple[Callable[[float], float], tuple[Tick, ...]]:
    ends = [
        end
        for number, spread in enumerate(line.runs)
        if spread is not None
        for end in (*_whiskers(line, number, spread), *filter(None, spread.values))
    ]
    least, most = min(ends), max(ends)
    room = max(0.0, 0.02 - (most - least)) / 2
    low, high = max(least - room, min(0.0, least)), most + room
    if line.unit == "share":
        high = min(high, 1.0)
    spec = "{:g}" if line.unit != "share" else "{:.0%}" if high - low > 0.05 else "{:.1%}"
    return axis(low, high, HEIGHT - BOTTOM, TOP, spec, bins=5)


def _whiskers(line: Line, number: int, spread: Spread) -> tuple[float, float]:
    """The interval of a single run, the deviation of several, or nothing around the value."""
    sd = spread.sd or 0.0
    return interval(line, number) or (spread.mean - sd, spread.mean + sd)


def _point(line: Line, number: int, column: Column, x: float, y: Callable[[float], float]) -> Point:
    spread = line.runs[number]
    assert spread is not None
    low, high = _whiskers(line, number, spread)
    values = [value for value in spread.values if value is not None]
    return Point(
        run=int(column.k is None),
        x=x,
        y=y(spread.mean),
        low=y(low),
        high=y(high),
        seeds=tuple(y(value) for value in values) if len(values) > 1 else (),
        chosen=column.chosen,
        label=f"{column.name}: {spread_text(spread, line.unit)}",
    )
