"""What a data set holds: counts, sizes, intensities, objects, duplicates."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from topgap_jax.data.inspection.duplicates import near_pairs, same_pixels
from topgap_jax.data.inspection.measurement import (
    Files,
    Picture,
    Track,
    Unreadable,
    check_files,
    measure,
    untracked,
)
from topgap_jax.data.sources import Source


@dataclass(frozen=True)
class Spread:
    """How figures are distributed."""

    min: float
    q25: float
    median: float
    q75: float
    max: float

    @property
    def quartiles(self) -> tuple[float, float, float]:
        return self.q25, self.median, self.q75

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> "Spread":
        return cls(*(float(value) for value in np.quantile(np.asarray(values), (0, 0.25, 0.5, 0.75, 1))))


@dataclass(frozen=True)
class MaskFigures:
    """Of the pictures that have a mask (or a box)."""

    pictures: int
    empty: int  # masks without an object
    coverage: Spread | None  # share of the picture, over the masks that are not empty
    objects: Spread | None  # connected parts per picture; None for boxes
    diameter: Spread | None  # pixels, of the disc with a part's area; None for boxes


@dataclass(frozen=True)
class SplitFigures:
    """What was found in one split."""

    split: str
    pictures: int
    examined: int  # decoded: all that can be, or a sample
    classes: dict[str, int]
    groups: dict[str, dict[str, int]]  # group -> class -> pictures; empty where there are no groups
    image_shape: tuple[int, int, int] | None  # None: the pictures that were looked at differ in size
    height: Spread | None  # None where no picture could be read
    width: Spread | None
    stored: dict[str, int]  # type and channels of the files -> files
    stored_window: tuple[float, float] | None  # see `Files.window`
    channels: dict[int, int]  # number of channels -> pictures
    dtypes: dict[str, int]
    low: float
    high: float
    mean: list[float]  # per channel, in [0, 1]
    std: list[float]
    dark: float  # share of the values at the lower end of the range
    bright: float
    masks: MaskFigures | None
    boxes: MaskFigures | None
    pixel_size: Spread | None  # micrometres
    blank: list[str]  # pictures of one colour
    unreadable: list[str]  # what is wrong with files, or with the list of them


@dataclass(frozen=True)
class Duplicate:
    """Pictures that are the same (`similarity` 1 and `exact`) or nearly the same."""

    exact: bool
    similarity: float
    pictures: list[str]
    splits: list[str]
    classes: list[str]

    @property
    def across(self) -> bool:
        return len(set(self.splits)) > 1

    @property
    def contradictory(self) -> bool:
        return len(set(self.classes)) > 1


@dataclass(frozen=True)
class Inspection:
    """Everything that `topgap data inspect` says about a data set."""

    source: str
    class_names: list[str]
    splits: list[SplitFigures]
    duplicates: list[Duplicate]


def inspect_sources(
    name: str,
    sources: Mapping[str, Source],
    *,
    examples: int = 2000,
    pixel_size: float | None = None,
    track: Track = untracked,
) -> Inspection:
    """Measures the splits of a data set. Of picture files all are checked; what is wrong with some is noted.

    Args:
        name: what the report calls the data set.
        sources: its splits by name.
        pixel_size: micrometres per stored pixel, where the files do not say it or are wrong.
        examples: how many pictures per split are decoded, a random sample that is always the same; 0: all.
            Counts per class and group come from the labels and are always complete.
        track: wraps what is iterated over, for a progress bar.
    """
    files = {split: check_files(source, pixel_size) for split, source in sources.items()}
    measured = {
        split: measure(source, split, examples, files[split].bad, track) for split, source in sources.items()
    }
    return Inspection(
        source=name,
        class_names=list(next(iter(sources.values())).class_names),
        splits=[
            split_figures(source, split, *measured[split], files[split]) for split, source in sources.items()
        ],
        duplicates=find_duplicates(sources, {split: found[0] for split, found in measured.items()}),
    )


def split_figures(
    source: Source, split: str, pictures: Sequence[Picture], unreadable: Sequence[Unreadable], files: Files
) -> SplitFigures:
    """The measured pictures of one split, together."""
    heights, widths, channels = (
        zip(*(each.shape for each in pictures), strict=True) if pictures else ((),) * 3
    )
    mean, std = _moments(pictures)
    return SplitFigures(
        split=split,
        pictures=len(source),
        examined=len(pictures),
        classes=_class_counts(source),
        groups=_group_counts(source),
        image_shape=source.image_shape or _common_shape(pictures),
        height=Spread.of(heights) if pictures else None,
        width=Spread.of(widths) if pictures else None,
        stored=files.kinds,
        stored_window=files.window,
        channels=dict(Counter(channels)),
        dtypes=dict(Counter(each.dtype for each in pictures)),
        low=min((each.low for each in pictures), default=0.0),
        high=max((each.high for each in pictures), default=0.0),
        mean=mean,
        std=std,
        dark=float(np.mean([each.dark for each in pictures])) if pictures else 0.0,
        bright=float(np.mean([each.bright for each in pictures])) if pictures else 0.0,
        masks=_mask_figures(pictures),
        boxes=_box_figures(pictures),
        pixel_size=Spread.of(files.pixel_sizes) if files.pixel_sizes else None,
        blank=[picture_name(source, split, each.position) for each in pictures if each.blank],
        unreadable=[*files.messages, *(each.message for each in unreadable)],
    )


def _class_counts(source: Source) -> dict[str, int]:
    counts = np.bincount(source.labels, minlength=source.num_classes).tolist()
    return dict(zip(source.class_names, counts, strict=True))


def _group_counts(source: Source) -> dict[str, dict[str, int]]:
    groups = getattr(source, "groups", None)
    if groups is None:
        return {}
    names = getattr(source, "group_names", ()) or [str(group) for group in range(int(max(groups)) + 1)]
    table = np.zeros((len(names), source.num_classes), int)
    np.add.at(table, (groups, source.labels), 1)
    rows = (dict(zip(source.class_names, row.tolist(), strict=True)) for row in table)
    return dict(zip(names, rows, strict=True))


def _common_shape(pictures: Sequence[Picture]) -> tuple[int, int, int] | None:
    shapes = {each.shape for each in pictures}
    return shapes.pop() if len(shapes) == 1 else None


def _moments(pictures: Sequence[Picture]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel over all pixels; empty where channels differ."""
    if len({each.shape[2] for each in pictures}) != 1:
        return [], []
    pixels = np.array([each.shape[0] * each.shape[1] for each in pictures], np.float64)
    mean = np.average([each.mean for each in pictures], axis=0, weights=pixels)
    square = np.average([each.square for each in pictures], axis=0, weights=pixels)
    return mean.tolist(), np.sqrt(np.maximum(square - mean**2, 0)).tolist()


def _mask_figures(pictures: Sequence[Picture]) -> MaskFigures | None:
    covered = np.array([each.covered for each in pictures if each.covered is not None])
    if not len(covered):
        return None
    parts = [len(each.objects) for each in pictures if each.objects is not None and each.covered]
    areas = np.concatenate([each.objects for each in pictures if each.objects is not None])
    return MaskFigures(
        pictures=len(covered),
        empty=int((covered == 0).sum()),
        coverage=Spread.of(covered[covered > 0]) if covered.any() else None,
        objects=Spread.of(parts) if parts else None,
        diameter=Spread.of(2 * np.sqrt(areas / np.pi)) if len(areas) else None,
    )


def _box_figures(pictures: Sequence[Picture]) -> MaskFigures | None:
    boxed = np.array([each.boxed for each in pictures if each.boxed is not None])
    if not len(boxed):
        return None
    coverage = Spread.of(boxed[boxed > 0]) if boxed.any() else None
    return MaskFigures(len(boxed), int((boxed == 0).sum()), coverage, None, None)


def find_duplicates(
    sources: Mapping[str, Source], measured: Mapping[str, Sequence[Picture]]
) -> list[Duplicate]:
    """Within and across the splits: exact ones first, then near ones, those across splits first in each."""
    every = [(split, each) for split, pictures in measured.items() for each in pictures]
    digests = [each.digest for _, each in every]
    exact = [(True, 1.0, found) for found in same_pixels(digests)]
    thumbnails = np.array([each.thumbnail for _, each in every]).reshape(len(every), -1)
    near = [(False, pair.similarity, [pair.first, pair.second]) for pair in near_pairs(thumbnails, digests)]
    found = []
    for is_exact, similarity, positions in exact + near:
        of = [every[position] for position in positions]
        found.append(
            Duplicate(
                exact=is_exact,
                similarity=similarity,
                pictures=[picture_name(sources[split], split, each.position) for split, each in of],
                splits=[split for split, _ in of],
                classes=[sources[split].class_names[each.label] for split, each in of],
            )
        )
    return sorted(found, key=lambda each: (not each.exact, not each.across))


def picture_name(source: Source, split: str, index: int) -> str:
    """The file, or the place in the split."""
    paths = getattr(source, "paths", None)
    return str(paths[index]) if paths is not None else f"{split}[{index}]"
