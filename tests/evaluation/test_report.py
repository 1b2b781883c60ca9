"""The summary, the report and the sheet of a sweep whose scores are known."""

import base64
import dataclasses
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from evaluation.report import render_report
from evaluation.sheet import GAP, MARGIN, SheetRow, draw_sheet
from evaluation.summary import Protocol, Summary, scores_document, summarize
from evaluation.sweep import Subject, SweepPlan, SweepScores

GAMMAS = (0.0, 0.5, 1.0)
PROMPTS = ("in the <snow>", "on a beach")


def plan_of(subjects: int) -> SweepPlan:
    white = np.full((64, 64, 3), 255, np.uint8)
    return SweepPlan([Subject(f"who-{i}", white) for i in range(subjects)], PROMPTS, GAMMAS, seeds=(3, 4))


def summary_of(subjects: int) -> Summary:
    """Identity rises 0.2, 0.4, 0.6 and text falls 0.3, 0.2, 0.1; subject i lies 0.01 i higher."""
    plan = plan_of(subjects)
    shift = 0.01 * np.arange(subjects)[:, None, None, None] + np.zeros(plan.shape)
    rising, falling = np.add(shift, (0.2, 0.4, 0.6)), np.add(shift, (0.3, 0.2, 0.1))
    chance = np.full(plan.shape, 0.15 if subjects > 1 else np.nan)
    scores = SweepScores(
        identity={"dino": rising, "clip": rising + 0.1},
        wrong_subject={"dino": chance, "clip": chance},
        text=falling,
        copy_text=np.full(subjects, 0.05),
    )
    protocol = Protocol(
        encoders={"clip": "some-clip", "dino": "some-dino"},
        fingerprints={"clip": "00c11b", "dino": "00d150"},
        resolution=64,
        steps=plan.steps,
        guidance_scale=plan.guidance_scale,
        prompts=list(PROMPTS),
        seeds=[3, 4],
        gammas=list(GAMMAS),
    )
    return summarize(plan, scores, protocol, "0cafe0")


@pytest.fixture
def sheet() -> np.ndarray:
    return np.full((20, 30, 3), 200, np.uint8)


def test_summary_averages_within_subjects_and_then_over_them():
    summary = summary_of(3)
    np.testing.assert_allclose(summary.identity_dino.interval.mean, [0.21, 0.41, 0.61])
    np.testing.assert_allclose(summary.identity_clip.per_subject[2], [0.32, 0.52, 0.72])
    np.testing.assert_allclose(summary.text.interval.mean, [0.31, 0.21, 0.11])
    assert (summary.tau.mean, summary.text_tau.mean) == (1, -1)
    assert summary.largest_step == pytest.approx(0.2)
    assert summary.text.control == pytest.approx(0.05)


def test_scores_are_strict_json_and_hold_what_was_measured():
    found = json.loads(json.dumps(scores_document(summary_of(2)), allow_nan=False))
    assert found["curves"]["identity_dino"]["mean"] == [0.205, 0.405, 0.605]
    assert found["curves"]["text_clip"]["per_subject"]["who-1"] == [0.31, 0.21, 0.11]
    assert found["kendall_tau_identity"]["mean"] == 1
    assert found["protocol"]["fingerprints"]["dino"] == "00d150"
    assert found["checkpoint"] == "0cafe0"


def test_one_subject_gives_null_where_nothing_is_known():
    found = json.loads(json.dumps(scores_document(summary_of(1)), allow_nan=False))
    assert found["curves"]["identity_dino"]["low"] == [None] * 3
    assert found["curves"]["identity_dino"]["control"]["value"] is None


def test_protocol_id_changes_with_the_encoder_and_not_otherwise():
    assert summary_of(2).protocol.id == summary_of(3).protocol.id
    other = dataclasses.replace(summary_of(2).protocol, fingerprints={"dino": "other"})
    assert other.id != summary_of(2).protocol.id


def test_report_says_what_was_measured(sheet):
    page = render_report(summary_of(3), sheet, "A & B")
    text = re.sub(r"<[^>]+>", " ", page)
    for expected in ("A &amp; B", "0.210 → 0.610", "0.410", "00d150", "some-dino", "0cafe0", "who-2", "3, 4"):
        assert expected in text
    assert "in the &lt;snow&gt;" in page
    assert "<snow>" not in page
    assert "Only 3 subjects" in page
    assert page.count("<tr><th>") == 1 + len(GAMMAS) + 1


def test_report_loads_nothing_from_outside(sheet):
    page = render_report(summary_of(3), sheet)
    assert not re.findall(r"https?:|//[a-z]|<script|<link|@import|url\(", re.sub(r"base64,[^\"]+", "", page))
    pictures = [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]
    assert page.count("<img") == len(pictures) == 2
    assert Image.open(io.BytesIO(pictures[0])).size == (30, 20)
    assert Image.open(io.BytesIO(pictures[1])).width > 1000


def test_report_of_one_subject_warns_and_has_no_interval(sheet):
    page = render_report(summary_of(1), sheet)
    assert "One subject" in page
    assert "nan" not in re.sub(r"base64,[^\"]+", "", page).lower()
    assert 'class="ci"' not in page


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
