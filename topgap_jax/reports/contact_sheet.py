"""A contact sheet: a row per class, a block of pictures per split, objects outlined."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from topgap_jax.reports.pictures import to_rgb, trace

TILE = 112  # pixels, of the longer side
GAP, BLOCK_GAP, MARGIN = 4, 20, 16
HEADER = 62
NAME_WIDTH = 210  # at most
ROWS_PER_PAGE = 25
INK, PALE, PAPER, EMPTY = (25, 25, 25), (110, 110, 110), (255, 255, 255), (240, 240, 240)


class Row(NamedTuple):
    """A class: what stands on the left, and its pictures per split, from `draw_tile`."""

    name: str
    note: str
    blocks: Sequence[Sequence[Image.Image]]


def write_contact_sheet(
    path: str | Path, title: str, splits: Sequence[str], rows: Sequence[Row]
) -> list[Path]:
    """Writes PNG files of up to 25 classes each: sheet.png, sheet-2.png and so on.

    Args:
        title: stands on top of each page.
        splits: names of the blocks.
        rows: one per class, with as many blocks as there are splits.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(rows), ROWS_PER_PAGE)
    widest = [max((len(row.blocks[block]) for row in rows), default=0) for block in range(len(splits))]
    written = []
    for number, start in enumerate(starts, start=1):
        page = rows[start : start + ROWS_PER_PAGE]
        heading = title if len(starts) == 1 else f"{title}, page {number} of {len(starts)}"
        file = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        draw_page(heading, splits, page, widest).save(file, format="PNG")
        written.append(file)
    return written


def draw_page(title: str, splits: Sequence[str], rows: Sequence[Row], widest: Sequence[int]) -> Image.Image:
    """One page; `widest` says how many pictures each split's block has room for."""
    name_font, note_font, title_font = _font(15, bold=True), _font(12), _font(17, bold=True)
    texts = [name_font.getlength(row.name) for row in rows]
    texts += [note_font.getlength(line) for row in rows for line in row.note.split("\n")]
    left = MARGIN + min(NAME_WIDTH, int(max(texts, default=0))) + BLOCK_GAP
    blocks = _block_lefts(left, widest)
    width = max(blocks[-1] + widest[-1] * (TILE + GAP), int(MARGIN + title_font.getlength(title))) + MARGIN
    page = Image.new("RGB", (width, HEADER + len(rows) * (TILE + GAP) + MARGIN), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN - 4), title, INK, title_font)
    for name, x in zip(splits, blocks, strict=True):
        draw.text((x, HEADER - 22), name, PALE, _font(13, bold=True))
    for number, row in enumerate(rows):
        top = HEADER + number * (TILE + GAP)
        draw.text((MARGIN, top + 6), _shortened(row.name, name_font), INK, name_font)
        draw.multiline_text((MARGIN, top + 28), row.note, PALE, note_font, spacing=4)
        for tiles, x, room in zip(row.blocks, blocks, widest, strict=True):
            _draw_block(page, draw, tiles, x, top, room)
    return page


def _draw_block(
    page: Image.Image, draw: ImageDraw.ImageDraw, tiles: Sequence[Image.Image], left: int, top: int, room: int
) -> None:
    for place in range(room):
        x = left + place * (TILE + GAP)
        draw.rectangle((x, top, x + TILE - 1, top + TILE - 1), EMPTY)
        if place < len(tiles):
            tile = tiles[place]
            page.paste(tile, (x + (TILE - tile.width) // 2, top + (TILE - tile.height) // 2))


def draw_tile(image: np.ndarray, mask: np.ndarray | None = None) -> Image.Image:
    """A picture with a longer side of `TILE` pixels, small ones with their pixels left visible.

    Args:
        image: `[H, W, C]`, uint8, or float in [0, 1].
        mask: bool `[H, W]`; it is outlined.
    """
    values = image / np.float32(255) if image.dtype == np.uint8 else image
    pixels = np.clip(to_rgb(values) * 255, 0, 255).round().astype(np.uint8)
    scale = TILE / max(image.shape[:2])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    tile = Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX)
    if mask is None:
        return tile
    mask = np.asarray(
        Image.fromarray(mask.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)
    )
    return Image.fromarray(trace(np.asarray(tile), mask > 0, 1))


def _block_lefts(left: int, widest: Sequence[int]) -> list[int]:
    lefts = []
    for room in widest:
        lefts.append(left)
        left += room * (TILE + GAP) + BLOCK_GAP
    return lefts


def _shortened(name: str, font: ImageFont.FreeTypeFont) -> str:
    if font.getlength(name) <= NAME_WIDTH:
        return name
    while name and font.getlength(name + "…") > NAME_WIDTH:
        name = name[:-1]
    return name + "…"


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    # Comes with matplotlib, the same on every machine, and knows more alphabets than Pillow's own.
    file = Path(matplotlib.get_data_path(), "fonts", "ttf", f"DejaVuSans{'-Bold' if bold else ''}.ttf")
    return ImageFont.truetype(file, size)
