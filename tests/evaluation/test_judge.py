"""The judge replays its log; nothing is called. What a model would say is written here."""

import dataclasses
import json

import numpy as np
import pytest

from evaluation.judge import Item, JudgeError, Log, judge, judgements, ratings, read_score
from evaluation.rubrics import FOLLOWING, PRESERVATION, STYLE, Rubric
from evaluation.statistics import krippendorff_alpha

GREY = np.full((20, 30, 3), 128, np.uint8)
ITEMS = [Item("a", GREY, GREY + 20, "a dog"), Item("b", GREY + 40, GREY, "a cat")]


def test_the_rubrics_are_pinned():
    """Another wording is another protocol: whoever changes a rubric changes its hash here, and old scores go."""
    assert {r.question + " " + r.digest for r in (PRESERVATION, STYLE, FOLLOWING)} == {
        "preservation 3a1f117540dcdd42",
        "preservation 75356e3a24dc98eb",
        "following 0ae8f40fc0c7d555",
    }
    assert all(f"\n{score}: " in rubric.text for rubric in (PRESERVATION, STYLE, FOLLOWING) for score in range(5))


def test_a_score_is_the_last_that_is_named():
    assert read_score("I waver between Score: 2 and more.\nScore: 3") == 3
    assert read_score("**Score:** 4") == 4
    assert read_score("score = 0") == 0
    assert [read_score(text) for text in ("Score: 3.", "Score (0-4): 3", "Score: 3/4", "The score is 3.")] == [3] * 4
    no_scores = ("Score: 7", "Score: 2.5", "Score: -1", "Score: 3/10", "the score of all 4 pictures", "three", "")
    assert [read_score(text) for text in no_scores] == [None] * 7


def test_orders_are_swapped_and_exchanges_replayed(tmp_path):
    asked = []

    def complete(body):
        words = [part["text"] for part in body["messages"][0]["content"] if part["type"] == "text"]
        asked.append(words[1:])
        return "Score: 3" if words[1] == "The reference:" else "Score: 2" if len(asked) != 4 else "no idea"

    log = tmp_path / "log" / "judge.jsonl"
    first = judge(ITEMS, PRESERVATION, "judge-1", Log(log), complete, repeats=4)
    assert asked[:2] == [["The reference:", "The generated picture:"], ["The generated picture:", "The reference:"]]
    assert [v.score for v in first if v.item == "a"] == [3, 2, 3, None]
    by_item = {found.item: found for found in judgements(first)}
    assert by_item["a"].score == pytest.approx((3 + 2 + 3) / 3 / 4)
    assert (by_item["a"].order, by_item["a"].unread) == (-1, 1)
    with log.open("a") as lines:
        lines.write('{"request": "cut o')  # the kill came while this was written
    assert judge(ITEMS, PRESERVATION, "judge-1", Log(log), None, repeats=4) == first
    more = judge(ITEMS, FOLLOWING, "judge-1", Log(log), complete, repeats=1)  # goes on after the last whole line
    assert judge(ITEMS, FOLLOWING, "judge-1", Log(log), None, repeats=1) == more
    assert len(log.read_text().splitlines()) == len(first) + len(more)
    with pytest.raises(JudgeError, match="has no answer to request"):
        judge(ITEMS, PRESERVATION, "judge-2", Log(log), None)
    table = ratings(first, ["a", "b"])
    assert table.shape == (4, 2)
    assert np.isnan(table).sum() == 1
    assert krippendorff_alpha(table) < 1


def test_prompt_following_never_sees_the_reference(tmp_path):
    bodies = []
    judge(ITEMS[:1], FOLLOWING, "m", Log(tmp_path / "log"), lambda body: bodies.append(body) or "Score: 1", repeats=2)
    content = bodies[0]["messages"][0]["content"]
    assert [part["type"] for part in content] == ["text", "text", "text", "image_url"]
    assert content[1]["text"] == "The text: a dog"
    with pytest.raises(JudgeError, match="a: has no reference"):
        judge([dataclasses.replace(ITEMS[0], reference=None)], PRESERVATION, "m", Log(tmp_path / "log"))


def test_another_wording_is_asked_anew_and_not_mixed(tmp_path):
    log = Log(tmp_path / "log")
    other = Rubric("following", FOLLOWING.text + " Be kind.")
    both = [v for r in (FOLLOWING, other) for v in judge(ITEMS, r, "m", log, lambda _: "Score: 1", repeats=1)]
    assert len({verdict.rubric for verdict in both}) == 2
    assert len((tmp_path / "log").read_text().splitlines()) == 4
    with pytest.raises(JudgeError, match="2 rubrics and models"):
        judgements(both)


def test_a_broken_log_is_named_by_its_line(tmp_path):
    good = json.dumps({"request": "x", "answer": "Score: 1"})
    (tmp_path / "log").write_text("text\n" + good)
    with pytest.raises(JudgeError, match="log:1: no exchange"):
        Log(tmp_path / "log")
