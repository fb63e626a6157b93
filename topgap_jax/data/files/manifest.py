"""Manifests: a table of pictures, as CSV or JSON lines."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from topgap_jax.data.files.listing import (
    SPLITS,
    Listing,
    Problem,
    case_problems,
    natural,
    read_class_names,
    split_by_hash,
)
from topgap_jax.data.sources import check_split

MANIFESTS = ("manifest.csv", "manifest.jsonl")  # looked for in a folder
MANIFEST_SUFFIXES = (".csv", ".jsonl")


def read_manifest(
    path: Path,
    split: str,
    *,
    class_names: Sequence[str] | str | None = None,
    split_fractions: Sequence[float] | None = None,
    split_seed: int = 0,
) -> Listing:
    """One split of a manifest.

    Each row has `file` and `label`, and if wanted `mask` (a picture, nonzero where the object is), `box`
    (top, left, bottom, right in pixels), `group` (a name) and `split`. Paths are relative to the manifest.

    Args:
        class_names, split_fractions, split_seed: see `FolderSource`.

    Raises:
        ValueError: no rows, no column `file` or `label`, no such split, a table that cannot be read.
    """
    rows = _rows(path)
    splits = _splits(path, rows, split_fractions, split_seed)
    check_split(split, sorted(set(splits), key=_usual_order) if not split_fractions else SPLITS, str(path))
    names = read_class_names(class_names, (row["label"] for row in rows if row["label"]))
    chosen = [(n, row) for n, (row, each) in enumerate(zip(rows, splits, strict=True), 1) if each == split]
    numbers = {name: label for label, name in enumerate(names)}
    problems = _label_problems(path, chosen, numbers) + case_problems(names, str(path))
    masks, boxes = None, None
    if any(row.get("mask") for row in rows):
        masks = [path.parent / row["mask"] if row.get("mask") else None for _, row in chosen]
    if any(row.get("box") for row in rows):
        boxes, bad = _boxes(path, chosen)
        problems += bad
    groups, group_names, missing = _groups(path, rows, chosen)
    return Listing(
        [path.parent / row["file"] for _, row in chosen],
        np.array([numbers.get(row["label"], -1) for _, row in chosen], np.int32),
        names,
        masks,
        boxes,
        groups,
        group_names,
        problems + missing,
    )


def _rows(path: Path) -> list[dict[str, Any]]:
    """Every row as a dict of strings (a box in JSON may be a list), without those that are empty."""
    try:
        text = path.read_text("utf-8-sig")
        if path.suffix.lower() == ".jsonl":
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            head = text.partition("\n")[0]
            delimiter = max(",;\t", key=head.count)  # spreadsheets of half the world write semicolons
            rows = list(csv.DictReader(text.splitlines(), delimiter=delimiter))
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path} has no rows; expected the columns file and label")
    if missing := [name for name in ("file", "label") if name not in rows[0]]:
        there = ", ".join(map(str, rows[0]))
        raise ValueError(f"{path} has no column {missing[0]!r}; there are {there}")
    empty = {"file": "", "label": ""}
    return [empty | {str(name).strip(): _plain(value) for name, value in row.items()} for row in rows]


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return value
    return "" if value is None else str(value).strip()


def _splits(
    path: Path, rows: list[dict[str, Any]], fractions: Sequence[float] | None, seed: int
) -> list[str]:
    """The split of each row, from its column or by the fractions."""
    stored = [row.get("split", "") for row in rows]
    if fractions is not None:
        if any(stored):
            raise ValueError(f"{path} has a column split; leave out split_fractions, or the column")
        return split_by_hash([row["file"] for row in rows], [row["label"] for row in rows], fractions, seed)
    if not any(stored):
        raise ValueError(f"{path} has no column split; add it, or give split_fractions=(0.7, 0.15, 0.15)")
    return stored


def _usual_order(split: str) -> tuple[int, str]:
    return (SPLITS.index(split) if split in SPLITS else len(SPLITS), split)


def _label_problems(
    path: Path, chosen: list[tuple[int, dict[str, Any]]], numbers: dict[str, int]
) -> list[Problem]:
    """Labels that are not in the list, and files that are listed twice."""
    problems: list[Problem] = []
    seen: dict[str, int] = {}
    for index, (row_number, row) in enumerate(chosen):
        where = f"{path}, row {row_number} ({row['file'] or 'no file'})"
        if row["label"] not in numbers:
            message = f"{where} has the label {row['label']!r}, which is none of the classes"
            problems.append(Problem("unknown label", message, index))
        if row["file"] in seen:
            message = f"{where} lists a file that row {seen[row['file']]} lists too"
            problems.append(Problem("listed twice", message, index))
        seen.setdefault(row["file"], row_number)
    return problems


def _boxes(path: Path, chosen: list[tuple[int, dict[str, Any]]]) -> tuple[np.ndarray, list[Problem]]:
    boxes, problems = np.zeros((len(chosen), 4), np.float32), []
    for index, (row_number, row) in enumerate(chosen):
        stored = row.get("box", "")
        edges = stored if isinstance(stored, list) else stored.replace(",", " ").split()
        try:
            top, left, bottom, right = map(float, edges)
            if not (top < bottom and left < right):
                raise ValueError
            boxes[index] = top, left, bottom, right
        except ValueError:
            message = f"{path}, row {row_number} ({row['file']}) has the box {stored!r}"
            expected = "expected top left bottom right, in pixels, such as 10 20 90 120"
            problems.append(Problem("unusable box", f"{message}; {expected}", index))
    return boxes, problems


def _groups(
    path: Path, rows: list[dict[str, Any]], chosen: list[tuple[int, dict[str, Any]]]
) -> tuple[np.ndarray | None, list[str], list[Problem]]:
    """Groups are numbered over all splits, in natural order of their names."""
    names = sorted({row["group"] for row in rows if row.get("group")}, key=natural)
    if not names:
        return None, [], []
    numbers = {name: number for number, name in enumerate(names)}
    groups = np.array([numbers.get(row.get("group", ""), -1) for _, row in chosen], np.int32)
    problems = [
        Problem("no group", f"{path}, row {n} ({row['file']}) has no group, but others have", index)
        for index, (n, row) in enumerate(chosen)
        if not row.get("group")
    ]
    return groups, names, problems
