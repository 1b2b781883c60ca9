"""A benchmark from its folder to its report: read, draw what is missing, score, compare, write."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from evaluation.answers import Answer, foreign_answers
from evaluation.benchmark_report import Report, document, render
from evaluation.benchmarks import Benchmark, pooled
from evaluation.cache import VectorCache
from evaluation.calibration_check import Check, check_real_pictures
from evaluation.gate_sweep import gate_sweep
from evaluation.layouts import read_benchmark
from evaluation.leaderboard import headline_entries, leaderboard
from evaluation.scoring import Column, Judges, Scoring, controls, readable
from jobs.cluster import gpu_wanted, ray_session
from jobs.console import UserError, progress, say
from jobs.evaluation.config import BenchmarkConfig, MethodConfig
from jobs.evaluation.drawing import Row, draw_rows, missing_rows, rows_of
from jobs.evaluation.judges import load_judges
from jobs.evaluation.methods import Steps, maker_of
from jobs.tracking import create_run, open_client, running, tracking_uri

if TYPE_CHECKING:
    from jobs.evaluate import EvaluateConfig

REPORT, SCORES, ROWS = "report.html", "scores.json", "scores.jsonl"


@dataclass(frozen=True)
class BenchmarkResult:
    """The files that were written, and what they say."""

    report_html: Path
    scores_json: Path
    scores_jsonl: Path  # a line for every picture and metric
    report: Report
    drawn: int  # pictures that this run drew


def evaluate_benchmark(config: "EvaluateConfig") -> BenchmarkResult:
    """Draws what is missing, scores everything, writes the report.

    Raises:
        UserError and the readers' own errors: something given that cannot be used, found before anything is drawn.
    """
    benchmark, notes = benchmark_of(config.benchmark)
    methods = methods_of(config)
    steps = Steps(config.steps, config.guidance_scale, config.batch_rows)
    foreign = {m.name: foreign_answers(m.name, m.manifest, benchmark) for m in methods if m.manifest is not None}
    plans = {
        m.name: rows_of(m, benchmark, config.seeds, config.gammas, steps) for m in methods if m.name not in foreign
    }
    say("evaluate", f"{benchmark.name}: {len(benchmark.units)} subjects, {len(benchmark.cases)} cases")
    judges = load_judges(config.scoring, "pocket" in config.benchmark.layout, _device())
    answers, failures, fresh = _answers(config, methods, plans, foreign, steps)
    answers, broken = readable(answers)
    columns, checks = _scores(config, benchmark, judges, answers)
    board = leaderboard(columns, headline_entries(columns, config.scoring.gamma))
    identity, text = _trade(columns)
    sweeps = [gate_sweep(method.name, identity, text) for method in methods]
    report = Report(
        title=config.title if "title" in config.model_fields_set else f"Evaluation on {benchmark.name}",
        benchmark=benchmark,
        board=board,
        sweeps=[sweep for sweep in sweeps if sweep],
        identity=identity,
        text=text,
        answers=answers,
        failures=[*failures, *broken],
        notes=notes,
        checks=checks,
        provenance=_provenance(config, methods, steps),
    )
    result = _write(config.output, report, columns, fresh)
    if config.track:
        _track(config, result)
    return result


def benchmark_of(config: BenchmarkConfig) -> tuple[Benchmark, list[str]]:
    """The pool of what the configuration names, and what pooling left out.

    Raises:
        BenchmarkError, UserError: a benchmark that cannot be read, or one without its path.
    """
    local = [layout for layout in config.layout if layout != "pocket"]
    if len(local) != len(config.path):
        raise UserError(
            f"benchmark.path: {len(config.path)} given for {len(local)} layouts ({', '.join(local) or 'none'}); every "
            "layout but pocket needs its local copy, in the same order"
        )
    paths = iter(config.path)
    found = [
        read_benchmark(layout, None if layout == "pocket" else next(paths), config.prompts) for layout in config.layout
    ]
    together, dropped = (found[0], []) if len(found) == 1 else pooled(found)
    return together.first(config.subjects, config.prompts_each), dropped


def methods_of(config: "EvaluateConfig") -> list[MethodConfig]:
    """The methods of a configuration, `--checkpoint` first. Raises UserError for none, or two of one name."""
    methods = list(config.methods)
    if config.checkpoint is not None:
        methods.insert(0, MethodConfig(name="flexip", kind="flexip", checkpoint=config.checkpoint))
    names = [method.name for method in methods]
    if not names:
        raise UserError("methods: none; give --checkpoint, or a list of methods in the --config file")
    twice = next((name for name in names if names.count(name) > 1 or name in ("copy", "wrong subject")), None)
    if twice:
        raise UserError(f"methods: name {twice!r} is taken; every method needs one of its own")
    return methods


def _answers(
    config: "EvaluateConfig",
    methods: Sequence[MethodConfig],
    plans: dict[str, list[Row]],
    foreign: dict[str, list[Answer]],
    steps: Steps,
) -> tuple[list[Answer], list[str], int]:
    """All answers, a line for each that could not be drawn, and how many are new. Without work there is no Ray."""
    root = config.output / "pictures"
    missing = {name: rows for name, plan in plans.items() if (rows := missing_rows(root, plan))}
    failures = _draw(config, [method for method in methods if method.name in missing], missing, steps)
    answers = [answer for found in foreign.values() for answer in found]
    for plan in plans.values():
        lost = {row.cell for row in missing_rows(root, plan)}
        answers += [Answer(row.cell, row.cell.file(root)) for row in plan if row.cell not in lost]
    asked = sum(map(len, plans.values())) + sum(map(len, foreign.values()))
    assert len(answers) + len(failures) == asked, "a row is neither drawn nor failed"
    if not answers:
        raise UserError(
            f"methods: no picture was drawn; the first failure: {failures[0] if failures else 'none asked'}"
        )
    return answers, failures, sum(map(len, missing.values())) - len(failures)


def _draw(
    config: "EvaluateConfig", methods: Sequence[MethodConfig], missing: dict[str, list[Row]], steps: Steps
) -> list[str]:
    failures, root = list[str](), config.output / "pictures"
    if not methods:
        return failures
    with ray_session(config.ray):
        gpu = gpu_wanted(config.ray)
        for method in methods:
            rows = missing[method.name]
            with progress(len(rows), method.name, "picture") as bar:
                failed = draw_rows(root, method, rows, steps, config.workers, gpu, bar.update)
            say("draw", f"{method.name}: {len(rows) - len(failed)} pictures drawn, {len(failed)} failed")
            failures += failed
    return failures


def _scores(
    config: "EvaluateConfig", benchmark: Benchmark, judges: Judges, answers: Sequence[Answer]
) -> tuple[list[Column], list[Check]]:
    cache = VectorCache(config.scoring.cache or config.output / "embeddings.sqlite")
    began = time.monotonic()
    every = [*answers, *controls(benchmark, config.seeds[:1])]
    columns = Scoring(benchmark, every, judges, cache).columns()
    checks = check_real_pictures(benchmark, judges.clip, judges.dino, cache)
    say("score", f"{len(every)} pictures, {len(columns)} metrics, {time.monotonic() - began:.1f} s")
    for check in checks:
        say("check", check.line)
    return columns, checks


def _trade(columns: Sequence[Column]) -> tuple[Column, Column]:
    """What identity and text are drawn by: masked where there is a mask, since backgrounds are no identity."""
    by_metric = {column.protocol.metric: column for column in columns}
    identity = by_metric.get("DINO-I masked") or by_metric["DINO-I"]
    return identity, by_metric["CLIP-T"]


def _provenance(config: "EvaluateConfig", methods: Sequence[MethodConfig], steps: Steps) -> dict[str, str]:
    drawn = {
        f"method {m.name}": f"{m.kind}, {maker_of(m, steps)}" if m.manifest is None else f"pictures of {m.manifest}"
        for m in methods
    }
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "open_clip_torch", "timm", "ray"))
    return drawn | {
        "pictures": f"{config.steps} steps, guidance {config.guidance_scale:g}, seeds {config.seeds}",
        "versions": versions,
    }


def _write(output: Path, report: Report, columns: Sequence[Column], fresh: int) -> BenchmarkResult:
    output.mkdir(parents=True, exist_ok=True)
    result = BenchmarkResult(output / REPORT, output / SCORES, output / ROWS, report, fresh)
    result.report_html.write_text(render(report), encoding="utf-8")
    result.scores_json.write_text(json.dumps(document(report), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    with result.scores_jsonl.open("w", encoding="utf-8") as lines:
        for column in columns:
            for cell, value in sorted(column.values.items(), key=lambda pair: str(pair[0])):
                number = round(value, 6) if value == value else None
                row = {**vars(cell), "metric": column.name, "protocol": column.protocol.id, "value": number}
                lines.write(json.dumps(row) + "\n")
    for name, why in report.board.flags.items():
        say("flag", f"{name}: {'; '.join(why)}")
    if report.board.ranking:
        ranking = report.board.ranking
        for title, mean in sorted(zip(ranking.methods, ranking.mean, strict=True), key=lambda pair: pair[1]):
            say("rank", f"{mean:.1f} {title}")
        say("rank", f"pool: {ranking.pool}")
    say("evaluate", f"{result.report_html}")
    return result


def _track(config: "EvaluateConfig", result: BenchmarkResult) -> None:
    """The report and its numbers as one MLflow run."""
    client = open_client(tracking_uri(config.mlflow, config.output))
    params = config.model_dump(mode="json", exclude={"mlflow", "ray"})
    run_id = create_run(client, config.mlflow, config.output, result.report.title, params, {"job": "evaluate"})
    with running(client, run_id):
        for entry in result.report.board.entries:
            for column in result.report.board.columns:
                mean = float(result.report.board.standings[entry, column.name].interval.mean)
                if mean == mean:
                    client.log_metric(run_id, _key(f"{entry.title}/{column.name}"), mean)
        for path in (result.report_html, result.scores_json, result.scores_jsonl):
            client.log_artifact(run_id, str(path))


def _key(text: str) -> str:
    """The text with what MLflow allows in a metric's name."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "/_-. ") else "_" for c in text.replace("γ", "gamma"))[
        :250
    ]


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
