"""TIFF as microscopes write it: any depth, channels, planes; read by tifffile."""

import math
import struct
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import tifffile
from PIL import Image

from topgap_jax.data.files.defects import PictureError, cmyk, gigantic, not_finite

TIFF_SUFFIXES = (".tif", ".tiff")
RESOLUTION_UNITS = {2: "inch", 3: "cm"}  # TIFF's numbers for them; 1 is none
MICROMETRES = {"nm": 1e-3, "um": 1.0, "micron": 1.0, "microns": 1.0, "mm": 1e3, "cm": 1e4, "inch": 25400.0}
PRINT_RESOLUTIONS = (72, 96, 150, 300)  # per inch: what programs write where nothing was measured

# EXIF orientation to the array operation that puts a picture upright.
UPRIGHT = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


class Layout(NamedTuple):
    """What the first series of a TIFF holds; axes of length 1 are left out.

    Y and X span a plane, S are the samples of a pixel, C the channels; any other axis counts pages.
    """

    axes: str
    shape: tuple[int, ...]
    alphas: int  # how many of the samples are transparency, which stands last and is dropped

    def length(self, axes: str) -> int:
        return math.prod(n for axis, n in zip(self.axes, self.shape, strict=True) if axis in axes)

    @property
    def page_axes(self) -> str:
        """What the option `pages` counts: planes, times and the like; the channels, if there are none."""
        return "".join(axis for axis in self.axes if axis not in "CYXS") or "C"

    def channels(self, pages: Any) -> int:
        """How many channels the picture has with this option, which `check_pages` has accepted."""
        number = self.length(self.page_axes) if pages is None else np.size(pages)
        others = 1 if self.page_axes == "C" else self.length("C")
        return number * others * (self.length("S") - self.alphas)

    def check_pages(self, pages: Any, where: str) -> None:
        """Raises PictureError where the option is missing, or chooses a page that is not there."""
        number, sizes = self.length(self.page_axes), "x".join(map(str, self.shape))
        described = f"{number} {'pages' if self.page_axes != 'C' else 'channels'} (axes {self.axes}, {sizes})"
        if pages is None and self.page_axes != "C":
            hint = "give the option pages: one of them, a list that becomes the channels, or 'max'"
            if "Q" in self.axes:  # tifffile's letter for what nobody named
                hint += "; if the last axis is the channels, save the file with the axes YXC"
            raise PictureError("pages", f"{where} has {described}: {hint}")
        chosen = pages if isinstance(pages, tuple) else (pages,)
        if wrong := [page for page in chosen if isinstance(page, int) and page >= number]:
            raise PictureError("pages", f"{where} has no page {wrong[0]}: it has {described}, counted from 0")


class TiffHeader(NamedTuple):
    """What is known of a TIFF without looking at a pixel."""

    height: int  # upright
    width: int
    layout: Layout
    dtype: str
    pixel_size: float | None


def read_tiff(path: Path, pages: Any = None, *, as_picture: bool = True) -> np.ndarray:
    """The first series of a TIFF as stored values `[H, W, N]`, upright; transparency is dropped.

    Args:
        pages: see `Decoder`.
        as_picture: follow the file's palette and "0 is white"; a mask is better read without.

    Raises:
        PictureError: several pages without `pages`, a page that is not there, CMYK, more pixels than
            Pillow allows, a compression that needs a package.
    """
    with tifffile.TiffFile(path) as tiff:
        page, layout = tiff.pages.first, read_layout(tiff, str(path))
        layout.check_pages(pages, str(path))
        picture = _select(_stored(tiff, str(path), pages).reshape(layout.shape), layout, pages)
        picture = np.array(picture, picture.dtype.newbyteorder("="), copy=None, subok=False)
        picture = _as_shown(picture, page) if as_picture else picture
        return UPRIGHT.get(orientation(page), np.asarray)(picture)


def read_layout(tiff: tifffile.TiffFile, where: str) -> Layout:
    """The layout of the first series.

    Raises:
        PictureError: CMYK, values that are no real numbers, more pixels than Pillow allows, a file cut short.
    """
    series, page = tiff.series[0], tiff.pages.first
    if page.photometric == tifffile.PHOTOMETRIC.SEPARATED:
        raise cmyk(where)
    if series.dtype is None or series.dtype.kind not in "buif":
        raise PictureError("unreadable", f"{where} cannot be decoded: its values are {series.dtype}")
    if Image.MAX_IMAGE_PIXELS and page.imagelength * page.imagewidth > Image.MAX_IMAGE_PIXELS:
        raise gigantic(where)
    check_whole(tiff, where)
    sizes = [(a, n) for a, n in zip(series.axes, series.shape, strict=True) if n > 1 or a in "YX"]
    alphas = sum(sample in (1, 2) for sample in page.extrasamples)  # associated, unassociated
    return Layout("".join(axis for axis, _ in sizes), tuple(n for _, n in sizes), alphas)


def _stored(tiff: tifffile.TiffFile, where: str, pages: Any = None) -> np.ndarray:
    """The values of the first series, read where `pages` needs them if they lie in one block."""
    series = tiff.series[0]
    if pages not in (None, "max") and series.dataoffset is not None:
        dtype = series.dtype.newbyteorder(tiff.byteorder)
        return tiff.filehandle.memmap_array(dtype, series.shape, series.dataoffset)
    try:
        return series.asarray()
    except (KeyError, ValueError) as error:
        if "imagecodecs" not in str(error):
            raise
        name = tifffile.COMPRESSION(tiff.pages.first.compression).name
        message = f"is compressed with {name}, which needs a package: pip install imagecodecs"
        raise PictureError("compression", f"{where} {message}") from error


def orientation(page: tifffile.TiffPage) -> int:
    """EXIF orientation, 1 to 8; 5 and more lie on their side."""
    tag = page.tags.get("Orientation")
    return 1 if tag is None else int(tag.value)


def pixel_size(tiff: tifffile.TiffFile) -> float | None:
    """Edge of a pixel in micrometres, from OME, ImageJ's unit or the resolution tags; None if not known.

    Where height and width differ, the edge of a square of the same area.
    """
    page = tiff.pages.first
    if tiff.is_ome and (edges := _ome_edges(tiff.ome_metadata or "")):
        return math.sqrt(edges[0] * edges[1])
    named = str((tiff.imagej_metadata or {}).get("unit", ""))
    unit = MICROMETRES.get(_plain(named)) or MICROMETRES.get(
        RESOLUTION_UNITS.get(int(page.resolutionunit), "")
    )
    across, down = page.resolution
    if not unit or across <= 0 or down <= 0:
        return None
    edge = unit / math.sqrt(across * down)
    per_inch = MICROMETRES["inch"] / edge
    return None if any(abs(per_inch - usual) < 0.5 for usual in PRINT_RESOLUTIONS) else edge


def _ome_edges(metadata: str) -> tuple[float, float] | None:
    """Height and width of a pixel of the first image in OME's XML."""
    pixels = ElementTree.fromstring(metadata).find("{*}Image/{*}Pixels")
    stored = {} if pixels is None else pixels.attrib
    units = [MICROMETRES.get(_plain(stored.get(f"PhysicalSize{axis}Unit", "um")), 0.0) for axis in "YX"]
    edges = [
        float(stored.get(f"PhysicalSize{axis}", 0)) * unit for axis, unit in zip("YX", units, strict=True)
    ]
    return (edges[0], edges[1]) if min(edges) > 0 else None


def _plain(unit: str) -> str:
    """ "um" for every way to write it: ImageJ also writes its micro sign as an escape sequence."""
    return unit.replace("\\u00B5", "u").replace("\u00b5", "u").replace("\u03bc", "u").strip()


def _select(stored: np.ndarray, layout: Layout, pages: Any) -> np.ndarray:
    """The wanted pages as `[H, W, N]`, the channels of a page together."""
    front = ("" if layout.page_axes == "C" else layout.page_axes, "C")
    order = [layout.axes.index(axis) for axis in (*front[0], *"CYXS") if axis in layout.axes]
    height, width = layout.length("Y"), layout.length("X")
    planes = stored.transpose(order).reshape(layout.length(front[0]), layout.length("C"), height, width, -1)
    planes = planes[..., : planes.shape[-1] - layout.alphas]
    if layout.page_axes == "C":
        planes = planes.swapaxes(0, 1)
    if pages == "max":
        planes = planes.max(0, keepdims=True)
    elif pages is not None:
        planes = planes[np.atleast_1d(pages)]
    return planes.transpose(2, 3, 0, 1, 4).reshape(height, width, -1)


def _as_shown(values: np.ndarray, page: tifffile.TiffPage) -> np.ndarray:
    """Indices to colours, bits to 0 and 255, and white made the largest value."""
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE and page.colormap is not None:
        return np.moveaxis(page.colormap[:, values[..., 0]] >> 8, 0, -1).astype(np.uint8)
    if page.bitspersample < 8:
        values = (values.astype(np.uint16) * 255 // (2**page.bitspersample - 1)).astype(np.uint8)
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and values.dtype.kind == "u":
        values = np.iinfo(values.dtype).max - values
    return values


def check_tiff(path: Path) -> TiffHeader:
    """What the first series holds; reads the values where damage would not show otherwise.

    Raises:
        PictureError: a file that ends too early, values that are not finite, what `read_tiff` refuses.
    """
    with tifffile.TiffFile(path) as tiff:
        layout, page, series = read_layout(tiff, str(path)), tiff.pages.first, tiff.series[0]
        reads = page.compression != tifffile.COMPRESSION.NONE or series.dtype.kind == "f"
        if reads and not np.isfinite(_stored(tiff, str(path))).all():
            raise not_finite(str(path))
        size = layout.length("Y"), layout.length("X")
        height, width = size if orientation(page) < 5 else size[::-1]
        return TiffHeader(height, width, layout, str(series.dtype), pixel_size(tiff))


def check_whole(tiff: tifffile.TiffFile, where: str) -> None:
    """Raises PictureError where the file ends before its pages do: tifffile would leave them out."""
    first, end = tiff.pages.first, tiff.filehandle.size
    pages = [page for page in tiff.series[0].pages if page is not None]
    blocks = [block for page in pages for block in zip(page.dataoffsets, page.databytecounts, strict=True)]
    ends = [offset + count for offset, count in blocks] + [_next_page(tiff)]
    if tiff.is_imagej and first.compression == tifffile.COMPRESSION.NONE:
        number = int((tiff.imagej_metadata or {}).get("images", 1))  # it may list the first page alone
        ends.append(first.dataoffsets[0] + number * first.nbytes)
    if max(ends) > end:
        raise PictureError("truncated", f"{where} cannot be decoded: it ends before its data does")


def _next_page(tiff: tifffile.TiffFile) -> int:
    """Where the last page says that another one follows; 0 if none does."""
    file, form = tiff.filehandle, tiff.tiff
    file.seek(tiff.pages[-1].offset)
    number = struct.unpack(form.tagnoformat, file.read(form.tagnosize))[0]
    file.seek(number * form.tagsize, 1)
    return struct.unpack(form.offsetformat, file.read(form.offsetsize))[0]
