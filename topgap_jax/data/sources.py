"""Where examples come from: the embedded set, folders of pictures, NumPy archives and TFDS, all random-access."""

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

    `source[i]` is a dict with `image`, uint8 `[H, W, C]` or float32 `[H, W, C]` in [0, 1], and `label`, int32 in
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
        name: "embedded" (`TexturedDigits`), "folder:PATH" (`FolderSource`), "npz:PATH" (`npz_source`) or "tfds:NAME"
            (`TfdsSource`).
        split: one of the splits that the data set has.
        **options: what the named class or function takes beside path and split.

    Raises:
        ValueError: an unknown data set, split or option (the message lists what exists), or unusable data.
    """
    kind, colon, path = name.partition(":")
    if kind not in _KINDS or bool(path) != (kind != "embedded") or bool(colon) != bool(path):
        raise ValueError(f"unknown data set {name!r}; there are embedded, folder:PATH, npz:PATH and tfds:NAME")
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
        self.image_shape = self.images.shape[1:]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        example = {"image": self.images[index], "label": self.labels[index]}
        return example | {name: values[index] for name, values in self._optional.items()}


def npz_source(path: str, split: str, *, class_names: Sequence[str] | None = None) -> ArraySource:
    """A split stored by `np.savez`.

    `path` is a folder with one file per split (`train.npz`, `test.npz`, ...) that holds `images` (or `image`),
    `labels` (or `label`) and, if wanted, `masks` and `groups`; or a single file with keys `train_images`,
    `train_labels`, `test_images` and so on. `class_names` may stand in the files too; without it the classes are
    0 to the largest label of any split.

    Raises:
        ValueError: a missing file, split or array, or arrays that `ArraySource` refuses.
    """
    splits = _npz_splits(Path(path))
    _check_split(split, list(splits), path)
    arrays = splits[split]
    if class_names is None:
        class_names = _npz_class_names(splits, path)
    return ArraySource(
        _array(arrays, "image", f"{path}, split {split!r}"),
        _array(arrays, "label", f"{path}, split {split!r}"),
        class_names,
        masks=_array(arrays, "mask"),
        groups=_array(arrays, "group"),
        where=f"{path}, split {split!r}",
    )


class FolderSource:
    """Pictures in `PATH/<split>/<class name>/`, decoded by Pillow when they are asked for.

    The classes are the folders of the split "train" (or of the first one, where there is no "train") in natural
    order, so that "10" follows "9". EXIF orientation is applied; transparency is dropped.

    Args:
        path: the folder that holds the splits.
        split: name of a folder in it.
        size: pictures are scaled to cover this height and width (one number for both) and cropped about the centre.
            Without it they must all have one size.
        channels: 3 (RGB) or 1 (grey).

    Raises:
        ValueError: no such folder or split, no pictures, classes that differ from training, pictures of several
            sizes without `size`; when a picture is read, one that cannot be decoded or has more than 8 bits.
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
            raise ValueError(f"{root / split} has no pictures ({', '.join(PICTURE_SUFFIXES)}) in its class folders")
        self.labels = np.array(labels, np.int32)
        height, width = self._decode.size or _common_size(self.paths)
        self.image_shape = (height, width, channels)

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
        ValueError: a set that does not exist or is not prepared (the message says the command), an unknown split or
            feature, pictures of several sizes without `size`.
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
        self.class_names = list(features[label_key].names)
        self.num_classes = len(self.class_names)
        self._decode = _Decoder(size, channels)
        self._keys = image_key, label_key
        height, width = self._decode.size or features[image_key].shape[:2]
        if height is None or width is None:
            raise ValueError(f"the pictures of tfds:{name} differ in size; give the option size, say size=224")
        self.image_shape = (height, width, channels)
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
            raise ValueError(f"{where} has more than 8 bits per channel (Pillow mode {picture.mode}); save it as 8 bit")
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
    return [(0, int(part)) if part.isdigit() else (1, part.lower()) for part in re.split(r"(\d+)", name) if part]


def _folders(folder: Path) -> list[Path]:
    found = (entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    return sorted(found, key=lambda entry: _natural(entry.name))


def _pictures(folder: Path) -> list[Path]:
    found = (entry for entry in folder.iterdir() if entry.suffix.lower() in PICTURE_SUFFIXES)
    return sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda e: _natural(e.name))


def _class_folders(root: Path, split: str, reference: str) -> list[str]:
    """The class names, which must be the same in this split and in the reference split."""
    names, here = ([folder.name for folder in _folders(root / each)] for each in (reference, split))
    if not names:
        raise ValueError(f"{root / reference} has no class folders; expected {root}/<split>/<class name>/<picture>")
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


def _npz_splits(path: Path) -> dict[str, dict[str, Any]]:
    """Per split, what reads each array: `{"train": {"images": function, ...}, ...}`."""
    if path.is_dir():
        files = sorted(path.glob("*.npz"))
        if not files:
            raise ValueError(f"{path} holds no .npz files; expected one per split, such as {path / 'train.npz'}")
        return {file.stem: _lazy(np.load(file)) for file in files}
    if not path.is_file():
        raise ValueError(f"{path} is neither a folder of .npz files nor an .npz file")
    return {}


def _prepared_builder(name: str, data_dir: str | None) -> Any:
    """The TFDS builder of a set that lies prepared as array_record files."""
    try:
        import tensorflow_datasets as tfds
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("tfds:NAME needs tensorflow_datasets: pip install tensorflow-datasets") from error
    try:
        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(f"TFDS knows no data set {name!r}: see https://www.tensorflow.org/datasets/catalog") from error
    return builder
