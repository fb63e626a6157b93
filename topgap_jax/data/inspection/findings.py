"""What in an inspected data set speaks against training on it as it is."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from topgap_jax.data.inspection.duplicates import MOST_PAIRS
from topgap_jax.data.inspection.inspect import Duplicate, Inspection, SplitFigures

IMBALANCED = 10  # times as many pictures in the largest class as in the smallest
SAME_PIXEL_SIZE = 1.01  # ratio that passes for a rounding
CLIPPED = 0.05  # share of the values at the upper end of the range


@dataclass(frozen=True)
class Finding:
    """One thing to know; a warning is one that makes results wrong."""

    warning: bool
    text: str
    details: list[str] = field(default_factory=list)


def findings(inspection: Inspection) -> list[Finding]:
    """Warnings first."""
    found = [finding for split in inspection.splits for finding in _of_split(split)]
    found += _missing_from_training(inspection.splits) + _of_pixel_sizes(inspection.splits)
    found += _of_duplicates(inspection.duplicates)
    return sorted(found, key=lambda each: not each.warning)


def _of_split(split: SplitFigures) -> list[Finding]:
    found = []
    if split.unreadable:
        text = f"{split.split}: {len(split.unreadable)} problems in {split.pictures} pictures"
        found.append(Finding(True, text, split.unreadable))
    if len(split.channels) > 1 or len(split.dtypes) > 1:
        kinds = ", ".join(f"{count} of {name}" for name, count in split.dtypes.items())
        planes = ", ".join(f"{count} with {number}" for number, count in split.channels.items())
        found.append(Finding(True, f"{split.split}: pictures of several kinds ({kinds}; channels: {planes})"))
    if split.blank:
        text = f"{split.split}: {len(split.blank)} pictures show one colour only"
        found.append(Finding(True, text, split.blank))
    return found + _of_counts(split) + _of_values(split)


def _of_counts(split: SplitFigures) -> list[Finding]:
    counts, found = split.classes, []
    few = [f"{name} ({count})" for name, count in counts.items() if count < 2]
    if few:
        text = f"{split.split}: classes with less than two pictures: {len(few)} of {len(counts)}"
        found.append(Finding(False, text, few))
    present = [count for count in counts.values() if count]
    if len(counts) == 1:
        text = f"{split.split}: there is one class only, so there is nothing to tell apart"
        found.append(Finding(True, text))
    elif present and (ratio := max(present) / min(present)) >= IMBALANCED:
        text = f"{split.split}: the largest class has {ratio:.0f} times the pictures of the smallest"
        found.append(Finding(False, f"{text}; config.loss.class_weights can weigh them"))
    return found


def _of_values(split: SplitFigures) -> list[Finding]:
    found = []
    if split.image_shape is None and split.height is not None:
        text = f"{split.split}: pictures differ in size; training needs one size, such as --option size=224"
        found.append(Finding(False, text))
    if split.bright >= CLIPPED:
        text = f"{split.split}: {split.bright:.0%} of the values lie at the upper end of the range"
        found.append(Finding(False, f"{text}: overexposed, a white background or too narrow a window"))
    if split.masks is not None and split.masks.empty:
        text = f"{split.split}: {split.masks.empty} of {split.masks.pictures} masks are empty"
        found.append(Finding(False, text))
    return found


def _missing_from_training(splits: Sequence[SplitFigures]) -> list[Finding]:
    train = next((split for split in splits if split.split == "train"), None)
    if train is None:
        return []
    unseen = {
        split.split: [name for name, count in split.classes.items() if count and not train.classes.get(name)]
        for split in splits
    }
    return [
        Finding(True, f"{split}: {len(names)} classes have no picture in train", names)
        for split, names in unseen.items()
        if names
    ]


def _of_pixel_sizes(splits: Sequence[SplitFigures]) -> list[Finding]:
    known = {split.split: split.pixel_size for split in splits if split.pixel_size is not None}
    low = min((spread.min for spread in known.values()), default=1.0)
    high = max((spread.max for spread in known.values()), default=1.0)
    if high <= SAME_PIXEL_SIZE * low:
        return []
    text = (
        f"A pixel is {low:.4g} to {high:.4g} um, so that like objects differ in size; bring them to one scale"
    )
    return [
        Finding(
            True, text, [f"{split}: {each.min:.4g} to {each.max:.4g} um" for split, each in known.items()]
        )
    ]


def _of_duplicates(duplicates: Sequence[Duplicate]) -> list[Finding]:
    found = []
    for exact, what in ((True, "The same pixels"), (False, "Nearly the same picture")):
        alike = [each for each in duplicates if each.exact is exact]
        leaks = [_line(each) for each in alike if each.across]
        if leaks:
            text = f"{what} in several splits, {_times(leaks)}: results there say little about new pictures"
            found.append(Finding(True, text, leaks))
        disagree = [_line(each) for each in alike if each.contradictory]
        if disagree:
            found.append(Finding(exact, f"{what} in several classes, {_times(disagree)}", disagree))
        within = [_line(each) for each in alike if not each.across and not each.contradictory]
        if within:
            found.append(Finding(False, f"{what} more than once within a split, {_times(within)}", within))
    return found


def _times(lines: Sequence[str]) -> str:
    if len(lines) == 1:
        return "once"
    return f"{len(lines):,} times" + (" or more" if len(lines) >= MOST_PAIRS else "")


def _line(duplicate: Duplicate) -> str:
    shown = [
        f"{picture} ({name})" if duplicate.contradictory else picture
        for picture, name in zip(duplicate.pictures, duplicate.classes, strict=True)
    ]
    sign = " = " if duplicate.exact else f" ~ ({duplicate.similarity:.4f}) "
    more = f" and {len(shown) - 4} more" if len(shown) > 4 else ""
    return sign.join(shown[:4]) + more
