"""The sheet of a sweep: tiles, labels, and which rows it shows."""

import numpy as np

from evaluation.answers import Answer, Cell
from evaluation.benchmarks import Photo
from evaluation.layouts import pocket_benchmark
from evaluation.sheet import GAP, MARGIN, MOST_ROWS, SheetRow, draw_sheet, sheet_rows
from flexip.images import encode_png


def test_sheet_enlarges_small_tiles_without_changing_pixels():
    tile = np.zeros((64, 64, 3), np.uint8)
    tile[:, ::2] = (250, 10, 20)
    sheet = draw_sheet([SheetRow("one", "a prompt", tile, [tile, tile])], (0.0, 1.0))
    doubled = np.repeat(np.repeat(tile, 2, axis=0), 2, axis=1)
    bottom = len(sheet) - MARGIN - 2 * GAP
    reference, last = sheet[:, MARGIN : MARGIN + 128], sheet[:, -MARGIN - 128 : -MARGIN]
    for column in (reference, last):
        np.testing.assert_array_equal(column[bottom - 128 : bottom], doubled)


def test_sheet_grows_by_a_row_per_subject_and_a_column_per_gamma():
    tile = np.zeros((64, 64, 3), np.uint8)
    row = SheetRow("one", "a prompt", tile, [tile, tile])
    low, high = draw_sheet([row], (0.0, 1.0)), draw_sheet([row, row], (0.0, 1.0))
    wide = draw_sheet([SheetRow("one", "a prompt", tile, [tile] * 3)], (0.0, 0.5, 1.0))
    assert high.shape[0] > low.shape[0]
    assert high.shape[1] == low.shape[1]
    assert wide.shape[1] > low.shape[1]


def test_rows_are_whole_dials_and_few_enough():
    grey = Photo(encode_png(np.full((8, 8, 3), 90, np.uint8)), "grey")
    benchmark = pocket_benchmark("test", creatures=7, photos=1).first(prompts=2)
    cells = [Cell("ours", c.unit, c.number, 3, gamma) for c in benchmark.cases for gamma in (0.0, 1.0)]
    answers = [Answer(cell, grey) for cell in cells]
    few = sheet_rows(benchmark, answers[:9], "ours", [0.0, 1.0])
    assert [row.prompt for row in few] == [case.prompt for case in benchmark.cases[:4]]  # the fifth lacks a setting
    many = sheet_rows(benchmark, answers, "ours", [0.0, 1.0])
    assert len(many) <= MOST_ROWS < len(benchmark.cases)
    assert len({row.subject for row in many}) == len(many) == 7
    assert len({row.prompt for row in many}) == 2
    assert sheet_rows(benchmark, answers, "theirs", [0.0, 1.0]) == []
