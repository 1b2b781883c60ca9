"""Makes a trained checkpoint the pocket adapters that come with the package: fp16, and silent about where it was made.

python -m jobs.pretrain_pocket adapters --checkpoint runs/reproduce/runs/flexip-0-.../checkpoint
"""

from pathlib import Path

from pydantic import Field
from safetensors.torch import load_file

from flexip.checkpoint import WEIGHTS, Snapshot, read_config, write_snapshot
from flexip.pocket import adapters_path
from jobs.config import JobConfig, load
from jobs.console import UserError, say

_WHERE = ("dataset", "output", "name", "ray", "mlflow")  # of the configuration: where it ran, not what was trained


class AdaptersConfig(JobConfig):
    """Copy a checkpoint of FlexIP on the pocket models to where `pocket` finds it."""

    checkpoint: Path = Field(description="checkpoint directory, as written by jobs.train")
    output: Path = Field(default_factory=adapters_path, description="folder of the pocket adapters")


def run(config: AdaptersConfig) -> Path:
    """Writes the folder anew, without a calibration: `jobs.calibrate --checkpoint <output>` adds one.

    Raises:
        CheckpointError: not a checkpoint. UserError: one of other models than the pocket ones, or of a baseline.
    """
    stored = read_config(config.checkpoint)
    if (base := stored["encoders"]["base"]) != "pocket":
        raise UserError(f"checkpoint = {config.checkpoint}: on the base model {base}; wanted one on the pocket models")
    if (method := stored["architecture"]["method"]) != "flexip":
        raise UserError(f"checkpoint = {config.checkpoint}: of the method {method}; wanted flexip")
    training = {key: value for key, value in stored["training"].items() if key not in _WHERE}
    weights = {name: tensor.half() for name, tensor in load_file(config.checkpoint / WEIGHTS).items()}
    kept = {key: value for key, value in stored.items() if key != "calibration"} | {"training": training}
    folder = write_snapshot(config.output, Snapshot(weights, kept, {}, 0))
    say("adapters", f"{sum(t.nbytes for t in weights.values()) / 1e6:.1f} MB in {folder}")
    return folder


def main(argv: list[str]) -> None:
    """The command line; see `--help`."""
    run(load(AdaptersConfig, argv, "python -m jobs.pretrain_pocket adapters"))
