"""A forced-choice study with people: a static page to send out, and what its answers say.

A trial shows the reference, the prompt, and one picture of every method without its name; a rater picks one. Every
rater sees the trials in an order of their own, and over trials every method stands in every place equally often.
Attention checks, in which one picture alone can be right, tell who was not looking.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import jinja2
import numpy as np

from evaluation.answers import Answer
from evaluation.benchmarks import Benchmark, BenchmarkError
from evaluation.report import tile
from evaluation.statistics import Interval, bootstrap_mean, krippendorff_alpha, wilson

Question = Literal["preservation", "flexibility"]
QUESTIONS: dict[Question, str] = {
    "preservation": "Which picture shows the very subject of the reference?",
    "flexibility": "Which picture does best what the text asks for, with this subject?",
}
CHECK = "check"  # method names of an attention check's right and wrong picture
RIGHT, WRONG = "right", "wrong"


@dataclass(frozen=True)
class Trial:
    """One question. Options are (code, method, picture); raters see codes."""

    id: str
    question: Question
    unit: str
    prompt: str
    reference: str  # data URI
    options: tuple[tuple[str, str, str], ...]

    @property
    def is_check(self) -> bool:
        return self.id.startswith(CHECK)


@dataclass(frozen=True)
class Share:
    """A method's votes in one question."""

    question: Question
    method: str
    votes: int
    trials: int
    share: Interval  # Wilson: as if all votes were independent
    by_item: Interval  # resampling items, whose votes are not: the wider one is to be believed


@dataclass(frozen=True)
class Findings:
    """What a study says."""

    shares: tuple[Share, ...]
    alpha: dict[Question, float]  # Krippendorff's, nominal, over the raters that were kept
    raters: int
    dropped: tuple[str, ...]  # a line for each rater who missed attention checks


def make_trials(
    benchmark: Benchmark, answers: Sequence[Answer], methods: Sequence[str], *, most: int = 40, check_every: int = 8
) -> list[Trial]:
    """Trials for the cases that every method has answered, both questions, first seed, and checks among them.

    Raises:
        ValueError: fewer than two methods, or no case that all have answered.
    """
    if len(methods) < 2:
        raise ValueError(f"methods: {list(methods)}; a choice needs two at least")
    found = {(a.cell.unit, a.cell.number, a.cell.method): a for a in sorted(answers, key=lambda a: -a.cell.seed)}
    complete = [c for c in benchmark.cases if all((c.unit, c.number, m) in found for m in methods)]
    if not complete:
        raise ValueError(f"methods: {', '.join(methods)} have answered no case in common")
    trials = list[Trial]()
    spread = np.linspace(0, len(complete) - 1, min(len(complete), max(1, most // len(QUESTIONS)))).round().astype(int)
    for case in (complete[i] for i in spread):
        reference = tile(benchmark.subject(case.subjects[0]).reference.image)
        pictures = [(m, tile(found[case.unit, case.number, m].image)) for m in methods]
        for question in QUESTIONS:
            name = f"{question}-{case.unit}-{case.number}"
            trials.append(Trial(name, question, case.unit, case.prompt, reference, _coded(name, pictures)))
    return _with_checks(benchmark, trials, check_every)


def page(trials: Sequence[Trial], title: str) -> str:
    """The page as one HTML file; `?rater=NAME` says who answers. It sends nothing: raters save a file."""
    counts = dict[tuple[bool, Question], int]()
    turns = list[int]()  # of a trial among those like it, so that places are balanced within each question
    for trial in trials:
        kind = (trial.is_check, trial.question)
        turns.append(counts.get(kind, 0))
        counts[kind] = turns[-1] + 1
    shown = [
        {
            "id": trial.id,
            "turn": turn,
            "ask": QUESTIONS[trial.question],
            "prompt": trial.prompt,
            "reference": trial.reference,
            "options": [{"code": code, "picture": picture} for code, _, picture in trial.options],
        }
        for trial, turn in zip(trials, turns, strict=True)
    ]
    environment = jinja2.Environment(autoescape=True)
    template = environment.from_string(files("evaluation").joinpath("study.html.j2").read_text("utf-8"))
    data = json.dumps(shown).replace("<", "\\u003c")
    return template.render(title=title, trials=data, study=_digest(data))


def key(trials: Sequence[Trial]) -> dict[str, Any]:
    """What turns codes into methods; kept from the raters, and given to `analyse`."""
    return {
        trial.id: {
            "question": trial.question,
            "unit": trial.unit,
            "options": {code: method for code, method, _ in trial.options},
        }
        for trial in trials
    }


def read_votes(paths: Sequence[Path]) -> list[dict[str, str]]:
    """The votes of saved files: rater, trial, choice.

    Raises:
        BenchmarkError: a file that the page did not save.
    """
    votes = list[dict[str, str]]()
    for path in paths:
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            votes += [{"rater": saved["rater"], "trial": v["trial"], "choice": v["choice"]} for v in saved["votes"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BenchmarkError(f"{path}: no file that the study's page saved ({error})") from error
    return votes


def analyse(votes: Sequence[Mapping[str, str]], key: Mapping[str, Any], allowed_misses: int = 0) -> Findings:
    """Shares of votes, agreement, and who was left out. A rater's second vote in a trial counts instead of the first.

    Raises:
        BenchmarkError: a vote in a trial, or for a code, that the key does not know.
    """
    chosen = dict[tuple[str, str], str]()
    for vote in votes:
        options = key.get(vote["trial"], {}).get("options", {})
        if vote["choice"] not in options:
            raise BenchmarkError(
                f"rater {vote['rater']}: {vote['trial']}: {vote['choice']!r} is not in the study's key"
            )
        chosen[vote["rater"], vote["trial"]] = options[vote["choice"]]
    misses = dict.fromkeys(sorted({rater for rater, _ in chosen}), 0)
    for (rater, trial), method in chosen.items():
        misses[rater] += trial.startswith(CHECK) and method != RIGHT
    kept = [rater for rater, count in misses.items() if count <= allowed_misses]
    dropped = tuple(f"{rater}: missed {misses[rater]} attention checks" for rater in misses if rater not in kept)
    good = {place: method for place, method in chosen.items() if place[0] in kept and not place[1].startswith(CHECK)}
    shares, alpha = list[Share](), dict[Question, float]()
    for question in QUESTIONS:
        trials = sorted(
            trial for trial, entry in key.items() if entry["question"] == question and trial[: len(CHECK)] != CHECK
        )
        table = {trial: {r: good[r, trial] for r in kept if (r, trial) in good} for trial in trials}
        methods = sorted({method for trial in trials for method in key[trial]["options"].values()})
        shares += [_share(question, method, table) for method in methods]
        alpha[question] = _agreement(table, kept, methods)
    return Findings(tuple(shares), alpha, len(kept), dropped)


def _share(question: Question, method: str, table: Mapping[str, Mapping[str, str]]) -> Share:
    won = [np.mean([vote == method for vote in votes.values()]) for votes in table.values() if votes]
    votes = sum(vote == method for of_item in table.values() for vote in of_item.values())
    asked = sum(len(of_item) for of_item in table.values())
    by_item = bootstrap_mean(np.array(won if won else [np.nan], dtype=np.float64))
    return Share(question, method, votes, asked, wilson(votes, asked), by_item)


def _agreement(table: Mapping[str, Mapping[str, str]], raters: Sequence[str], methods: Sequence[str]) -> float:
    if not table or not raters:
        return float("nan")
    values = [[float(methods.index(v[r])) if r in v else np.nan for v in table.values()] for r in raters]
    return krippendorff_alpha(np.array(values), "nominal")


def _with_checks(benchmark: Benchmark, trials: list[Trial], every: int) -> list[Trial]:
    """After every so many trials, and once at least, one whose right picture is the reference itself.

    Its wrong ones are others' references.
    """
    every = min(every, len(trials))
    if len(benchmark.subjects) <= max(len(trial.unit.split("+")) for trial in trials):
        return trials  # nobody else is there to be wrong
    tiles = {subject.name: tile(subject.reference.image) for subject in benchmark.subjects}
    count, mixed = len(trials[0].options), list[Trial]()
    for number, trial in enumerate(trials):
        mixed.append(trial)
        if number % every == every - 1:
            name = f"{CHECK}-{len(mixed)}"
            others = [picture for unit, picture in tiles.items() if unit not in trial.unit.split("+")]
            wrong = [(WRONG, others[(number + i) % len(others)]) for i in range(count - 1)]
            pictures = [(RIGHT, trial.reference), *wrong]
            coded = _coded(name, pictures)
            mixed.append(Trial(name, "preservation", trial.unit, trial.prompt, trial.reference, coded))
    return mixed


def _coded(trial: str, pictures: Sequence[tuple[str, str]]) -> tuple[tuple[str, str, str], ...]:
    """A code for each picture, of another picture another: votes of an earlier study are not taken for this one's."""
    return tuple(
        (_digest(f"{trial} {i} {method} {data}")[:8], method, data) for i, (method, data) in enumerate(pictures)
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
