"""One strip per figure: a dot per fold, a line between the two networks of a fold, mean and deviation."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from topgap_jax.reports.charts import Tick, axis
from topgap_jax.reports.fold_lines import Line, spread_text, value_text

WIDTH, LEFT, RIGHT = 440, 28, 28
LANES = (34, 82)  # pixels from the top, of the run and of its twin
SECTIONS = ("Clean accuracy", "Robust accuracy", "Heat maps")


class FoldDot(NamedTuple):
    fold: int
    x: float  # pixels
    label: str


class Lane(NamedTuple):
    """One network's values."""

    run: int
    y: float
    dots: tuple[FoldDot, ...]
    mean: float
    low: float  # mean - sd
    high: float


class Strip(NamedTuple):
    title: str
    texts: tuple[str, ...]  # mean and deviation of each run
    description: str  # every value, for those who do not see the picture
    lanes: tuple[Lane, ...]
    pairs: tuple[tuple[float, float, float, float], ...]  # x1, y1, x2, y2 of each fold
    ticks: tuple[Tick, ...]
    height: int


def strips(table: Sequence[Line], titles: Sequence[str]) -> tuple[Strip, ...]:
    """A strip for each accuracy, attack and heat-map figure."""
    wanted = [line for line in table if line.section in SECTIONS and not (line.clean or line.descriptive)]
    return tuple(_strip(line, titles) for line in wanted)


def _strip(line: Line, titles: Sequence[str]) -> Strip:
    x, ticks = _scale(line)
    lanes = tuple(_lane(line, run, x) for run, spread in enumerate(line.runs) if spread is not None)
    height = LANES[len(line.runs) - 1] + 50
    title = f"{line.section}: {line.name}" if line.attack else line.name
    return Strip(
        title=title,
        texts=tuple(spread_text(spread, line.unit) for spread in line.runs),
        description=f"{title} in each fold. {' '.join(_described(line, titles))}",
        lanes=lanes,
        pairs=tuple(_pairs(lanes)),
        ticks=ticks,
        height=height,
    )


def _scale(line: Line) -> tuple[Callable[[float], float], tuple[Tick, ...]]:
    values = [
        value
        for spread in line.runs
        if spread is not None
        for value in (*spread.values, spread.mean - (spread.sd or 0), spread.mean + (spread.sd or 0))
        if value is not None
    ]
    least, most = min(values), max(values)
    room = max(0.0, 0.01 - (most - least)) / 2
    low, high = max(least - room, min(0.0, min(values))), most + room
    if line.unit == "share":
        low, high = max(low, 0.0), min(high, 1.0)
    spec = "{:g}" if line.unit != "share" else "{:.0%}" if high - low > 0.05 else "{:.1%}"
    return axis(low, high, LEFT, WIDTH - RIGHT, spec, bins=5)


def _lane(line: Line, run: int, x: Callable[[float], float]) -> Lane:
    spread = line.runs[run]
    assert spread is not None
    dots = [
        FoldDot(fold, x(value), f"fold {fold}: {value_text(value, line.unit)}")
        for fold, value in enumerate(spread.values)
        if value is not None
    ]
    sd = spread.sd or 0.0
    low, high = (min(max(x(end), 0), WIDTH) for end in (spread.mean - sd, spread.mean + sd))
    return Lane(run, LANES[run], tuple(dots), x(spread.mean), low, high)


def _pairs(lanes: Sequence[Lane]) -> Sequence[tuple[float, float, float, float]]:
    if len(lanes) < 2:
        return []
    own, twin = lanes
    there = {dot.fold: dot.x for dot in twin.dots}
    return [(dot.x, own.y, there[dot.fold], twin.y) for dot in own.dots if dot.fold in there]


def _described(line: Line, titles: Sequence[str]) -> list[str]:
    return [
        f"{title}: {', '.join(value_text(value, line.unit) for value in spread.values)}."
        for title, spread in zip(titles, line.runs, strict=True)
        if spread is not None
    ]
