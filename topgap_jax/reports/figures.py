"""Figures as the paper shows them, from arrays: PNG and PDF, for print and for any colour vision.

Each function gives a Matplotlib figure; `save` writes it. Colours are those of Okabe and Ito (2008), markers
tell lines apart in grey, and heat maps have one perceptually uniform colour map.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle

from topgap_jax.reports.pictures import COLOR_MAP, heat_picture, picture
from topgap_jax.reports.robustness_plots import LIGHT, MARKERS

PANEL = 1.35  # inches of a picture's side
LINE_STYLES = ("-", "--", "-.", ":")


class Line(NamedTuple):
    """One line of `sparsity_over_k`: a data set and an architecture."""

    name: str
    k: Sequence[float]  # normalised, k / (h * w), in (0, 1]
    sparsity: Sequence[float]  # mean ||X||_1 / (n m)
    error: Sequence[float] = ()  # standard error of each


def save(figure: Figure, path: Path) -> list[Path]:
    """Writes `path` with the endings .png (200 dpi) and .pdf (text stays text); the same bytes each time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = [path.with_suffix(".png"), path.with_suffix(".pdf")]
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        figure.savefig(written[0], dpi=200)
        figure.savefig(written[1], metadata={"CreationDate": None}, dpi=200)
    return written


def cam_panels(
    images: np.ndarray,
    heat: np.ndarray,
    columns: Sequence[str],
    rows: Sequence[str] = (),
    masks: np.ndarray | None = None,
) -> Figure:
    """Pictures and their heat maps, a row per picture and a column per network: figures 1, 4 and 5.

    Args:
      images: [R,H,W,C] in [0, 1].
      heat: [R,N,H,W] in [0, 1].
      columns: N titles, such as "k = 64".
      rows: R titles, such as the class; none by default.
      masks: the objects, bool [R,H,W], outlined in every panel.

    Raises:
      ValueError: arrays or titles that do not fit together.
    """
    _check_panels(images, heat, columns, rows)
    count, networks = heat.shape[:2]
    figure, axes = _grid(count, networks + 1, images.shape[1] / images.shape[2])
    for r in range(count):
        mask = None if masks is None else masks[r]
        _show(axes[r, 0], picture(images[r]))
        for n in range(networks):
            _show(axes[r, n + 1], heat_picture(images[r], heat[r, n], mask))
        if rows:
            axes[r, 0].set_ylabel(rows[r], fontsize=9)
    for axis, title in zip(axes[0], ["picture", *columns], strict=True):
        axis.set_title(title, fontsize=9)
    return figure


def sparsity_over_k(lines: Sequence[Line]) -> Figure:
    """Figure 3: the l1 norm of the scaled map against the normalised k, one line per data set and network.

    Raises:
      ValueError: no lines, or one whose values do not belong together.
    """
    if not lines:
        raise ValueError("sparsity_over_k needs at least one line")
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axis = figure.subplots()
    for number, line in enumerate(lines):
        if len(line.k) != len(line.sparsity) or (line.error and len(line.error) != len(line.k)):
            raise ValueError(f"line {line.name!r} has {len(line.k)} k and {len(line.sparsity)} values")
        axis.errorbar(
            line.k,
            line.sparsity,
            yerr=line.error or None,
            label=line.name,
            color=LIGHT.lines[number % len(LIGHT.lines)],
            marker=MARKERS[number % len(MARKERS)],
            linestyle=LINE_STYLES[number // len(LIGHT.lines) % len(LINE_STYLES)],
            markersize=4,
            linewidth=1.4,
            capsize=2,
        )
    _style(axis, "normalised k (share of the map's positions)", "sparsity, ||X||$_1$ / (n m)")
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False, fontsize=8)
    return figure


def erf_panels(
    fields: Mapping[str, np.ndarray],
    positions: Sequence[str],
    boxes: Sequence[tuple[int, int, int, int]] = (),
) -> Figure:
    """Effective receptive fields, a row per network and a column per position: figures A1 and A2.

    One logarithmic colour scale for all, from 1/1000 of the largest value on. Fields of a network are divided
    by its largest value, since the gradients of two networks have no common unit.

    Args:
      fields: of each network, [P,H,W], at least 0.
      positions: P titles.
      boxes: P theoretical fields (top, left, bottom, right), drawn as frames.

    Raises:
      ValueError: fields and titles that do not fit together.
    """
    for name, field in fields.items():
        if field.ndim != 3 or len(field) != len(positions):
            raise ValueError(
                f"the fields of {name!r} must be [{len(positions)},H,W], not {list(field.shape)}"
            )
    height, width = next(iter(fields.values())).shape[1:]
    figure, axes = _grid(len(fields), len(positions), height / width)
    shown = None
    for r, (name, field) in enumerate(fields.items()):
        scaled = field / max(float(field.max()), np.finfo(float).tiny)
        for p in range(len(positions)):
            shown = axes[r, p].imshow(np.clip(scaled[p], 1e-3, 1), norm=LogNorm(1e-3, 1), cmap=COLOR_MAP)
            if boxes:
                top, left, bottom, right = boxes[p]
                frame = Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False)
                frame.set(edgecolor="white", linestyle=(0, (3, 2)), linewidth=0.9)
                axes[r, p].add_patch(frame)
        axes[r, 0].set_ylabel(name, fontsize=9)
    for axis, title in zip(axes[0], positions, strict=True):
        axis.set_title(title, fontsize=9)
    assert shown is not None
    bar = figure.colorbar(shown, ax=axes, shrink=0.9, pad=0.015)
    bar.set_label("share of the network's largest value", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def area_reliability(areas: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Lit area against the object's area, a panel per network: does k act as a size prior?

    Args:
      areas: of each network the lit share [B] and the mask's share [B] of every picture, in [0, 1].

    Raises:
      ValueError: no network.
    """
    if not areas:
        raise ValueError("area_reliability needs at least one network")
    figure = Figure(figsize=(2.6 * len(areas) + 0.4, 2.9), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(areas), sharex=True, sharey=True))
    top = 1.05 * max(float(np.max(values)) for pair in areas.values() for values in pair)
    for number, (axis, (name, (lit, objects))) in enumerate(zip(axes, areas.items(), strict=True)):
        axis.plot([0, top], [0, top], color=LIGHT.muted, linewidth=0.8, linestyle=(0, (4, 2)))
        axis.scatter(objects, lit, s=6, alpha=0.4, color=LIGHT.lines[number % len(LIGHT.lines)], linewidths=0)
        axis.set(xlim=(0, top), ylim=(0, top))
        axis.set_title(name, fontsize=9)
        _style(axis, "object's share of the picture", "lit share" if number == 0 else "")
    return figure


def _grid(rows: int, columns: int, aspect: float) -> tuple[Figure, np.ndarray]:
    size = (PANEL * columns + 0.5, PANEL * aspect * rows + 0.35)
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    figure = Figure(figsize=size, layout=layout)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    return figure, axes


def _show(axis: Axes, pixels: np.ndarray) -> None:
    axis.imshow(pixels, interpolation="nearest")


def _style(axis: Axes, x: str, y: str) -> None:
    axis.set_xlabel(x, fontsize=9)
    axis.set_ylabel(y, fontsize=9)
    axis.tick_params(labelsize=8, color=LIGHT.grid)
    axis.grid(color=LIGHT.grid, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _check_panels(images: np.ndarray, heat: np.ndarray, columns: Sequence[str], rows: Sequence[str]) -> None:
    if (
        images.ndim != 4
        or heat.ndim != 4
        or (len(images), *images.shape[1:3]) != (len(heat), *heat.shape[2:])
    ):
        raise ValueError(
            f"cam_panels wants images [R,H,W,C] and heat [R,N,H,W], got {images.shape} and {heat.shape}"
        )
    if len(columns) != heat.shape[1] or (rows and len(rows) != len(images)):
        raise ValueError(
            f"{heat.shape[1]} maps of {len(images)} pictures need as many titles, "
            f"not {len(columns)} columns and {len(rows)} rows"
        )
