"""`report.json` and one self-contained `report.html`."""

import json
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from topgap_jax.reports import wording
from topgap_jax.reports.charts import dot_rows, training_charts
from topgap_jax.reports.comparison import Row, attack_name, compare, split_name
from topgap_jax.reports.findings import findings, headline, strongest
from topgap_jax.reports.pages import finite, provenance, render, write
from topgap_jax.reports.pictures import color_stops, data_uri, heat_picture, object_picture, picture
from topgap_jax.reports.runs import Json, Run, read_runs

MOST_PICTURES = 8


class Panel(NamedTuple):
    """One picture of a card."""

    name: str
    uri: str
    alt: str
    verdict: str = ""  # "right", "wrong" or, for panels without a prediction, empty
    prediction: str = ""
    run: int | None = None


class Card(NamedTuple):
    """A test picture, its object and where each network looked."""

    label: str
    split: str
    panels: tuple[Panel, ...]


def write_report(workdir: str | Path) -> Path:
    """Writes `report.json` and `report.html` into a run directory.

    The page holds everything it shows, pictures included: no script, no other file, no network.

    Args:
      workdir: a run directory with `config.json`, `metrics.jsonl`, `evaluation.json` and `examples.npz`; the
        twin's in `workdir/twin`, if there is one.

    Returns:
      The path of `report.html`.

    Raises:
      FileNotFoundError, ValueError: a result file is missing, half written or wrong; the message names it.
    """
    workdir = Path(workdir)
    runs = read_runs(workdir)
    rows = compare(runs)
    write(workdir / "report.json", json.dumps(_report(runs, rows), indent=2, allow_nan=False) + "\n")
    write(workdir / "report.html", _page(runs, rows))
    return workdir / "report.html"


def _report(runs: tuple[Run, ...], rows: tuple[Row, ...]) -> Json:
    return {
        "headline": headline(runs, rows),
        "runs": [finite(run.evaluation) for run in runs],
        "comparison": [_row_json(runs, row) for row in rows],
        "findings": [finding._asdict() for finding in findings(runs, rows)],
    }


def _row_json(runs: tuple[Run, ...], row: Row) -> Json:
    figures = {run.title: figure and figure._asdict() for run, figure in zip(runs, row.figures, strict=True)}
    difference = row.difference and {"value": row.difference.value, "interval": row.difference.interval}
    return {
        "section": row.section,
        "name": row.name,
        "unit": row.unit,
        "note": row.note,
        "figures": figures,
        "difference": difference,
        "beyond_sampling_error": row.clear,
    }


def _page(runs: tuple[Run, ...], rows: tuple[Row, ...]) -> str:
    view = {
        "runs": runs,
        "sentences": headline(runs, rows),
        "tiles": _tiles(runs, rows),
        "sections": [(section, list(group)) for section, group in groupby(rows, key=lambda row: row.section)],
        "dots": dot_rows(rows),
        "cards": _cards(runs),
        "kept": len(runs[0].examples.labels),
        "stops": color_stops(),
        "charts": training_charts(runs),
        "findings": findings(runs, rows),
        "provenance": [_provenance(run) for run in runs],
        "attacks": [_attack_settings(run) for run in runs],
        "configs": [json.dumps(run.config, indent=2, sort_keys=True) for run in runs],
    }
    functions = (
        wording.value_text,
        wording.interval_text,
        wording.difference_text,
        wording.difference_interval_text,
    )
    return render("report.html.jinja", view, functions)


def _tiles(runs: tuple[Run, ...], rows: tuple[Row, ...]) -> list[Row]:
    whole = [row for row in rows if row.section == "Clean accuracy" and row.name.startswith("Accuracy")]
    worst = strongest(runs[0])
    robust = [
        row for row in rows if row.section == "Robust accuracy" and worst and row.name == attack_name(worst)
    ]
    heat = [
        row for row in rows if row.section == "Heat maps" and row.name in ("Energy in mask", "CAM sparsity")
    ]
    return whole[:2] + robust[:1] + heat[-1:]


def _cards(runs: tuple[Run, ...]) -> list[Card]:
    examples = runs[0].examples
    return [_card(runs, index) for index in range(min(MOST_PICTURES, len(examples.labels)))]


def _card(runs: tuple[Run, ...], index: int) -> Card:
    examples = runs[0].examples
    image, label = examples.images[index], examples.class_names[int(examples.labels[index])]
    panels = [Panel("Picture", data_uri(picture(image)), f"Test picture {index + 1}, label {label}")]
    if examples.masks is not None:
        mask = examples.masks[index]
        alt = f"The object of test picture {index + 1}: it covers {wording.percent(mask.mean())}"
        panels.append(Panel("Object", data_uri(object_picture(image, mask)), alt))
    panels += [_heat_panel(run, place, index) for place, run in enumerate(runs)]
    return Card(label, split_name(examples.split[index]) if examples.split else "", tuple(panels))


def _heat_panel(run: Run, place: int, index: int) -> Panel:
    examples = run.examples
    mask = None if examples.masks is None else examples.masks[index]
    heat, predicted = examples.heat[index], int(examples.predictions[index])
    alt = f"Heat map of {run.title}"
    if mask is not None and heat.sum() > 0:
        alt += f": {wording.percent(float((heat * mask).sum() / heat.sum()))} of the heat on the object"
    return Panel(
        name=run.title,
        uri=data_uri(heat_picture(examples.images[index], heat, mask)),
        alt=alt,
        verdict="right" if predicted == int(examples.labels[index]) else "wrong",
        prediction=f"says {examples.class_names[predicted]}, {float(examples.probabilities[index]):.0%}",
        run=place,
    )


def _provenance(run: Run) -> list[tuple[str, str]]:
    evaluation = run.evaluation
    facts = {"Configuration": evaluation.get("config_hash"), "Commit": evaluation.get("commit")}
    facts |= {"Seed": evaluation.get("seed"), "Date": evaluation.get("date"), "k": evaluation.get("k")}
    for name, key in (("CAM", "cam_shape"), ("Picture", "image_shape")):
        if shape := evaluation.get(key):
            facts[name] = " × ".join(str(length) for length in shape)
    return provenance(facts, evaluation.get("machine", {}))


def _attack_settings(run: Run) -> list[tuple[str, int, list[tuple[str, str]]]]:
    return [
        (attack_name(entry), entry["count"], [_setting(*item) for item in entry.get("config", {}).items()])
        for entry in run.evaluation["attacks"]
    ]


def _setting(name: str, value: Any) -> tuple[str, str]:
    return name, f"{value:.6g}" if isinstance(value, float) else str(value)
