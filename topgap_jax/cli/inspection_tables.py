"""What `topgap data inspect` prints."""

from collections.abc import Callable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from topgap_jax.data.inspection.findings import Finding
from topgap_jax.data.inspection.inspect import Inspection, MaskFigures, SplitFigures, Spread

MOST_CLASSES = 30  # rows of the table; of more, the largest and the smallest are shown
MOST_COLUMNS = 6  # classes of the table of groups
MOST_DETAILS = 10  # lines below a finding

Cell = Callable[[SplitFigures], str]


def print_inspection(
    console: Console, inspection: Inspection, suggested: dict[str, Any] | None, found: Sequence[Finding]
) -> None:
    """Tables first, then what needs attention."""
    count = len(inspection.class_names)
    console.print(
        f"\n[bold]{escape(inspection.source)}[/bold], {count:,} {'class' if count == 1 else 'classes'}\n"
    )
    console.print(split_table(inspection))
    console.print(class_table(inspection))
    if any(split.groups for split in inspection.splits):
        console.print(group_table(inspection))
    for split in inspection.splits:
        if mixed_groups(split):
            console.print(group_class_table(split))
    print_k(console, inspection, suggested)
    print_findings(console, found)


def split_table(inspection: Inspection) -> Table:
    """One column per split."""
    table = _table("", [split.split for split in inspection.splits])
    for section in (PICTURES, VALUES, OBJECTS):
        for name, cell in section:
            cells = [cell(split) for split in inspection.splits]
            if any(cells):
                table.add_row(name, *(each or "-" for each in cells))
        table.add_section()
    if any(split.masks or split.boxes for split in inspection.splits):
        table.caption = "Three figures are quartiles: of a small, a middling and a large object."
    return table


def class_table(inspection: Inspection) -> Table:
    """Pictures per class and split."""
    table = _table("class", [split.split for split in inspection.splits])
    for name in shown_classes(inspection):
        counts = [f"{split.classes[name]:,}" if name else "..." for split in inspection.splits]
        table.add_row(escape(name) or "...", *counts)
    if len(inspection.class_names) > MOST_CLASSES:
        half, first = MOST_CLASSES // 2, inspection.splits[0].split
        table.caption = f"The {half} largest and the {half} smallest classes of {first}; --json has all."
    return table


def shown_classes(inspection: Inspection) -> list[str]:
    """All class names, or the largest, "" and the smallest."""
    if len(inspection.class_names) <= MOST_CLASSES:
        return inspection.class_names
    counts = inspection.splits[0].classes
    ordered = sorted(inspection.class_names, key=lambda name: -counts[name])
    return [*ordered[: MOST_CLASSES // 2], "", *ordered[-MOST_CLASSES // 2 :]]


def group_table(inspection: Inspection) -> Table:
    """Pictures per group and split."""
    table = _table("group", [split.split for split in inspection.splits])
    groups = dict.fromkeys(name for split in inspection.splits for name in split.groups)
    for name in groups:
        counts = (sum(split.groups.get(name, {}).values()) for split in inspection.splits)
        table.add_row(escape(name), *(f"{count:,}" for count in counts))
    return table


def mixed_groups(split: SplitFigures) -> bool:
    """Whether a group holds several classes, few enough for a table."""
    shared = any(sum(count > 0 for count in row.values()) > 1 for row in split.groups.values())
    return shared and len(split.classes) <= MOST_COLUMNS


def group_class_table(split: SplitFigures) -> Table:
    """Pictures per group and class of one split."""
    table = _table(f"group, in {split.split}", list(split.classes))
    for group, row in split.groups.items():
        table.add_row(escape(group), *(f"{count:,}" for count in row.values()))
    return table


def _table(corner: str, columns: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, caption_justify="left")
    table.add_column(corner, overflow="fold", min_width=13)
    for name in columns:
        table.add_column(escape(name), justify="right", overflow="fold")
    return table


def print_k(console: Console, inspection: Inspection, suggested: dict[str, Any] | None) -> None:
    """The suggestion and how it comes about."""
    if suggested is None:
        if any((split.masks or split.boxes) and split.image_shape is None for split in inspection.splits):
            console.print("k depends on the size of the pictures in training; give it: --option size=224\n")
        return
    (height, width), stride, k = suggested["cam_shape"], suggested["cam_stride"], suggested["k"]
    boxes = suggested["from"] == "boxes"
    shares = f"the share of the picture that the {suggested['from']} of {escape(suggested['split'])} cover"
    positions = f"{height} x {width} positions of a CAM, one per {stride} x {stride} pixels"
    console.print(
        f"[bold]k[/bold] is {shares}, of {positions}: {k['q25']}, {k['median']} or {k['q75']} for a small, a "
        "middling or a large object. "
        + ("An ellipse fills 79% of its box, so it may be less. " if boxes else "")
        + "To start with:\n",
        highlight=False,
    )
    console.print(f"    --config.model.k={k['median']}\n")


def print_findings(console: Console, found: Sequence[Finding]) -> None:
    for finding in found:
        label = "[bold red]WARNING[/bold red]" if finding.warning else "[bold]Note[/bold]"
        console.print(f"{label}  {escape(finding.text)}", highlight=False)
        for line in finding.details[:MOST_DETAILS]:
            console.print(Padding(escape(line), (0, 0, 0, 4)), highlight=False)
        if (rest := len(finding.details) - MOST_DETAILS) > 0:
            console.print(f"    and {rest:,} more; --json has all")
    if not found:
        console.print("Nothing that was looked at speaks against training on this.")
    console.print()


def _range(values: Spread | None, form: str = "{:.0f}") -> str:
    """Smallest to largest."""
    if values is None:
        return ""
    low, high = form.format(values.min), form.format(values.max)
    return low if low == high else f"{low} to {high}"


def _quartiles(values: Spread | None, form: str = "{:.3g}", scale: float = 1) -> str:
    return "" if values is None else " ".join(form.format(value * scale) for value in values.quartiles)


def _of(part: str, cell: Callable[[MaskFigures], str]) -> Cell:
    """A cell on the masks or the boxes of a split, where it has some."""

    def of_split(split: SplitFigures) -> str:
        figures = getattr(split, part)
        return cell(figures) if figures else ""

    return of_split


def _micrometres(split: SplitFigures) -> str:
    if split.masks is None or split.pixel_size is None:
        return ""
    return _quartiles(split.masks.diameter, scale=split.pixel_size.median)


def _stored_window(split: SplitFigures) -> str:
    return "{:.5g} to {:.5g}".format(*split.stored_window) if split.stored_window else ""


def _largest_class(split: SplitFigures) -> str:
    return f"{max(split.classes.values()) / split.pictures:.1%}"


PICTURES: tuple[tuple[str, Cell], ...] = (
    ("pictures", lambda split: f"{split.pictures:,}"),
    ("looked at", lambda split: f"{split.examined:,}"),
    ("problems", lambda split: f"{len(split.unreadable):,}" if split.unreadable else ""),
    ("largest class", _largest_class),
    ("height, px", lambda split: _range(split.height)),
    ("width, px", lambda split: _range(split.width)),
    ("pixel, um", lambda split: _range(split.pixel_size, "{:.4g}")),
    ("stored as", lambda split: ", ".join(split.stored)),
    ("stored values", _stored_window),
    ("channels", lambda split: ", ".join(map(str, split.channels))),
    ("type", lambda split: ", ".join(split.dtypes)),
)
VALUES: tuple[tuple[str, Cell], ...] = (
    ("values", lambda split: f"{split.low:.3g} to {split.high:.3g}"),
    ("mean, of 1", lambda split: " ".join(f"{value:.2f}" for value in split.mean)),
    ("deviation", lambda split: " ".join(f"{value:.2f}" for value in split.std)),
    ("at 0, at top", lambda split: f"{split.dark:.1%}, {split.bright:.1%}"),
)
OBJECTS: tuple[tuple[str, Cell], ...] = (
    ("masks, empty", _of("masks", lambda masks: f"{masks.pictures:,}, {masks.empty:,}")),
    ("covered, %", _of("masks", lambda masks: _quartiles(masks.coverage, scale=100))),
    ("parts each", _of("masks", lambda masks: _range(masks.objects))),
    ("diameter, px", _of("masks", lambda masks: _quartiles(masks.diameter))),
    ("diameter, um", _micrometres),
    ("boxes", _of("boxes", lambda boxes: f"{boxes.pictures:,}")),
    ("in the box, %", _of("boxes", lambda boxes: _quartiles(boxes.coverage, scale=100))),
)
