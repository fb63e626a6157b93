"""The figure of Table 4: the accuracy of every method, a panel per attack."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from tables import Column, mean_of

OURS, OTHERS = "#0072B2", "#BBBBBB"


def draw(
    lines: Sequence[Mapping[str, Any]], methods: Sequence[str], columns: Sequence[Column], path: Path
) -> None:
    """A bar per method and column, with its standard deviation over seeds."""
    shown = [method for method in methods if any(line["method"] == method for line in lines)]
    figure = Figure(figsize=(1.6 * len(columns) + 1.4, 0.34 * len(shown) + 0.9), layout="constrained")
    rows = np.arange(len(shown))[::-1]
    colors = [OURS if "Top-GAP" in method else OTHERS for method in shown]
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axis, column in zip(panels, columns, strict=True):
        found = [mean_of(lines, method, column.figure) for method in shown]
        means = [np.nan if entry["mean"] is None else 100 * entry["mean"] for entry in found]
        deviations = [100 * (entry["sd"] or 0.0) for entry in found]
        axis.barh(rows, means, height=0.62, color=colors)
        axis.errorbar(means, rows, xerr=deviations, fmt="none", ecolor="black", elinewidth=1, capsize=2)
        axis.set_title(column.title, fontsize=10)
        axis.set(xlim=(0, 100), yticks=rows, yticklabels=shown)
        axis.tick_params(length=0)
        axis.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("accuracy in percent", fontsize=10)
    figure.savefig(path, dpi=150)
