"""What a data set of picture files lists, and what is wrong with it, before any file is opened."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

SPLITS = ("train", "validation", "test")  # what split_fractions makes


class Problem(NamedTuple):
    """Something wrong with one example (its index), or with the data set as a whole (None)."""

    kind: str  # the heading under which reports count it
    message: str
    example: int | None = None
    skippable: bool = True  # false for a question that only an option can answer


class Listing(NamedTuple):
    """The examples of one split, as a folder or a manifest names them."""

    paths: list[Path]
    labels: np.ndarray  # int32 [N]; -1 where a problem says that the label is unknown
    class_names: list[str]
    masks: list[Path | None] | None = None
    boxes: np.ndarray | None = None  # float32 [N, 4]
    groups: np.ndarray | None = None  # int32 [N]
    group_names: Sequence[str] = ()
    problems: Sequence[Problem] = ()


def natural(name: str) -> list[tuple[int, int | str]]:
    """Sort key that puts "class 10" after "class 9"."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part)) if part.isdecimal() else (1, part.lower()) for part in parts if part]


def read_class_names(class_names: Sequence[str] | str | None, found: Iterable[str]) -> list[str]:
    """The option `class_names`: a list, or a file with one name per line; by default what was found.

    Raises:
        ValueError: no such file, no names, or a name that comes twice.
    """
    if class_names is None:
        return sorted(set(found), key=natural)
    if isinstance(class_names, str | Path):
        if not Path(class_names).is_file():
            raise ValueError(f"class_names is a list of names or a file with one per line, not {class_names}")
        class_names = Path(class_names).read_text("utf-8-sig").splitlines()
    names = [str(name).strip() for name in class_names if str(name).strip()]
    twice = [name for name, number in Counter(names).items() if number > 1]
    if not names or twice:
        raise ValueError(f"class_names {f'lists {twice[0]!r} twice' if twice else 'lists no name'}")
    return names


def case_problems(class_names: Sequence[str], where: str) -> list[Problem]:
    """Classes that differ by upper and lower case only, which are most likely one class."""
    alike: dict[str, list[str]] = {}
    for name in class_names:
        alike.setdefault(name.casefold(), []).append(name)
    return [
        Problem("classes that differ by case only", f"{where}: {' and '.join(map(repr, same))}")
        for same in alike.values()
        if len(same) > 1
    ]


def check_fractions(fractions: Sequence[float]) -> None:
    """Raises ValueError where the fractions of train, validation and test are no three numbers with sum 1."""
    shares = list(fractions)
    if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        expected = f"three numbers ({', '.join(SPLITS)}) with the sum 1, such as (0.7, 0.15, 0.15)"
        raise ValueError(f"split_fractions is {expected}, not {fractions}")


def split_by_hash(
    names: Sequence[str], labels: Sequence[str], fractions: Sequence[float], seed: int
) -> list[str]:
    """Which of `SPLITS` each example belongs to: by class the same fractions, by a hash of its name.

    The same names give the same splits on every machine and in every order; new pictures move few old ones.

    Args:
        names: what identifies an example, such as its path within the data set.
        fractions: of train, validation and test (`check_fractions`).
        seed: gives other splits.
    """
    keys = [hashlib.sha256(f"{seed}/{name}".encode()).digest() for name in names]
    splits = [""] * len(names)
    for label in set(labels):
        members = sorted((i for i, each in enumerate(labels) if each == label), key=lambda i: keys[i])
        ends = [round(share * len(members)) for share in np.cumsum(fractions)]
        for position, member in enumerate(members):
            splits[member] = SPLITS[sum(position >= end for end in ends[:2])]
    return splits


def name_list(names: Sequence[str], count: int = 10) -> str:
    """The first few, and how many more there are."""
    rest = f" and {len(names) - count} more" if len(names) > count else ""
    return (", ".join(names[:count]) or "none") + rest
