"""A study with people on a benchmark's pictures: export the page, then analyse what raters saved.

python -m jobs.study --config configs/pocket/benchmark.yaml                      -> <output>/study.html, study-key.json
python -m jobs.study --config configs/pocket/benchmark.yaml --votes votes-anna.json,votes-ben.json

It takes the configuration of jobs.evaluate and reads the pictures in <output>/pictures, each dial at scoring.gamma.
"""

import json
from pathlib import Path

from pydantic import Field

from evaluation.study import Findings, analyse, key, make_trials, page, read_votes
from jobs.config import load
from jobs.console import UserError, command_line, say
from jobs.evaluate import EvaluateConfig
from jobs.evaluation.questions import methods_of, questions_of
from jobs.evaluation.stored import stored_answers

PAGE, KEY, FINDINGS = "study.html", "study-key.json", "study.json"


class StudyConfig(EvaluateConfig):
    """Export a forced-choice page, or analyse its answers."""

    votes: list[Path] = Field(default=[], description="files that raters saved; none: the page is exported")
    trials: int = Field(default=40, ge=2, description="questions for each rater, attention checks aside")
    misses: int = Field(default=0, ge=0, description="attention checks that a rater may miss")
    heading: str = Field(default="Which picture is better?", description="headline of the page")


def run(config: StudyConfig) -> Path:
    """Writes the page and its key, or the findings.

    Raises:
        UserError and the readers' own errors: no pictures, or votes that are not of this study.
    """
    return _analyse(config) if config.votes else _export(config)


def _export(config: StudyConfig) -> Path:
    benchmark, _ = questions_of(config)
    methods = methods_of(config)
    answers = [answer for method in methods for answer in stored_answers(config, method, benchmark)]
    try:
        trials = make_trials(benchmark, answers, [method.name for method in methods], most=config.trials)
    except ValueError as error:
        raise UserError(f"{error}; run jobs.evaluate with two methods first") from error
    config.output.mkdir(parents=True, exist_ok=True)
    (config.output / PAGE).write_text(page(trials, config.heading), encoding="utf-8")
    (config.output / KEY).write_text(json.dumps(key(trials), indent=1) + "\n", encoding="utf-8")
    checks = sum(trial.is_check for trial in trials)
    say("study", f"{len(trials)} questions, {checks} of them attention checks: {config.output / PAGE}")
    return config.output / PAGE


def _analyse(config: StudyConfig) -> Path:
    file = config.output / KEY
    if not file.is_file():
        raise UserError(f"output = {config.output}: has no {KEY}; export the study first")
    found = analyse(read_votes(config.votes), json.loads(file.read_text(encoding="utf-8")), config.misses)
    path = config.output / FINDINGS
    path.write_text(json.dumps(_document(found), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    for line in found.dropped:
        say("study", f"left out: {line}")
    if not found.raters:
        raise UserError("votes: no rater is left, each has missed attention checks; see --misses")
    for share in found.shares:
        low, high = float(share.share.low), float(share.share.high)
        say("study", f"{share.question:<12} {share.method}: {float(share.share.mean):.1%} [{low:.1%}, {high:.1%}]")
    say("study", f"{found.raters} raters; {path}")
    return path


def _document(found: Findings) -> dict:
    def plain(value: float) -> float | None:
        return None if value != value else round(float(value), 6)

    shares = [
        {
            "question": share.question,
            "method": share.method,
            "votes": share.votes,
            "of": share.trials,
            "share": plain(float(share.share.mean)),
            "wilson": [plain(float(share.share.low)), plain(float(share.share.high))],
            "over_items": [plain(float(share.by_item.low)), plain(float(share.by_item.high))],
        }
        for share in found.shares
    ]
    alpha = {name: plain(value) for name, value in found.alpha.items()}
    return {"raters": found.raters, "dropped": list(found.dropped), "alpha": alpha, "shares": shares}


@command_line
def main(argv: list[str] | None = None) -> None:
    """Command line entry; see the top of the file."""
    run(load(StudyConfig, argv, "python -m jobs.study"))


if __name__ == "__main__":
    main()
