"""Looking at every picture file before training starts, and saying all that is wrong at once."""

import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from topgap_jax.data.files.decode import (
    FORMATS,
    Decoder,
    check_picture,
    is_deep,
    stored_channels,
    upright_size,
)
from topgap_jax.data.files.defects import PictureError, gigantic, readable
from topgap_jax.data.files.listing import Problem
from topgap_jax.data.files.tiff import TIFF_SUFFIXES, Layout, check_tiff

SKIP_HINT = '\nMend these files or take them out; or leave them out with the option on_error="skip".'
SHOWN = 10  # problems of a kind that a report lists; the others it counts
PROGRESS_FROM = 2000  # files
THREADS = min(32, os.cpu_count() or 1)


class Header(NamedTuple):
    """What a whole, usable file holds."""

    height: int  # upright
    width: int
    channels: int  # of a TIFF with pages it depends on the option; see the layout
    dtype: str
    pixel_size: float | None = None  # edge of a stored pixel in micrometres, if the file knows
    layout: Layout | None = None  # of a TIFF


def check_file(path: Path) -> Header:
    """Reads a file as far as it takes to know that it is whole.

    Raises:
        PictureError: what is wrong with it.
    """
    with readable(str(path)):
        if not path.stat().st_size:
            raise PictureError("empty file", f"{path} has no bytes")
        suffix = path.suffix.lower()
        if suffix in TIFF_SUFFIXES and _is_tiff(path):
            height, width, layout, dtype, pixel_size = check_tiff(path)
            return Header(height, width, layout.length("CS") - layout.alphas, dtype, pixel_size, layout)
        with Image.open(path) as picture:
            if picture.format not in FORMATS.get(suffix, (picture.format,)):
                message = f"holds a {picture.format}: rename it"
                raise PictureError("wrong extension", f"{path} {message}")
            return _check_whole(picture, str(path))


def _is_tiff(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # + is BigTIFF


def _check_whole(picture: Image.Image, where: str) -> Header:
    check_picture(picture, where)
    if Image.MAX_IMAGE_PIXELS and picture.width * picture.height > Image.MAX_IMAGE_PIXELS:
        raise gigantic(where)
    dtype = ("float32" if picture.mode == "F" else "uint16") if is_deep(picture) else "uint8"
    header = Header(*upright_size(picture), stored_channels(picture), dtype)
    if picture.format == "PNG" and "exif" not in picture.info:
        picture.verify()  # the checksums of all chunks, without inflating them
    else:
        picture.draft(picture.mode, (max(1, picture.width // 8), max(1, picture.height // 8)))  # of JPEG only
        picture.load()
    return header


_checked: dict[tuple[str, int, int], Header | PictureError] = {}  # by path, size and time of change


def check_files(paths: Iterable[Path]) -> dict[Path, Header | PictureError]:
    """`check_file` for many, in threads; a file that has not changed is looked at once per process."""
    files = list(dict.fromkeys(paths))
    with warnings.catch_warnings(), ThreadPoolExecutor(THREADS) as pool:
        warnings.simplefilter("ignore")  # what is wrong becomes a problem; Pillow also warns of oddities
        return dict(zip(files, _with_progress(pool.map(_remembered, files), len(files)), strict=True))


def _remembered(path: Path) -> Header | PictureError:
    try:
        status = path.stat()
    except OSError:
        return PictureError("missing", f"{path} does not exist")
    key = str(path), status.st_size, status.st_mtime_ns
    if key not in _checked:
        try:
            _checked[key] = check_file(path)
        except PictureError as error:
            _checked[key] = PictureError(*error.args)  # without the traceback, which would keep the pixels
    return _checked[key]


def _with_progress(results: Iterator, number: int) -> Iterable:
    if number <= PROGRESS_FROM or not sys.stderr.isatty():
        return results
    from rich.console import Console
    from rich.progress import track

    return track(results, "Checking the pictures", number, console=Console(stderr=True))


class Scan(NamedTuple):
    """What a scan found: a header per picture (None where there is a problem) and the problems."""

    headers: list[Header | None]
    problems: list[Problem]


def scan(
    paths: Sequence[Path],
    decoder: Decoder,
    *,
    masks: Sequence[Path | None] | None = None,
    boxes: np.ndarray | None = None,
) -> Scan:
    """Checks all pictures and masks, and whether they fit together and to the options.

    Args:
        paths: N pictures.
        decoder: says how they will be read.
        masks: N files; None where a picture has none.
        boxes: `[N, 4]`, top, left, bottom, right in pixels of the stored, upright pictures.
    """
    checked = check_files([*paths, *(mask for mask in masks or () if mask is not None)])
    headers: list[Header | None] = []
    problems: list[Problem] = []
    for index, path in enumerate(paths):
        try:
            header = _usable(checked[path])
            decoder.check_stored(header.channels, header.layout, str(path))
            if masks is not None:
                _check_mask(path, header, masks[index], checked)
            if boxes is not None:
                _check_box(path, header, boxes[index])
            headers.append(header)
        except PictureError as error:
            headers.append(None)
            problems.append(Problem(error.kind, str(error), index))
    return Scan(headers, problems)


def _usable(found: Header | PictureError) -> Header:
    if isinstance(found, PictureError):
        raise PictureError(*found.args)
    return found


def _check_mask(
    path: Path, header: Header, mask: Path | None, checked: dict[Path, Header | PictureError]
) -> None:
    if mask is None:
        message = "has no mask, but others have: where there is no object, save one that is black"
        raise PictureError("no mask", f"{path} {message}")
    if mask.suffix.lower() in (".jpg", ".jpeg"):
        message = "is a mask stored as JPEG, which blurs its edge: save it as PNG"
        raise PictureError("JPEG as mask", f"{mask} {message}")
    found = _usable(checked[mask])
    if found[:2] != header[:2]:
        sizes = f"is {found.height}x{found.width}, its picture {path} is {header.height}x{header.width}"
        raise PictureError("mask of another size", f"{mask} {sizes}")


def _check_box(path: Path, header: Header, box: np.ndarray) -> None:
    top, left, bottom, right = box.tolist()
    if not (-1 <= top < bottom <= header.height + 1 and -1 <= left < right <= header.width + 1):
        message = f"is {header.height}x{header.width}, its box (top left bottom right) is {box.tolist()}"
        raise PictureError("box outside the picture", f"{path} {message}")


def common_size(paths: Sequence[Path], headers: Sequence[Header | None]) -> tuple[int, int] | Problem:
    """Height and width of all pictures, or the problem that they differ."""
    sizes = [(f"{h.height}x{h.width}", path) for path, h in zip(paths, headers, strict=True) if h]
    if len({size for size, _ in sizes}) == 1:
        return next((h.height, h.width) for h in headers if h)
    message = f"the pictures differ in size: {_examples(sizes)}: give the option size, say size=224"
    return Problem("several sizes", message, skippable=False)


def common_pixel_size(
    paths: Sequence[Path], headers: Sequence[Header | None], decoder: Decoder, given: float | None
) -> float | Problem | None:
    """Edge of a pixel of the examples in micrometres; None where it is unknown or differs by over 1%.

    Files that say different things are a problem, unless the size is given.
    """
    usable = [(path, h, given or h.pixel_size) for path, h in zip(paths, headers, strict=True) if h]
    known = [(path, h, edge) for path, h, edge in usable if edge is not None]
    if not known:
        return None
    if _differ([edge for _, _, edge in known]):
        sizes = _examples([(f"{edge:.4g} µm", path) for path, _, edge in known])
        message = f"the size of a pixel differs: {sizes}: bring the pictures to one scale, or give pixel_size"
        return Problem("several pixel sizes", message, skippable=False)
    shown = [edge * decoder.frame(h.height, h.width).scale for _, h, edge in known]
    return None if len(known) < len(usable) or _differ(shown) else shown[0]


def _differ(edges: Sequence[float]) -> bool:
    return max(edges) > 1.01 * min(edges)


def _examples(values: Sequence[tuple[str, Path]]) -> str:
    """The commonest values, each with its count and a file that has it."""
    first = {value: path for value, path in reversed(values)}
    counts = Counter(value for value, _ in values).most_common()
    shown = ", ".join(f"{value} ({n}, such as {first[value]})" for value, n in counts[:SHOWN])
    return shown + (f" and {len(counts) - SHOWN} more" if len(counts) > SHOWN else "")


def settle(
    problems: Sequence[Problem], labels: np.ndarray, *, on_error: str, where: str
) -> tuple[np.ndarray, dict[str, int]]:
    """Stops, or says which pictures are left.

    Args:
        problems: with the whole data set and its examples.
        labels: whole numbers [N], -1 where unknown.
        on_error: "stop", or "skip", which warns.

    Returns:
        the indices of the pictures without a problem; how many were skipped, by the kind of problem.

    Raises:
        ValueError: all problems together, if one of them is not to be skipped, or nothing is left of a class.
    """
    kinds = {problem.example: problem.kind for problem in reversed(problems) if problem.example is not None}
    kept = np.array([index for index in range(len(labels)) if index not in kinds], np.int64)
    loses_a_class = not len(kept) or set(labels[labels >= 0].tolist()) > set(labels[kept].tolist())
    stops = on_error == "stop" or loses_a_class or not all(problem.skippable for problem in problems)
    if problems and stops:
        lines = report(problems, len(labels), where)
        hint = "\nThey cannot be skipped: nothing would be left of a class." if loses_a_class else SKIP_HINT
        raise ValueError(lines + (hint if kinds else ""))
    skipped = dict(Counter(kinds[index] for index in sorted(kinds)))
    if skipped:
        message = f"{where}: {len(kinds)} of {len(labels)} pictures are skipped: {_counted(skipped)}"
        warnings.warn(message, stacklevel=4)
    if general := Counter(problem.kind for problem in problems if problem.example is None):
        warnings.warn(f"{where}: {_counted(general)}", stacklevel=4)
    return kept, skipped


def _counted(kinds: dict[str, int]) -> str:
    return ", ".join(f"{kind} ({count})" for kind, count in kinds.items())


def report(problems: Sequence[Problem], number: int, where: str) -> str:
    """All problems, by kind; of each kind the first ten."""
    lines = [f"{where}: {len(problems)} problem{'s' * (len(problems) > 1)} in {number} pictures"]
    for kind in dict.fromkeys(problem.kind for problem in problems):
        messages = [problem.message for problem in problems if problem.kind == kind]
        lines += [f"{kind} ({len(messages)}):", *(f"  {message}" for message in messages[:SHOWN])]
        if len(messages) > SHOWN:
            lines.append(f"  and {len(messages) - SHOWN} more")
    return "\n".join(lines)
