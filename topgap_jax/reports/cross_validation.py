"""`cross_validation.json` in; one page, Markdown and a terminal table out, figures as mean ± deviation."""

from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from topgap_jax.reports.comparison import split_name
from topgap_jax.reports.fold_charts import strips
from topgap_jax.reports.fold_lines import (
    Line,
    Spread,
    deviation_text,
    difference_text,
    interval_text,
    lines,
    mean_text,
    spread_text,
    value_text,
)
from topgap_jax.reports.pages import provenance, read_summary, render, write
from topgap_jax.reports.runs import Json
from topgap_jax.reports.wording import listing

FIELDS = ("titles", "folds", "sizes", "figures", "examples")
FUNCTIONS = (mean_text, deviation_text, spread_text, difference_text, interval_text)
TILES = ("Energy in mask", "CAM sparsity")


def write_cross_validation_report(workdir: str | Path) -> Path:
    """Writes `report.html` (one page, no script, no network) and `report.md` of a cross-validation.

    Args:
      workdir: a folder with `cross_validation.json`; the folds' own reports are linked as
        `fold_N/report.html`.

    Returns:
      The path of `report.html`.

    Raises:
      FileNotFoundError, ValueError: `cross_validation.json` is missing, half written or wrong.
    """
    workdir = Path(workdir)
    view = _view(read_cross_validation(workdir))
    for name in ("report.md", "report.html"):
        write(workdir / name, render(f"cross_validation{Path(name).suffix}.jinja", view, FUNCTIONS))
    return workdir / "report.html"


def print_cross_validation(workdir: str | Path, console: Console | None = None) -> None:
    """The result in a few sentences, and a table of every figure's mean and deviation, on the terminal.

    Args:
      workdir: a folder with `cross_validation.json`.
      console: where to print; the terminal by default.

    Raises:
      FileNotFoundError, ValueError: `cross_validation.json` is missing, half written or wrong.
    """
    console = console or Console(highlight=False)
    summary = read_cross_validation(Path(workdir))
    table = lines(summary["figures"])
    for sentence in headline(summary, table):
        console.print(sentence, markup=False)
    console.print(_terminal_table(summary, table))


def read_cross_validation(workdir: Path) -> Json:
    """`cross_validation.json`, checked."""
    path = workdir / "cross_validation.json"
    return read_summary(path, FIELDS, written="every fold is finished", again="the cross-validation")


def headline(summary: Json, table: tuple[Line, ...]) -> tuple[str, ...]:
    """The result in a few sentences."""
    own, *others = summary["titles"]
    sentences = []
    if accuracy := next((line for line in table if line.section == "Clean accuracy"), None):
        against = f", {others[0]} {_text(accuracy, 1)}" if others else ""
        sentences.append(
            f"Over {summary['folds']} folds of {summary['examples']:,} pictures, {own} classifies "
            f"{_text(accuracy, 0)} of those it was not trained on right{against}."
        )
        if accuracy.difference is not None:
            sentences.append(_difference_sentence(accuracy))
    if attack := strongest(table):
        parts = [f"{title} {_text(attack, run)}" for run, title in enumerate(summary["titles"])]
        sentences.append(
            f"In robust accuracy, the attack that costs {own} most, {attack.name}, leaves {listing(parts)}."
        )
    return tuple(sentences)


def strongest(table: tuple[Line, ...]) -> Line | None:
    """The attack with the least robust accuracy of the run."""
    robust = [line for line in table if line.section == "Robust accuracy" and line.runs[0]]
    return min((line for line in robust if not line.clean), key=lambda line: line.mean, default=None)


def _difference_sentence(line: Line) -> str:
    text = f"Fold by fold the difference is {difference_text(line.difference, line.unit)}"
    if line.interval is None or line.difference is None:
        return f"{text}."
    if line.clear:
        side = "above" if line.difference.mean > 0 else "below"
        return f"{text}, {side} zero by more than the folds' deviation explains (95%: {interval_text(line)})."
    return f"{text}: no more than the folds' deviation explains (95%: {interval_text(line)})."


def _text(line: Line, run: int) -> str:
    return spread_text(line.runs[run], line.unit)


def _view(summary: Json) -> Json:
    """All that the templates show."""
    table = lines(summary["figures"])
    accuracy = next((line for line in table if line.section == "Clean accuracy"), None)
    return {
        "summary": summary,
        "titles": summary["titles"],
        "sentences": headline(summary, table),
        "tiles": _tiles(table),
        "sections": [(name, list(group)) for name, group in groupby(table, key=lambda line: line.section)],
        "strips": strips(table, summary["titles"]),
        "accuracy": accuracy,
        "folds": [_fold(summary, number, accuracy) for number in range(summary["folds"])],
        "trained": round(sum(sizes["train"] for sizes in summary["sizes"]) / summary["folds"]),
        "tested": min(sizes["test"] for sizes in summary["sizes"]),
        "attacked": max(
            (max(filter(None, line.counts), default=0) for line in table if line.attack), default=0
        ),
        "provenance": _provenance(summary),
    }


def _tiles(table: tuple[Line, ...]) -> list[Line]:
    whole = [line for line in table if line.section == "Clean accuracy" and line.name.startswith("Accuracy")]
    heat = [line for line in table if line.name in TILES]
    return [*whole[:2], *filter(None, [strongest(table)]), *heat[-1:]]


def _fold(summary: Json, number: int, accuracy: Line | None) -> Json:
    """One line of the table of the folds."""
    runs = accuracy.runs if accuracy else ()
    values = [spread.values[number] if spread else None for spread in runs]
    difference = accuracy.difference.values[number] if accuracy and accuracy.difference else None
    return {
        "number": number,
        "sizes": summary["sizes"][number],
        "values": [value_text(value, "share") for value in values],
        "difference": None if difference is None else difference_text(Spread(difference, None, ()), "share"),
    }


def _provenance(summary: Json) -> list[tuple[str, str]]:
    facts = {
        "Data": f"{summary.get('source')}, {split_name(str(summary.get('split')))}",
        "Pictures": f"{summary['examples']:,}",
        "Folds": f"{summary['folds']}, stratified{', by group' if summary.get('by_group') else ''}",
        "Fold seed": summary.get("fold_seed"),
        "Seeds": ", ".join(map(str, summary.get("seeds", []))),
        "Configuration": summary.get("config_hash"),
        "Commit": summary.get("commit"),
        "Date": summary.get("date"),
        "scikit-learn": summary.get("scikit_learn"),
    }
    return provenance(facts, *summary.get("machines", []))


def _terminal_table(summary: Json, table: tuple[Line, ...]) -> Table:
    caption = f"± sample standard deviation over {summary['folds']} folds"
    if len(summary["titles"]) > 1:
        caption += "; differences of shares in points;\n95%: corrected for overlapping training sets"
    printed = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), caption=caption, caption_justify="left")
    printed.add_column("")
    for title in [*summary["titles"], *["Difference", "95%"] * (len(summary["titles"]) > 1)]:
        printed.add_column(Text(title), justify="right")
    for section, group in groupby(table, key=lambda line: line.section):
        printed.add_row()
        printed.add_row(Text(section, style="bold"))
        for line in group:
            cells = [spread_text(spread, line.unit) for spread in line.runs]
            if len(line.runs) > 1:
                difference = difference_text(line.difference, line.unit).removesuffix(" points")
                cells += [difference, interval_text(line)]
            printed.add_row(Text(line.name), *cells)
    return printed
