"""From questions to a report: read, draw what is missing, score, compare, write."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from evaluation.answers import Answer, foreign_answers
from evaluation.benchmarks import Benchmark
from evaluation.cache import VectorCache
from evaluation.calibration_check import Check, check_real_pictures
from evaluation.gate_sweep import GateSweep, gate_sweep
from evaluation.leaderboard import headline_entries, leaderboard
from evaluation.report import Report, document, render
from evaluation.scoring import Column, Judges, Scoring, controls, readable
from evaluation.sheet import draw_sheet, sheet_rows
from flexip.checkpoint import read_config
from flexip.encoders import EncoderNames
from flexip.images import encode_png
from jobs.cluster import gpu_wanted, ray_session
from jobs.console import UserError, progress, say
from jobs.evaluation.config import MethodConfig
from jobs.evaluation.drawing import Row, draw_rows, missing_rows, rows_of
from jobs.evaluation.judges import load_judges
from jobs.evaluation.methods import Steps, maker_of
from jobs.evaluation.questions import methods_of, questions_of
from jobs.tracking import create_run, open_client, running, tracking_uri

if TYPE_CHECKING:
    from jobs.evaluate import EvaluateConfig

REPORT, SCORES, ROWS, SHEET = "report.html", "scores.json", "scores.jsonl", "sweep.png"


@dataclass(frozen=True)
class EvaluateResult:
    """The files that were written, and what they say."""

    report_html: Path
    scores_json: Path
    scores_jsonl: Path  # a line for every picture and metric
    sweep_png: Path  # the first dial as one picture; there if a method has one
    report: Report
    drawn: int  # pictures that this run drew


def evaluate(config: "EvaluateConfig") -> EvaluateResult:
    """Draws what is missing, scores everything, writes the report.

    Raises:
        UserError and the readers' own errors: something given that cannot be used, found before anything is drawn.
    """
    methods = methods_of(config)
    benchmark, notes = questions_of(config)
    steps = Steps(config.steps, config.guidance_scale, config.batch_rows)
    foreign = {m.name: foreign_answers(m.name, m.manifest, benchmark) for m in methods if m.manifest is not None}
    plans = {
        m.name: rows_of(m, benchmark, config.seeds, config.gammas, steps) for m in methods if m.name not in foreign
    }
    say("evaluate", f"{benchmark.name}: {len(benchmark.units)} subjects, {len(benchmark.cases)} cases")
    own = _own_encoders(config)
    judges = load_judges(config.scoring, own, "pocket" in config.benchmark.layout, _device())
    answers, failures, fresh = _answers(config, methods, plans, foreign, steps)
    answers, broken = readable(answers)
    columns, checks = _scores(config, benchmark, judges, answers)
    blind = [method.name for method in methods if method.kind == "base"]
    board = leaderboard(columns, headline_entries(columns, config.scoring.gamma), blind)
    identity, text = _trade(columns)
    sweeps = [gate_sweep(method.name, identity, text) for method in methods]
    report = Report(
        title=config.title or f"Evaluation on {benchmark.name}",
        benchmark=benchmark,
        board=board,
        sweeps=[sweep for sweep in sweeps if sweep],
        identity=identity,
        text=text,
        answers=answers,
        failures=[*failures, *broken],
        notes=notes,
        remarks=_remarks(config, own),
        checks=checks,
        provenance=_provenance(config, methods, steps),
    )
    result = _write(config.output, report, columns, fresh)
    if config.track:
        _track(config, result)
    return result


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
        joined = config.ray.address or os.environ.get("RAY_ADDRESS")
        workers = config.workers if joined else min(config.workers, config.ray.num_cpus)
        for method in methods:
            rows = missing[method.name]
            with progress(len(rows), method.name, "picture") as bar:
                failed = draw_rows(root, method, rows, steps, workers, gpu, bar.update)
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


def _own_encoders(config: "EvaluateConfig") -> EncoderNames:
    return EncoderNames(**read_config(config.checkpoint)["encoders"]) if config.checkpoint else EncoderNames()


def _remarks(config: "EvaluateConfig", own: EncoderNames) -> list[str]:
    remarks, given = list[str](), config.scoring
    if config.checkpoint and not (given.clip and given.dino):
        remarks.append(
            "Where the configuration names no other encoder, pictures are compared by those that also condition the "
            "checkpoint, which flatters it: compare settings of one method by them, not methods with each other."
        )
    if "pocket" in (given.clip or own.clip, given.dino or own.dino) and set(config.benchmark.layout) - {"pocket"}:
        remarks.append(
            "Pictures are compared by the pocket encoders, which have seen the pocket world alone: of other pictures "
            "their numbers mean little. Name published ones, as scoring.clip = ViT-B-32-quickgelu/openai and "
            "scoring.dino = vit_small_patch16_224.dino."
        )
    return remarks


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


def _write(output: Path, report: Report, columns: Sequence[Column], fresh: int) -> EvaluateResult:
    output.mkdir(parents=True, exist_ok=True)
    result = EvaluateResult(output / REPORT, output / SCORES, output / ROWS, output / SHEET, report, fresh)
    result.report_html.write_text(render(report), encoding="utf-8")
    result.scores_json.write_text(json.dumps(document(report), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    with result.scores_jsonl.open("w", encoding="utf-8") as lines:
        for column in columns:
            for cell, value in sorted(column.values.items(), key=lambda pair: str(pair[0])):
                number = round(value, 6) if value == value else None
                row = {**vars(cell), "metric": column.name, "protocol": column.protocol.id, "value": number}
                lines.write(json.dumps(row) + "\n")
    for number, sweep in enumerate(report.sweeps):
        _say_sweep(sweep)
        rows = sheet_rows(report.benchmark, report.answers, sweep.method, sweep.settings.tolist())
        if rows and not number:
            result.sweep_png.write_bytes(encode_png(draw_sheet(rows, sweep.settings.tolist())))
    for name, why in report.board.flags.items():
        say("flag", f"{name}: {'; '.join(why)}")
    if report.board.ranking:
        ranking = report.board.ranking
        for title, mean in sorted(zip(ranking.methods, ranking.mean, strict=True), key=lambda pair: pair[1]):
            say("rank", f"{mean:.1f} {title}")
        say("rank", f"pool: {ranking.pool}")
    say("evaluate", f"{result.report_html}")
    return result


def _say_sweep(sweep: GateSweep) -> None:
    (kept, said), (kept_at_last, said_at_last) = sweep.points[0], sweep.points[-1]
    ends = f"{sweep.settings[0]:g} -> {sweep.settings[-1]:g}"
    change = f"identity {kept:.3f} -> {kept_at_last:.3f}, text {said:.3f} -> {said_at_last:.3f}"
    say("sweep", f"{sweep.method}, gamma {ends}: {change}")


def _track(config: "EvaluateConfig", result: EvaluateResult) -> None:
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
        for path in (result.report_html, result.scores_json, result.scores_jsonl, result.sweep_png):
            if path.is_file():
                client.log_artifact(run_id, str(path))


def _key(text: str) -> str:
    """The text with what MLflow allows in a metric's name."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "/_-. ") else "_" for c in text.replace("γ", "gamma"))[
        :250
    ]


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
