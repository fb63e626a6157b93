"""Oxford-IIIT Pet: 37 breeds with trimaps."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from topgap_jax.data.files.pictures import PictureSource
from topgap_jax.data.published.decoder import read_as_published
from topgap_jax.data.published.hold_out import hold_out, splits_with
from topgap_jax.data.published.layout import how_to_get, missing_files, some
from topgap_jax.data.published.prepare import prepared_folder
from topgap_jax.data.sources import Example, check_split

LISTS = {"train": "trainval.txt", "validation": "trainval.txt", "test": "test.txt", "all": "list.txt"}
PET, BORDER = 1, 3  # values of a trimap; 2 is background


class Entry(NamedTuple):
    """A line of list.txt."""

    name: str  # of the picture, such as Abyssinian_100
    label: int


class PetSource(PictureSource):
    """Pictures whose box is that of their mask."""

    def __getitem__(self, index: int) -> Example:
        example = super().__getitem__(index)
        return example | {"box": box_of(example["mask"])}


@dataclass(frozen=True)
class Trimaps:
    """The masks of the pets, bool `[H, W]`."""

    paths: list[Path]
    border: bool

    def __call__(self, index: int) -> np.ndarray:
        with Image.open(self.paths[index]) as stored:
            trimap = np.asarray(stored)
        return (trimap == PET) | (self.border & (trimap == BORDER))


def oxford_pet(
    split: str,
    *,
    data_dir: str = "data",
    border: bool = True,
    validation: int = 0,
    size: int | Sequence[int] | None = None,
    short_side: int | None = None,
    channels: int = 3,
) -> PictureSource:
    """Oxford-IIIT Pet, each picture with the mask of the animal and the mask's box.

    Args:
        split: "train" (the official trainval, 3680 pictures), "test" (3669), "all" (for cross-validation) or
            "validation".
        data_dir: the folder that holds `oxford_pet/images` and `oxford_pet/annotations`.
        border: whether the strip about the animal that the trimaps leave open counts as animal.
        validation: how many training pictures make the split "validation"; "train" is then the rest.
        size, short_side, channels: as for `PictureSource`.

    Raises:
        ValueError: an unknown split; files that are missing or damaged.

    Source: Parkhi et al., "Cats and Dogs", CVPR 2012.
    """
    check_split(split, [*splits_with(validation), "all"], "oxford_pet")
    root = prepared_folder("oxford_pet", data_dir, "images", "annotations/list.txt")
    entries = _read_list(root / "annotations" / LISTS[split])
    labels = np.array([entry.label for entry in entries])
    if split in ("train", "validation") and validation:
        rest, held = hold_out(labels, validation)
        entries = [entries[i] for i in (held if split == "validation" else rest)]
    pictures = [root / "images" / f"{entry.name}.jpg" for entry in entries]
    trimaps = [root / "annotations" / "trimaps" / f"{entry.name}.png" for entry in entries]
    if missing := missing_files([*pictures, *trimaps]):
        raise ValueError(f"{root} lacks {some(missing)}; {how_to_get('oxford_pet', data_dir)}")
    source = PetSource(
        pictures,
        [entry.label for entry in entries],
        _breeds(root / "annotations" / "list.txt"),
        mask_of=Trimaps(trimaps, border),
        size=size,
        short_side=short_side,
        channels=channels,
        where=str(root),
    )
    return read_as_published(source)


def box_of(mask: np.ndarray) -> np.ndarray:
    """The smallest box that holds a mask, float32 (top, left, bottom, right); zeros for an empty one."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return np.zeros(4, np.float32)
    return np.array([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1], np.float32)


def _read_list(path: Path) -> list[Entry]:
    """Lines of "name class species breed"; classes count from 1."""
    entries = []
    for line in path.read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, *numbers = line.split()
        if len(numbers) != 3 or not all(number.isdigit() for number in numbers) or numbers[0] == "0":
            raise ValueError(f"{path}: {line!r} is not NAME CLASS SPECIES BREED")
        entries.append(Entry(name, int(numbers[0]) - 1))
    return entries


def _breeds(path: Path) -> list[str]:
    """The name of each class: that of its pictures without their number."""
    breeds = {entry.label: entry.name.rpartition("_")[0] for entry in _read_list(path)}
    if sorted(breeds) != list(range(len(breeds))):
        raise ValueError(f"{path} lists the classes {sorted(label + 1 for label in breeds)}, with gaps")
    return [breeds[label] for label in range(len(breeds))]
