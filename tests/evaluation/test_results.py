"""The page's tables and verdicts, on contenders with known curves."""

import numpy as np
import pytest

from evaluation.comparison import Scores
from evaluation.pocket import truth_of
from evaluation.results import (
    Contender,
    Control,
    ablation_table,
    chance,
    comparison_table,
    control_table,
    dial_table,
    verdicts,
)
from evaluation.sheet import draw_strips
from flexip.pocket.identity import identity

DIAL = np.linspace(0, 1, 11)


def contender(name: str, identity, edit, noise: float = 0.0) -> Contender:
    rng = np.random.default_rng(len(name))
    shape = (3, 16, 2, 2, 11)
    grids = [np.broadcast_to(np.asarray(line), shape) + noise * rng.normal(size=shape) for line in (identity, edit)]
    cosines: dict[str, np.ndarray] = dict.fromkeys(("dino", "clip", "text"), grids[0])
    return Contender(name, name.upper(), 3.0, Scores(DIAL, *grids), cosines, 0.98, 1_900_000, 12.0)


@pytest.fixture(scope="module")
def contenders():
    square = np.sqrt(1 - DIAL**2)
    return [
        contender("flexip", DIAL, square, noise=0.02),
        contender("ip-adapter-plus", DIAL, 1 - DIAL, noise=0.02),
        contender("plus-dino-by-dataset", DIAL, square, noise=0.02),
    ]


def test_verdicts_say_what_came_out_and_what_did_not(contenders):
    tau, step, plus, matched = verdicts(contenders, (0.0, 0.0))
    assert "**reached**" in tau
    assert "**reached**" in step
    assert "**reached**, 1." in plus
    assert "**not reached**" in matched  # equal curves: the interval holds 1
    worse = [contenders[1], contenders[1], contenders[0]]
    worse = [Contender(**{**vars(c), "name": old.name}) for c, old in zip(worse, contenders, strict=True)]
    assert "**not reached**" in verdicts(worse, (0.0, 0.0))[2]


def test_the_comparison_has_a_line_for_each_method_with_paired_ratios(contenders):
    head, _, ours, plus, matched = comparison_table(contenders, (0.0, 0.0))
    assert head.count("|") == ours.count("|") == plus.count("|")
    assert "| 1 |" in ours
    ratio = float(plus.split("|")[7].split("[")[0])
    assert ratio == pytest.approx((np.pi / 4) / 0.5, rel=0.15)
    low, high = matched.split("|")[7].split("[")[1].rstrip("] ").split(", ")
    assert float(low) < 1 < float(high) or abs(float(low) - 1) < 0.02
    assert "0.0" in ours.split("|")[4]
    assert "→" in ours


def test_other_tables_have_their_numbers(contenders):
    dial = dial_table(contenders, (0.0, 0.0))
    assert "1.000 [1.000, 1.000]" in dial[2] or "0.9" in dial[2]
    ablations = ablation_table(contenders[0], contenders[1:], (0.0, 0.0))
    assert len(ablations) == 5
    controls = control_table([Control("guessing", 0.2, 0.1, {}), Control("base", 0.25, 0.9, {"dino": 0.5})])
    assert controls[2] == "| guessing | 0.200 | 0.100 | – | – | – |"
    assert controls[3] == "| base | 0.250 | 0.900 | 0.500 | – | – |"


def test_chance_is_what_guessing_gets():
    truth = truth_of([identity("test", k) for k in range(4)])
    kept, obeyed = chance(truth)
    assert 0.1 < kept < 0.25  # 8 shapes, 10 colours, 5 patterns, 7 tops, 4 eyes, 3 marks
    assert 0.08 < obeyed < 0.3  # 10 scenes, 7 expressions, 5 poses, 4 styles


def test_strips_stand_subject_by_subject_one_method_under_the_other():
    rows = np.full((2 * 64, 5 * 64, 3), 200, np.uint8)
    rows[64:, 64:128] = (255, 0, 0)
    sheet = draw_strips([("ours", rows), ("theirs", rows)], side=64)
    assert (sheet == (255, 0, 0)).all(axis=-1).sum() == 2 * 64 * 64
