"""Folders of pictures."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from topgap_jax.data.pictures import PICTURE_SUFFIXES, Decoder
from topgap_jax.data.sources import Example, check_split, listed


class FolderSource:
    """Pictures in `PATH/<split>/<class name>/`, decoded by Pillow when they are asked for.

    The classes are the folders of the split "train" (or of the first split, where there is no "train") in
    natural order, so that "10" follows "9". EXIF orientation is applied; transparency is dropped.

    Args:
        path: the folder that holds the splits.
        split: name of a folder in it.
        size: pictures are scaled to cover this height and width (one number for both) and cropped about
            their centre. Without it they must all have one size.
        channels: 3 (RGB) or 1 (grey).

    Raises:
        ValueError: no such folder or split, no pictures, classes that differ from training, pictures of
            several sizes without `size`; on reading, one that cannot be decoded or has more than 8 bits.
    """

    def __init__(
        self, path: str, split: str, *, size: int | Sequence[int] | None = None, channels: int = 3
    ) -> None:
        root = Path(path)
        if not root.is_dir():
            raise ValueError(f"{path} is no folder; expected {path}/<split>/<class name>/<picture>")
        splits = [folder.name for folder in _folders(root)]
        check_split(split, splits, path)
        self.class_names = _class_folders(root, split, "train" if "train" in splits else splits[0])
        self.num_classes = len(self.class_names)
        self._decode = Decoder(size, channels)
        self.paths: list[Path] = []
        labels: list[int] = []
        for label, class_name in enumerate(self.class_names):
            pictures = _pictures(root / split / class_name)
            self.paths += pictures
            labels += [label] * len(pictures)
        if not self.paths:
            raise ValueError(f"the classes of {root / split} hold no pictures ({listed(PICTURE_SUFFIXES)})")
        self.labels = np.array(labels, np.int32)
        height, width = self._decode.size or _common_size(self.paths)
        self.image_shape: tuple[int, int, int] | None = (height, width, channels)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        path = self.paths[index]
        try:
            with Image.open(path) as picture:
                return {"image": self._decode(picture, str(path)), "label": self.labels[index]}
        except (OSError, UnidentifiedImageError) as error:
            raise ValueError(f"{path} cannot be decoded: {error}") from error


def _natural(name: str) -> list[tuple[int, int | str]]:
    """Sort key that puts "class 10" after "class 9"."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part)) if part.isdecimal() else (1, part.lower()) for part in parts if part]


def _folders(folder: Path) -> list[Path]:
    found = (entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return sorted(found, key=lambda entry: _natural(entry.name))


def _pictures(folder: Path) -> list[Path]:
    visible = (entry for entry in folder.iterdir() if not entry.name.startswith("."))
    found = (entry for entry in visible if entry.suffix.lower() in PICTURE_SUFFIXES)
    return sorted(found, key=lambda entry: _natural(entry.name))


def _class_folders(root: Path, split: str, reference: str) -> list[str]:
    """The class names, which must be the same in this split and in the reference split."""
    names, here = ([folder.name for folder in _folders(root / each)] for each in (reference, split))
    if not names:
        raise ValueError(f"{root / reference} has no folders; expected {root}/<split>/<class name>/<picture>")
    if names != here:
        missing, extra = [n for n in names if n not in here], [n for n in here if n not in names]
        raise ValueError(
            f"the classes of {root / split} differ from those of {root / reference}: "
            f"missing {listed(missing)}; only there {listed(extra)}"
        )
    return names


def _common_size(paths: Sequence[Path]) -> tuple[int, int]:
    """Height and width that all pictures share; reads the headers only."""
    first: tuple[Path, tuple[int, int]] | None = None
    for path in paths:
        try:
            with Image.open(path) as picture:
                turned = picture.getexif().get(0x0112, 1) >= 5  # EXIF orientations 5 to 8 lie on their side
                size = picture.size if turned else picture.size[::-1]
        except (OSError, UnidentifiedImageError) as error:
            raise ValueError(f"{path} cannot be decoded: {error}") from error
        first = first or (path, size)
        if size != first[1]:
            shapes = f"{first[0]} is {first[1][0]}x{first[1][1]}, {path} is {size[0]}x{size[1]}"
            raise ValueError(f"pictures differ in size ({shapes}); give the option size, say size=224")
    assert first is not None
    return first[1]
