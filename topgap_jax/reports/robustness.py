"""`robustness.json` in; one HTML page, Markdown, a model card and the paper's figure A3 out."""

import json
import math
from itertools import groupby
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from topgap_jax.reports import wording
from topgap_jax.reports.charts import DotRow, dot_rows
from topgap_jax.reports.comparison import budget, format_eps, share, split_name
from topgap_jax.reports.pages import finite, provenance, render, write
from topgap_jax.reports.robustness_findings import (
    CLEAN,
    Line,
    auto_attack,
    fooled_by,
    headline,
    lines,
    quoted_cheap,
    quoted_strong,
    stage_rows,
    statement,
    tally,
    verdict,
    warnings,
)
from topgap_jax.reports.robustness_plots import steps_images, write_steps_plot
from topgap_jax.reports.robustness_results import read_robustness
from topgap_jax.reports.runs import Json

BEATEN = 0.002  # what another attack may find beyond AutoAttack before its figure counts as unreliable
FUNCTIONS = (
    wording.value_text,
    wording.interval_text,
    wording.difference_text,
    wording.difference_interval_text,
    wording.percent,
    wording.seconds_text,
)
MARKS = {"PASS": "✓ PASS", "WARN": "▲ WARN", "INFO": "○ INFO", "SKIPPED": "– skipped"}


def write_robustness_report(directory: str | Path) -> Path:
    """Writes the report of a network, with its twin beside it, next to `robustness.json`.

    `robustness.html` (one page that holds all it shows), `robustness.md`, `model_card.json`, `model_card.md`
    and, where the file has a curve over the steps, `steps.png` and `steps.pdf`.

    Args:
      directory: `WORKDIR/robustness`; the twin's is `WORKDIR/twin/robustness`, if there is one.

    Returns:
      The path of `robustness.html`.

    Raises:
      FileNotFoundError, ValueError: `robustness.json` is missing, half written or wrong; the message names
        the file and the field.
    """
    directory = Path(directory)
    results, remark = read_robustness(directory)
    write_steps_plot(results, directory)
    card = json.dumps(model_card(results[0]), indent=2, allow_nan=False, ensure_ascii=False)
    write(directory / "model_card.json", card + "\n")
    view = _view(results, remark) | {"card": card}
    for name in ("model_card.md", "robustness.md", "robustness.html"):
        write(directory / name, render(f"{name}.jinja", view, FUNCTIONS))
    return directory / "robustness.html"


def print_robustness(directory: str | Path, file: TextIO | None = None) -> None:
    """What survives, in plain words and in a short table, and the diagnostics that warn, on the terminal.

    Args:
      directory: `WORKDIR/robustness`, as for `write_robustness_report`.
      file: where to print; the terminal by default.

    Raises:
      FileNotFoundError, ValueError: `robustness.json` is missing or wrong; the message names file and field.
    """
    results, remark = read_robustness(Path(directory))
    console = Console(file=file, highlight=False, markup=False)
    for sentence in filter(None, (*headline(results), remark)):
        console.print(sentence)
    console.print(_terminal_table(results))
    for entry in warnings(results[0]):
        console.print(f"WARN {entry['number']}, {entry['name']}: {entry['sentence']}")


def model_card(results: Json) -> Json:
    """RobustBench's fields as its `model_info` files spell them (percentages as text), ours in `topgap_jax`.

    What `robustness.json` does not say (link, name, authors and venue of a paper, additional data in
    training, the figure reported) is null.
    """
    auto, worst = auto_attack(results), results.get("worst_case")
    flags = (results.get("auto_attack") or {}).get("flags") or []
    surplus = auto["robust_accuracy"] - worst["robust_accuracy"] if auto and worst else 0
    given = ("link", "name", "authors", "venue", "dataset", "architecture", "additional_data", "reported")
    card = {name: results.get(name) for name in given}
    card |= {
        "number_forward_passes": results.get("number_forward_passes", 1),
        "eps": format_eps(results["eps"]),
        "clean_acc": f"{results['clean_accuracy'] * 100:.2f}",
        "autoattack_acc": f"{auto['robust_accuracy'] * 100:.2f}" if auto else None,
        "unreliable": bool(flags) or surplus > BEATEN,
        "footnote": " ".join(filter(None, (statement(results), verdict(results), tally(results)))),
    }
    if worst and surplus > 0:
        card["external"] = f"{worst['robust_accuracy'] * 100:.2f}"  # RobustBench's name
    return finite(card | {"topgap_jax": _own_fields(results)})


def _own_fields(results: Json) -> Json:
    identity = ("title", "config_hash", "commit", "seed", "date", "machine", "parameters", "k", "image_shape")
    terms = ("split", "norm", "eps", "count")
    attacks = [entry for entry in (*results["attacks"], auto_attack(results)) if entry]
    fields = ("name", "title", "strength", "robust_accuracy", "prediction_consistency", "count")
    auto, diagnostics = results.get("auto_attack") or {}, results.get("diagnostics") or []
    return {name: results.get(name) for name in identity + terms} | {
        "attacks": [
            {name: entry.get(name) for name in fields}
            | {"interval_95": _interval(entry["robust_accuracy"], entry["count"])}
            for entry in attacks
        ],
        "auto_attack": {name: auto.get(name) for name in ("version", "robust_accuracy", "flags")}
        if auto
        else None,
        "worst_case": results.get("worst_case"),
        "diagnostics": [
            {name: entry[name] for name in ("number", "name", "status")} for entry in diagnostics
        ],
    }


def _interval(value: float, count: int) -> list[float]:
    figure = share(value, count)
    return [round(end, 6) for end in figure.interval] if figure and figure.interval else []


def _view(results: tuple[Json, ...], remark: str) -> Json:
    """All that the templates show."""
    table = lines(results)
    return {
        "results": results,
        "own": results[0],
        "threat": budget(results[0]),
        "sentences": [sentence for sentence in (*headline(results), remark) if sentence],
        "tiles": _tiles(results, table),
        "tally": tally(results[0]),
        "dots": _dots(table),
        "sections": [
            (name, list(group)) for name, group in groupby(table, key=lambda line: line.robust.section)
        ],
        "fooled_by": [(result["title"], fooled_by(result)) for result in results if fooled_by(result)],
        "stages": stage_rows(results),
        "warned": warnings(results[0]),
        "autos": [(result["title"], auto_attack(result)) for result in results],
        "diagnostics": [_diagnostics(result) for result in results],
        "images": steps_images(results),
        "curves": [(result["title"], result.get("steps_curve") or []) for result in results],
        "settings": [(result["title"], _settings(result)) for result in results],
        "provenance": [_provenance(result) for result in results],
        "split": split_name(results[0]["split"]),
    }


def _tiles(results: tuple[Json, ...], table: tuple[Line, ...]) -> list[Line]:
    quoted = (quoted_cheap(results[0]), quoted_strong(results[0]), {"title": "Every picture's worst attack"})
    titles = {CLEAN} | {entry["title"] for entry in quoted if entry}
    return [line for line in table if line.robust.name in titles]


def _dots(table: tuple[Line, ...]) -> tuple[DotRow, ...]:
    return dot_rows(tuple(line.robust._replace(section="Robust accuracy") for line in table))


def _diagnostics(results: Json) -> list[Json]:
    diagnostics = sorted(results.get("diagnostics") or [], key=lambda entry: entry["number"])
    return [
        entry | {"mark": MARKS[entry["status"]], "figures": _flat(entry.get("figures") or {})}
        for entry in diagnostics
    ]


def _settings(results: Json) -> list[tuple[str, int, list[tuple[str, str]]]]:
    attacks = [entry for entry in (*results["attacks"], auto_attack(results)) if entry]
    return [(entry["title"], entry["count"], _flat(entry.get("config") or {})) for entry in attacks]


def _flat(values: Json, prefix: str = "") -> list[tuple[str, str]]:
    """Names and values as text, those of nested objects under dotted names."""
    pairs: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            pairs += _flat(value, f"{prefix}{name}.")
        else:
            pairs.append((prefix + name.replace("_", " "), _text(name, value)))
    return pairs


def _text(name: str, value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_text(name, item) for item in value) or wording.MISSING
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return wording.MISSING
    if isinstance(value, float):
        return format_eps(value) if name == "eps" else f"{value:.4g}"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _provenance(results: Json) -> list[tuple[str, str]]:
    facts = {
        "Network": results["architecture"],
        "Parameters": f"{results['parameters']:,}",
        "k": results.get("k"),
    }
    facts |= {
        "Data": f"{results['dataset']}, {split_name(results['split'])}",
        "Pictures": f"{results['count']:,}",
    }
    if shape := results.get("image_shape"):
        facts["Picture"] = " × ".join(str(length) for length in shape)
    facts |= {"Configuration": results.get("config_hash"), "Commit": results.get("commit")}
    facts |= {"Seed": results.get("seed"), "Date": results.get("date")}
    return provenance(facts, results.get("machine") or {})


def _terminal_table(results: tuple[Json, ...]) -> Table:
    own, *twins = [result["title"] for result in results]
    caption = "Robust accuracy with its 95% interval (sampling error of the pictures)"
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), caption=caption, caption_justify="left")
    table.add_column("")
    for title in (own, "95%", "consistency", *twins, *["difference"] * len(twins)):
        table.add_column(Text(title), justify="right")
    for section, group in groupby(lines(results), key=lambda line: line.robust.section):
        table.add_row(Text(section, style="bold")) if section != CLEAN else None
        for row, consistent, _ in group:
            values = [wording.value_text(figure, row.unit) for figure in row.figures]
            values[1:1] = [
                wording.interval_text(row.figures[0], row.unit),
                wording.value_text(consistent[0], "share"),
            ]
            difference = [wording.difference_text(row.difference, row.unit)] if twins else []
            table.add_row(Text(row.name), *values, *difference)
    return table
