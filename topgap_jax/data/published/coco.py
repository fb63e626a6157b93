"""COCO as single-object classification: the pictures with exactly one annotated object."""

import importlib.util
import json
import os
import tempfile
import threading
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from topgap_jax.data.files.pictures import PictureSource
from topgap_jax.data.published.decoder import read_as_published
from topgap_jax.data.published.layout import how_to_get, missing_files, other_sizes, some
from topgap_jax.data.sources import check_split

SPLITS = ("train", "validation", "all")
PARTS = ("train", "val")  # the two annotation files of a year
MIN_SAMPLES, EXPECTED_CLASSES = 20, 53  # of the paper's subset
COPY_VERSION = 1

_one_at_a_time = threading.Lock()

Segmentation = list | dict  # polygons, or run lengths ("counts" of a "size")


class SingleObject(NamedTuple):
    """A picture with one object."""

    file_name: str
    height: int  # of the picture, pixels
    width: int
    category: int  # COCO's id, 1 to 90
    box: list[float]  # x, y, width, height; the first pixel's corner is 0, 0
    segmentation: Segmentation


class SingleObjects(NamedTuple):
    """What one annotation file has of them."""

    objects: list[SingleObject]
    categories: dict[int, str]  # id to name


def coco(
    split: str,
    *,
    data_dir: str = "data",
    year: int = 2017,
    min_samples: int = MIN_SAMPLES,
    expected_classes: int | None = EXPECTED_CLASSES,
    masks: bool = True,
    size: int | Sequence[int] | None = None,
    short_side: int | None = None,
    channels: int = 3,
) -> PictureSource:
    """The pictures of COCO that show one object, labelled by its category, with its box and mask.

    A picture counts if it has one annotation in all, which is no crowd and whose box is at least a pixel high
    and wide. The classes are the categories with enough such pictures in the year's two files, in the order
    of COCO's ids: every split has the same ones.

    Args:
        split: "train" or "validation" (the year's own) or "all" (both, for cross-validation as in the paper).
        data_dir: the folder that holds `coco/annotations`, `coco/train2017` and `coco/val2017`.
        year: 2017 or 2014: the same pictures, split differently.
        min_samples: the pictures that a category needs to be a class.
        expected_classes: warn if there are not so many classes; None expects nothing.
        masks: give the object's mask, which needs pycocotools.
        size, short_side, channels: as for `PictureSource`.

    Raises:
        ValueError: an unknown split or year; files that are missing, unusable or disagree.
        ModuleNotFoundError: masks are asked for and pycocotools is not installed.

    Source: Lin et al., "Microsoft COCO", ECCV 2014; the selection: Top-GAP, appendix A.
    """
    check_split(split, SPLITS, "coco")
    if masks and importlib.util.find_spec("pycocotools") is None:
        message = "COCO's masks need pycocotools: pip install pycocotools; or give masks=False"
        raise ModuleNotFoundError(message)
    root, to_get = Path(data_dir) / "coco", how_to_get("coco", data_dir, "" if year == 2017 else str(year))
    read = read_year(root, year, to_get)
    classes = frequent_categories(list(read.values()), min_samples)
    if min_samples == MIN_SAMPLES and expected_classes not in (None, len(classes)):
        found = f"{len(classes)} classes with at least {min_samples} pictures of one object each"
        warnings.warn(f"{root} has {found}, not the {expected_classes} expected", stacklevel=2)
    parts = {"train": ("train",), "validation": ("val",), "all": PARTS}[split]
    chosen = [(part, single) for part in parts for single in read[part].objects if single.category in classes]
    objects = [single for _, single in chosen]
    pictures = [root / f"{part}{year}" / single.file_name for part, single in chosen]
    if missing := missing_files(pictures):
        raise ValueError(f"{root} lacks {some(missing)}; {to_get}")
    if differ := other_sizes(pictures, [(single.height, single.width) for single in objects]):
        raise ValueError(f"pictures of another size (height x width) than annotated: {some(differ)}")
    labels = {category: label for label, category in enumerate(classes)}
    source = PictureSource(
        pictures,
        np.array([labels[single.category] for single in objects], np.int32),
        list(classes.values()),
        mask_of=ObjectMasks(objects) if masks else None,
        boxes=np.array([_edges(single) for single in objects], np.float32).reshape(-1, 4),
        size=size,
        short_side=short_side,
        channels=channels,
        where=str(root),
    )
    return read_as_published(source)


def read_year(root: Path, year: int, to_get: str) -> dict[str, SingleObjects]:
    """The single objects of a year's two annotation files.

    Raises:
        ValueError: an unknown year, files that are missing or unusable.
    """
    if year not in (2014, 2017):
        raise ValueError(f"year is 2014 or 2017, not {year}")
    files = {part: root / "annotations" / f"instances_{part}{year}.json" for part in PARTS}
    if missing := missing_files(files.values()):
        raise ValueError(f"{root} lacks {some(missing)}; {to_get}")
    return {part: single_objects(file) for part, file in files.items()}


@dataclass(frozen=True)
class ObjectMasks:
    """The objects' masks, bool `[H, W]`."""

    objects: list[SingleObject]

    def __call__(self, index: int) -> np.ndarray:
        single = self.objects[index]
        return object_mask(single.segmentation, single.height, single.width)


def object_mask(segmentation: Segmentation, height: int, width: int) -> np.ndarray:
    """Bool `[height, width]` from COCO's polygons or run lengths (plain or compressed)."""
    from pycocotools import mask as run_lengths  # an extra

    if isinstance(segmentation, list):
        encoded = run_lengths.merge(run_lengths.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        encoded = run_lengths.frPyObjects(segmentation, height, width)
    else:
        encoded = segmentation
    with _one_at_a_time, warnings.catch_warnings():  # of NumPy 2, about pycocotools; not safe among threads
        warnings.simplefilter("ignore", DeprecationWarning)
        return run_lengths.decode(encoded).astype(bool)


def frequent_categories(parts: Sequence[SingleObjects], min_samples: int) -> dict[int, str]:
    """The categories with at least `min_samples` objects in all parts together, by id.

    Raises:
        ValueError: there is none.
    """
    counts = Counter(single.category for part in parts for single in part.objects)
    names = {category: name for part in parts for category, name in part.categories.items()}
    frequent = {category: names[category] for category in sorted(counts) if counts[category] >= min_samples}
    if not frequent:
        most = f"the most is {max(counts.values(), default=0)}"
        raise ValueError(f"no category has {min_samples} pictures with one object; {most}")
    return frequent


def single_objects(file: Path) -> SingleObjects:
    """The single objects of an annotation file, from a small copy beside it where that is up to date.

    Parsing takes 8 s of processor time and 1.1 GB of memory for 566 MB of JSON, the copy 0.2 s.

    Raises:
        ValueError: a file that is no JSON or holds no instances, or entries that disagree.
    """
    copy = file.with_suffix(".single_objects.json")
    stamp = [COPY_VERSION, file.stat().st_size, file.stat().st_mtime_ns]
    try:
        kept = json.loads(copy.read_text(encoding="utf-8"))
        if kept["stamp"] == stamp:
            objects = [SingleObject(*single) for single in kept["objects"]]
            return SingleObjects(objects, {int(id): name for id, name in kept["categories"].items()})
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none yet, or half of one
    singles = _read_annotations(file)
    _write_whole(copy, json.dumps({"stamp": stamp, **singles._asdict()}))
    return singles


class _OnlyAnnotations:
    """Sees each object of an annotation file as it is parsed and lets go at once of what is not needed."""

    def __init__(self) -> None:
        self.pictures: dict[int, tuple[str, int, int]] = {}  # id to name, height, width
        self.annotations: dict[int, dict | None] = {}  # picture's id to its annotation, or None for several

    def __call__(self, entry: dict[str, Any]) -> dict[str, Any] | None:
        if "image_id" in entry:
            picture = entry["image_id"]
            self.annotations[picture] = None if picture in self.annotations else entry
        elif "file_name" in entry:
            self.pictures[entry["id"]] = entry["file_name"], entry["height"], entry["width"]
        else:
            return entry  # a category, a licence, run lengths, or the whole
        return None


def _read_annotations(file: Path) -> SingleObjects:
    only = _OnlyAnnotations()
    try:
        with file.open(encoding="utf-8") as text:
            whole = json.load(text, object_hook=only)
        categories = {entry["id"]: entry["name"] for entry in whole["categories"]}
        objects, problems = [], []
        for picture, annotation in sorted(only.annotations.items()):
            if annotation is None or annotation["iscrowd"] or min(annotation["bbox"][2:]) < 1:
                continue
            category, segmentation = annotation["category_id"], annotation["segmentation"]
            if picture not in only.pictures or category not in categories or not segmentation:
                problems.append(f"annotation {annotation['id']} of picture {picture} and category {category}")
                continue
            objects.append(SingleObject(*only.pictures[picture], category, annotation["bbox"], segmentation))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} is no JSON or was cut short: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} holds no instances: {type(error).__name__} {error}") from error
    if problems:
        raise ValueError(f"{file} lacks picture, category or segmentation of {some(problems)}")
    return SingleObjects(objects, categories)


def _write_whole(file: Path, text: str) -> None:
    """All or nothing, as several processes may write; nothing where the folder is read-only."""
    try:
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False, encoding="utf-8") as unfinished:
            unfinished.write(text)
        os.chmod(unfinished.name, 0o644)
        os.replace(unfinished.name, file)
    except OSError:
        pass


def _edges(single: SingleObject) -> tuple[float, float, float, float]:
    """Top, left, bottom, right of the box."""
    left, top, width, height = single.box
    return top, left, top + height, left + width
