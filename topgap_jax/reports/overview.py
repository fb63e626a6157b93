"""One picture for a README: test pictures, masks and where each network looks."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from topgap_jax.reports.pictures import heat_picture, object_picture, picture
from topgap_jax.reports.runs import Run, read_runs

WIDTH = 12.0  # inches at 100 dots per inch
LEFT, TOP = 1.15, 0.35  # inches beside and above the pictures, for their names


def write_overview_png(workdir: str | Path, path: str | Path, count: int = 6) -> Path:
    """The first test pictures, their masks and each network's heat maps, 1200 pixels wide.

    Args:
      workdir: a run directory, with or without a twin.
      path: where the PNG goes; its folder must exist.
      count: how many pictures, at least 1; fewer are drawn where the run kept fewer.

    Returns:
      `path`.

    Raises:
      FileNotFoundError, ValueError: a result file is missing or wrong; the message names it.
    """
    if count < 1:
        raise ValueError(f"the overview needs at least 1 picture, got count={count}")
    runs = read_runs(workdir)
    columns = min(count, len(runs[0].examples.labels))
    figure = _draw(_rows(runs, columns), [_label(runs[0], column) for column in range(columns)])
    figure.savefig(path)
    return Path(path)


def _draw(rows: list[tuple[str, list[np.ndarray]]], titles: list[str]) -> Figure:
    pixels_high, pixels_wide = rows[0][1][0].shape[:2]
    cell = (WIDTH - LEFT) / len(titles)
    height = cell * pixels_high / pixels_wide * len(rows) + TOP
    figure = Figure(figsize=(WIDTH, height), dpi=100, facecolor="white")
    frame = {"left": LEFT / WIDTH, "right": 1, "top": 1 - TOP / height, "bottom": 0}
    grid = figure.add_gridspec(len(rows), len(titles), wspace=0.03, hspace=0.03, **frame)
    for line, (name, pictures) in enumerate(rows):
        for column, pixels in enumerate(pictures):
            axes = figure.add_subplot(grid[line, column])
            axes.imshow(pixels, interpolation="antialiased")
            axes.set_axis_off()
            if line == 0:
                axes.set_title(titles[column], fontsize=12, pad=5)
            if column == 0:
                axes.text(-0.06, 0.5, name, transform=axes.transAxes, ha="right", va="center", fontsize=12)
    return figure


def _rows(runs: tuple[Run, ...], columns: int) -> list[tuple[str, list[np.ndarray]]]:
    examples = runs[0].examples
    indices, images, masks = range(columns), examples.images, examples.masks
    rows = [("picture", [picture(images[i]) for i in indices])]
    if masks is not None:
        rows.append(("object", [object_picture(images[i], masks[i]) for i in indices]))
    for run in reversed(runs):
        heat = run.examples.heat
        pictures = [heat_picture(images[i], heat[i], None if masks is None else masks[i]) for i in indices]
        rows.append((run.title, pictures))
    return rows


def _label(run: Run, index: int) -> str:
    return f"label {run.examples.class_names[int(run.examples.labels[index])]}"
