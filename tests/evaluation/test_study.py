"""A study's page, its key and what its votes say."""

import json
import re

import numpy as np
import pytest

from evaluation.answers import Answer, Cell
from evaluation.benchmarks import BenchmarkError, Photo
from evaluation.layouts import pocket_benchmark
from evaluation.study import CHECK, RIGHT, WRONG, analyse, key, make_trials, page, read_votes
from flexip.images import encode_png

METHODS = ("ours", "theirs", "other")


@pytest.fixture(scope="module")
def trials():
    benchmark = pocket_benchmark("test", creatures=4, photos=1).first(prompts=4)
    answers = [
        Answer(
            Cell(method, case.unit, case.number, 0),
            Photo(encode_png(np.full((32, 32, 3), 80 * shade + case.number, np.uint8)), "grey"),
        )
        for shade, method in enumerate(METHODS)
        for case in benchmark.cases
    ]
    with pytest.raises(ValueError, match="two at least"):
        make_trials(benchmark, answers, ["ours"])
    with pytest.raises(ValueError, match="no case in common"):
        make_trials(benchmark, answers, ["ours", "nobody"])
    return make_trials(benchmark, answers, METHODS, most=16)


def test_raters_see_pictures_and_no_names(trials):
    assert sum(trial.is_check for trial in trials) == 2
    assert {trial.question for trial in trials} == {"preservation", "flexibility"}
    html = page(trials, "Which <one>?")
    assert "Which &lt;one&gt;?" in html
    assert not any(f'"{name}"' in html for name in (*METHODS, RIGHT, WRONG))
    assert all(code in html for trial in trials for code, _, _ in trial.options)
    assert "http" not in html.replace("http-equiv", "")
    assert {"ours", "theirs", "other"} == set(key(trials)[trials[0].id]["options"].values())


def test_places_are_balanced_within_each_question(trials):
    shown = json.loads(re.findall(r"TRIALS = (\[.*?\]);\n", page(trials, "t"))[0])
    for ask in {entry["ask"] for entry in shown}:
        real = [entry["turn"] for entry in shown if entry["ask"] == ask and not entry["id"].startswith(CHECK)]
        assert sorted(real) == list(range(8))  # each place in turn, whatever stands between


def test_there_is_a_check_in_a_short_study_and_votes_of_other_pictures_are_refused(trials):
    benchmark = pocket_benchmark("test", creatures=2, photos=1).first(prompts=1)
    both = []
    for shade in (10, 20):
        photo = Photo(encode_png(np.full((32, 32, 3), shade, np.uint8)), "grey")
        answers = [Answer(Cell(m, c.unit, c.number, 0), photo) for m in METHODS for c in benchmark.cases]
        both.append(make_trials(benchmark, answers, METHODS, most=2))
    assert [sum(trial.is_check for trial in found) for found in both] == [1, 1]
    with pytest.raises(BenchmarkError, match="not in the study's key"):
        analyse(votes_of(both[0], "anna", "ours"), key(both[1]))


def votes_of(trials, rater: str, method: str, check: str = RIGHT) -> list[dict[str, str]]:
    return [
        {"rater": rater, "trial": t.id, "choice": code}
        for t in trials
        for code, name, _ in t.options[:3]
        if name == (check if t.is_check else method) and (name != WRONG or code == t.options[1][0])
    ]


def test_votes_become_shares_and_who_did_not_look_is_left_out(trials, tmp_path):
    votes = [*votes_of(trials, "anna", "ours"), *votes_of(trials, "ben", "ours"), *votes_of(trials, "cleo", "theirs")]
    votes += votes_of(trials, "dora", "other", check=WRONG)
    found = analyse(votes, key(trials))
    assert found.raters == 3
    assert found.dropped == ("dora: missed 2 attention checks",)
    shares = {(s.question, s.method): s for s in found.shares}
    ours = shares["preservation", "ours"]
    assert (ours.votes, ours.trials) == (16, 24)
    assert float(ours.share.low) < 2 / 3 < float(ours.share.high)
    assert float(shares["preservation", "other"].share.mean) == 0
    assert sum(s.votes for s in found.shares if s.question == "flexibility") == 24
    assert found.alpha["preservation"] < 0.1  # each rater always chose one method, whatever the item
    again = analyse(
        [*votes, {**votes[0], "choice": next(c for c, m, _ in trials[0].options if m == "theirs")}], key(trials)
    )
    assert {s.method: s.votes for s in again.shares if s.question == "preservation"}["ours"] == 15
    with pytest.raises(BenchmarkError, match=r"rater anna: .* is not in the study's key"):
        analyse([{"rater": "anna", "trial": trials[0].id, "choice": "nothing"}], key(trials))


def test_raters_who_agree_item_by_item_have_alpha_1(trials):
    real = [trial for trial in trials if not trial.is_check]
    votes = [
        {"rater": rater, "trial": trial.id, "choice": trial.options[i % 3][0]}
        for rater in ("anna", "ben")
        for i, trial in enumerate(real)
    ]
    assert analyse(votes, key(trials)).alpha == pytest.approx({"preservation": 1, "flexibility": 1})


def test_saved_files_are_read_and_others_refused(trials, tmp_path):
    saved = {"study": "x", "rater": "anna", "votes": [{"trial": trials[0].id, "choice": "c", "place": 0}]}
    (tmp_path / "votes-anna.json").write_text(json.dumps(saved))
    assert read_votes([tmp_path / "votes-anna.json"]) == [{"rater": "anna", "trial": trials[0].id, "choice": "c"}]
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(BenchmarkError, match=r"other.json: no file that the study's page saved"):
        read_votes([tmp_path / "other.json"])
    assert trials[8].id.startswith(CHECK)
