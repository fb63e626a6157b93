"""A validation split for sets that are published without one."""

import numpy as np


def splits_with(validation: int) -> list[str]:
    """The splits that there are where `validation` examples of training are held out."""
    return ["train", "validation", "test"] if validation else ["train", "test"]


def hold_out(labels: np.ndarray, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Divides a training split: as many of each class as of any other, as far as possible.

    Args:
        labels: class of each example, `[N]`.
        count: how many to hold out, 0 to N - 1.
        seed: the same labels, count and seed give the same division.

    Returns:
        The indices of the rest and of those held out, both ascending.

    Raises:
        ValueError: a count outside its range.
    """
    if not 0 <= count < len(labels):
        raise ValueError(f"validation is a number of examples in 0..{len(labels) - 1}, not {count}")
    mixed = np.random.default_rng(seed).permutation(len(labels))
    by_class = mixed[np.argsort(labels[mixed], kind="stable")]
    starts = np.searchsorted(labels[by_class], labels[by_class])
    turns = np.arange(len(labels)) - starts  # first, second, ... of its class
    held = np.sort(by_class[np.argsort(turns, kind="stable")[:count]])
    return np.setdiff1d(np.arange(len(labels)), held), held
