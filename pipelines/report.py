"""What a person looks at after a curation: counts in words, and a contact sheet of pairs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from flexip.images import Rgb, decode_image, encode_png, pad_square, resize
from flexip.rows import DATASETS
from pipelines.records import StageCount
from pipelines.samples import choose_pairs
from pipelines.shards import FileEntry, Manifest, file_entry

SHEET = "contact_sheet.png"
TILE = 128  # side of a picture on the sheet [px]
COLUMNS = 5  # pairs in a row
ROWS = 5  # rows of each section
INK, PALE, PAPER, RULE = (34, 36, 40), (120, 124, 130), (250, 250, 248), (222, 222, 218)
TITLES = {
    "invariant": "reference from the same picture, augmented",
    "variant": "reference from another moment or another picture",
}
GAP, HEAD, LABEL, MARGIN = 18, 44, 30, 24  # [px]


def count_line(count: StageCount) -> str:
    """`120 of 130 accepted; rejected: 6 blurred, 3 too_small; quarantined: 1 truncated`."""
    parts = [f"{count.accepted} of {count.total} accepted"]
    for name in ("rejected", "quarantined"):
        reasons_of = getattr(count, name)
        if reasons_of:
            listed = ", ".join(
                f"{n} {reason}" for reason, n in sorted(reasons_of.items(), key=lambda rn: (-rn[1], rn[0]))
            )
            parts.append(f"{name}: {listed}")
    return "; ".join(parts)


def reasons(counts: dict[str, StageCount]) -> str:
    """All units' counts on one line, for an error message."""
    return " | ".join(f"{unit}s: {count_line(count)}" for unit, count in counts.items() if count.total)


def write_contact_sheet(output: Path, manifest: Manifest, seed: int) -> FileEntry:
    """Draw pairs of both datasets, chosen by hash so that one subject does not fill the sheet."""
    sections = [
        (name, choose_pairs(output, name, seed, COLUMNS * ROWS), sum(manifest.sizes[name].values()))
        for name in DATASETS
    ]
    sheet = draw_sheet([section for section in sections if section[1]])
    (output / SHEET).write_bytes(encode_png(sheet))
    return file_entry(output, SHEET)


def draw_sheet(sections: Sequence[tuple[str, list[dict[str, Any]], int]]) -> Rgb:
    """Sections of (dataset, rows to show, pairs in all) as one picture, uint8 (H, W, 3)."""
    cell = 2 * TILE + 4
    width = 2 * MARGIN + COLUMNS * cell + (COLUMNS - 1) * GAP
    heights = [HEAD + -(-len(rows) // COLUMNS) * (TILE + LABEL + GAP) for _, rows, _ in sections]
    image = Image.new("RGB", (width, 2 * MARGIN + sum(heights)), PAPER)
    draw = ImageDraw.Draw(image)
    y = MARGIN
    for (name, rows, total), height in zip(sections, heights, strict=True):
        _heading(draw, name, len(rows), total, y, width)
        for i, row in enumerate(rows):
            x = MARGIN + (i % COLUMNS) * (cell + GAP)
            _pair(image, draw, row, x, y + HEAD + (i // COLUMNS) * (TILE + LABEL + GAP))
        y += height
    return np.asarray(image)


def _heading(draw: ImageDraw.ImageDraw, name: str, shown: int, total: int, y: int, width: int) -> None:
    draw.text((MARGIN, y), name, INK, font=ImageFont.load_default(20))
    after = MARGIN + draw.textlength(name, font=ImageFont.load_default(20)) + 12
    draw.text((after, y + 7), f"{TITLES[name]}   ({shown} of {total} pairs)", PALE, font=ImageFont.load_default(12))
    draw.line((MARGIN, y + 32, width - MARGIN, y + 32), RULE, 1)


def _pair(image: Image.Image, draw: ImageDraw.ImageDraw, row: dict[str, Any], x: int, y: int) -> None:
    for i, column in enumerate(("reference", "target")):
        tile = resize(pad_square(decode_image(row[column])), (TILE, TILE))
        left = x + i * (TILE + 4)
        image.paste(Image.fromarray(tile), (left, y))
        draw.rectangle((left - 1, y - 1, left + TILE, y + TILE), outline=RULE)
    small = ImageFont.load_default(10)
    apart = f"{row['time_gap']:.1f} s apart   " if row["time_gap"] else ""
    alike = f"identity {row['identity_similarity']:.2f}   pixels {row['pixel_similarity']:.2f}"
    numbers = apart + alike if row["dataset"] == "variant" else f"pixels {row['pixel_similarity']:.2f}"
    draw.text((x, y + TILE + 4), _shortened(draw, row["caption"], small, 2 * TILE), INK, font=small)
    draw.text((x, y + TILE + 17), f"{row['split']}   {numbers}", PALE, font=small)


def _shortened(draw: ImageDraw.ImageDraw, text: str, font: Any, width: int) -> str:
    if draw.textlength(text, font=font) <= width:
        return text
    while text and draw.textlength(text + "...", font=font) > width:
        text = text[:-1]
    return text.rstrip() + "..."
