"""The twin comparison as Markdown and as a table on the terminal."""

from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from topgap_jax.reports.comparison import Row, compare
from topgap_jax.reports.findings import findings, headline
from topgap_jax.reports.runs import Run, read_runs
from topgap_jax.reports.wording import (
    difference_interval_text,
    difference_text,
    interval_text,
    value_text,
)


def comparison_markdown(workdir: str | Path) -> str:
    """The comparison as a Markdown table, for a README.

    Args:
      workdir: a run directory, with or without a twin.

    Returns:
      The table; its last column is the 95% interval of the test set's sampling error.

    Raises:
      FileNotFoundError, ValueError: a result file is missing or wrong; the message names it.
    """
    runs = read_runs(workdir)
    titles = _titles(runs)
    lines = [f"| | {' | '.join(titles)} |", "|---|" + "---:|" * len(titles)]
    for section, rows in groupby(compare(runs), key=lambda row: row.section):
        lines.append(f"| **{section}** |" + " |" * len(titles))
        lines += [f"| {' | '.join([_name(row), *_cells(row)])} |" for row in rows]
    return "\n".join([*lines, ""])


def print_report(workdir: str | Path, console: Console | None = None) -> None:
    """The headline, the comparison and what to be careful about, on the terminal.

    Args:
      workdir: a run directory, with or without a twin.
      console: where to print; the terminal by default.

    Raises:
      FileNotFoundError, ValueError: a result file is missing or wrong; the message names it.
    """
    console = console or Console()
    runs = read_runs(workdir)
    rows = compare(runs)
    for sentence in headline(runs, rows):
        console.print(sentence, markup=False)
    console.print(_terminal_table(runs, rows))
    for finding in findings(runs, rows):
        if finding.level != "reading":
            console.print(f"{finding.level.upper()}: {finding.title}. {finding.text}", markup=False)


def _terminal_table(runs: tuple[Run, ...], rows: tuple[Row, ...]) -> Table:
    caption = "95%: interval of the test set's sampling error"
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), caption=caption, caption_justify="left")
    table.add_column("")
    for title in _titles(runs):
        table.add_column(Text(title), justify="right")
    for section, group in groupby(rows, key=lambda row: row.section):
        table.add_row()
        table.add_row(Text(section, style="bold"))
        for row in group:
            table.add_row(Text(row.name), *_cells(row))
    return table


def _name(row: Row) -> str:
    return f"{row.name} ({row.note})" if row.note else row.name


def _cells(row: Row) -> list[str]:
    values = [value_text(figure, row.unit) for figure in row.figures]
    if len(row.figures) == 1:
        return [*values, interval_text(row.figures[0], row.unit)]
    difference = row.difference
    return [*values, difference_text(difference, row.unit), difference_interval_text(difference, row.unit)]


def _titles(runs: tuple[Run, ...]) -> list[str]:
    return [run.title for run in runs] + ["Difference"] * (len(runs) > 1) + ["95%"]
