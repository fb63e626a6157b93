"""Line and interval charts as plain numbers, for the SVG in the page's template."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from matplotlib.ticker import MaxNLocator

from topgap_jax.reports.comparison import Row
from topgap_jax.reports.runs import Json, Run
from topgap_jax.reports.wording import interval_text, value_text

WIDTH, HEIGHT = 440, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 30
MOST_POINTS = 240  # of a curve; longer runs are averaged in groups, the page stays small


class Tick(NamedTuple):
    position: float  # pixels
    label: str


class Curve(NamedTuple):
    run: int  # 0: the run, 1: its twin
    kind: str  # "train" or "eval"
    path: str  # points of an SVG polyline
    points: tuple[tuple[float, float], ...]  # pixels


class LineChart(NamedTuple):
    title: str
    description: str  # the last values, for those who do not see the picture
    curves: tuple[Curve, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


class Dot(NamedTuple):
    run: int
    x: float  # percent of the axis
    low: float
    high: float
    label: str


class DotRow(NamedTuple):
    name: str
    dots: tuple[Dot, ...]


def training_charts(runs: tuple[Run, ...]) -> tuple[LineChart, ...]:
    """Loss, its components and the accuracy over the epochs, on training batches and on held-out data."""
    charts = [
        _line_chart(runs, "loss", "Loss", "{:.3f}"),
        _line_chart(runs, "cross_entropy", "Cross-entropy", "{:.3f}"),
        _line_chart(runs, "l1", "Mean of |CAM| (the l1 term, before its weight)", "{:.3g}"),
        _line_chart(runs, "accuracy", "Accuracy", "{:.1%}"),
    ]
    return tuple(chart for chart in charts if chart is not None)


def dot_rows(rows: tuple[Row, ...]) -> tuple[DotRow, ...]:
    """The accuracies of the comparison, clean and robust, as dots with their intervals on 0 to 100%."""
    wanted = [row for row in rows if row.section in ("Clean accuracy", "Robust accuracy")]
    return tuple(DotRow(row.name, tuple(_dots(row))) for row in wanted)


def _dots(row: Row) -> Sequence[Dot]:
    dots = []
    for run, figure in enumerate(row.figures):
        if figure is not None:
            low, high = figure.interval or (figure.value, figure.value)
            label = f"{value_text(figure, row.unit)} ({interval_text(figure, row.unit)})"
            dots.append(Dot(run, figure.value * 100, low * 100, high * 100, label))
    return dots


def _line_chart(runs: tuple[Run, ...], field: str, title: str, spec: str) -> LineChart | None:
    series = [
        (run, kind, _series(owner.metrics, kind, field))
        for run, owner in enumerate(runs)
        for kind in ("train", "eval")
    ]
    points = [point for _, _, values in series for point in values]
    if not points:
        return None
    xs, ys = zip(*points, strict=True)
    x, x_ticks = axis(0, max(xs), LEFT, WIDTH - RIGHT, "{:g}", bins=6)
    y, y_ticks = axis(
        min(0, *ys), max(ys), HEIGHT - BOTTOM, TOP, "{:.0%}" if field == "accuracy" else "{:g}", bins=5
    )
    curves = tuple(_curve(run, kind, values, x, y) for run, kind, values in series if values)
    last = [
        f"{runs[run].title} {kind} {spec.format(values[-1][1])}" for run, kind, values in series if values
    ]
    return LineChart(
        title, f"{title} over the epochs. Last values: {', '.join(last)}.", curves, x_ticks, y_ticks
    )


def _series(metrics: Sequence[Json], kind: str, field: str) -> list[tuple[float, float]]:
    records = [record for record in metrics if record["kind"] == kind and record.get(field) is not None]
    points = [(record["epoch"], record[field]) for record in records]
    points = [point for point in points if all(map(math.isfinite, point))]
    group = math.ceil(len(points) / MOST_POINTS) or 1
    groups = [points[start : start + group] for start in range(0, len(points), group)]
    return [tuple(sum(column) / len(column) for column in zip(*part, strict=True)) for part in groups]


def axis(
    low: float, high: float, start: float, end: float, spec: str, bins: int
) -> tuple[Callable[[float], float], tuple[Tick, ...]]:
    """From values to pixels, and round ticks from below `low` to above `high`."""
    if high <= low:
        high = low + 1
    ticks = MaxNLocator(nbins=bins, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    low, high = min(ticks[0], low), max(ticks[-1], high)

    def pixels(value: float) -> float:
        return round(start + (value - low) / (high - low) * (end - start), 1)

    return pixels, tuple(Tick(pixels(tick), spec.format(tick)) for tick in ticks)


def _curve(
    run: int,
    kind: str,
    values: list[tuple[float, float]],
    x: Callable[[float], float],
    y: Callable[[float], float],
) -> Curve:
    points = tuple((x(epoch), y(value)) for epoch, value in values)
    return Curve(run, kind, " ".join(f"{left},{top}" for left, top in points), points)
