"""Every picture of a data set looked at once, so that `inspection` can add up."""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from topgap_jax.data.files.folder import FolderSource
from topgap_jax.data.files.intensity import PERCENTILES
from topgap_jax.data.files.scan import Header
from topgap_jax.data.files.tiff import read_tiff
from topgap_jax.data.inspection.duplicates import digest, thumbnail
from topgap_jax.data.sources import Source

SMALLEST_OBJECT = 4  # pixels of a mask that hang together; fewer are specks and not counted as an object

WINDOW_FILES = 100  # whose stored values are looked at, evenly over the split

Track = Callable[[Iterable[Any], int, str], Iterable[Any]]  # (items, how many, of what) -> the same items


class Picture(NamedTuple):
    """One decoded example, measured."""

    position: int  # in its split
    label: int
    shape: tuple[int, int, int]  # (H, W, C)
    dtype: str
    low: float  # stored values
    high: float
    mean: np.ndarray  # float64 [C], in [0, 1]
    square: np.ndarray  # float64 [C], mean of the squares
    dark: float  # share of the values at 0
    bright: float  # share of the values at 255, or at 1
    blank: bool  # one colour
    digest: str
    thumbnail: np.ndarray  # float32 [256]
    covered: float | None  # share of the picture that the mask covers
    objects: np.ndarray | None  # area of each connected part of the mask, in pixels
    boxed: float | None  # share of the picture that the box covers, where it is not the whole


class Unreadable(NamedTuple):
    position: int
    message: str


class Files(NamedTuple):
    """What the picture files of a split say about themselves."""

    bad: frozenset[int]  # positions of the unusable ones
    messages: list[str]  # what is wrong with them, or with the list of them
    kinds: dict[str, int]  # such as "1 x uint16": channels, type -> files
    window: tuple[float, float] | None  # 0.1% and 99.9% of the stored values lie below, of deep TIFFs
    pixel_sizes: list[float]  # micrometres per pixel of the examples, of the files that say it


def untracked(items: Iterable[Any], total: int, what: str) -> Iterable[Any]:
    return items


def check_files(source: Source, pixel_size: float | None = None) -> Files:
    """All files of a folder or a manifest. Of other sources nothing: archives are checked when unpacked."""
    if not isinstance(source, FolderSource):
        return Files(frozenset(), [], {}, None, [])
    scanned = source.scan()
    usable = [header for header in scanned.headers if header is not None]
    edges = [(header, pixel_size or header.pixel_size) for header in usable]
    return Files(
        bad=frozenset(problem.example for problem in scanned.problems if problem.example is not None),
        messages=[f"{problem.message} ({problem.kind})" for problem in [*source.problems, *scanned.problems]],
        kinds=dict(Counter(f"{header.channels} x {header.dtype}" for header in usable)),
        window=_common_window(source, scanned.headers),
        pixel_sizes=[
            edge * source.decoder.frame(header.height, header.width).scale for header, edge in edges if edge
        ],
    )


def _common_window(source: FolderSource, headers: Sequence[Header | None]) -> tuple[float, float] | None:
    """Over about a hundred of the TIFFs with more than 8 bits, and every 16th of their pixels."""
    deep = [
        path
        for path, header in zip(source.paths, headers, strict=True)
        if header is not None and header.layout is not None and header.dtype not in ("uint8", "bool")
    ]
    if not deep:
        return None
    chosen = deep[:: -(-len(deep) // WINDOW_FILES)]
    values = np.concatenate([read_tiff(path, source.decoder.pages)[::4, ::4].ravel() for path in chosen])
    low, high = np.percentile(values[np.isfinite(values)], PERCENTILES[1:])
    return float(low), float(high)


def sample(count: int, examples: int) -> np.ndarray:
    """Indices of the pictures to look at, ascending: all, or a random sample that is always the same."""
    if not 0 < examples < count:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).permutation(count)[:examples])


def measure(
    source: Source, split: str, examples: int, bad: Collection[int] = (), track: Track = untracked
) -> tuple[list[Picture], list[Unreadable]]:
    """Decodes a sample in threads, the bad ones left out; what cannot be read is noted, the rest goes on."""
    indices = [index for index in sample(len(source), examples).tolist() if index not in bad]
    with ThreadPoolExecutor(min(32, (os.cpu_count() or 1) + 4)) as pool:
        found = list(track(pool.map(lambda index: _measured(source, index), indices), len(indices), split))
    return (
        [each for each in found if isinstance(each, Picture)],
        [each for each in found if isinstance(each, Unreadable)],
    )


def _measured(source: Source, index: int) -> Picture | Unreadable:
    try:
        example = source[index]
    except (ValueError, OSError) as error:
        return Unreadable(index, str(error))
    image, mask, box = np.asarray(example["image"]), example.get("mask"), example.get("box")
    scale = 255 if image.dtype == np.uint8 else 1
    values = image.reshape(-1, image.shape[-1]) / np.float64(scale)
    height, width = image.shape[:2]
    return Picture(
        position=index,
        label=int(example["label"]),
        shape=image.shape,
        dtype=str(image.dtype),
        low=float(image.min()),
        high=float(image.max()),
        mean=values.mean(axis=0),
        square=np.square(values).mean(axis=0),
        dark=float((image == 0).mean()),
        bright=float((image == scale).mean()),
        blank=bool((image == image[:1, :1]).all()),
        digest=digest(image),
        thumbnail=thumbnail(image),
        covered=None if mask is None else float(np.mean(mask)),
        objects=None if mask is None else object_areas(mask),
        boxed=None if box is None else _boxed(np.asarray(box), height, width),
    )


def object_areas(mask: np.ndarray) -> np.ndarray:
    """Pixels of each part of the mask that hangs together (corners count), specks left out; `[parts]`."""
    parts, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    areas = np.bincount(parts.ravel())[1:]
    return areas[areas >= SMALLEST_OBJECT]


def _boxed(box: np.ndarray, height: int, width: int) -> float | None:
    """Share of the picture; None for the box around the whole picture, which says nothing of an object."""
    top, left, bottom, right = (float(edge) for edge in box)
    whole = (top, left, bottom, right) == (0, 0, height, width)
    return None if whole else max(0.0, bottom - top) * max(0.0, right - left) / (height * width)
