"""The paper's figure A3: accuracy over the steps of PGD, one line per step size."""

import base64
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from topgap_jax.reports.comparison import NORMS, format_eps
from topgap_jax.reports.robustness_findings import auto_attack
from topgap_jax.reports.runs import Json
from topgap_jax.reports.wording import listing, percent

TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
MARKERS = ("o", "s", "^", "D", "v", "P")  # tell the lines apart in grey print
DASHED = (0, (4, 2))
DOTTED = (0, (1, 1.5))


Style = dict[str, Any]


class Theme(NamedTuple):
    """Colours of Okabe and Ito (2008), told apart with any colour vision; lighter ones on dark paper."""

    paper: str
    ink: str
    muted: str
    grid: str
    lines: tuple[str, ...]


LIGHT = Theme(
    paper="#ffffff",
    ink="#1d1f23",
    muted="#5f646d",
    grid="#e3e0d8",
    lines=("#0072b2", "#d55e00", "#00805e", "#a8487f", "#8a6d00", "#555555"),
)
DARK = Theme(
    paper="#1b1e24",
    ink="#e9e7e2",
    muted="#a0a5af",
    grid="#30343c",
    lines=("#6fb8f0", "#ff9f57", "#3fcf9f", "#e79ac4", "#e6d25a", "#bbbbbb"),
)


def write_steps_plot(results: tuple[Json, ...], directory: Path) -> None:
    """Writes `steps.png` and `steps.pdf` into the directory; removes old ones where there is no curve."""
    for name, options in (("steps.png", {"dpi": 200}), ("steps.pdf", {"metadata": {"CreationDate": None}})):
        path = directory / name
        if any(result.get("steps_curve") for result in results):
            with matplotlib.rc_context({"pdf.fonttype": 42}):  # text stays text
                steps_figure(results).savefig(path, **options)
        else:
            path.unlink(missing_ok=True)


def steps_images(results: tuple[Json, ...]) -> dict[str, str]:
    """The figure for the page as `data:` addresses, wide and narrow, light and dark, and its description."""
    if not any(result.get("steps_curve") for result in results):
        return {}
    return {
        "light": _data_uri(steps_figure(results)),
        "dark": _data_uri(steps_figure(results, DARK)),
        "narrow_light": _data_uri(steps_figure(results, stacked=True)),
        "narrow_dark": _data_uri(steps_figure(results, DARK, stacked=True)),
        "description": describe(results),
    }


def steps_figure(results: tuple[Json, ...], theme: Theme = LIGHT, stacked: bool = False) -> Figure:
    """Robust accuracy (solid) and prediction consistency (dashed) over the steps, a panel per network."""
    shown = [result for result in results if result.get("steps_curve")]
    rows, columns = (len(shown), 1) if stacked else (1, len(shown))
    size = (4.2, 3.5 * rows + 0.9) if stacked else (4.4 * columns + 0.6 + 1.8 * (columns == 1), 4.3)
    figure = Figure(figsize=size, facecolor=theme.paper, layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    styles = _styles(shown, theme)
    for result, axes in zip(shown, panels, strict=True):
        _draw_curves(axes, result, styles, theme)
        _draw_auto_attack(axes, result, theme)
        _name(axes, result, theme)
    _scale(panels, shown, theme)
    for axes in panels if stacked else panels[:1]:
        axes.set_ylabel("share of the pictures (%)", color=theme.ink)
    for axes in panels[-1:] if stacked else panels:
        axes.set_xlabel("PGD steps (log scale)", color=theme.ink)
    _legend(figure, styles, theme, columns=2 if stacked else 3)
    return figure


def describe(results: tuple[Json, ...]) -> str:
    """The ends of the lines, for those who do not see the picture."""
    parts = []
    for result in results:
        ends = [
            f"{percent(curve['robust_accuracy'][-1])} robust after {curve['steps'][-1]:,} steps of "
            f"{curve['relative_step_size']}"
            for curve in result.get("steps_curve") or []
        ]
        auto = auto_attack(result)
        ends += [f"{percent(auto['robust_accuracy'])} after AutoAttack"] if auto and ends else []
        parts += [f"{result['title']}: {listing(ends)}"] if ends else []
    return f"Accuracy over the steps of PGD. {'. '.join(parts)}."


def _styles(shown: list[Json], theme: Theme) -> dict[str, Style]:
    """Colour and marker of each step size, the same in every panel."""
    names = dict.fromkeys(curve["relative_step_size"] for result in shown for curve in result["steps_curve"])
    return {
        name: {
            "color": theme.lines[index % len(theme.lines)],
            "marker": MARKERS[index % len(MARKERS)],
            "markersize": 4.5,
        }
        for index, name in enumerate(names)
    }


def _draw_curves(axes: Axes, result: Json, styles: dict[str, Style], theme: Theme) -> None:
    for curve in result["steps_curve"]:
        style = styles[curve["relative_step_size"]] | {"zorder": 3}
        if consistency := curve.get("prediction_consistency"):
            hollow: Style = style | {"markerfacecolor": theme.paper}
            axes.plot(curve["steps"], [100 * value for value in consistency], ls=DASHED, lw=1.1, **hollow)
        axes.plot(curve["steps"], [100 * value for value in curve["robust_accuracy"]], lw=1.8, **style)


def _draw_auto_attack(axes: Axes, result: Json, theme: Theme) -> None:
    auto = auto_attack(result)
    if auto is None:
        return
    axes.axhline(100 * auto["robust_accuracy"], color=theme.ink, lw=1.3, ls=DOTTED, zorder=2)
    axes.annotate(
        f"AutoAttack {percent(auto['robust_accuracy'])}",
        xy=(0, 100 * auto["robust_accuracy"]),
        xycoords=("axes fraction", "data"),
        xytext=(4, -3),  # below the line: PGD's curves, of a weaker attack, lie above
        textcoords="offset points",
        va="top",
        fontsize=8.5,
        color=theme.ink,
        zorder=4,
    )


def _name(axes: Axes, result: Json, theme: Theme) -> None:
    count = result["steps_curve"][0].get("count") or result["count"]
    terms = f"{NORMS[result['norm']]}, eps {format_eps(result['eps'])}, n = {count:,}"
    axes.set_title(result["title"], loc="left", fontsize=11, fontweight="bold", color=theme.ink, pad=20)
    axes.text(0, 1.025, terms, transform=axes.transAxes, fontsize=8.5, color=theme.muted)


def _scale(panels: Iterable[Axes], shown: list[Json], theme: Theme) -> None:
    steps = [step for result in shown for curve in result["steps_curve"] for step in curve["steps"]]
    low, high = min(steps), max(steps)
    for axes in panels:
        axes.set(xscale="log", xlim=(low * 0.85, max(high, 2 * low) * 1.15), ylim=(-9, 103))
        axes.set(facecolor=theme.paper, axisbelow=True)
        axes.xaxis.set_major_locator(FixedLocator([tick for tick in TICKS if low <= tick <= high] or [low]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:,.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.tick_params(colors=theme.muted, labelsize=8.5, length=3)
        axes.grid(color=theme.grid, linewidth=0.8)
        for side, spine in axes.spines.items():
            spine.set(visible=side in ("left", "bottom"), color=theme.muted)


def _legend(figure: Figure, styles: dict[str, Style], theme: Theme, columns: int) -> None:
    handles = [Line2D([], [], lw=1.8, label=f"step size {name}", **style) for name, style in styles.items()]
    plain: Style = {"color": theme.ink, "marker": "o", "markersize": 4.5}
    hollow: Style = plain | {"markerfacecolor": theme.paper}
    handles.append(Line2D([], [], lw=1.8, label="robust accuracy", **plain))
    handles.append(Line2D([], [], lw=1.1, ls=DASHED, label="prediction consistency", **hollow))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=8.5,
        labelcolor=theme.ink,
        handlelength=3.2,
    )


def _data_uri(figure: Figure) -> str:
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "steps"}):  # the same input, the same bytes
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
