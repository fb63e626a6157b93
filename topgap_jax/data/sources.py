"""Where examples come from: the embedded set, folders of pictures, NumPy archives and TFDS."""

import inspect
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

Example = dict[str, Any]
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".ppm", ".pgm")


class Source(Protocol):
    """Random access to the examples of one split.

    `source[i]` is a dict with `image`, `[H, W, C]` uint8 or float32 in [0, 1], and `label`, int32 in
    0..num_classes-1; where the data has them also `mask`, bool `[H, W]`, and `group`, int32.
    """

    num_classes: int
    class_names: list[str]
    image_shape: tuple[int, int, int] | None  # (H, W, C), or None where pictures differ in size

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


def load_source(name: str, split: str, **options: Any) -> Source:
    """The split of a data set.

    Args:
        name: "embedded" (`TexturedDigits`), "folder:PATH" (`FolderSource`), "npz:PATH" (`npz_source`) or
            "tfds:NAME" (`TfdsSource`).
        split: one of the splits that the data set has.
        **options: what the named class or function takes beside path and split.

    Raises:
        ValueError: an unknown data set, split or option (the message lists what exists), or unusable data.
    """
    kind, colon, path = name.partition(":")
    if kind not in _KINDS or bool(colon) != (kind != "embedded") or bool(colon) != bool(path):
        raise ValueError(f"no data set {name!r}; there are embedded, folder:PATH, npz:PATH and tfds:NAME")
    open_source = _KINDS[kind]()
    arguments = (path, split) if path else (split,)
    accepted = list(inspect.signature(open_source).parameters)[len(arguments) :]
    if unknown := [option for option in options if option not in accepted]:
        raise ValueError(f"{kind} takes no option {unknown[0]!r}; there are {_listed(accepted)}")
    return open_source(*arguments, **options)


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
    _check_split(split, [name for name in splits if name], path)
    found, where = splits[split], f"{path}, split {split!r}"
    if missing := [name for name in ("image", "label") if name not in found]:
        raise ValueError(f"{where} has no array {missing[0] + 's'!r}; there are {_listed(found)}")
    return ArraySource(
        _read(found["image"]),
        _read(found["label"]),
        _npz_class_names(splits) if class_names is None else class_names,
        masks=_read(found["mask"]) if "mask" in found else None,
        groups=_read(found["group"]) if "group" in found else None,
        where=where,
    )


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
        _check_split(split, splits, path)
        self.class_names = _class_folders(root, split, "train" if "train" in splits else splits[0])
        self.num_classes = len(self.class_names)
        self._decode = _Decoder(size, channels)
        self.paths: list[Path] = []
        labels: list[int] = []
        for label, class_name in enumerate(self.class_names):
            pictures = _pictures(root / split / class_name)
            self.paths += pictures
            labels += [label] * len(pictures)
        if not self.paths:
            raise ValueError(f"the classes of {root / split} hold no pictures ({_listed(PICTURE_SUFFIXES)})")
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


class TfdsSource:
    """A TFDS data set that was prepared as array_record files; read without TensorFlow.

    Args:
        name: as TFDS writes it, with configuration and version if wanted: "oxford_iiit_pet:4.0.0".
        split: one of its splits, or a slice of one such as "train[:90%]".
        data_dir: where it was prepared; by default TFDS's own folder.
        image_key, label_key: its features.
        size, channels: as for `FolderSource`.

    Raises:
        ValueError: a set that does not exist or is not prepared (the message says the command), an unknown
            split or feature, pictures of several sizes without `size`.
        ModuleNotFoundError: tensorflow_datasets is not installed.
    """

    def __init__(
        self,
        name: str,
        split: str,
        *,
        data_dir: str | None = None,
        image_key: str = "image",
        label_key: str = "label",
        size: int | Sequence[int] | None = None,
        channels: int = 3,
    ) -> None:
        builder = _prepared_builder(name, data_dir)
        _check_split(split.partition("[")[0], list(builder.info.splits), f"tfds:{name}")
        features = builder.info.features
        for key in (image_key, label_key):
            if key not in features:
                raise ValueError(f"tfds:{name} has no feature {key!r}; there are {_listed(features)}")
        if not hasattr(features[label_key], "names"):
            raise ValueError(f"feature {label_key!r} of tfds:{name} is no class label")
        self.class_names = list(features[label_key].names)
        self.num_classes = len(self.class_names)
        self._decode = _Decoder(size, channels)
        self._keys = image_key, label_key
        height, width = self._decode.size or features[image_key].shape[:2]
        if height is None or width is None:
            raise ValueError(f"pictures of tfds:{name} differ in size; give the option size, say size=224")
        self.image_shape: tuple[int, int, int] | None = (height, width, channels)
        self._records = builder.as_data_source(split)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        record = self._records[index]
        image, label = (record[key] for key in self._keys)
        picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        return {"image": self._decode(picture, f"example {index}"), "label": np.int32(label)}


class _Decoder:
    """A Pillow picture to uint8 `[H, W, channels]`, upright and of the wanted size."""

    def __init__(self, size: int | Sequence[int] | None, channels: int) -> None:
        if channels not in (1, 3):
            raise ValueError(f"channels is 3 (RGB) or 1 (grey), not {channels}")
        self.mode = "RGB" if channels == 3 else "L"
        self.size = None if size is None else tuple(np.broadcast_to(size, 2).tolist())
        if self.size is not None and not all(isinstance(side, int) and side >= 1 for side in self.size):
            raise ValueError(f"size is a whole number of pixels or (height, width), not {size}")

    def __call__(self, picture: Image.Image, where: str) -> np.ndarray:
        if picture.mode in ("F", "I") or picture.mode.startswith("I;"):
            raise ValueError(
                f"{where} has more than 8 bits per channel (mode {picture.mode}); save it with 8"
            )
        upright = ImageOps.exif_transpose(picture).convert(self.mode)
        if self.size is not None and upright.size != self.size[::-1]:
            upright = ImageOps.fit(upright, self.size[::-1], Image.Resampling.BILINEAR)
        pixels = np.asarray(upright)
        return pixels if pixels.ndim == 3 else pixels[..., None]


def _textured_digits() -> Callable[..., Source]:
    from topgap_jax.data.embedded import TexturedDigits  # scikit-learn takes a second to import

    return TexturedDigits


_KINDS: dict[str, Callable[[], Callable[..., Source]]] = {
    "embedded": _textured_digits,
    "folder": lambda: FolderSource,
    "npz": lambda: npz_source,
    "tfds": lambda: TfdsSource,
}


def _listed(names: Any) -> str:
    return ", ".join(map(str, names)) or "none"


def _check_split(split: str, splits: Sequence[str], where: str) -> None:
    if split not in splits:
        raise ValueError(f"{where} has no split {split!r}; there are {_listed(splits)}")


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
            f"missing {_listed(missing)}; only there {_listed(extra)}"
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


def _prepared_builder(name: str, data_dir: str | None) -> Any:
    """The TFDS builder of a set that lies prepared as array_record files."""
    try:
        import tensorflow_datasets as tfds
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("tfds:NAME needs a package: pip install tensorflow-datasets") from error
    try:
        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    except tfds.core.DatasetNotFoundError as error:
        where = "https://www.tensorflow.org/datasets/catalog lists the known ones"
        raise ValueError(f"TFDS has no data set {name!r}; {where}") from error
    if not builder.info.splits:
        command = (
            f"import tensorflow_datasets as tfds; tfds.builder({name!r}, file_format='array_record'"
            f"{f', data_dir={data_dir!r}' if data_dir else ''}).download_and_prepare()"
        )
        raise ValueError(f'tfds:{name} is not prepared in {builder.data_dir}; run python -c "{command}"')
    return builder
