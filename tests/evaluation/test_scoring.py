"""From answers to a leaderboard, on the pocket models: real encoders, known controls."""

import dataclasses
import json

import numpy as np
import pytest

from evaluation.answers import Answer, Cell, foreign_answers, is_drawn, read_row, write_answer
from evaluation.benchmarks import Benchmark, BenchmarkError
from evaluation.cache import VectorCache
from evaluation.eyes import clip_eye, dino_eye
from evaluation.gate_sweep import gate_sweep
from evaluation.layouts import pocket_benchmark
from evaluation.leaderboard import Entry, headline_entries, leaderboard
from evaluation.pocket import EDITS
from evaluation.protocol import Protocol, ProtocolError
from evaluation.scoring import Column, Judges, Masker, Scoring, controls, joined, readable
from flexip.pocket.identity import identity
from flexip.pocket.world import render


@pytest.fixture(scope="module")
def benchmark() -> Benchmark:
    return pocket_benchmark("test", creatures=3, photos=2).first(prompts=2)


@pytest.fixture(scope="module")
def judges() -> Judges:
    return Judges(clip_eye("pocket"), dino_eye("pocket"))


@pytest.fixture(scope="module")
def perfect(benchmark, tmp_path_factory) -> list[Answer]:
    """What a perfect method draws: the creature itself, in the scene and with the face that were asked for."""
    root, answers = tmp_path_factory.mktemp("perfect"), []
    for case in benchmark.cases:
        who = identity("test", int(case.unit.removeprefix("test-")))
        cell = Cell("perfect", case.unit, case.number, 0)
        image = render(EDITS[case.number].picture(who), 64).image
        answers.append(Answer(cell, write_answer(root, cell, image, case.prompt, "truth")))
    return answers


def test_a_row_is_known_by_what_it_answers_and_who_drew_it(benchmark, perfect, tmp_path):
    cell, root = perfect[0].cell, perfect[0].source.parents[2]
    prompt = benchmark.cases[0].prompt
    assert is_drawn(root, cell, prompt, "truth")
    assert not is_drawn(root, cell, prompt, "other weights")
    assert not is_drawn(root, cell, "another prompt", "truth")
    assert not is_drawn(tmp_path, cell, prompt, "truth")
    cut = cell.file(tmp_path)
    cut.parent.mkdir(parents=True)
    cut.write_bytes(perfect[0].photo.data[:100])
    assert read_row(cut) is None
    assert dataclasses.replace(cell, gamma=0.5).file(root).name == "000-s0-g0.500.png"
    files = {dataclasses.replace(cell, method=name).file(root) for name in ("a b", "a_b", "a/b")}
    assert len(files) == 3  # names that differ in what a file's name cannot hold


def test_scores_are_of_pictures_not_of_their_order_and_are_not_computed_twice(benchmark, judges, perfect, tmp_path):
    answers = [*perfect, *controls(benchmark, [0])]
    first = Scoring(benchmark, answers, judges, VectorCache(tmp_path / "a.sqlite")).columns()

    def blind(images):
        raise AssertionError(f"{len(images)} pictures encoded again")

    cache = VectorCache(tmp_path / "a.sqlite")
    unseeing = dataclasses.replace(
        judges, clip=dataclasses.replace(judges.clip, see=blind), dino=dataclasses.replace(judges.dino, see=blind)
    )
    again = Scoring(benchmark, answers[::-1], unseeing, cache).columns()
    flat = [{(c.name, cell): value for c in found for cell, value in c.values.items()} for found in (first, again)]
    assert flat[0] == pytest.approx(flat[1], nan_ok=True)
    text, kept = first[0], next(c for c in first if c.protocol.metric == "DINO-I")
    copied = {cell: value for cell, value in kept.values.items() if cell.method == "copy"}
    drawn = {cell: value for cell, value in kept.values.items() if cell.method == "perfect"}
    wrong = {cell: value for cell, value in kept.values.items() if cell.method == "wrong subject"}
    assert min(copied.values()) > max(wrong.values())
    assert np.mean([*drawn.values()]) > np.mean([*wrong.values()])
    obeyed, ignored = ([v for cell, v in text.values.items() if cell.method == m] for m in ("perfect", "copy"))
    assert np.mean(obeyed) > np.mean(ignored)


def test_copying_wins_identity_and_is_flagged_while_text_is_not(benchmark, judges, perfect, tmp_path):
    answers = [*perfect, *controls(benchmark, [0])]
    columns = Scoring(benchmark, answers, judges, VectorCache(tmp_path / "a.sqlite")).columns()
    board = leaderboard(columns, headline_entries(columns, 0.5))
    assert [entry.title for entry in board.entries] == ["perfect"]
    assert [entry.title for entry in board.controls] == ["copy", "wrong subject"]
    flagged = {name for name, why in board.flags.items() if "copying the reference wins" in why}
    assert {c.name for c in columns if c.protocol.metric in ("CLIP-I", "DINO-I")} <= flagged
    assert not any(name.startswith("CLIP-T") for name in flagged)
    assert board.ranking is None  # a pool of one


def test_masked_metrics_see_the_subject_alone(benchmark, judges, perfect, tmp_path):
    def left(image):
        mask = np.zeros(image.shape[:2], bool)
        mask[:, : image.shape[1] // 2] = True
        return mask

    def columns(masker: Masker | None) -> dict[str, np.ndarray]:
        answers = [*perfect, *controls(benchmark, [0])]
        scoring = Scoring(benchmark, answers, dataclasses.replace(judges, masker=masker), cache)
        return {c.protocol.metric: np.array([*c.values.values()]) for c in scoring.columns()}

    cache = VectorCache(tmp_path / "a.sqlite")
    plain, nothing = columns(None), columns(Masker("nothing found", lambda _: None))
    whole = columns(Masker("all of it", lambda image: np.ones(image.shape[:2], bool)))
    half = columns(Masker("left half", left))
    for name in ("CLIP-I", "DINO-I"):
        np.testing.assert_allclose(whole[f"{name} masked"], plain[name], rtol=1e-5)
        np.testing.assert_allclose(nothing[f"{name} masked"], plain[name], rtol=1e-5)
        assert np.abs(half[f"{name} masked"] - plain[name]).max() > 0.01
    assert np.abs(nothing["CLIP-T background"] - plain["CLIP-T"]).max() > 0.01  # of the prompt without its subject
    assert np.ptp(whole["CLIP-T background"]) < np.ptp(half["CLIP-T background"])  # all is painted over: no picture
    copied, wrong = (whole["MaSC"][len(perfect) + k :: 2] for k in (0, 1))
    assert copied.min() > wrong.max()
    assert np.abs(half["MaSC"] - whole["MaSC"]).max() > 0.01


def test_what_is_no_picture_costs_its_own_row(perfect, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"text")
    gone = Answer(Cell("x", "a", 1, 0), tmp_path / "gone.png")
    good, bad = readable([perfect[0], Answer(Cell("x", "a", 0, 0), broken), gone])
    assert good == [perfect[0]]
    assert [str(broken) in bad[0], "gone.png: cannot be read" in bad[1]] == [True, True]


def test_somebody_elses_pictures_need_their_manifest(benchmark, perfect, tmp_path):
    (tmp_path / "one.png").write_bytes(perfect[0].photo.data)
    case = benchmark.cases[0]
    benchmark = dataclasses.replace(benchmark, part=False)
    line = {"file": "one.png", "subject": case.unit, "prompt": case.prompt.upper() + "."}
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text(json.dumps(line) + "\n" + json.dumps({**line, "seed": 1, "gamma": 0.25}) + "\n")
    found = foreign_answers("theirs", manifest, benchmark)
    assert [answer.cell for answer in found] == [
        Cell("theirs", case.unit, 0, 0), Cell("theirs", case.unit, 0, 1, 0.25)
    ]  # fmt: skip
    for wrong, said in (
        ({**line, "subject": "nobody"}, ":1: subject = 'nobody'; pocket has"),
        ({**line, "prompt": "a sks dog"}, ":1: prompt = 'a sks dog'"),
        ({**line, "file": "none.png"}, ":1: file = .*no such file"),
        ({**line, "seed": "x"}, ":1: seed = 'x'; a number"),
        ({**line, "subject": []}, r":1: subject = \[\]"),
    ):
        manifest.write_text(json.dumps(wrong))
        with pytest.raises(BenchmarkError, match=f"manifest.jsonl{said}"):
            foreign_answers("theirs", manifest, benchmark)
    other = {**line, "subject": benchmark.units[1], "prompt": benchmark.cases[2].prompt}
    manifest.write_text(json.dumps(line) + "\n" + json.dumps(other))
    few = benchmark.first(subjects=1)
    assert [len(foreign_answers("theirs", manifest, asked)) for asked in (benchmark, few)] == [2, 1]
    manifest.write_text("\n")
    with pytest.raises(BenchmarkError, match=r"manifest\.jsonl: no line of 'test-000'"):
        foreign_answers("theirs", manifest, benchmark)
    manifest.write_text(json.dumps(line) + "\n" + json.dumps(line))
    with pytest.raises(BenchmarkError, match=r":2: the same picture as in .*manifest.jsonl:1"):
        foreign_answers("theirs", manifest, benchmark)


def column(metric: str, values: dict[Cell, float], role: str = "", weights: str = "w") -> Column:
    return Column(Protocol(metric, "eye", weights), values, role)


def dial(method: str, rise: float, units: int = 6) -> tuple[dict[Cell, float], dict[Cell, float]]:
    kept, said = {}, {}
    for unit in range(units):
        for gamma in (0.0, 0.5, 1.0):
            cell = Cell(method, f"u{unit}", 0, 0, gamma)
            kept[cell], said[cell] = 0.2 + rise * gamma + 0.01 * unit, 0.3 - 0.1 * gamma
    return kept, said


def test_a_sweep_knows_its_curves_front_area_and_order():
    kept, said = dial("flexip", 0.6)
    identity, text = column("DINO-I", kept, "identity"), column("CLIP-T", said, "text")
    found = gate_sweep("flexip", identity, text)
    assert found is not None
    np.testing.assert_allclose(found.curves[0].mean, [0.225, 0.525, 0.825])
    np.testing.assert_allclose(found.front, found.points[::1])
    assert (float(found.tau_identity.mean), float(found.tau_text.mean)) == (1, -1)
    assert float(found.step.mean) == pytest.approx(0.5)
    stairs = 0.225 * 0.3 + 0.3 * 0.25 + 0.3 * 0.2
    assert float(found.area.mean) == pytest.approx(stairs)
    assert found.area.low < found.area.mean < found.area.high
    assert gate_sweep("nobody", identity, text) is None


def test_a_lost_picture_does_not_bend_the_curve():
    kept, said = dial("flexip", 0.6)
    odd = {dataclasses.replace(cell, number=1): 0.0 for cell in kept if cell.gamma != 1}  # its last setting was lost
    identity, text = (column(name, {**values, **odd}) for name, values in (("DINO-I", kept), ("CLIP-T", said)))
    found = gate_sweep("flexip", identity, text)
    assert found is not None
    np.testing.assert_allclose(found.curves[0].mean, [0.225, 0.525, 0.825])


def test_a_better_method_leads_and_an_equal_one_ties():
    ours, _ = dial("ours", 0.6)
    theirs, _ = dial("theirs", 0.4)
    noise = np.random.default_rng(0).normal(0, 0.05, len(ours)).tolist()
    alike = {dataclasses.replace(c, method="alike"): v + n for (c, v), n in zip(ours.items(), noise, strict=True)}
    table = [column("DINO-I", {**ours, **theirs, **alike}, "identity")]
    board = leaderboard(table, headline_entries(table, 0.6))
    assert [entry.gamma for entry in board.entries] == [0.5, 0.5, 0.5]
    standing = {entry.method: board.standings[entry, table[0].name] for entry in board.entries}
    assert (standing["ours"].first, standing["alike"].first, standing["theirs"].first) == (True, True, False)
    assert standing["theirs"].p <= 2 * 2 / 2**6  # all six subjects agree; two comparisons
    assert board.ranking is not None
    assert board.ranking.methods == tuple(entry.title for entry in board.entries)


def test_only_subjects_that_all_have_are_compared():
    ours, theirs = dial("ours", 0.6, units=4)[0], dial("theirs", 0.4, units=6)[0]
    table = [column("DINO-I", {**ours, **theirs})]
    assert leaderboard(table, headline_entries(table, 0.5)).subjects == 4
    with pytest.raises(ValueError, match="no case in common"):
        leaderboard(table, [Entry("ours", 0.5), Entry("nobody", None)])


def test_who_answered_the_easy_prompts_alone_is_compared_by_those():
    easy, hard = ({Cell("ours", f"u{u}", n, 0): 0.2 + 0.4 * n + 0.01 * u for u in range(6)} for n in (1, 0))
    theirs = {dataclasses.replace(cell, method="theirs"): value - 0.1 for cell, value in easy.items()}
    seeds = {dataclasses.replace(cell, seed=1): value for cell, value in easy.items()}  # more seeds weigh no more
    table = [column("CLIP-T", {**easy, **hard, **theirs, **seeds})]
    board = leaderboard(table, headline_entries(table, 0.5))
    ours, behind = (board.standings[entry, table[0].name] for entry in board.entries)
    assert (board.subjects, board.cases) == (6, 6)
    assert float(ours.interval.mean) == pytest.approx(0.625)
    assert behind.behind is not None
    assert (float(behind.behind.interval.mean), behind.first) == (pytest.approx(-0.1), False)


def test_what_was_not_measured_is_not_first():
    ours, theirs = dial("ours", 0.6)[0], dial("theirs", 0.4)[0]
    known = {cell: value if cell.method == "ours" else np.nan for cell, value in {**ours, **theirs}.items()}
    table = [column("DINO-I", {**ours, **theirs}), column("Seed diversity", known)]
    board = leaderboard(table, headline_entries(table, 0.5))
    assert [board.standings[entry, table[1].name].first for entry in board.entries] == [True, False]


def test_what_a_model_without_the_reference_wins_is_flagged():
    ours, base = dial("ours", 0.6), dial("base", 0.4)
    above = {cell: value + 0.2 for cell, value in base[1].items()}
    table = [column("DINO-I", {**ours[0], **base[0]}, "identity"), column("CLIP-T", {**ours[1], **above}, "text")]
    board = leaderboard(table, headline_entries(table, 0.5), ["base"])
    assert board.flags == {table[1].name: ("a model without the reference wins",)}
    assert not leaderboard(table, headline_entries(table, 0.5)).flags


def test_columns_of_other_weights_are_not_joined():
    ours, theirs = dial("ours", 0.6)[0], dial("theirs", 0.4)[0]
    assert len(joined([[column("DINO-I", ours)], [column("DINO-I", theirs)]])[0].values) == 36
    with pytest.raises(ProtocolError, match="weights differ"):
        joined([[column("DINO-I", ours)], [column("DINO-I", theirs, weights="other")]])
