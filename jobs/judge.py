"""Ask a multimodal model about a benchmark's pictures, through any OpenAI-style endpoint, or replay what it said.

python -m jobs.judge --config configs/pocket/benchmark.yaml --judge.endpoint http://host/v1 --judge.model NAME
python -m jobs.judge --config configs/pocket/benchmark.yaml --judge.model NAME          replays the log alone

It takes the configuration of jobs.evaluate and reads the pictures in <output>/pictures; the endpoint's key is in
$OPENAI_API_KEY. Every exchange is logged in <output>/judge.jsonl, so that no question is paid twice.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from evaluation.answers import Answer
from evaluation.benchmarks import Benchmark, Case
from evaluation.judge import Complete, Item, Log, judge, judgements, ratings, verdict_rows
from evaluation.leaderboard import CONTROLS
from evaluation.rubrics import FOLLOWING, PRESERVATION, STYLE
from evaluation.scoring import controls, readable
from evaluation.statistics import bootstrap_mean, krippendorff_alpha
from jobs.config import Section, load
from jobs.console import UserError, command_line, say
from jobs.evaluate import EvaluateConfig
from jobs.evaluation.questions import methods_of, questions_of
from jobs.evaluation.stored import stored_answers


class JudgeSettings(Section):
    endpoint: str | None = Field(default=None, description="base URL of an OpenAI-style API; none: the log is replayed")
    model: str = Field(default="", description="name of the model")
    repeats: int = Field(default=4, ge=1, description="times that each question is asked; every other one is swapped")
    temperature: float = Field(default=0.0, ge=0, description="of the model")
    most: int = Field(default=200, ge=1, description="pictures of each method to judge, evenly over the benchmark")
    controls: int = Field(
        default=8, ge=0, description="copies and wrong subjects to judge too: what the judge is worth"
    )
    style: bool = Field(default=False, description="the subjects are styles: ask about style instead of the subject")
    timeout_s: float = Field(default=120, gt=0, description="for one answer [s]")


class JudgeConfig(EvaluateConfig):
    """Judge a benchmark's pictures by published 0..4 scales, in our own words."""

    judge: JudgeSettings = Field(default=JudgeSettings(), description="who judges, and how often")


def run(config: JudgeConfig) -> Path:
    """Judges every method and writes <output>/judge.json.

    Raises:
        UserError and the readers' own errors: no model named, no picture there, or an answer that the log lacks.
    """
    if not config.judge.model:
        raise UserError("judge.model is missing (name of the model); give --judge.model")
    log = Log(config.output / "judge.jsonl")
    complete = _endpoint(config.judge) if config.judge.endpoint else None
    found: dict[str, Any] = {}
    for method, items in _items(config).items():
        found[method] = _judged(config.judge, method, items, log, complete)
    _say_worth(found)
    path = config.output / "judge.json"
    path.write_text(json.dumps(found, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    say("judge", f"{path}")
    return path


def _say_worth(found: Mapping[str, Any]) -> None:
    """A judge to whom another subject is as good as a copy of the reference judges nothing."""
    copy, wrong = (found[name]["preservation"]["mean"] if name in found else None for name in CONTROLS)
    if copy is not None and wrong is not None and wrong >= copy:
        say("flag", f"preservation: a wrong subject gets {wrong:.3f}, a copy {copy:.3f}: this judge does not look")


def _judged(
    settings: JudgeSettings, method: str, items: Mapping[str, tuple[str, Item]], log: Log, complete: Complete | None
) -> dict[str, Any]:
    """A method's two scores, 0..1, with intervals over subjects, and how far the judge agrees with itself."""
    out: dict[str, Any] = {"pictures": len(items), "model": settings.model}
    means = {}
    for name, rubric in (("preservation", STYLE if settings.style else PRESERVATION), ("following", FOLLOWING)):
        asked = [item for _, item in items.values()]
        verdicts = judge(asked, rubric, settings.model, log, complete, settings.repeats, settings.temperature)
        each, by_unit = judgements(verdicts), dict[str, list[float]]()
        for one in each:
            if one.score == one.score:
                by_unit.setdefault(items[one.item][0], []).append(one.score)
        if not by_unit:
            raise UserError(f"{method}: no answer of {settings.model} held a score; see {name} in the log")
        interval = bootstrap_mean(np.array([np.mean(scores) for scores in by_unit.values()]))
        alpha = krippendorff_alpha(ratings(verdicts, list(items)))
        orders = [one.order for one in each if one.order == one.order]
        means[name] = float(interval.mean)
        out[name] = {
            "mean": means[name],
            "interval": [None if x != x else round(float(x), 6) for x in (interval.low, interval.high)],
            "subjects": interval.subjects,
            "rubric": rubric.digest,
            "alpha_of_repeats": None if alpha != alpha else round(alpha, 6),
            "swapped_minus_straight": round(float(np.mean(orders)), 6) if orders else None,
            "unread": sum(one.unread for one in each),
            "verdicts": verdict_rows(verdicts),
        }
    out["product"] = means["preservation"] * means["following"]
    say("judge", f"{method}: preservation {means['preservation']:.3f}, following {means['following']:.3f}")
    return out


def _items(config: JudgeConfig) -> dict[str, dict[str, tuple[str, Item]]]:
    """Method -> picture's name -> (unit, what to judge)."""
    benchmark, _ = questions_of(config)
    cases = {(case.unit, case.number): case for case in benchmark.cases}
    found = dict[str, list[Answer]]()
    for method in methods_of(config):
        answers = stored_answers(config, method, benchmark)
        answers, _ = readable(answers[:: max(1, -(-len(answers) // config.judge.most))])
        if not answers:
            raise UserError(f"output = {config.output}: has no picture of {method.name}; run jobs.evaluate first")
        found[method.name] = answers
    nobody = controls(benchmark, config.seeds[:1])
    for name in CONTROLS if config.judge.controls else ():
        drawn = [answer for answer in nobody if answer.cell.method == name]
        if shown := drawn[:: max(1, -(-len(drawn) // config.judge.controls))]:
            found[name] = shown
    return {
        name: {str(a.cell.file(Path())): (a.cell.unit, _item(a, cases, benchmark)) for a in answers}
        for name, answers in found.items()
    }


def _item(answer: Answer, cases: Mapping[tuple[str, int], Case], benchmark: Benchmark) -> Item:
    case = cases[answer.cell.unit, answer.cell.number]
    reference = benchmark.subject(case.subjects[0]).reference.image
    return Item(str(answer.cell.file(Path())), answer.image, reference, case.prompt)


def said(completion: Any) -> str:
    """The words of a chat completion, as the `openai` package hands on whatever an endpoint sent.

    Raises:
        ValueError: it is none: an address without /v1 may answer with a page, and some servers with an error.
    """
    try:
        words = completion.choices[0].message.content
    except (AttributeError, IndexError, TypeError) as error:
        shown = " ".join(str(completion).split())[:120]
        raise ValueError(
            f"answers {shown!r}; a chat completion is needed, so give the base URL, as a rule .../v1"
        ) from error
    if not isinstance(words, str | None):
        raise ValueError(f"answers with a {type(words).__name__} of words; a text is needed")
    return words or ""


def _endpoint(settings: JudgeSettings) -> Complete:
    """Asks over HTTP; the `openai` package is needed for this alone."""
    try:
        from openai import OpenAI, OpenAIError
    except ImportError as error:
        raise UserError("judge.endpoint: the package openai is missing; pip install openai") from error
    client = OpenAI(
        base_url=settings.endpoint, api_key=os.environ.get("OPENAI_API_KEY", "none"), timeout=settings.timeout_s
    )

    def complete(body: Mapping[str, Any]) -> str:
        try:
            given: Any = dict(body)
            return said(client.chat.completions.create(**given))
        except (OpenAIError, ValueError) as error:
            raise UserError(
                f"judge.endpoint = {settings.endpoint}: {error}; what was answered is in the log"
            ) from error

    return complete


@command_line
def main(argv: list[str] | None = None) -> None:
    """Command line entry; see the top of the file."""
    run(load(JudgeConfig, argv, "python -m jobs.judge"))


if __name__ == "__main__":
    main()
