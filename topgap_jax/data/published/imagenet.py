"""ImageNet, ImageNet-Sketch and ImageNet-C: folders named by wnid; label i is the i-th wnid in order."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from topgap_jax.data.files.pictures import PictureSource
from topgap_jax.data.published.decoder import read_as_published
from topgap_jax.data.published.imagenet_archives import WORDS
from topgap_jax.data.published.prepare import prepared_folder
from topgap_jax.data.sources import check_split, listed

FOLDERS = {"train": "train", "validation": "val"}
SEVERITIES = (1, 2, 3, 4, 5)

Size = int | Sequence[int] | None


class ClassFiles(Sequence[Path]):
    """The files of class folders, their names as bytes: a million paths take a gigabyte in every worker.

    Args:
        folder: holds the class folders.
        wnids: their names.
        names: the names of the files in each of them.
    """

    def __init__(self, folder: Path, wnids: Sequence[str], names: Sequence[Sequence[bytes]]) -> None:
        self._folders = [str(folder / wnid) for wnid in wnids]
        self._names = np.array([name for there in names for name in there])
        self.labels = np.repeat(np.arange(len(wnids), dtype=np.int32), [len(there) for there in names])

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return Path(self._folders[self.labels[index]], os.fsdecode(self._names[index]))


def imagenet(
    split: str,
    *,
    data_dir: str = "data",
    size: Size = None,
    short_side: int | None = None,
    channels: int = 3,
) -> PictureSource:
    """ImageNet (ILSVRC 2012): 1,281,167 + 50,000 pictures of 1000 classes.

    The labels are those of the weights that torchvision and timm publish.

    Args:
        split: "train" or "validation" (the folder `val`).
        data_dir: the folder that holds `imagenet/train/<wnid>/` and `imagenet/val/<wnid>/`.
        size, short_side, channels: as for `PictureSource`.

    Raises:
        ValueError: an unknown split, folders that are missing, empty or differ from training.

    Source: Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", IJCV 2015.
    """
    there = [each for each, folder in FOLDERS.items() if (Path(data_dir) / "imagenet" / folder).is_dir()]
    check_split(split, there or list(FOLDERS), "imagenet")
    root = prepared_folder("imagenet", data_dir, FOLDERS[split])
    if split != "train" and (root / "train").is_dir():
        _check_same(root / "train", root / FOLDERS[split])
    return _by_wnid(root / FOLDERS[split], data_dir, size, short_side, channels)


def imagenet_sketch(
    split: str = "test",
    *,
    data_dir: str = "data",
    size: Size = None,
    short_side: int | None = None,
    channels: int = 3,
) -> PictureSource:
    """ImageNet-Sketch: 50,889 drawings of ImageNet's classes; arguments as for `imagenet`.

    Source: Wang et al., "Learning Robust Global Representations by Penalizing Local Predictive Power", 2019.
    """
    check_split(split, ["test"], "imagenet_sketch")
    root = prepared_folder("imagenet_sketch", data_dir, "sketch")
    return _by_wnid(root / "sketch", data_dir, size, short_side, channels)


def imagenet_c(
    split: str = "test",
    *,
    corruption: str = "",
    severity: int = 1,
    data_dir: str = "data",
    size: Size = None,
    short_side: int | None = None,
    channels: int = 3,
) -> PictureSource:
    """ImageNet-C: the validation pictures, 224x224, under one corruption.

    Args:
        split: "test".
        corruption: a folder of `imagenet_c`, such as "gaussian_noise"; it has to be given.
        severity: 1 to 5.
        data_dir, size, short_side, channels: as for `imagenet`.

    Raises:
        ValueError: an unknown split, severity or corruption, or one that is not there.

    Source: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
    Perturbations", ICLR 2019.
    """
    check_split(split, ["test"], "imagenet_c")
    if severity not in SEVERITIES:
        raise ValueError(f"severity is a whole number in 1..5, not {severity!r}")
    root = prepared_folder("imagenet_c", data_dir)
    there = sorted(folder.name for folder in root.iterdir() if (folder / "1").is_dir())
    if corruption not in there:
        raise ValueError(f"{root} has no corruption {corruption!r}; there are {listed(there)}")
    return _by_wnid(root / corruption / str(severity), data_dir, size, short_side, channels)


def _by_wnid(folder: Path, data_dir: str, size: Size, short_side: int | None, channels: int) -> PictureSource:
    wnids = _wnids(folder)
    names = [_pictures(folder / wnid) for wnid in wnids]
    if empty := [wnid for wnid, there in zip(wnids, names, strict=True) if not there]:
        raise ValueError(f"{folder} has no pictures of {listed(empty)}")
    paths = ClassFiles(folder, wnids, names)
    class_names = _class_names(wnids, Path(data_dir) / "imagenet" / WORDS)
    source = PictureSource(
        paths,
        paths.labels,
        class_names,
        size=size,
        short_side=short_side,
        channels=channels,
        where=str(folder),
    )
    source.paths = paths  # type: ignore[assignment]  # instead of the list that it made of them
    return read_as_published(source)


def _pictures(folder: Path) -> list[bytes]:
    return sorted(os.fsencode(entry.name) for entry in os.scandir(folder) if entry.name[0] != ".")


def _wnids(folder: Path) -> list[str]:
    """The class folders in the order of the labels."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder")
    wnids = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")
    if not wnids:
        raise ValueError(f"{folder} has no folders; expected {folder}/<wnid>/<picture>")
    return wnids


def _check_same(training: Path, folder: Path) -> None:
    """Labels are places in the list of folders: another list would mean other labels."""
    expected, found = set(_wnids(training)), set(_wnids(folder))
    if expected != found:
        raise ValueError(
            f"the classes of {folder} differ from those of {training}: missing "
            f"{listed(sorted(expected - found))}; only there {listed(sorted(found - expected))}"
        )


def _class_names(wnids: Sequence[str], words: Path) -> list[str]:
    """The words for each wnid, up to the first comma, from the devkit; without it the wnids.

    Two classes are called "crane", two "maillot": such names get their wnid.
    """
    if not words.is_file():
        return list(wnids)
    lines = (line.split(" ", 1) for line in words.read_text(encoding="utf-8").splitlines())
    known = {wnid: text.partition(",")[0] for wnid, text in lines}
    names = [known.get(wnid, wnid) for wnid in wnids]
    return [
        f"{name} ({wnid})" if names.count(name) > 1 else name for name, wnid in zip(names, wnids, strict=True)
    ]
