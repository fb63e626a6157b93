"""TFDS data sets, read without TensorFlow."""

import contextlib
import importlib.util
import io
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from topgap_jax.data.files.defects import readable
from topgap_jax.data.published.decoder import PublishedDecoder
from topgap_jax.data.published.layout import how_to_get
from topgap_jax.data.sources import Example, check_split, listed

MASK_KEY = "segmentation_mask"
# Values that mean the object, where it is not everything but 0: Oxford-IIIT Pet has 2 for the background;
# of Caltech-UCSD Birds, what most annotators marked.
MASK_VALUES: dict[str, Sequence[int]] = {"oxford_iiit_pet": (1, 3), "caltech_birds2011": range(128, 256)}


class TfdsSource:
    """A TFDS data set that was prepared as array_record files; read without TensorFlow.

    Examples have a mask where the set has the feature "segmentation_mask", and a box where it has one box
    per picture, as "bbox" or in "objects".

    Args:
        name: as TFDS writes it, with configuration and version if wanted: "oxford_iiit_pet:4.0.0".
        split: one of its splits, or a slice of one such as "train[:90%]".
        data_dir: where it was prepared; by default TFDS's own folder.
        image_key, label_key: its features.
        mask_values: values in the stored mask that mean the object; by default all but 0, and what
            Oxford-IIIT Pet and Caltech-UCSD Birds mean.
        size, short_side, channels: as for `PictureSource`.

    Raises:
        ValueError: a set that does not exist or is not prepared (the message says the command), an unknown
            split or feature.
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
        mask_values: Sequence[int] | None = None,
        size: int | Sequence[int] | None = None,
        short_side: int | None = None,
        channels: int = 3,
    ) -> None:
        builder = _builder(name, data_dir)
        if not builder.info.splits:
            raise ValueError(f"tfds:{name} is not prepared; {how_to_get(f'tfds:{name}', _root(builder))}")
        check_split(split.partition("[")[0], list(builder.info.splits), f"tfds:{name}")
        features = builder.info.features
        _check_features(features, image_key, label_key, f"tfds:{name}")
        self.class_names = list(features[label_key].names)
        self.num_classes = len(self.class_names)
        self.decoder = PublishedDecoder(size, channels, short_side)
        sides = self.decoder.size or (None if short_side else features[image_key].shape[:2])
        self.image_shape: tuple[int, int, int] | None = (*sides, channels) if sides and all(sides) else None
        self._where = f"tfds:{name}, split {split!r}"
        self._records = builder.as_data_source(split).data_source
        self._labels = _Fields(features, [label_key])
        self._cache = Path(builder.data_dir) / f"topgap_labels-{split}.npy"
        self._mask_values = list(mask_values or MASK_VALUES.get(builder.name, range(1, 256)))
        self._image_key, self._label_key = image_key, label_key
        self._mask_key = MASK_KEY if MASK_KEY in features else ""
        self._box_key = self._find_boxes(features)
        keys = [image_key, label_key, self._mask_key, self._box_key]
        self._fields = _Fields(features, [key for key in keys if key])

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        record, where = self._fields.of(self._records[int(index)]), f"example {index} of {self._where}"
        image, framing = self.decoder.decode(io.BytesIO(record[self._image_key]), where)
        example: Example = {"image": image, "label": np.int32(record[self._label_key])}
        if self._mask_key:
            with readable(f"the mask of {where}"), Image.open(io.BytesIO(record[self._mask_key])) as stored:
                example["mask"] = framing.mask(np.isin(np.asarray(stored), self._mask_values))
        if self._box_key:
            example["box"] = framing.box(_boxes(record[self._box_key])[0] * np.tile(framing.stored, 2))
        return example

    @cached_property
    def labels(self) -> np.ndarray:
        """int32 `[N]`: reads every record once, decodes no picture, and leaves a file for the next time."""
        if self._cache.exists() and len(stored := np.load(self._cache)) == len(self):
            return stored
        records = (self._labels.of(self._records[i]) for i in range(len(self)))
        labels = np.array([record[self._label_key] for record in records], np.int32)
        with contextlib.suppress(OSError):  # a folder that may only be read
            unfinished = self._cache.with_suffix(f".{os.getpid()}.npy")
            np.save(unfinished, labels)
            unfinished.replace(self._cache)
        return labels

    def _find_boxes(self, features: Any) -> str:
        """The feature with one box per picture, if there is one. Several objects: reads every record once."""
        if "bbox" in features:
            return "bbox"
        if "objects" not in features or "bbox" not in getattr(features["objects"], "feature", {}):
            return ""
        fields = _Fields(features, ["objects"])
        records = (fields.of(self._records[i]) for i in range(len(self)))
        return "objects" if all(len(_boxes(record["objects"])) == 1 for record in records) else ""


class _Fields:
    """Some features of a record; pictures as the bytes that are stored."""

    def __init__(self, features: Any, keys: Sequence[str]) -> None:
        import tensorflow_datasets as tfds

        self._features = tfds.features.FeaturesDict({key: features[key] for key in keys})
        pictures = [key for key in keys if isinstance(features[key], tfds.features.Image)]
        self._decoders = {key: tfds.decode.SkipDecoding() for key in pictures}

    def of(self, record: bytes) -> dict[str, Any]:
        return self._features.deserialize_example_np(record, decoders=self._decoders)


def prepare_tfds(name: str, data_dir: str | Path, archives: str | Path | None = None) -> Path:
    """Downloads a TFDS data set and writes it as array_record files, which needs TensorFlow.

    Args:
        name: as for `TfdsSource`.
        data_dir: parent of TFDS's folders.
        archives: a folder with archives that TFDS cannot download, such as ImageNet's.

    Returns:
        The folder of the data set.

    Raises:
        ValueError: a set that TFDS does not know.
        ModuleNotFoundError: TensorFlow is not installed.
    """
    # TFDS imports importlib_resources when it prepares a set, but does not require it.
    if not all(map(importlib.util.find_spec, ("tensorflow", "importlib_resources"))):
        raise ModuleNotFoundError(
            f"preparing tfds:{name} needs TensorFlow (reading it does not): "
            "pip install tensorflow-cpu importlib-resources"
        )
    import tensorflow_datasets as tfds

    builder = _builder(name, str(data_dir))
    config = tfds.download.DownloadConfig(manual_dir=archives and str(archives))
    builder.download_and_prepare(file_format="array_record", download_config=config)
    return Path(builder.data_dir)


def _builder(name: str, data_dir: str | None) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("tfds:NAME needs a package: pip install tensorflow-datasets") from error
    try:
        return tfds.builder(name, data_dir=data_dir, file_format="array_record")
    except tfds.core.DatasetNotFoundError as error:
        where = "https://www.tensorflow.org/datasets/catalog lists the known ones"
        raise ValueError(f"TFDS has no data set {name!r}; {where}") from error


def _root(builder: Any) -> Path:
    """The data_dir that leads to this builder's folder `data_dir/name/configuration/version`."""
    return Path(builder.data_dir).parents[2 if builder.builder_config else 1]


def _check_features(features: Any, image_key: str, label_key: str, where: str) -> None:
    import tensorflow_datasets as tfds

    for key in (image_key, label_key):
        if key not in features:
            raise ValueError(f"{where} has no feature {key!r}; there are {listed(features)}")
    if not isinstance(features[image_key], tfds.features.Image):
        raise ValueError(f"feature {image_key!r} of {where} is no picture")
    if not hasattr(features[label_key], "names"):
        raise ValueError(f"feature {label_key!r} of {where} is no class label")


def _boxes(feature: Any) -> np.ndarray:
    """`[n, 4]`: top, left, bottom, right as shares of height and width, of "bbox" or of "objects"."""
    return np.reshape(feature["bbox"] if isinstance(feature, dict) else feature, (-1, 4))
