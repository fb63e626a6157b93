"""Receptive fields of several runs as a table and a figure (tables 2, A1, A2; figures A1, A2)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from topgap_jax.reports import figures

COLUMNS = (
    ("sparsity", "sparsity"),
    ("iou_global", "IoU, one threshold"),
    ("iou_oracle", "IoU, best threshold"),
    ("energy_in_mask", "heat on the object"),
)


def write_fields(folder: Path, results: Sequence[dict[str, Any]], fields: Sequence[np.ndarray]) -> str:
    """Writes `erf.md`, `erf.png` and `erf.pdf`; returns the table.

    Args:
      folder: made if missing.
      results: what `measure_fields` found, one per run.
      fields: their mean fields, [2,H,W] each, of center and corner.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = table(results)
    (folder / "erf.md").write_text(text)
    shown = {name(result): field for result, field in zip(results, fields, strict=True)}
    figures.save(figures.erf_panels(shown, ["center", "corner"]), folder / "erf")
    return text


def name(result: dict[str, Any]) -> str:
    """How a table calls a run."""
    return result["title"] if result["k"] is None else f"{result['title']}, k = {result['k']}"


def table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: center, corner and distance (mean |z|), and the quality of the maps where it was measured."""
    found = [(key, title) for key, title in COLUMNS if any(key in result["cam"] for result in results)]
    titles = ["", "map", "ERF center", "ERF corner", "ERF distance", "effective area"]
    lines = [
        "| " + " | ".join([*titles, *(title for _, title in found)]) + " |",
        "|---|" + "---:|" * (len(titles) - 1 + len(found)),
    ]
    for result in results:
        erf, (height, width) = result["erf"], result["cam_shape"]
        cells = [
            name(result),
            f"{height}x{width}",
            f"{erf['center']:.3f}",
            f"{erf['corner']:.3f}",
            f"{erf['distance']:.3f} ± {erf['standard_error']:.3f}",
            f"{result['effective_area']:.1%}",
            *(f"{result['cam'][key]:.3f}" if key in result["cam"] else "" for key, _ in found),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    first = results[0]
    over = "an image" if first["normalize"] == "image" else "the data set"
    note = (
        f"\nERF: mean |z| of the gradients of the map's center and corner, z-normalised over both positions "
        f"of {over}; {first['erf']['images']} pictures of {first['split']}; ± standard error over pictures.\n"
    )
    return "\n".join(lines) + "\n" + note
