"""Folders of pictures, and manifests that list them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from topgap_jax.data.files.decode import PICTURE_SUFFIXES
from topgap_jax.data.files.listing import (
    SPLITS,
    Listing,
    Problem,
    case_problems,
    check_fractions,
    name_list,
    natural,
    read_class_names,
    split_by_hash,
)
from topgap_jax.data.files.manifest import MANIFEST_SUFFIXES, MANIFESTS, read_manifest
from topgap_jax.data.files.pictures import MaskFiles, PictureSource
from topgap_jax.data.sources import check_split, listed

FRACTIONS = "split_fractions=(0.7, 0.15, 0.15)"
LAYOUTS = f"<split>/<class>/<picture>, or <class>/<picture> with {FRACTIONS}"
MASKS = "masks"  # the folder of masks beside the splits or the classes


class FolderSource(PictureSource):
    """Your own pictures: `PATH/<split>/<class>/<picture>`, or a manifest.

    The classes are the folders of the split "train" (or of the first split, where there is no "train") in
    natural order, so that "10" follows "9". Masks may lie in `PATH/masks/<split>/<class>/<same name>.png`
    (nonzero where the object is). `docs/own_pictures.md` is the guide.

    Args:
        path: the folder, or a manifest (.csv or .jsonl; `read_manifest`), or a folder with a `manifest.csv`
            or `manifest.jsonl`.
        split: a folder in it, or one of the manifest's splits.
        size, short_side, channels, pages, window: see `Decoder`.
        pixel_size: see `PictureSource`.
        class_names: the classes in the order of their numbers, or a file with one per line.
        split_fractions: of train, validation and test, for `PATH/<class>/<picture>` and for manifests
            without a column `split`: each class is divided by a hash of the pictures' names.
        split_seed: for another division.
        check: whether all files of the split are checked before anything else is done.
        on_error: "stop" raises one error that lists all problems; "skip" leaves such pictures out, counts
            them in `skipped` and warns.

    Raises:
        ValueError: no such folder, split or option; the problems found, all together.
    """

    def __init__(
        self,
        path: str,
        split: str,
        *,
        size: int | Sequence[int] | None = None,
        channels: int = 3,
        short_side: int | None = None,
        pages: Any = None,
        window: Any = None,
        pixel_size: float | None = None,
        class_names: Sequence[str] | str | None = None,
        split_fractions: Sequence[float] | None = None,
        split_seed: int = 0,
        check: bool = True,
        on_error: str = "stop",
    ) -> None:
        if split_fractions is not None:
            check_fractions(split_fractions)
        lists: dict[str, Any] = {
            "class_names": class_names,
            "split_fractions": split_fractions,
            "split_seed": split_seed,
        }
        manifest = _manifest(Path(path))
        if manifest:
            listing = read_manifest(manifest, split, **lists)
        else:
            listing = read_folders(Path(path), split, **lists)
        super().__init__(
            listing.paths,
            listing.labels,
            listing.class_names,
            mask_of=None if listing.masks is None else MaskFiles(listing.masks),
            boxes=listing.boxes,
            groups=listing.groups,
            group_names=listing.group_names,
            size=size,
            short_side=short_side,
            channels=channels,
            pages=pages,
            window=window,
            pixel_size=pixel_size,
            where=f"{manifest or path}, split {split!r}",
            problems=listing.problems,
            check=check,
            on_error=on_error,
        )


def read_folders(
    root: Path,
    split: str,
    *,
    class_names: Sequence[str] | str | None = None,
    split_fractions: Sequence[float] | None = None,
    split_seed: int = 0,
) -> Listing:
    """One split of the pictures in `root`, with its class folders; arguments as for `FolderSource`.

    Raises:
        ValueError: no such folder or split; no class folders, or no pictures in them.
    """
    if not root.is_dir():
        raise ValueError(f"{root} is no folder; expected {root}/{LAYOUTS}, or a manifest (.csv, .jsonl)")
    if split_fractions is None:
        splits = [folder.name for folder in _folders(root)]
        classes = "" if "train" in splits else f"; if these are classes, set {FRACTIONS}"
        check_split(split, splits, str(root), classes)
        classes_of = root / ("train" if "train" in splits else splits[0])
        base, masks = root / split, root / MASKS / split
    else:
        check_split(split, SPLITS, str(root))
        classes_of = base = root
        masks = root / MASKS
    names = read_class_names(class_names, _class_folders(classes_of))
    paths = [path for folder in _folders(base) for path in _pictures(folder)]
    if not paths:
        raise ValueError(_no_pictures(base))
    if split_fractions is not None:
        keys, labels = [f"{path.parent.name}/{path.name}" for path in paths], [p.parent.name for p in paths]
        splits_of = split_by_hash(keys, labels, split_fractions, split_seed)
        paths = [path for path, each in zip(paths, splits_of, strict=True) if each == split]
    numbers = {name: label for label, name in enumerate(names)}
    return Listing(
        paths,
        np.array([numbers.get(path.parent.name, -1) for path in paths], np.int32),
        names,
        masks=_masks(masks, paths) if masks.is_dir() else None,
        problems=[
            *case_problems(sorted({*names, *_class_folders(base)}), str(base)),
            *_class_problems(base, names, training=split == "train" or base == classes_of),
            *(
                Problem("unknown class", f"{path} lies in the folder of no class", index)
                for index, path in enumerate(paths)
                if path.parent.name not in numbers
            ),
        ],
    )


def _manifest(path: Path) -> Path | None:
    if path.suffix.lower() in MANIFEST_SUFFIXES and not path.is_dir():
        return path
    return next((path / name for name in MANIFESTS if (path / name).is_file()), None)


def _folders(folder: Path) -> list[Path]:
    """The visible folders in it, but for the masks."""
    found = (entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return sorted((entry for entry in found if entry.name != MASKS), key=lambda entry: natural(entry.name))


def _class_folders(folder: Path) -> list[str]:
    if not (names := [entry.name for entry in _folders(folder)]):
        raise ValueError(f"{folder} has no folders of classes; expected {LAYOUTS}")
    return names


def _pictures(folder: Path) -> list[Path]:
    visible = (entry for entry in folder.iterdir() if not entry.name.startswith("."))
    found = (entry for entry in visible if entry.suffix.lower() in PICTURE_SUFFIXES)
    return sorted(found, key=lambda entry: natural(entry.name))


def _no_pictures(base: Path) -> str:
    """What to say where no class folder holds a picture, with what lies there instead."""
    inside = [entry for folder in _folders(base) for entry in folder.iterdir() if entry.name[:1] != "."]
    others = sorted({entry.suffix.lower() or "folders" for entry in inside})
    message = f"the classes of {base} hold no pictures ({listed(PICTURE_SUFFIXES)})"
    return message + (f"; there are {name_list(others)}; expected {LAYOUTS}" if others else "")


def _class_problems(base: Path, names: Sequence[str], *, training: bool) -> list[Problem]:
    """Classes without a folder or a picture; in training also those with one picture."""
    problems = []
    for name in names:
        number = len(_pictures(base / name)) if (base / name).is_dir() else 0
        if number == 0:
            problems.append(Problem("empty class", f"{base / name} holds no pictures"))
        elif number == 1 and training:
            problems.append(Problem("class with one picture", f"{base / name} holds one picture only"))
    return problems


def _masks(folder: Path, paths: Sequence[Path]) -> list[Path | None]:
    """For each picture the file of the same name in the folder of masks, whatever its suffix."""
    there = {(each.name, path.stem): path for each in _folders(folder) for path in _pictures(each)}
    return [there.get((path.parent.name, path.stem)) for path in paths]
