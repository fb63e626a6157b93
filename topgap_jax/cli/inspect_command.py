"""`topgap data inspect SOURCE`: what a data set holds, before a network is trained on it."""

import argparse
import ast
import contextlib
import dataclasses
import json
import math
import sys
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from topgap_jax.cli.arguments import names

if TYPE_CHECKING:
    from topgap_jax.data.inspection.inspect import Inspection
    from topgap_jax.data.sources import Source
    from topgap_jax.reports.contact_sheet import Row

USUAL = ("train", "validation", "val", "test")  # the order in which splits are shown
PICTURES_PER_CLASS = 9  # on the contact sheet, shared by the splits


def add_inspect(subcommands: argparse._SubParsersAction) -> None:
    parser = subcommands.add_parser(
        "inspect",
        help="counts, sizes, objects and duplicates of a data set, and a contact sheet",
        description="Looks into a data set before a network is trained on it: counts, sizes, intensities, "
        "the size of the objects and the k it suggests, duplicates and unreadable files.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("source", help="as in config.data.source: embedded, cub, folder:PATH, npz:PATH, ...")
    parser.add_argument("--splits", type=names, help='separated by commas; default: every one but "all"')
    parser.add_argument(
        "--option",
        type=option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the source, as in config.data.options, such as size=224; may come several times",
    )
    parser.add_argument("--examples", type=int, default=2000, help="pictures decoded per split; 0: all")
    parser.add_argument("--sheet", metavar="PNG", help="write a contact sheet")
    parser.add_argument("--json", metavar="FILE", help="write everything that was found")
    parser.add_argument(
        "--cam-stride",
        type=int,
        default=4,
        help="pixels per position of the CAM: 4 for the pyramid on most backbones, 1 on those for CIFAR",
    )
    parser.set_defaults(run=run)


def option(text: str) -> tuple[str, Any]:
    """NAME=VALUE; the value as Python writes it, or else plain text."""
    name, equals, value = text.partition("=")
    if not (equals and name.isidentifier()):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE, such as size=224")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def run(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    from topgap_jax.cli.inspection_tables import print_inspection
    from topgap_jax.data.inspection.findings import findings
    from topgap_jax.data.inspection.inspect import inspect_sources

    if arguments.cam_stride < 1 or arguments.examples < 0:
        sys.exit("Error: --cam-stride must be at least 1 and --examples at least 0")
    try:
        sources = open_splits(arguments.source, arguments.splits, dict(arguments.option))
    except (ValueError, ModuleNotFoundError) as error:
        sys.exit(f"Error: {error}")
    for path in filter(None, (arguments.json, arguments.sheet)):
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            sys.exit(f"Error: {path} cannot be written: {error}")
    inspection = inspect_sources(
        arguments.source,
        sources,
        examples=arguments.examples,
        pixel_size=dict(arguments.option).get("pixel_size"),
        track=progress,
    )
    suggested, found = suggest_k(inspection, arguments.cam_stride), findings(inspection)
    print_inspection(Console(), inspection, suggested, found)
    if arguments.json:
        parts = {"suggested_k": suggested, "findings": [dataclasses.asdict(each) for each in found]}
        write_json(Path(arguments.json), dataclasses.asdict(inspection) | parts)
        print(f"Everything that was found: {arguments.json}")
    if arguments.sheet:
        from topgap_jax.reports.contact_sheet import write_contact_sheet

        title = f"{arguments.source}: {len(inspection.class_names)} classes"
        pages = write_contact_sheet(arguments.sheet, title, list(sources), sheet_rows(sources, inspection))
        print(f"Contact sheet: {pages[0]}" + (f" to {pages[-1].name}" if len(pages) > 1 else ""))


def open_splits(name: str, splits: Sequence[str] | None, options: dict[str, Any]) -> "dict[str, Source]":
    """The splits; a folder opens whatever is wrong with its files, which the inspection then says."""
    from topgap_jax.data.sources import load_source, split_names

    if name.startswith("folder:"):
        options = {"check": False, "on_error": "skip"} | options
    chosen = splits
    if chosen is None:
        # Of some sets "all" is the other splits together: every picture would be a duplicate.
        known = split_names(name, **options)
        there = [split for split in known if split != "all"] or known
        chosen = [
            *(split for split in USUAL if split in there),
            *(split for split in there if split not in USUAL),
        ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pictures left out
        return {split: load_source(name, split, **options) for split in chosen}


def progress(items: Iterable[Any], total: int, what: str) -> Iterable[Any]:
    """A bar on the error stream, so that the output stays clean."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(items, what, total, console=console, transient=True, disable=not console.is_terminal)


def suggest_k(inspection: "Inspection", cam_stride: int) -> dict[str, Any] | None:
    """k for the objects of the first split that has some; None where none has masks or boxes."""
    from topgap_jax.size_prior import k_from_coverage

    for split in inspection.splits:
        figures, kind = (split.masks, "masks") if split.masks else (split.boxes, "boxes")
        if figures is None or figures.coverage is None or split.image_shape is None:
            continue
        height, width = (math.ceil(side / cam_stride) for side in split.image_shape[:2])
        shares = figures.coverage
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the table shows objects below one position
            k = {
                name: k_from_coverage(getattr(shares, name), (height, width))
                for name in ("q25", "median", "q75")
            }
        return {
            "split": split.split,
            "from": kind,
            "cam_stride": cam_stride,
            "cam_shape": [height, width],
            "k": k,
        }
    return None


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def sheet_rows(sources: "dict[str, Source]", inspection: "Inspection") -> "list[Row]":
    """A row per class, with some of its pictures of every split."""
    from topgap_jax.reports.contact_sheet import Row

    per_split = max(2, PICTURES_PER_CLASS // len(sources))

    def row(label: int) -> Row:
        name = inspection.class_names[label]
        note = "\n".join(f"{split.split}: {split.classes[name]:,}" for split in inspection.splits)
        return Row(name, note, [class_tiles(source, label, per_split) for source in sources.values()])

    count = len(inspection.class_names)
    with ThreadPoolExecutor() as pool:
        return list(progress(pool.map(row, range(count)), count, "sheet"))


def class_tiles(source: "Source", label: int, count: int) -> list[Image.Image]:
    """Pictures of a class, evenly over the split; those that cannot be read make room for others."""
    from topgap_jax.reports.contact_sheet import draw_tile

    of_class = np.flatnonzero(source.labels == label)
    first = np.unique(np.linspace(0, len(of_class) - 1, min(count, len(of_class))).round().astype(int))
    tiles: list[Image.Image] = []
    for index in [*of_class[first], *np.delete(of_class, first)[: 3 * count]]:
        if len(tiles) < count:
            with contextlib.suppress(ValueError, OSError):  # the inspection has named it
                example = source[int(index)]
                tiles.append(draw_tile(np.asarray(example["image"]), example.get("mask")))
    return tiles
