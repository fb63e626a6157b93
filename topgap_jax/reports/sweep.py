"""`sweep.json` in; one page, Markdown and a terminal table out: a column per k, and the k to take."""

from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from topgap_jax.reports.comparison import split_name
from topgap_jax.reports.fold_lines import Line, spread_text
from topgap_jax.reports.pages import provenance, read_summary, render, write
from topgap_jax.reports.runs import Json
from topgap_jax.reports.sweep_charts import charts
from topgap_jax.reports.sweep_lines import (
    Column,
    columns,
    difference_text,
    interval_text,
    sweep_lines,
    tied,
    validated,
)
from topgap_jax.reports.wording import listing, percent

FIELDS = ("title", "seeds", "cam_shape", "validation", "chosen", "rows")


def write_sweep_report(workdir: str | Path) -> Path:
    """Writes `report.html` (one page, no script, no network) and `report.md` of a sweep.

    Args:
      workdir: a folder with `sweep.json`; the reports of its runs are linked as `k=N/report.html`.

    Returns:
      The path of `report.html`.

    Raises:
      FileNotFoundError, ValueError: `sweep.json` is missing, half written or wrong.
    """
    workdir = Path(workdir)
    view = _view(read_sweep(workdir))
    view["has_reports"] = all(
        (workdir / folder / "report.html").exists() for column in view["columns"] for folder in column.folders
    )
    for name in ("report.md", "report.html"):
        template = f"sweep{Path(name).suffix}.jinja"
        write(workdir / name, render(template, view, (spread_text, interval_text)))
    return workdir / "report.html"


def print_sweep(workdir: str | Path, console: Console | None = None) -> None:
    """Which k the validation chooses, and every figure of every k, on the terminal.

    Args:
      workdir: a folder with `sweep.json`.
      console: where to print; the terminal by default.

    Raises:
      FileNotFoundError, ValueError: `sweep.json` is missing, half written or wrong.
    """
    console = console or Console(highlight=False)
    summary = read_sweep(Path(workdir))
    for sentence in headline(summary):
        console.print(sentence, markup=False)
    console.print(_terminal_table(summary))


def read_sweep(workdir: Path) -> Json:
    """`sweep.json`, checked."""
    return read_summary(workdir / "sweep.json", FIELDS, written="every k is finished", again="the sweep")


def headline(summary: Json) -> tuple[str, ...]:
    """The result in a few sentences."""
    rows, seeds = summary["rows"], summary["seeds"]
    ks = [str(row["k"]) for row in rows]
    best = next(row for row in rows if row["k"] == summary["chosen"])
    line = validated(summary)
    value = spread_text(line.runs[rows.index(best)], line.unit)
    height, width = summary["cam_shape"]
    of_seeds = f" over {len(seeds)} seeds" if len(seeds) > 1 else ""
    chooses = f"Of k = {listing(ks)}, validation chooses" if len(ks) > 1 else "The only k is"
    sentences = [
        f"{chooses} k = {best['k']}, {percent(best['share'])} of the {height}×{width} map: {value} of the "
        f"{line.counts[0]:,} validation pictures{of_seeds}."
    ]
    if equals := tied(summary):
        names = listing([f"k = {row['k']} ({difference_text(row, summary)})" for row in equals])
        sentences.append(f"On these pictures it cannot be told apart from {names}.")
    elif len(rows) > 1:
        sentences.append("Every other k is worse by more than the 95% interval of the difference.")
    if diverged := summary.get("diverged"):
        sentences.append(f"Not in the table, since training diverged: {listing(list(diverged))}.")
    return tuple(sentences)


def _view(summary: Json) -> Json:
    """All that the templates show."""
    table, shown = sweep_lines(summary), columns(summary)
    attacked = [line.counts[0] for line in table if line.attack and line.counts[0]]
    return {
        "summary": summary,
        "sentences": headline(summary),
        "columns": shown,
        "sections": [(name, list(group)) for name, group in groupby(table, key=lambda line: line.section)],
        "validated": validated(summary),
        "charts": charts(table, shown, summary),
        "attacked": max(attacked, default=0),
        "ks": [row["k"] for row in summary["rows"]],
        "provenance": _provenance(summary),
    }


def _provenance(summary: Json) -> list[tuple[str, str]]:
    facts = {
        "Data": summary.get("source"),
        "Chosen on": split_name(summary["validation"]),
        "CAM": " × ".join(map(str, summary["cam_shape"])),
        "Epochs": summary.get("epochs"),
        "Seeds": ", ".join(map(str, summary["seeds"])),
        "Together": "; ".join(summary.get("together", [])),
        "Configuration": summary.get("config_hash"),
        "Commit": summary.get("commit"),
        "Date": summary.get("date"),
    }
    return provenance(facts, summary.get("machine", {}))


def _terminal_table(summary: Json) -> Table:
    caption = "*: chosen by validation accuracy"
    if len(summary["seeds"]) > 1:
        caption += f"; ± sample standard deviation over {len(summary['seeds'])} seeds"
    printed = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), caption=caption, caption_justify="left")
    printed.add_column("")
    for column in columns(summary):
        printed.add_column(Text(_heading(column)), justify="right")
    for section, group in groupby(sweep_lines(summary), key=lambda line: line.section):
        printed.add_row()
        printed.add_row(Text(section, style="bold"))
        for line in group:
            printed.add_row(Text(line.name), *_cells(line))
    return printed


def _heading(column: Column) -> str:
    return f"{column.name}{'*' if column.chosen else ''}"


def _cells(line: Line) -> list[str]:
    return [spread_text(spread, line.unit) for spread in line.runs]
