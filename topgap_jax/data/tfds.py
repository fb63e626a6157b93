"""TFDS data sets, read without TensorFlow."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from topgap_jax.data.pictures import Decoder
from topgap_jax.data.sources import Example, check_split, listed


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
        check_split(split.partition("[")[0], list(builder.info.splits), f"tfds:{name}")
        features = builder.info.features
        for key in (image_key, label_key):
            if key not in features:
                raise ValueError(f"tfds:{name} has no feature {key!r}; there are {listed(features)}")
        if not hasattr(features[label_key], "names"):
            raise ValueError(f"feature {label_key!r} of tfds:{name} is no class label")
        self.class_names = list(features[label_key].names)
        self.num_classes = len(self.class_names)
        self._decode = Decoder(size, channels)
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
