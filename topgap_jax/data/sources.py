"""What a data set is: random access to examples, under one name each."""

import importlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Example = dict[str, Any]


class Source(Protocol):
    """Random access to the examples of one split.

    `source[i]` is a dict with `image`, `[H, W, C]` uint8 or float32 in [0, 1], and `label`, int32 in
    0..num_classes-1; where the data has them also `mask`, bool `[H, W]`, `box`, float32 `[4]` (top, left,
    bottom, right: edges in pixels of this image, so that the whole picture is 0, 0, H, W) and `group`, int32.
    """

    num_classes: int
    class_names: list[str]
    labels: np.ndarray  # int32 [N], known without decoding a picture
    image_shape: tuple[int, int, int] | None  # (H, W, C), or None where pictures differ in size

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


def load_source(name: str, split: str, **options: Any) -> Source:
    """The split of a data set.

    Args:
        name: a set by its name, such as "embedded" (`TexturedDigits`), "cub" or "coco", or one by its place:
            "folder:PATH" (`FolderSource`), "npz:PATH" (`npz_source`) or "tfds:NAME" (`TfdsSource`).
        split: one of the splits that the data set has.
        **options: what the named class or function takes beside path and split.

    Raises:
        ValueError: an unknown data set, split or option (the message lists what exists), or unusable data.
    """
    kind, colon, path = name.partition(":")
    if name not in NAMED and not (kind in PLACED and path):
        there = ", ".join([*NAMED, *(f"{kind}:{place}" for kind, (_, place) in PLACED.items())])
        meant = f": did you mean folder:{name}?" if name and Path(name).is_dir() else f"; there are {there}"
        raise ValueError(f"no data set {name!r}{meant}")
    module, _, attribute = (PLACED[kind][0] if colon else NAMED[kind]).partition(":")
    open_source = getattr(importlib.import_module(f"topgap_jax.data.{module}"), attribute)
    arguments = (path, split) if colon else (split,)
    accepted = list(inspect.signature(open_source).parameters)[len(arguments) :]
    if unknown := [option for option in options if option not in accepted]:
        raise ValueError(f"{kind} takes no option {unknown[0]!r}; there are {listed(accepted)}")
    return open_source(*arguments, **options)


# Imported when asked for: scikit-learn alone takes a second.
NAMED = {
    "embedded": "embedded:TexturedDigits",
    "cub": "published.cub:cub",
    "waterbirds": "published.waterbirds:waterbirds",
    "coco": "published.coco:coco",
    "cifar10": "published.cifar:cifar10",
    "cifar100": "published.cifar:cifar100",
    "imagenet": "published.imagenet:imagenet",
    "imagenet_sketch": "published.imagenet:imagenet_sketch",
    "imagenet_c": "published.imagenet:imagenet_c",
    "oxford_pet": "published.oxford_pet:oxford_pet",
}
PLACED = {
    "folder": ("files.folder:FolderSource", "PATH"),
    "npz": ("arrays:npz_source", "PATH"),
    "tfds": ("tfds:TfdsSource", "NAME"),
}


class UnknownSplitError(ValueError):
    """A split that a data set does not have; `splits` are those that it has."""

    def __init__(self, message: str, splits: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.splits = list(splits)


def split_names(name: str, **options: Any) -> list[str]:
    """The splits of a data set, without reading its pictures."""
    try:
        load_source(name, "", **options)
    except UnknownSplitError as error:
        return error.splits
    raise ValueError(f"{name} does not say which splits it has")


def check_split(split: str, splits: Sequence[str], where: str, hint: str = "") -> None:
    if split not in splits:
        raise UnknownSplitError(f"{where} has no split {split!r}; there are {listed(splits)}{hint}", splits)


def listed(names: Any) -> str:
    return ", ".join(map(str, names)) or "none"
