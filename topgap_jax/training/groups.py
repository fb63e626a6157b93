"""Accuracy where examples come in groups, such as birds on land and on water."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from topgap_jax.data.sources import Source


def group_shares(source: Source) -> dict[str, float]:
    """The share of each group in a source, by name, without empty ones; nothing where it has no groups."""
    groups = getattr(source, "groups", None)
    if groups is None or not len(groups):
        return {}
    names = getattr(source, "group_names", ())
    counts = zip(*np.unique(groups, return_counts=True), strict=True)
    return {group_name(names, group): float(count / len(groups)) for group, count in counts}


def group_name(names: Sequence[str], group: int) -> str:
    """Its name, or its number where the source names none."""
    return names[group] if len(names) else str(group)


def group_accuracies(
    correct: np.ndarray, groups: np.ndarray, names: Sequence[str], training: Mapping[str, float]
) -> list[dict[str, Any]]:
    """The accuracy re-weighted to the groups' shares in training, and that of the worst group.

    The first is left out unless this split has examples of every group that training has (Sagawa et al.,
    2020, who report it for Waterbirds, whose test split has other shares).

    Args:
      correct: bool `[N]`.
      groups: integers `[N]`.
      names: of the groups, by their numbers.
      training: the shares of `group_shares`.

    Returns:
      One object per figure with `group`, `name`, `value` and `count`; the re-weighted one also has
      `effective_count`, the number of examples that a plain mean of the same variance would need.
    """
    parts = {group_name(names, group): correct[groups == group] for group in np.unique(groups)}
    figures: list[dict[str, Any]] = []
    if training and training.keys() <= parts.keys():
        value = sum(share * parts[name].mean() for name, share in training.items())
        variance = sum(share**2 / len(parts[name]) for name, share in training.items())
        figures.append(
            {
                "group": "re-weighted",
                "name": "groups as in training",
                "value": float(value),
                "count": sum(len(parts[name]) for name in training),
                "effective_count": float(1 / variance),
            }
        )
    worst = min(parts, key=lambda name: parts[name].mean())
    value, count = float(parts[worst].mean()), len(parts[worst])
    return [*figures, {"group": "worst", "name": worst, "value": value, "count": count}]
