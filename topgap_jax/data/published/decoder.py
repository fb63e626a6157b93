"""Decoding the odd files that published sets contain and that nobody is going to repair."""

import dataclasses
from typing import Any

import numpy as np
from PIL import Image

from topgap_jax.data.files.decode import Decoder
from topgap_jax.data.files.defects import PictureError, readable
from topgap_jax.data.files.framing import Framing
from topgap_jax.data.files.pictures import PictureSource


@dataclasses.dataclass(frozen=True)
class PublishedDecoder(Decoder):
    """Takes CMYK too, as Pillow converts it, and of an animation the first frame, as everybody does."""

    def decode(self, file: Any, where: str = "") -> tuple[np.ndarray, Framing]:
        try:
            return super().decode(file, where)
        except PictureError as error:
            if error.kind not in ("CMYK", "animated"):
                raise
            where = where or str(file)
            if hasattr(file, "seek"):
                file.seek(0)
            with readable(where), Image.open(file) as picture:
                return super().decode(picture.convert("RGB"), where)


def read_as_published(source: PictureSource) -> PictureSource:
    """The source, with a decoder that refuses none of the pictures that its authors published."""
    plain = source.decoder
    fields = {field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)}
    source.decoder = PublishedDecoder(**fields)
    return source
