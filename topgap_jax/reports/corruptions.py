"""`corruptions.json` in; tables as Markdown and on the terminal and a plot of accuracy over severity out."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from rich.text import Text

from topgap_jax.reports.comparison import share, split_name
from topgap_jax.reports.pages import write
from topgap_jax.reports.robustness_plots import LIGHT, MARKERS
from topgap_jax.reports.runs import Json
from topgap_jax.reports.wording import interval_text, percent, signed

FILE = "corruptions.json"
COLUMNS = 4  # panels side by side
BY_TYPE = "Accuracy, mean over severities"
PAIRED = "95%: the sampling error of the pictures, which both networks share; not that of training again."
Line = tuple[str, list[str]]  # a name and its cells


def write_corruption_report(folder: str | Path) -> Path:
    """Writes `report.md` and `corruptions.png` next to `corruptions.json`.

    Args:
      folder: `WORKDIR/corruptions`.

    Returns:
      The path of `report.md`.

    Raises:
      FileNotFoundError, ValueError: `corruptions.json` is missing or half written.
    """
    folder = Path(folder)
    result = _read(folder)
    corruption_figure(result).savefig(folder / "corruptions.png", dpi=110)
    write(folder / "report.md", corruption_markdown(result))
    return folder / "report.md"


def print_corruptions(folder: str | Path, file: TextIO | None = None) -> None:
    """The tables of the report, on the terminal.

    Args:
      folder: `WORKDIR/corruptions`.
      file: where to print; the terminal by default.
    """
    result = _read(Path(folder))
    console = Console(file=file, highlight=False, markup=False)
    console.print(_terms(result))
    header = _header(result)
    for title, lines in (("Over all corruptions", _summary(result)), (BY_TYPE, _by_type(result))):
        console.print(_terminal_table([title, *header], lines))
    if result["differences"]:
        console.print(PAIRED)


def print_accuracies(networks: Sequence[tuple[str, Sequence[Json]]], file: TextIO | None = None) -> None:
    """A table of accuracies per test set.

    Args:
      networks: titles, and figures as in `evaluation.json` under `accuracy`.
      file: where to print; the terminal by default.
    """
    lines = []
    for entries in zip(*(figures for _, figures in networks), strict=True):
        first = entries[0]
        name = split_name(first["split"]) + (f", {first['group']} group" if "group" in first else "")
        lines.append((name, [_with_interval(entry["value"], entry["count"]) for entry in entries]))
    table = _terminal_table(["Accuracy (95%)", *(title for title, _ in networks)], lines)
    Console(file=file, highlight=False, markup=False).print(table)


def corruption_markdown(result: Json) -> str:
    """The report as Markdown."""
    header = _header(result)
    parts = [
        f"# Corruptions: {' and '.join(network['title'] for network in result['networks'])}",
        _terms(result),
        _markdown_table(["Over all corruptions", *header], _summary(result)),
        _markdown_table([BY_TYPE, *header], _by_type(result)),
        *[PAIRED] * bool(result["differences"]),
        "![accuracy over severity](corruptions.png)",
    ]
    return "\n\n".join(parts) + "\n"


def corruption_figure(result: Json) -> Figure:
    """Accuracy over severity: the mean over corruptions first, then a panel each; severity 0 is clean."""
    names = list(result["networks"][0]["accuracy"])
    rows = math.ceil((len(names) + 1) / COLUMNS)
    figure = Figure(figsize=(2.5 * COLUMNS, 2.0 * rows + 0.6), facecolor=LIGHT.paper, layout="constrained")
    panels = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, name in zip(panels, ["", *names], strict=False):
        _draw(axes, result, [name] if name else names)
        axes.set_title(
            name.replace("_", " ") or "mean",
            fontsize=9,
            color=LIGHT.ink,
            fontweight="normal" if name else "bold",
        )
    for axes in panels[len(names) + 1 :]:
        axes.set_visible(False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    figure.supxlabel("severity (0: clean)", fontsize=9, color=LIGHT.ink)
    figure.supylabel("accuracy (%)", fontsize=9, color=LIGHT.ink)
    return figure


def _draw(axes: Axes, result: Json, names: Sequence[str]) -> None:
    severities = [0, *result["severities"]]
    for i, network in enumerate(result["networks"]):
        means = [_mean(network["accuracy"][name][str(s)] for name in names) for s in severities[1:]]
        values = [100 * value for value in (network["clean_accuracy"], *means)]
        style: dict[str, Any] = {"color": LIGHT.lines[i], "marker": MARKERS[i], "markersize": 3.5, "lw": 1.5}
        axes.plot(severities, values, label=network["title"], **style)
    axes.set(ylim=(0, 102), xticks=severities, facecolor=LIGHT.paper, axisbelow=True)
    axes.grid(color=LIGHT.grid, linewidth=0.8)
    axes.tick_params(colors=LIGHT.muted, labelsize=8, length=3)
    for side, spine in axes.spines.items():
        spine.set(visible=side in ("left", "bottom"), color=LIGHT.muted)


def _header(result: Json) -> list[str]:
    titles = [network["title"] for network in result["networks"]]
    return titles + (["difference", "95%"] if result["differences"] else [])


def _terms(result: Json) -> str:
    height, width, _ = result["image_shape"]
    constants = {"imagenet": "ImageNet-C", "cifar": "CIFAR-10-C"}[result["variant"]]
    return (
        f"{result['dataset']}, {split_name(result['split'])}: {result['count']:,} pictures of {height} x "
        f"{width} pixels, severities {', '.join(map(str, result['severities']))}, constants of {constants}, "
        f"seed {result['seed']}."
    )


def _summary(result: Json) -> list[Line]:
    """The figures over corruptions, each under its name."""
    networks, count = result["networks"], len(result["networks"][0]["accuracy"])
    rows: list[tuple[str, str, bool]] = [
        ("Clean accuracy", "clean_accuracy", False),
        (f"Mean accuracy over {count} corruptions at severity 1", "mean_accuracy_severity_1", False),
        ("Mean corruption error, unnormalised", "mean_corruption_error", True),
        ("mCE (errors in parts of AlexNet's)", "mean_corruption_error_alexnet", True),
    ]
    differences = {"clean_accuracy": "clean", "mean_accuracy_severity_1": "severity_1"}
    differences |= {"mean_corruption_error": "all"}
    lines = []
    for label, field, is_error in rows:
        if networks[0][field] is None:
            continue
        cells = [percent(network[field]) for network in networks]
        found = (result["differences"] or {}).get(differences.get(field, ""))
        lines.append((label, cells + (_difference(result, found, -1 if is_error else 1))))
    return lines


def _by_type(result: Json) -> list[Line]:
    """Per corruption the mean accuracy over severities."""
    lines = []
    for name in result["networks"][0]["accuracy"]:
        cells = [percent(1 - network["corruption_error"][name]) for network in result["networks"]]
        difference = (result["differences"] or {}).get(name)
        lines.append((name.replace("_", " "), cells + _difference(result, difference, 1)))
    return lines


def _difference(result: Json, found: Any, sign: int) -> list[str]:
    if not result["differences"]:
        return []
    if found is None:
        return ["–", ""]
    low, high = sorted((sign * found["low"], sign * found["high"]))
    return [_points(sign * found["value"]), f"{_points(low)} to {_points(high)}"]


def _points(value: float) -> str:
    return signed(100 * value, ".1f")


def _with_interval(value: float, count: int) -> str:
    return f"{percent(value)} ({interval_text(share(value, count), 'share')})"


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def _markdown_table(header: Sequence[str], lines: Sequence[Line]) -> str:
    rows = [f"| {' | '.join(header)} |", "|---|" + "---:|" * (len(header) - 1)]
    return "\n".join([*rows, *(f"| {' | '.join([name, *cells])} |" for name, cells in lines)])


def _terminal_table(header: Sequence[str], lines: Sequence[Line]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(Text(header[0]))
    for title in header[1:]:
        table.add_column(Text(title), justify="right")
    for name, cells in lines:
        table.add_row(Text(name), *cells)
    return table


def _read(folder: Path) -> Json:
    path = folder / FILE
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run topgap evaluate WORKDIR --corruptions paper")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
