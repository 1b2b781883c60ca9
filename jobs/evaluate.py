"""Measure what is kept and what is obeyed.

python -m jobs.evaluate --checkpoint DIR --dataset DIR --output DIR      a gate sweep of one checkpoint, in minutes
python -m jobs.evaluate --config configs/pocket/benchmark.yaml           methods compared on a benchmark

A benchmark's pictures lie in <output>/pictures, a file each; what is there is not drawn again, and no embedding is
computed twice, so that a run that was killed goes on by the same command.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field

from evaluation.report import render_report
from evaluation.sheet import SheetRow, draw_sheet
from evaluation.summary import Protocol, Summary, scores_document, summarize
from evaluation.sweep import Subject, SweepPlan, draw_sweep, score_sweep
from flexip.checkpoint import load_checkpoint, read_config
from flexip.engine import Engine
from flexip.images import ImageError, Rgb, decode_image, encode_png
from flexip.rows import DATASETS, Split
from jobs.config import JobConfig, MLflowConfig, RayConfig, load
from jobs.console import UserError, command_line, progress, say
from jobs.evaluation.config import BenchmarkConfig, MethodConfig, ScoringConfig
from jobs.evaluation.harness import evaluate_benchmark
from pipelines.references import prepare_reference
from pipelines.shards import open_dataset

GAMMAS = [round(0.1 * i, 1) for i in range(11)]
PROMPTS = ["in the snow", "on a beach"]
PICTURES = {".png", ".jpg", ".jpeg", ".webp"}
MOST_SHEET_ROWS = 12  # beyond, the sheet shows every subject once and the prompts in turn

Weight = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class EvaluateConfig(JobConfig):
    """Measure identity kept against prompt followed: a gate sweep of unseen subjects, or methods on a benchmark."""

    checkpoint: Path | None = Field(default=None, description="checkpoint directory, as written by jobs.train")
    output: Path = Field(description="directory for report.html, scores.json, sweep.png, or a benchmark's pictures")
    dataset: Path | None = Field(
        default=None, description="dataset directory, as written by jobs.curate, to take subjects from"
    )
    split: Split = Field(
        default="test", description="split of the dataset to take subjects from, one reference per identity"
    )
    references: Path | None = Field(
        default=None,
        description="instead of a dataset: a folder with one picture, or one folder of pictures, per subject",
    )
    subjects: int = Field(default=8, ge=1, description="most subjects to draw")
    prompts: list[str] = Field(
        default=PROMPTS,
        min_length=1,
        description="what to draw each subject as; on the command line a comma ends one, in YAML not",
    )
    gammas: list[Weight] = Field(
        default=GAMMAS, min_length=1, description="settings of the dial, 0 (prompt) to 1 (subject)"
    )
    seeds: list[Seed] = Field(default=[0], min_length=1, description="noise of each picture; one sweep per seed")
    steps: int = Field(default=25, ge=1, le=1000, description="denoising steps")
    guidance_scale: float = Field(default=5.0, ge=1, description="classifier-free guidance; 1 is without")
    batch_rows: int = Field(default=22, ge=1, description="pictures that are drawn together")
    title: str = Field(default="Gate sweep", description="headline of the report")
    benchmark: BenchmarkConfig = Field(
        default=BenchmarkConfig(), description="instead of a dataset or references: questions that methods answer"
    )
    methods: list[MethodConfig] = Field(
        default=[], description="of a benchmark, in YAML: name, kind and what the kind needs; beside --checkpoint"
    )
    scoring: ScoringConfig = Field(default=ScoringConfig(), description="what a benchmark is scored by")
    workers: int = Field(default=2, ge=1, description="Ray actors that draw a benchmark's pictures")
    track: bool = Field(default=True, description="log a benchmark's report to MLflow")
    ray: RayConfig = Field(default=RayConfig(), description="where a benchmark's pictures are drawn")
    mlflow: MLflowConfig = Field(default=MLflowConfig(), description="where a benchmark's report is logged")


@dataclass(frozen=True)
class EvaluateResult:
    """The files that were written, and what they say."""

    sweep_png: Path
    report_html: Path
    scores_json: Path
    summary: Summary


def run(config: EvaluateConfig) -> EvaluateResult:
    """Draws, scores and writes a gate sweep; a benchmark is `evaluate_benchmark`'s.

    Raises:
        CheckpointError, DatasetError, ImageError, UserError: something given that cannot be used; nothing is written.
    """
    if config.checkpoint is None:
        raise UserError("checkpoint is missing (checkpoint directory, as written by jobs.train); give --checkpoint")
    read_config(config.checkpoint)  # before the subjects are read: it is the quickest to be wrong
    subjects = _subjects(config)
    engine = load_checkpoint(config.checkpoint, "cuda" if torch.cuda.is_available() else "cpu")
    plan = SweepPlan(subjects, config.prompts, config.gammas, config.seeds, config.steps, config.guidance_scale)
    say("evaluate", f"{len(subjects)} subjects x {len(plan.prompts)} prompts x {len(plan.gammas)} gammas")
    with progress(plan.denoising_steps, "sweep", "step") as bar:
        images = draw_sweep(engine, plan, batch_size=config.batch_rows, on_steps=bar.update)
    with progress(images.size // images[0, 0, 0, 0].size, "score", "image") as bar:
        scores = score_sweep(engine.encoders, plan, images, on_images=bar.update)
    summary = summarize(plan, scores, protocol_of(engine, plan), engine.digest[:16])
    result = _write(config, summary, draw_sheet(_sheet_rows(plan, images), plan.gammas))
    identity, text = summary.identity_dino.interval.mean, summary.text.interval.mean
    change = f"identity {identity[0]:.3f} -> {identity[-1]:.3f}, text {text[0]:.3f} -> {text[-1]:.3f}"
    say("evaluate", f"gamma {plan.gammas[0]:g} -> {plan.gammas[-1]:g}: {change}; {result.report_html}")
    return result


def _subjects(config: EvaluateConfig) -> list[Subject]:
    if (config.dataset is None) == (config.references is None):
        given = "both are given" if config.dataset else "neither is given"
        raise UserError(f"dataset, references: {given}; give the one to take subjects from")
    if config.references is not None:
        return _from_folder(config.references)[: config.subjects]
    assert config.dataset is not None
    return references_of(config.dataset, config.split, config.subjects)


def references_of(path: Path, split: Split, most: int) -> list[Subject]:
    """The first reference of each identity of a dataset's split, by identity.

    Raises:
        DatasetError: not a dataset. UserError: one without subjects in this split.
    """
    dataset, references = open_dataset(path), {}
    for name in DATASETS:
        if not dataset.size(name, split):
            continue
        table = dataset.pairs(name, split, ["cluster", "reference"])
        for cluster, reference in zip(*table.to_pydict().values(), strict=True):
            references.setdefault(cluster, reference)
    if not references:
        raise UserError(
            f"dataset {path}: no subject in its {split} split; choose another --split, or give --references"
        )
    return [Subject(cluster, decode_image(references[cluster])) for cluster in sorted(references)[:most]]


def _from_folder(folder: Path) -> list[Subject]:
    """One subject per picture, or per sub-folder with its first picture, by name; cut out as in training."""
    if not folder.is_dir():
        raise UserError(f"references {folder}: no such folder; give one with a picture per subject")
    files = [_first_picture(entry) for entry in sorted(folder.iterdir())]
    found = [(file.stem if file.parent == folder else file.parent.name, file) for file in files if file]
    if not found:
        raise UserError(f"references {folder}: no picture there; {', '.join(sorted(PICTURES))} are read")
    return [Subject(name, prepare_reference(_read_picture(file)).image) for name, file in found]


def _first_picture(entry: Path) -> Path | None:
    candidates = sorted(entry.iterdir()) if entry.is_dir() else [entry]
    return next((file for file in candidates if file.is_file() and file.suffix.lower() in PICTURES), None)


def _read_picture(file: Path) -> Rgb:
    try:
        return decode_image(file.read_bytes())
    except ImageError as error:
        raise ImageError(error.reason, f"references {file}: {error}") from error


def protocol_of(engine: Engine, plan: SweepPlan) -> Protocol:
    """What the numbers of a sweep depend on."""
    names = engine.encoders.names
    return Protocol(
        encoders={"clip": names.clip, "dino": names.dino, "text": names.base, "vae": names.base},
        fingerprints=dict(engine.encoders.fingerprints),
        resolution=engine.encoders.resolution,
        steps=plan.steps,
        guidance_scale=plan.guidance_scale,
        prompts=list(plan.prompts),
        seeds=list(plan.seeds),
        gammas=list(plan.gammas),
    )


def _sheet_rows(plan: SweepPlan, images: np.ndarray) -> list[SheetRow]:
    """Every subject under every prompt, first seed; when that is too many rows, one prompt for each in turn."""
    cells = [(s, p) for s in range(len(plan.subjects)) for p in range(len(plan.prompts))]
    if len(cells) > MOST_SHEET_ROWS:
        cells = [(s, s % len(plan.prompts)) for s in range(min(len(plan.subjects), MOST_SHEET_ROWS))]
    return [
        SheetRow(plan.subjects[s].name, plan.prompts[p], plan.subjects[s].reference, list(images[s, p, 0]))
        for s, p in cells
    ]


def _write(config: EvaluateConfig, summary: Summary, sheet: Rgb) -> EvaluateResult:
    config.output.mkdir(parents=True, exist_ok=True)
    out = config.output
    result = EvaluateResult(out / "sweep.png", out / "report.html", out / "scores.json", summary)
    result.sweep_png.write_bytes(encode_png(sheet))
    result.report_html.write_text(render_report(summary, sheet, config.title), encoding="utf-8")
    result.scores_json.write_text(json.dumps(scores_document(summary), indent=2) + "\n", encoding="utf-8")
    return result


@command_line
def main(argv: list[str] | None = None) -> None:
    config = load(EvaluateConfig, argv, "python -m jobs.evaluate")
    if config.benchmark.layout:
        evaluate_benchmark(config)
    else:
        run(config)


if __name__ == "__main__":
    main()
