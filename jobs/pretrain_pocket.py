"""Makes the pocket models from nothing: VAE, text and CLIP, DINO, oracles, face nets, UNet; stages can be resumed.

python -m jobs.pretrain_pocket --stages vae clip --vae.minutes 20
python -m jobs.pretrain_pocket evaluate                             measures them and writes their model card
python -m jobs.pretrain_pocket adapters --checkpoint run/checkpoint   makes a training's result the pocket adapters
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import torch
from pydantic import Field

from flexip.pocket import weights_path
from flexip.pocket.models import save_random, total_bytes
from flexip.pocket.oracle import ORACLES
from flexip.pocket.pretrain import Budget, OptimizerName, Report, Workshop
from flexip.pocket.pretrain_clip import train_clip
from flexip.pocket.pretrain_data import Renders, load_renders
from flexip.pocket.pretrain_dino import train_dino
from flexip.pocket.pretrain_faces import train_faces
from flexip.pocket.pretrain_oracle import load_labelled, train_oracle
from flexip.pocket.pretrain_unet import train_unet
from flexip.pocket.pretrain_vae import train_vae
from jobs import pocket_adapters, pocket_card
from jobs.config import JobConfig, MLflowConfig, Section, load
from jobs.console import UserError, command_line, say
from jobs.tracking import create_run, log_steps, open_client, run_exists, running, tracking_uri

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

StageName = Literal["vae", "clip", "dino", "oracles", "faces", "unet"]
STAGES: tuple[StageName, ...] = get_args(StageName)


class StageConfig(Section):
    minutes: float = Field(default=10.0, gt=0, description="wall clock of training, summed over restarts [min]")
    steps: int | None = Field(default=None, ge=1, description="train this many steps, whatever the clock says")
    warm: bool = Field(default=False, description="start from the models in `weights`, with a fresh optimiser")
    batch_size: int = Field(default=32, ge=2, description="pictures per step")
    learning_rate: float = Field(default=1e-3, gt=0, description="peak learning rate of the optimizer")
    optimizer: OptimizerName = Field(default="adamw", description="muon needs fewer steps, each a little longer")

    def budget(self) -> Budget:
        return Budget(self.minutes, self.batch_size, self.learning_rate, self.steps, self.warm, self.optimizer)


class PretrainConfig(JobConfig):
    """Configuration of `jobs.pretrain_pocket`."""

    directory: Path = Field(default=Path("runs/pretrain"), description="renders and checkpoints of the stages")
    weights: Path = Field(default_factory=weights_path, description="folder that receives the finished models")
    stages: list[StageName] = Field(default=list(STAGES), description="stages to run, in order")
    renders: int = Field(default=32000, ge=64, description="pictures rendered for training, two of each creature")
    labelled: int = Field(default=40000, ge=64, description="pictures rendered for the oracles")
    held_out: int = Field(
        default=1024, ge=128, description="pictures of validation identities, for the figures printed"
    )
    threads: int = Field(default=2, ge=1, description="torch threads")
    device: str = Field(default="cpu", description="torch device of the training, e.g. cpu or cuda")
    bf16: bool = Field(default=False, description="compute in bfloat16, faster where the hardware has it")
    compiled: bool = Field(default=False, description="torch.compile: minutes more at the start, then faster")
    seed: int = Field(default=0, ge=0, description="seed of renders, weights and batches")
    vae: StageConfig = Field(default=StageConfig(minutes=30, batch_size=10), description="autoencoder")
    clip: StageConfig = Field(default=StageConfig(minutes=15, batch_size=96), description="text encoder and OpenCLIP")
    dino: StageConfig = Field(default=StageConfig(minutes=25, batch_size=128), description="DINO encoder")
    oracles: StageConfig = Field(
        default=StageConfig(minutes=20, batch_size=128, learning_rate=2e-3), description="each of the two oracles"
    )
    faces: StageConfig = Field(default=StageConfig(minutes=10, batch_size=128), description="each of the two face nets")
    unet: StageConfig = Field(default=StageConfig(minutes=90, learning_rate=6e-4), description="text-to-image UNet")
    mlflow: MLflowConfig = Field(
        default=MLflowConfig(experiment="pocket"), description="losses and figures; by default in the directory"
    )


@dataclass(frozen=True)
class PretrainResult:
    """Figures of each stage that ran, by stage and name, and the size of all weights [bytes]."""

    figures: dict[str, dict[str, float]]
    weight_bytes: int


def run(config: PretrainConfig) -> PretrainResult:
    """Runs the stages in the order asked for; a stage needs the weights of those before it."""
    if config.stages != [name for name in STAGES if name in config.stages]:
        raise UserError(f"stages {config.stages}: give some of {', '.join(STAGES)}, once each and in this order")
    torch.set_num_threads(config.threads)
    if not (config.weights / "model_index.json").exists():
        save_random(config.weights, config.seed)
    renders = load_renders(config.directory, config.renders, config.seed)
    held_out = load_renders(config.directory, config.held_out, config.seed, "val")
    uri = tracking_uri(config.mlflow, config.directory)
    client = open_client(uri)
    figures: dict[str, dict[str, float]] = {}
    for stage in config.stages:
        with _tracked(config, client, stage) as report:
            found = _train_stage(stage, config, _workshop(config, report), renders, held_out)
            for name, values in found.items():
                report(name, 0, values)
                say(name, ", ".join(f"{key} {value:.4g}" for key, value in values.items()))
        figures |= found
    size = total_bytes(config.weights)
    say("weights", f"{size / 1e6:.1f} MB in {config.weights}; losses: mlflow ui --backend-store-uri {uri}")
    return PretrainResult(figures, size)


def _workshop(config: PretrainConfig, report: Report) -> Workshop:
    return Workshop(config.directory, config.weights, config.seed, config.device, config.bf16, config.compiled, report)


def _train_stage(
    stage: StageName, config: PretrainConfig, shop: Workshop, renders: Renders, held_out: Renders
) -> dict[str, dict[str, float]]:
    """Figures of what the stage trained, by name."""
    if stage == "vae":
        return {stage: train_vae(shop, config.vae.budget(), renders, held_out)}
    if stage == "clip":
        return {stage: train_clip(shop, config.clip.budget(), renders, held_out)}
    if stage == "dino":
        return {stage: train_dino(shop, config.dino.budget(), renders, min(256, config.held_out))}
    if stage == "oracles":
        return _train_oracles(config, shop)
    if stage == "faces":
        return {stage: train_faces(shop, config.faces.budget(), renders, held_out)}
    return {stage: train_unet(shop, config.unet.budget(), renders)}


def _train_oracles(config: PretrainConfig, shop: Workshop) -> dict[str, dict[str, float]]:
    """Both oracles, each from pictures of its own; their figures by name."""
    held_out = load_labelled(config.directory, config.held_out, config.seed, "val")
    figures = {}
    for number, name in enumerate(ORACLES):
        pictures = load_labelled(config.directory, config.labelled, config.seed + number)
        figures[name] = train_oracle(shop, config.oracles.budget(), pictures, held_out, name)
    return figures


@contextmanager
def _tracked(config: PretrainConfig, client: "MlflowClient", stage: StageName) -> Iterator[Report]:
    """The MLflow run of a stage, which goes on when the stage does; gives what logs into it."""
    record = config.directory / f"{stage}.mlflow"
    run_id = record.read_text() if record.is_file() else ""
    if not run_id or not run_exists(client, run_id):
        run_id = create_run(client, config.mlflow, config.directory, stage, config.model_dump(mode="json"), {})
        record.write_text(run_id)

    def report(name: str, step: int, values: Mapping[str, float]) -> None:
        log_steps(client, run_id, {f"{name}/{key}": [(step, value)] for key, value in values.items()})

    with running(client, run_id):
        yield report


@command_line
def main(argv: list[str] | None = None) -> None:
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["evaluate"]:
        pocket_card.main(words[1:])
    elif words[:1] == ["adapters"]:
        pocket_adapters.main(words[1:])
    else:
        run(load(PretrainConfig, words, "python -m jobs.pretrain_pocket"))


if __name__ == "__main__":
    main()
