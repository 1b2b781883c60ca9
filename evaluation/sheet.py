"""Pictures in rows, labelled: a sweep as one sheet, and several methods' rows one under the other."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from evaluation.answers import Answer, Cell
from evaluation.benchmarks import Benchmark
from flexip.images import pad_square, resize

SMALLEST_TILE, LARGEST_TILE = 128, 256  # [px] small pictures are enlarged in whole steps, large ones reduced
GAP, MARGIN = 6, 28  # [px]
MOST_ROWS = 12
INK, FAINT, RULE = (28, 30, 34), (110, 115, 124), (222, 225, 230)


@dataclass(frozen=True)
class SheetRow:
    """One subject under one prompt, at every gamma."""

    subject: str
    prompt: str
    reference: UInt8[np.ndarray, "Hr Wr 3"]
    images: Sequence[UInt8[np.ndarray, "H W 3"]]


def sheet_rows(
    benchmark: Benchmark, answers: Sequence[Answer], method: str, settings: Sequence[float]
) -> list[SheetRow]:
    """A method's dial: every case that was answered at all settings, first seed.

    When those are too many, a case of each unit, the prompts in turn.
    """
    drawn = {answer.cell: answer for answer in answers if answer.cell.method == method}
    seed = min((cell.seed for cell in drawn), default=0)
    rows, units = [], list(benchmark.units)
    for case in benchmark.cases:
        found = [drawn.get(Cell(method, case.unit, case.number, seed, setting)) for setting in settings]
        if all(found):
            rows.append((case, [answer for answer in found if answer]))
    if len(rows) > MOST_ROWS:
        prompts = max(case.number for case, _ in rows) + 1
        rows = [row for row in rows if units.index(row[0].unit) % prompts == row[0].number]
    return [
        SheetRow(
            case.unit,
            case.prompt,
            benchmark.subject(case.subjects[0]).reference.image,
            [answer.image for answer in found],
        )
        for case, found in rows[:MOST_ROWS]
    ]


def draw_sheet(rows: Sequence[SheetRow], gammas: Sequence[float]) -> UInt8[np.ndarray, "H W 3"]:
    """The labelled sheet, RGB. Every row must hold one image per gamma."""
    side = _tile_side(max(rows[0].images[0].shape[:2]))
    label, small, head = side // 8 + 4, side // 10 + 3, 2 * (side // 8 + 14)
    row_height = small + 14 + side + 2 * GAP
    reference_gap = 4 * GAP  # sets the reference apart from what was drawn from it
    width = 2 * MARGIN + (1 + len(gammas)) * (side + GAP) - GAP + reference_gap
    sheet = Image.new("RGB", (width, MARGIN + head + len(rows) * row_height + MARGIN), "white")
    draw, left = ImageDraw.Draw(sheet), MARGIN + side + GAP + reference_gap
    _header(draw, side, left, width - MARGIN, gammas, label)
    for index, row in enumerate(rows):
        top = MARGIN + head + index * row_height
        draw.line((MARGIN, top - GAP, width - MARGIN, top - GAP), fill=RULE)
        bold = label_font(small, bold=True)
        draw.text((MARGIN, top + 4), _fitted(row.subject, bold, side), font=bold, fill=INK)
        draw.text((left, top + 4), f"“{row.prompt}”", font=label_font(small), fill=FAINT)
        tiles = [row.reference, *row.images]
        columns = [MARGIN, *(left + i * (side + GAP) for i in range(len(gammas)))]
        for x, tile in zip(columns, tiles, strict=True):
            sheet.paste(Image.fromarray(_tile(tile, side)), (x, top + small + 14))
    return np.asarray(sheet)


def draw_strips(strips: Sequence[tuple[str, UInt8[np.ndarray, "H W 3"]]], side: int) -> UInt8[np.ndarray, "Hs Ws 3"]:
    """One picture in which, subject by subject, every method's row stands under the one before.

    strips: title and its rows of `side` px tiles, one row a subject, the reference first.
    """
    columns, subjects = strips[0][1].shape[1] // side, strips[0][1].shape[0] // side
    margin, gap, line = 168, 14, side + 2
    sheet = Image.new("RGB", (margin + columns * side + gap, subjects * (len(strips) * line + gap)), "white")
    draw, font = ImageDraw.Draw(sheet), label_font(12)
    for subject in range(subjects):
        for number, (title, picture) in enumerate(strips):
            top = subject * (len(strips) * line + gap) + number * line
            row = picture[subject * side : (subject + 1) * side]
            sheet.paste(Image.fromarray(np.ascontiguousarray(row[:, :side])), (margin, top))
            sheet.paste(Image.fromarray(np.ascontiguousarray(row[:, side:])), (margin + side + gap, top))
            draw.text((8, top + side // 2), title, font=font, fill=INK, anchor="lm")
    return np.asarray(sheet)


def _header(draw: ImageDraw.ImageDraw, side: int, left: int, right: int, gammas: Sequence[float], size: int) -> None:
    y = MARGIN + size + 14
    bold, plain, small = label_font(size, bold=True), label_font(size), label_font(size - 3)
    draw.text((MARGIN + side / 2, y), "reference", font=bold, fill=INK, anchor="mt")
    for i, gamma in enumerate(gammas):
        draw.text((left + i * (side + GAP) + side / 2, y), f"γ = {gamma:g}", font=plain, fill=INK, anchor="mt")
    if len(gammas) < 4:
        return
    draw.text((left, MARGIN), "← follows the prompt", font=small, fill=FAINT, anchor="lt")
    draw.text((right, MARGIN), "keeps the subject →", font=small, fill=FAINT, anchor="rt")


def _tile_side(source: int) -> int:
    if source < SMALLEST_TILE:
        return source * -(-SMALLEST_TILE // source)
    return min(source, LARGEST_TILE)


def _tile(image: UInt8[np.ndarray, "H W 3"], side: int) -> UInt8[np.ndarray, "side side 3"]:
    """A square tile; whole-step enlargement repeats pixels, so that a 64 px picture shows what it is."""
    square = pad_square(image)
    factor = side // len(square)
    if factor >= 1 and factor * len(square) == side:
        return np.repeat(np.repeat(square, factor, axis=0), factor, axis=1)
    return resize(square, (side, side))


def _fitted(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, or as much of its beginning as fits the width [px] with an ellipsis."""
    if font.getlength(text) <= width:
        return text
    kept = next(n for n in range(len(text), -1, -1) if font.getlength(text[:n] + "…") <= width)
    return text[:kept] + "…"


def label_font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu, which comes with matplotlib and has the Greek letters."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/{name}", size)
