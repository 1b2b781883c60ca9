"""Measure what is kept and what is obeyed.

python -m jobs.evaluate --checkpoint DIR --dataset DIR --output DIR      a gate sweep of one checkpoint, in minutes
python -m jobs.evaluate --config configs/pocket/benchmark.yaml           methods compared on a benchmark

The pictures lie in <output>/pictures, a file each; what is there is not drawn again, and no embedding is
computed twice, so that a run that was killed goes on by the same command.
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from flexip.rows import Split
from jobs.config import JobConfig, MLflowConfig, RayConfig, load
from jobs.console import command_line
from jobs.evaluation.config import BenchmarkConfig, MethodConfig, ScoringConfig
from jobs.evaluation.harness import evaluate

GAMMAS = [round(0.1 * i, 1) for i in range(11)]
PROMPTS = ["in the snow", "on a beach"]

Weight = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class EvaluateConfig(JobConfig):
    """Measure identity kept against prompt followed: a gate sweep of unseen subjects, or methods on a benchmark."""

    checkpoint: Path | None = Field(
        default=None, description="checkpoint directory, as written by jobs.train, or pocket"
    )
    output: Path = Field(description="directory for report.html, scores.json, scores.jsonl, sweep.png and the pictures")
    dataset: Path | None = Field(
        default=None, description="dataset directory, as written by jobs.curate, to take subjects from"
    )
    split: Split = Field(default="test", description="split of the dataset to take subjects from")
    references: Path | None = Field(
        default=None,
        description="instead of a dataset: a folder with one picture, or one folder of pictures, per subject",
    )
    subjects: int = Field(default=8, ge=1, description="most subjects of a dataset or a folder")
    prompts: list[str] = Field(
        default=PROMPTS,
        min_length=1,
        description="what to draw those subjects as; on the command line a comma ends one, in YAML not",
    )
    gammas: list[Weight] = Field(
        default=GAMMAS, min_length=1, description="settings of the dial, 0 (prompt) to 1 (subject)"
    )
    seeds: list[Seed] = Field(default=[0], min_length=1, description="noise of each picture; one sweep per seed")
    steps: int = Field(default=25, ge=1, le=1000, description="denoising steps")
    guidance_scale: float = Field(default=5.0, ge=1, description="classifier-free guidance; 1 is without")
    batch_rows: int = Field(default=22, ge=1, description="pictures that are drawn together")
    title: str = Field(default="", description="headline of the report; empty: what is evaluated")
    benchmark: BenchmarkConfig = Field(
        default=BenchmarkConfig(), description="instead of a dataset or references: questions that methods answer"
    )
    methods: list[MethodConfig] = Field(
        default=[], description="in YAML: name, kind and what the kind needs; beside --checkpoint"
    )
    scoring: ScoringConfig = Field(default=ScoringConfig(), description="what pictures are scored by")
    workers: int = Field(default=2, ge=1, description="Ray actors that draw")
    track: bool = Field(default=True, description="log the report to MLflow")
    ray: RayConfig = Field(default=RayConfig(), description="where pictures are drawn")
    mlflow: MLflowConfig = Field(default=MLflowConfig(), description="where the report is logged")


@command_line
def main(argv: list[str] | None = None) -> None:
    """The command line; see `--help`."""
    evaluate(load(EvaluateConfig, argv, "python -m jobs.evaluate"))


if __name__ == "__main__":
    main()
