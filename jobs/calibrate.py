"""Measure what a checkpoint's dial means, so that identity can be asked for by its amount instead of by gamma.

python -m jobs.calibrate --checkpoint run/checkpoint --dataset dataset/
"""

from pathlib import Path

import torch
from pydantic import Field

from evaluation.calibrate import fit_calibration
from evaluation.sweep import SweepPlan, draw_sweep, identity_protocol, measure_sweep
from flexip.calibration import Calibration
from flexip.checkpoint import load_checkpoint, store_calibration
from flexip.rows import Split
from jobs.config import JobConfig, load
from jobs.console import command_line, progress, say
from jobs.evaluate import GAMMAS, PROMPTS
from jobs.evaluation.questions import subjects_of

METRIC = "cosine of mean DINO patches with the reference"


class CalibrateConfig(JobConfig):
    """Fit gamma against identity on held-out subjects and store the curve in the checkpoint."""

    checkpoint: Path = Field(description="checkpoint directory, as written by jobs.train; its config.json is completed")
    dataset: Path = Field(description="dataset directory, as written by jobs.curate, to take subjects from")
    split: Split = Field(default="val", description="split of the dataset; keep test for what is published")
    subjects: int = Field(default=16, ge=1, description="most subjects to draw")
    prompts: list[str] = Field(default=PROMPTS, min_length=1, description="what to draw each subject as")
    steps: int = Field(default=25, ge=1, le=1000, description="denoising steps")
    guidance_scale: float = Field(default=5.0, ge=1, description="classifier-free guidance; 1 is without")
    batch_rows: int = Field(default=22, ge=1, description="pictures that are drawn together")


def run(config: CalibrateConfig) -> Calibration:
    """Draws a sweep, fits, and stores.

    Raises:
        CheckpointError, DatasetError, UserError: something given that cannot be used; nothing is written.
    """
    subjects = subjects_of(config.dataset, config.split, config.subjects)
    engine = load_checkpoint(config.checkpoint, "cuda" if torch.cuda.is_available() else "cpu")
    plan = SweepPlan(subjects, config.prompts, GAMMAS, (0,), config.steps, config.guidance_scale)
    with progress(plan.denoising_steps, "calibrate", "step") as bar:
        images = draw_sweep(engine, plan, batch_size=config.batch_rows, on_steps=bar.update)
    sweep, protocol = measure_sweep(engine.encoders, plan, images), identity_protocol(engine.encoders, plan)
    calibration = fit_calibration(sweep.settings, sweep.identity[0], metric=METRIC, protocol=protocol.id)
    store_calibration(config.checkpoint, calibration)
    low, high = calibration.identity[0], calibration.identity[-1]
    whom = f"{len(subjects)} subjects of the {config.split} split"
    say("calibrate", f"gamma 0 to 1 keeps identity {low:.3f} to {high:.3f}, {whom}")
    return calibration


@command_line
def main(argv: list[str] | None = None) -> None:
    """Command line entry; see the top of the file."""
    run(load(CalibrateConfig, argv, "python -m jobs.calibrate"))


if __name__ == "__main__":
    main()
