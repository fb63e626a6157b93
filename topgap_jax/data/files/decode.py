"""Picture files to arrays: upright, of the wanted size, depth and channels."""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps

from topgap_jax.data.files.defects import PictureError, cmyk, readable
from topgap_jax.data.files.framing import Framing, frame
from topgap_jax.data.files.intensity import PERCENTILES, apply_window, channels_error, fit_channels
from topgap_jax.data.files.tiff import TIFF_SUFFIXES, Layout, read_tiff

FORMATS = {
    ".png": ("PNG",),
    ".jpg": ("JPEG", "MPO"),  # MPO is what some cameras write: a JPEG followed by a second picture
    ".jpeg": ("JPEG", "MPO"),
    ".webp": ("WEBP",),
    ".bmp": ("BMP",),
    ".gif": ("GIF",),
    ".ppm": ("PPM",),
    ".pgm": ("PPM",),
    **dict.fromkeys(TIFF_SUFFIXES, ("TIFF",)),
}
PICTURE_SUFFIXES = tuple(FORMATS)


@dataclass(frozen=True)
class Decoder:
    """How picture files become arrays.

    Args:
        size: height and width (one number for both): scaled to cover and cropped about the centre.
        channels: C; 3 is RGB, 1 is grey.
        short_side: scaled so that the shorter side has so many pixels; with `size` the crop follows.
        pages: of a TIFF with several pages (planes, slices, times): the one to read, counted from 0, a list
            of those that become the channels, or "max" for their maximum. Of a file whose channels are its
            only pages it chooses among them.
        window: stored values that become 0 and 1: `(low, high)`, or `("percentile", low, high)` of each
            channel of each picture. By default none for 8 bits and ("percentile", 0.1, 99.9) beyond.

    Raises:
        ValueError: an option outside its range.
    """

    size: Any = None
    channels: int = 3
    short_side: int | None = None
    pages: Any = None
    window: Any = None

    def __post_init__(self) -> None:
        if not _is_whole(self.channels, 1):
            what = "3 (RGB), 1 (grey) or the number of channels in the files"
            raise ValueError(f"channels is {what}, not {self.channels}")
        if self.short_side is not None and not _is_whole(self.short_side, 1):
            raise ValueError(f"short_side is a whole number of pixels, not {self.short_side}")
        for name, check in (("size", _checked_size), ("pages", _checked_pages), ("window", _checked_window)):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, check(value))  # frozen: workers share it
        if self.size and self.short_side and self.short_side < max(self.size):
            raise ValueError(f"short_side={self.short_side} must not be less than size={self.size}")

    def frame(self, height: int, width: int) -> Framing:
        """What becomes of a picture of this size."""
        return frame((height, width), self.size, self.short_side)

    def check_stored(self, channels: int, layout: Layout | None, where: str) -> None:
        """Raises PictureError where a file's channels or pages are not what the options ask for."""
        if layout is not None:
            layout.check_pages(self.pages, where)
            channels = layout.channels(self.pages)
        if channels != self.channels and {channels, self.channels} != {1, 3}:
            raise channels_error(where, channels, self.channels)

    def __call__(self, file: Path | str | BinaryIO | Image.Image, where: str = "") -> np.ndarray:
        """The picture alone; see `decode`."""
        return self.decode(file, where)[0]

    def decode(
        self, file: Path | str | BinaryIO | Image.Image, where: str = ""
    ) -> tuple[np.ndarray, Framing]:
        """A picture `[H, W, channels]`, and the framing that its mask and its box must follow.

        Args:
            file: the path of a file, an open file in one of Pillow's formats, or a Pillow picture.
            where: what messages call it; the path by default.

        Returns:
            uint8, or float32 in [0, 1] where a window was applied; the framing.

        Raises:
            PictureError: a file that cannot be read, or holds something else than is wanted.
        """
        where = where or str(file)
        with readable(where):
            if isinstance(file, Image.Image):
                return self._decode_pillow(file, where)
            if isinstance(file, str | PathLike) and Path(file).suffix.lower() in TIFF_SUFFIXES:
                return self._decode_stored(read_tiff(Path(file), self.pages), where)
            with Image.open(file) as picture:
                return self._decode_pillow(picture, where)

    def _decode_pillow(self, picture: Image.Image, where: str) -> tuple[np.ndarray, Framing]:
        check_picture(picture, where)
        if self.window is not None or is_deep(picture):
            ImageOps.exif_transpose(picture, in_place=True)
            return self._decode_stored(_stored_values(picture), where)
        if self.channels not in (1, 3):
            raise channels_error(where, stored_channels(picture), self.channels)
        framing, mode = self.frame(*upright_size(picture)), "RGB" if self.channels == 3 else "L"
        reduced = _draft(picture, mode, framing)
        ImageOps.exif_transpose(picture, in_place=True)
        pixels = np.asarray(framing.picture(_converted(picture, mode), reduced))
        return pixels if pixels.ndim == 3 else pixels[..., None], framing

    def _decode_stored(self, stored: np.ndarray, where: str) -> tuple[np.ndarray, Framing]:
        """From `[H0, W0, N]` as stored."""
        self.check_stored(stored.shape[-1], None, where)
        framing = self.frame(*stored.shape[:2])
        if self.window is None and stored.dtype == np.uint8:
            return fit_channels(framing.pixels(stored), self.channels), framing
        pixels = framing.pixels(apply_window(stored, self.window or PERCENTILES, where))
        return np.clip(fit_channels(pixels, self.channels), 0, 1), framing  # sums round to above 1


def check_picture(picture: Image.Image, where: str) -> None:
    """Refuses what Pillow opens but would show wrongly. Nothing is decoded.

    Raises:
        PictureError: CMYK, an animation, 16 bits in several channels.
    """
    if picture.mode == "CMYK":
        raise cmyk(where)
    frames = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)
    if frames > 1:
        raise PictureError("animated", f"{where} has {frames} frames: save the one that is meant")
    tile = getattr(picture, "tile", ()) if picture.format == "PNG" else ()
    if tile and "16" in str(tile[0][3]) and not is_deep(picture):
        message = "has 16 bits in each of several channels, of which Pillow reads 8: save it as TIFF"
        raise PictureError("16-bit colour PNG", f"{where} {message}")


def is_deep(picture: Image.Image) -> bool:
    """Whether a picture holds more than 8 bits per channel."""
    return picture.mode in ("F", "I") or picture.mode.startswith("I;")


def stored_channels(picture: Image.Image) -> int:
    """1 or 3: transparency does not count."""
    return 1 if is_deep(picture) or picture.mode in ("1", "L", "LA", "La") else 3


def upright_size(picture: Image.Image) -> tuple[int, int]:
    """Height and width once the EXIF orientation is applied; reads the header only."""
    if picture.format == "PNG" and "exif" not in picture.info:  # getexif would decode it to look behind
        return picture.height, picture.width
    lies = picture.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    return (picture.width, picture.height) if lies else (picture.height, picture.width)


def _draft(picture: Image.Image, mode: str, framing: Framing) -> int:
    """Lets libjpeg decode at 1/2, 1/4 or 1/8, never smaller than the result; by how much it did."""
    if picture.format not in ("JPEG", "MPO") or framing.scale < 2:
        return 1
    before, wanted = picture.width, tuple(max(1, int(side / framing.scale)) for side in picture.size)
    drafted = picture.draft(mode, (wanted[0], wanted[1]))
    return round(before / drafted[1][2]) if drafted else 1


def _converted(picture: Image.Image, mode: str) -> Image.Image:
    if picture.mode == mode:  # Pillow would copy it
        return picture
    picture.info.pop("transparency", None)  # dropped; Pillow would warn about a palette's
    return picture.convert(mode)


def _stored_values(picture: Image.Image) -> np.ndarray:
    """`[H, W, N]`: the values as they are stored, without palette and transparency."""
    if not is_deep(picture):
        picture = _converted(picture, "L" if stored_channels(picture) == 1 else "RGB")
    values = np.asarray(picture)
    return values if values.ndim == 3 else values[..., None]


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= least


def _checked_size(size: Any) -> tuple[int, int]:
    sides = np.broadcast_to(size, 2).tolist() if np.size(size) in (1, 2) else []
    if not sides or not all(_is_whole(side, 1) for side in sides):
        raise ValueError(f"size is a whole number of pixels or (height, width), not {size}")
    return sides[0], sides[1]


def _checked_pages(pages: Any) -> Any:
    if pages == "max" or _is_whole(pages, 0):
        return pages
    if isinstance(pages, list | tuple) and pages and all(_is_whole(page, 0) for page in pages):
        return tuple(pages)
    raise ValueError(f'pages is a page (0 is the first), a list of pages or "max", not {pages!r}')


def _checked_window(window: Any) -> tuple[Any, ...]:
    values = tuple(window) if isinstance(window, list | tuple) else ()
    percentile = values[:1] == ("percentile",)
    limits = values[percentile:]
    ordered = len(limits) == 2 and all(isinstance(n, int | float) for n in limits) and limits[0] < limits[1]
    if not ordered or (percentile and not 0 <= limits[0] < limits[1] <= 100):
        expected = '(low, high) in stored values or ("percentile", low, high) with 0 <= low < high <= 100'
        raise ValueError(f"window is {expected}, not {window!r}")
    return values
