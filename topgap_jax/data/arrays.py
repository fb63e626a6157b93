"""Data sets that lie in memory as arrays, and NumPy archives."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from topgap_jax.data.sources import Example, check_split, listed


class ArraySource:
    """Examples that lie in memory as arrays.

    Args:
        images: `[N, H, W, C]` or `[N, H, W]` (one channel), uint8, or float in [0, 1] (kept as float32).
        labels: whole numbers `[N]` in 0..len(class_names)-1.
        class_names: one per class.
        masks: bool or 0/1 `[N, H, W]`.
        groups: whole numbers `[N]`.
        where: what messages call the data.

    Raises:
        ValueError: arrays of another shape, dtype or range; no examples.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        class_names: Sequence[str],
        *,
        masks: np.ndarray | None = None,
        groups: np.ndarray | None = None,
        where: str = "the arrays",
    ) -> None:
        self.class_names = list(class_names)
        self.num_classes = len(self.class_names)
        self.images = _checked_images(images, where)
        self.labels = _checked_labels(labels, len(self.images), self.num_classes, where)
        self._optional = {}
        if masks is not None:
            self._optional["mask"] = _checked_masks(masks, self.images.shape[:3], where)
        if groups is not None:
            self._optional["group"] = _checked_whole("group", groups, len(self.images), where)
        self.groups = self._optional.get("group")
        self.image_shape: tuple[int, int, int] | None = self.images.shape[1:]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        example = {"image": self.images[index], "label": self.labels[index]}
        return example | {name: values[index] for name, values in self._optional.items()}


def npz_source(path: str, split: str, *, class_names: Sequence[str] | None = None) -> ArraySource:
    """A split stored by `np.savez`.

    `path` is a folder with one file per split (`train.npz`, `test.npz`, ...), each with `images` (or
    `image`), `labels` (or `label`) and, if wanted, `masks` and `groups`; or a single file with the keys
    `train_images`, `train_labels`, `test_images` and so on. `class_names` may lie in the files too; without
    it the classes are 0 to the largest label of any split.

    Raises:
        ValueError: a missing file, split or array, or arrays that `ArraySource` refuses.
    """
    splits = _npz_arrays(Path(path))
    check_split(split, [name for name in splits if name], path)
    found, where = splits[split], f"{path}, split {split!r}"
    if missing := [name for name in ("image", "label") if name not in found]:
        raise ValueError(f"{where} has no array {missing[0] + 's'!r}; there are {listed(found)}")
    return ArraySource(
        _read(found["image"]),
        _read(found["label"]),
        _npz_class_names(splits) if class_names is None else class_names,
        masks=_read(found["mask"]) if "mask" in found else None,
        groups=_read(found["group"]) if "group" in found else None,
        where=where,
    )


def _npz_arrays(path: Path) -> dict[str, dict[str, tuple[Path, str]]]:
    """Per split and kind of array ("image", "label", ...) the file and the key under which it lies.

    What belongs to no split, such as the class names in a single file, stands under "".
    """
    if not path.is_dir() and not path.is_file():
        raise ValueError(f"{path} is neither a folder of .npz files nor an .npz file")
    splits: dict[str, dict[str, tuple[Path, str]]] = {}
    for file in sorted(path.glob("*.npz")) if path.is_dir() else [path]:
        with np.load(file) as archive:
            for key in archive.files:
                split, _, name = ("", "", key) if key == "class_names" else key.rpartition("_")
                kind = name if name == "class_names" else name.removesuffix("s")
                splits.setdefault(file.stem if path.is_dir() else split, {})[kind] = file, key
    return splits


def _npz_class_names(splits: dict[str, dict[str, tuple[Path, str]]]) -> list[str]:
    """The stored names, which must be the same in every file; else the numbers up to the largest label."""
    places = [found["class_names"] for found in splits.values() if "class_names" in found]
    stored = [[str(name) for name in _read(place)] for place in places]
    if any(names != stored[0] for names in stored):
        raise ValueError(f"class_names differ between the splits: {' and '.join(map(str, stored))}")
    labels = [_read(found["label"]) for found in splits.values() if "label" in found]
    largest = max((int(array.max()) for array in labels if array.size), default=0)
    return stored[0] if stored else [str(label) for label in range(largest + 1)]


def _read(place: tuple[Path, str]) -> np.ndarray:
    file, key = place
    with np.load(file) as archive:
        return archive[key]


def _checked_images(images: np.ndarray, where: str) -> np.ndarray:
    images = np.asarray(images)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or not images.size:
        raise ValueError(f"the images of {where} must be [N, H, W, C] with N >= 1, not {list(images.shape)}")
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"the images of {where} must be uint8 or float in [0, 1], not {images.dtype}")
    low, high = float(images.min()), float(images.max())
    if not 0 <= low <= high <= 1:  # false for NaN too
        raise ValueError(f"the float images of {where} must lie in [0, 1], not in [{low:g}, {high:g}]")
    return images.astype(np.float32)


def _checked_whole(name: str, values: np.ndarray, number: int, where: str) -> np.ndarray:
    values = np.asarray(values)
    if values.shape != (number,) or not np.issubdtype(values.dtype, np.integer):
        raise ValueError(
            f"the {name}s of {where} must be {number} whole numbers, one per image, "
            f"not {values.dtype} of shape {list(values.shape)}"
        )
    return values.astype(np.int32)


def _checked_labels(labels: np.ndarray, number: int, num_classes: int, where: str) -> np.ndarray:
    labels = _checked_whole("label", labels, number, where)
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if wrong.size:
        raise ValueError(
            f"the labels of {where} must lie in 0..{num_classes - 1}; "
            f"{wrong.size} do not, the first is {labels[wrong[0]]} at index {wrong[0]}"
        )
    return labels


def _checked_masks(masks: np.ndarray, shape: tuple[int, ...], where: str) -> np.ndarray:
    masks = np.asarray(masks)
    if masks.shape != shape or not np.isin(masks, (0, 1)).all():
        raise ValueError(
            f"the masks of {where} must be bool or 0/1 of shape {list(shape)}, "
            f"not {masks.dtype} of shape {list(masks.shape)}"
        )
    return masks.astype(bool)
