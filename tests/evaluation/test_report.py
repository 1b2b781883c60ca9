"""The report of known columns: what the page and the JSON say, and that the page loads nothing."""

import json
import re

import numpy as np
import pytest

from evaluation.answers import Answer, Cell
from evaluation.benchmarks import Photo
from evaluation.calibration_check import Check, check_real_pictures
from evaluation.gate_sweep import gate_sweep
from evaluation.layouts import pocket_benchmark
from evaluation.leaderboard import headline_entries, leaderboard
from evaluation.protocol import Protocol
from evaluation.report import Report, document, render
from evaluation.scoring import Column, controls
from flexip.images import encode_png

GAMMAS = (0.0, 0.5, 1.0)


@pytest.fixture(scope="module")
def report() -> Report:
    """Two subjects; <ours> has a dial, theirs has none; a copy wins identity."""
    benchmark = pocket_benchmark("test", creatures=2, photos=1).first(prompts=1)
    grey = Photo(encode_png(np.full((32, 32, 3), 90, np.uint8)), "grey")
    cells = [Cell("<ours>", c.unit, 0, 0, gamma) for c in benchmark.cases for gamma in GAMMAS]
    cells += [Cell("theirs", c.unit, 0, 0) for c in benchmark.cases]
    answers = [Answer(cell, grey) for cell in cells]
    kept = {cell: 0.4 + 0.3 * (cell.gamma or 0) for cell in cells}
    said = {cell: 0.3 - 0.1 * (cell.gamma or 0) for cell in cells}
    for answer in controls(benchmark, [0]):
        kept[answer.cell] = 1.0 if answer.cell.method == "copy" else 0.1
        said[answer.cell] = 0.1
    identity = Column(Protocol("DINO-I", "an eye", "00ff"), kept, "identity")
    text = Column(Protocol("CLIP-T", "an eye", "00ff"), said, "text")
    columns = [text, identity]
    sweep = gate_sweep("<ours>", identity, text)
    assert sweep is not None
    return Report(
        "Who <keeps> what",
        benchmark,
        leaderboard(columns, headline_entries(columns, 0.5)),
        [sweep],
        identity,
        text,
        answers,
        failures=["theirs: out of memory"],
        notes=["ms-bench/dog: the same picture as dreambench/dog"],
        checks=[Check("DINO-I", 0.78, 0.774, 30), Check("CLIP-I", 0.8, 0.885, 10)],
        remarks=["a ruler that flatters"],
        provenance={"method theirs": "pictures of theirs.jsonl"},
    )


def test_the_page_says_what_was_measured_and_loads_nothing(report):
    html = render(report)
    assert "Who &lt;keeps&gt; what" in html
    assert "<ours>" not in html
    assert "⚑ copying the reference wins" in html
    assert "2 subjects only" in html
    assert "theirs: out of memory" in html
    assert "a ruler that flatters" in html
    assert html.count("<td>0.5</td>") == 1  # every setting has its line
    assert report.identity.protocol.id in html
    assert "PASS" not in html
    assert "published 0.774: pass" in re.sub(r"\s+", " ", html)
    assert "published 0.885: fail" in re.sub(r"\s+", " ", html)
    sources = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert html.count("<svg") == 2
    assert html.count("<figcaption>") == 2 * (3 + 1)


def test_the_json_is_strict_and_says_the_same(report):
    found = json.loads(json.dumps(document(report), allow_nan=False))
    ours, theirs, copy, wrong = found["leaderboard"]
    assert [row["method"] for row in (ours, theirs, copy, wrong)] == ["<ours>", "theirs", "copy", "wrong subject"]
    assert ours["metrics"]["DINO-I (an eye)"]["mean"] == 0.55
    assert theirs["metrics"]["DINO-I (an eye)"]["verdict"] == "worse"
    assert theirs["metrics"]["DINO-I (an eye)"]["p_holm"] == 1  # two subjects can show nothing: 2 / 2^2, twice
    assert (ours["mean_rank"], theirs["mean_rank"]) == (1.5, 1.5)
    assert "2 methods" in found["mean_rank_pool"]
    assert found["flags"] == {"DINO-I (an eye)": ["copying the reference wins"]}
    assert found["sweeps"][0]["kendall_tau_identity"]["mean"] == 1
    assert [check["passed"] for check in found["checks"]] == [True, False]


def test_the_check_of_real_pictures_says_pass_or_fail_and_is_for_published_backbones_alone(report):
    passed, failed = report.checks
    assert passed.line == "PASS DINO-I of real pictures 0.780, published 0.774 ± 0.020"
    assert failed.line.startswith("FAIL CLIP-I of real pictures 0.800")
    assert "10 of 30 subjects" in failed.line
    from evaluation.cache import VectorCache
    from evaluation.eyes import Eye

    eye = Eye("pocket", "", "", lambda images: np.ones((len(images), 2)))
    assert check_real_pictures(report.benchmark, eye, eye, VectorCache.__new__(VectorCache)) == []
