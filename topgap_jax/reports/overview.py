"""One picture for a README: test pictures, masks and where each network looks."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from topgap_jax.reports.pictures import heat_picture, object_picture, picture
from topgap_jax.reports.runs import Run, read_runs

WIDTH = 12.0  # inches at 100 dots per inch
MARGIN = 1.15  # inches left of the pictures, for the names of the rows


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
    rows = _rows(runs, columns)
    height, width = rows[0][1][0].shape[:2]
    cell = (WIDTH - MARGIN) / columns
    figure = Figure(figsize=(WIDTH, cell * height / width * len(rows) + 0.35), dpi=100, facecolor="white")
    grid = figure.add_gridspec(
        len(rows), columns, left=MARGIN / WIDTH, right=1, top=1 - 0.35 / figure.get_figheight(), bottom=0,
        wspace=0.03, hspace=0.03,
    )
    for line, (name, pictures) in enumerate(rows):
        for column, pixels in enumerate(pictures):
            axes = figure.add_subplot(grid[line, column])
            axes.imshow(pixels, interpolation="antialiased")
            axes.set_axis_off()
            if line == 0:
                axes.set_title(_class_name(runs[0], column), fontsize=12, pad=5)
            if column == 0:
                axes.text(-0.06, 0.5, name, transform=axes.transAxes, ha="right", va="center", fontsize=12)
    figure.savefig(path)
    return Path(path)


def _rows(runs: tuple[Run, ...], columns: int) -> list[tuple[str, list[np.ndarray]]]:
    examples = runs[0].examples
    masks = [None] * columns if examples.masks is None else list(examples.masks[:columns])
    images = list(examples.images[:columns])
    rows = [("picture", [picture(image) for image in images])]
    if examples.masks is not None:
        rows.append(("object", [object_picture(*pair) for pair in zip(images, masks, strict=True)]))
    for run in reversed(runs):
        heat = run.examples.heat[:columns]
        rows.append(
            (run.title, [heat_picture(*part) for part in zip(images, heat, masks, strict=True)])
        )
    return rows


def _class_name(run: Run, index: int) -> str:
    return f"label {run.examples.class_names[int(run.examples.labels[index])]}"
