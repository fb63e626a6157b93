"""CUB-200-2011: photographs of 200 species of birds with boxes and masks, from the original archives."""

from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image

from topgap_jax.data.files.pictures import MaskFiles, PictureSource
from topgap_jax.data.published.decoder import read_as_published
from topgap_jax.data.published.hold_out import hold_out, splits_with
from topgap_jax.data.published.layout import how_to_get, missing_files, other_sizes, some
from topgap_jax.data.sources import check_split

TABLES = (
    "images.txt",
    "image_class_labels.txt",
    "train_test_split.txt",
    "bounding_boxes.txt",
    "classes.txt",
)
# The grey level of a segmentation is the share of five annotators who marked the pixel: 153 of 255 is three.
MAJORITY = 128

T = TypeVar("T")


class CubIndex(NamedTuple):
    """The text files of CUB; N pictures in the order of `images.txt`."""

    names: list[str]  # such as "001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg"
    labels: np.ndarray  # int32 [N], 0 to 199
    in_training: np.ndarray  # bool [N], the official split
    boxes: np.ndarray  # float32 [N, 4], top, left, bottom, right
    class_names: list[str]  # such as "Black footed Albatross"


def cub(
    split: str,
    *,
    data_dir: str = "data",
    masks: bool = True,
    validation: int = 0,
    size: int | Sequence[int] | None = None,
    short_side: int | None = None,
    channels: int = 3,
) -> PictureSource:
    """CUB-200-2011, each picture with its bird's box and mask.

    Args:
        split: "train" (the official 5994 pictures), "test" (5794), "all" (for cross-validation) or
            "validation".
        data_dir: the folder that holds `cub/CUB_200_2011` and `cub/segmentations`.
        masks: False goes without the segmentations.
        validation: how many training pictures make the split "validation"; "train" is then the rest.
        size, short_side, channels: as for `PictureSource`.

    Raises:
        ValueError: an unknown split; files that are missing, unusable or disagree (reported together).

    Source: Wah et al., "The Caltech-UCSD Birds-200-2011 Dataset", CNS-TR-2011-001.
    """
    check_split(split, [*splits_with(validation), "all"], "cub")
    root = Path(data_dir) / "cub"
    index = read_cub(root)
    chosen = _examples_of(split, index, validation)
    pictures = [root / "CUB_200_2011" / "images" / index.names[i] for i in chosen]
    segmentations = segmentation_paths(root, [index.names[i] for i in chosen]) if masks else []
    if missing := missing_files([*pictures, *segmentations]):
        raise ValueError(f"{root} lacks {some(missing)}; {how_to_get('cub', data_dir)}")
    if masks and (differ := other_sizes(pictures, segmentations)):
        raise ValueError(f"pictures of another size (height x width) than their segmentation: {some(differ)}")
    source = PictureSource(
        pictures,
        index.labels[chosen],
        index.class_names,
        mask_of=BirdMasks(segmentations) if masks else None,
        boxes=index.boxes[chosen],
        size=size,
        short_side=short_side,
        channels=channels,
        where=str(root),
    )
    return read_as_published(source)


def _examples_of(split: str, index: CubIndex, validation: int) -> np.ndarray:
    if split == "all":
        return np.arange(len(index.names))
    chosen = np.flatnonzero(index.in_training == (split != "test"))
    if split == "test" or not validation:
        return chosen
    rest, held = hold_out(index.labels[chosen], validation)
    return chosen[held if split == "validation" else rest]


class BirdMasks(MaskFiles):
    """The masks of CUB, bool `[H, W]`: what most of the annotators marked."""

    def __call__(self, index: int) -> np.ndarray:
        path = self.paths[index]
        assert path is not None
        with Image.open(path) as levels:
            return np.asarray(levels.convert("L")) >= MAJORITY


def segmentation_paths(root: Path, names: Sequence[str]) -> list[Path]:
    """Where the segmentations of these pictures lie: beside the pictures' archive or inside its folder."""
    inside = root / "CUB_200_2011" / "segmentations"
    folder = inside if inside.is_dir() else root / "segmentations"
    return [(folder / name).with_suffix(".png") for name in names]


def read_cub(root: Path) -> CubIndex:
    """The text files of the CUB in `root`.

    Raises:
        ValueError: files that are missing, unusable or disagree (reported together).
    """
    folder = root / "CUB_200_2011"
    if missing := missing_files([folder / name for name in TABLES]):
        raise ValueError(f"{root} lacks {some(missing)}; {how_to_get('cub', root.parent)}")
    problems: list[str] = []
    names = _table(folder / "images.txt", str, problems)
    classes = _table(folder / "image_class_labels.txt", int, problems)
    flags = _table(folder / "train_test_split.txt", _flag, problems)
    boxes = _table(folder / "bounding_boxes.txt", _box, problems)
    species = _table(folder / "classes.txt", str, problems)
    tables: dict[str, Container[int]] = dict(zip(TABLES[1:4], (classes, flags, boxes), strict=True))
    problems += [
        f"{name} has no picture {i}" for name, table in tables.items() for i in names if i not in table
    ]
    for i, name in names.items():
        if i in classes and name.split("/")[0] != species.get(classes[i]):
            problems.append(f"{name} is of class {classes[i]}, in classes.txt {species.get(classes[i])!r}")
    if problems:
        raise ValueError(f"{folder} is not as published: {some(problems)}")
    numbers = sorted(species)
    labels = {number: label for label, number in enumerate(numbers)}
    return CubIndex(
        list(names.values()),
        np.array([labels[classes[i]] for i in names], np.int32),
        np.array([flags[i] for i in names], bool),
        np.array([boxes[i] for i in names], np.float32).reshape(-1, 4),
        [species_name(species[number]) for number in numbers],
    )


def species_name(folder: str) -> str:
    """The species that a folder is named after: "001.Black_footed_Albatross" is "Black footed Albatross"."""
    return folder.partition(".")[2].replace("_", " ")


def _table(path: Path, parse: Callable[[str], T], problems: list[str]) -> dict[int, T]:
    """Lines of a number and what it stands for, which may hold spaces; unusable ones join the problems."""
    table: dict[int, T] = {}
    for position, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        number, _, value = line.strip().partition(" ")
        try:
            if int(number) in table:
                problems.append(f"line {position} of {path.name} has number {number} again")
            table[int(number)] = parse(value.strip())
        except (KeyError, ValueError):
            problems.append(f"line {position} of {path.name} is {line!r}")
    return table


def _flag(value: str) -> bool:
    return {"0": False, "1": True}[value]


def _box(value: str) -> tuple[float, float, float, float]:
    """Edges from x, y, width, height, which count from 0: a 500x375 picture as a whole is 0 0 500 375."""
    left, top, width, height = map(float, value.split())
    if not (width > 0 and height > 0):
        raise ValueError
    return top, left, top + height, left + width
