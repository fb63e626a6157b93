"""Waterbirds: birds of CUB-200-2011 cut out and put on land or water, from the original archive."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from topgap_jax.data.files.pictures import PictureSource
from topgap_jax.data.published.cub import BirdMasks, read_cub, segmentation_paths, species_name
from topgap_jax.data.published.decoder import read_as_published
from topgap_jax.data.published.layout import how_to_get, missing_files, other_sizes, some
from topgap_jax.data.sources import check_split, listed

SPLITS = ("train", "validation", "test")  # 0, 1 and 2 in metadata.csv
GROUP_NAMES = ("landbird on land", "landbird on water", "waterbird on land", "waterbird on water")
FOLDER = "waterbird_complete95_forest2water2"


class Row(NamedTuple):
    """A line of `metadata.csv`."""

    name: str  # such as "001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg", as in CUB
    waterbird: int  # 1 for a waterbird, 0 for a landbird
    split: int  # position in SPLITS
    water: int  # 1 for a water background, 0 for land


def waterbirds(
    split: str,
    *,
    data_dir: str = "data",
    classes: str = "waterbird",
    masks: bool = False,
    size: int | Sequence[int] | None = None,
    short_side: int | None = None,
    channels: int = 3,
) -> PictureSource:
    """Waterbirds with the four groups of bird and background.

    The group is 2 * waterbird + water (`GROUP_NAMES`), whatever the classes are. The training split has 3498,
    184, 56 and 1057 of them; the average of Sagawa et al. weights the groups' accuracies by these counts.

    Args:
        split: "train", "validation" or "test" (4795, 1199 and 5794 pictures).
        data_dir: the folder that holds `waterbirds/waterbird_complete95_forest2water2`.
        classes: "waterbird" (landbird or waterbird) or "species" (the 200 classes of `cub`, in its order).
        masks: give mask and box of the bird, from the CUB in `data_dir`: birds stay where they were there.
        size, short_side, channels: as for `PictureSource`.

    Raises:
        ValueError: an unknown split or classes; files that are missing, unusable or disagree.

    Source: Sagawa et al., "Distributionally Robust Neural Networks for Group Shifts", ICLR 2020.
    """
    check_split(split, SPLITS, "waterbirds")
    if classes not in ("waterbird", "species"):
        raise ValueError(f"classes is 'waterbird' or 'species', not {classes!r}")
    root = Path(data_dir) / "waterbirds" / FOLDER
    if not (root / "metadata.csv").is_file():
        raise ValueError(f"{root} lacks metadata.csv; {how_to_get('waterbirds', data_dir)}")
    everything = read_metadata(root / "metadata.csv")
    rows = [row for row in everything if row.split == SPLITS.index(split)]
    pictures = [root / row.name for row in rows]
    if missing := missing_files(pictures):
        raise ValueError(f"{root} lacks {some(missing)}; {how_to_get('waterbirds', data_dir)}")
    birds, boxes = _cut_outs(pictures, rows, Path(data_dir) / "cub") if masks else (None, None)
    labels, class_names = _species(rows, everything) if classes == "species" else _kinds(rows)
    source = PictureSource(
        pictures,
        np.array(labels, np.int32),
        class_names,
        mask_of=birds,
        boxes=boxes,
        groups=np.array([2 * row.waterbird + row.water for row in rows], np.int32),
        group_names=GROUP_NAMES,
        size=size,
        short_side=short_side,
        channels=channels,
        where=str(root),
    )
    return read_as_published(source)


def read_metadata(path: Path) -> list[Row]:
    """The pictures of all splits.

    Raises:
        ValueError: columns or values that the original does not have (reported together).
    """
    allowed = {"y": ("0", "1"), "split": ("0", "1", "2"), "place": ("0", "1")}
    rows, problems = [], []
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.DictReader(file)
        if absent := [
            column for column in ("img_filename", *allowed) if column not in (lines.fieldnames or ())
        ]:
            raise ValueError(f"{path} has no column {listed(absent)}; there are {listed(lines.fieldnames)}")
        for line in lines:
            if wrong := [
                f"{column} {line[column]!r}" for column in allowed if line[column] not in allowed[column]
            ]:
                problems.append(f"line {lines.line_num} has {listed(wrong)}")
            else:
                rows.append(Row(line["img_filename"], *(int(line[column]) for column in allowed)))
    if problems:
        raise ValueError(f"{path}: {some(problems)}; y and place are 0 or 1, split is 0, 1 or 2")
    return rows


def _kinds(rows: Sequence[Row]) -> tuple[list[int], list[str]]:
    return [row.waterbird for row in rows], ["landbird", "waterbird"]


def _species(rows: Sequence[Row], everything: Sequence[Row]) -> tuple[list[int], list[str]]:
    """Labels and class names by the folders of all splits, which are numbered like the classes of CUB."""
    folders = sorted({row.name.partition("/")[0] for row in everything})
    labels = {folder: label for label, folder in enumerate(folders)}
    return [labels[row.name.partition("/")[0]] for row in rows], [species_name(folder) for folder in folders]


def _cut_outs(pictures: Sequence[Path], rows: Sequence[Row], cub_root: Path) -> tuple[BirdMasks, np.ndarray]:
    """Masks and boxes [N, 4] of the birds, where CUB has them.

    Raises:
        ValueError: pictures that CUB does not have, or has in another size (reported together).
    """
    index = read_cub(cub_root)
    positions = {name: i for i, name in enumerate(index.names)}
    masks = segmentation_paths(cub_root, [row.name for row in rows])
    lacking = [row.name for row in rows if row.name not in positions] + missing_files(masks)
    if lacking:
        raise ValueError(f"{cub_root} lacks {some(lacking)}; {how_to_get('cub', cub_root.parent)}")
    if differ := other_sizes(pictures, masks):
        raise ValueError(f"pictures of another size (height x width) than their segmentation: {some(differ)}")
    return BirdMasks(masks), index.boxes[[positions[row.name] for row in rows]]
