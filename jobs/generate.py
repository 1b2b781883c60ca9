"""Draw pictures of a subject from a checkpoint, without a server.

python -m jobs.generate --checkpoint demo_output/train/checkpoint --reference subject.png --prompt "on a beach"
"""

from pathlib import Path

from pydantic import Field, model_validator

from flexip.calibration import Calibration
from flexip.checkpoint import load_checkpoint
from flexip.images import decode_image, encode_png
from flexip.request import Request
from flexip.sampler import sample
from flexip.solvers import Solver
from jobs.config import JobConfig, load
from jobs.console import UserError, command_line, progress, say
from pipelines.references import prepare_reference


class GenerateConfig(JobConfig):
    """Draw pictures of a subject: a reference, a prompt and a gate."""

    checkpoint: Path = Field(description="checkpoint directory, as written by jobs.train")
    prompt: str = Field(min_length=1, description="what to draw")
    reference: Path | None = Field(default=None, description="picture of the subject; none: the base model draws")
    cut_out: bool = Field(default=True, description="cut the subject out of its picture, as in training")
    gamma: float = Field(default=0.5, ge=0, le=1, description="the dial: 0 obeys the prompt, 1 keeps the subject")
    identity: float | None = Field(
        default=None, description="how much identity to keep, instead of gamma; needs a checkpoint with a calibration"
    )
    preservation: float | None = Field(default=None, description="weight of identity, instead of gamma")
    personalization: float | None = Field(default=None, description="weight of the edit, instead of 1 - gamma")
    negative_prompt: str = Field(default="", description="what to steer away from")
    guidance_scale: float = Field(default=5.0, ge=1, description="classifier-free guidance; 1 is without")
    steps: int = Field(default=25, ge=1, le=1000, description="denoising steps")
    solver: Solver = Field(default="ddim", description="ddim, or dpm++2m, which needs about half the steps")
    seed: int = Field(default=0, ge=0, description="of the first picture; the next ones count up")
    images: int = Field(default=1, ge=1, le=256, description="how many pictures")
    output: Path = Field(
        default=Path("generated"),
        description="directory for the PNG files, named by their seeds, and for the reference as it was used",
    )
    device: str = Field(default="cpu", description="torch device, e.g. cuda")

    @model_validator(mode="after")
    def _both_weights(self):
        if (self.preservation is None) != (self.personalization is None):
            raise ValueError("preservation and personalization: give both weights, or gamma alone")
        if self.identity is not None and ("gamma" in self.model_fields_set or self.preservation is not None):
            raise ValueError("identity: given together with gamma or the two weights; give one of them")
        return self


def run(config: GenerateConfig) -> list[Path]:
    """Draw and write the pictures; returns their paths.

    Raises:
        UserError, ImageError, CheckpointError: a reference or checkpoint that cannot be used.
    """
    reference = None
    if config.reference is not None:
        if not config.reference.is_file():
            raise UserError(f"reference = {config.reference}: no such file; give a picture of the subject")
        reference = decode_image(config.reference.read_bytes())
    if reference is not None and config.cut_out:
        prepared = prepare_reference(reference)
        reference = prepared.image
        say("generate", f"reference {config.reference}: {prepared.done}")
    engine = load_checkpoint(config.checkpoint, config.device)
    preservation, personalization = _weights(config, engine.calibration)
    requests = [
        Request(
            prompt=config.prompt,
            reference=reference,
            preservation=preservation,
            personalization=personalization,
            negative_prompt=config.negative_prompt,
            guidance_scale=config.guidance_scale,
            steps=config.steps,
            solver=config.solver,
            seed=config.seed + index,
        )
        for index in range(config.images)
    ]
    with progress(config.images * config.steps, "generate", "step") as bar:
        drawn = sample(engine, requests, bar.update)
    config.output.mkdir(parents=True, exist_ok=True)
    if reference is not None:
        (config.output / "reference.png").write_bytes(encode_png(reference))
    paths = [config.output / f"{request.seed:05d}.png" for request in requests]
    for path, image in zip(paths, drawn, strict=True):
        path.write_bytes(encode_png(image))
    say("generate", f"{len(paths)} pictures in {config.output}")
    return paths


def _weights(config: GenerateConfig, calibration: Calibration | None) -> tuple[float, float]:
    """The two weights, however they were asked for."""
    if config.preservation is not None and config.personalization is not None:
        return config.preservation, config.personalization
    gamma = config.gamma
    if config.identity is not None:
        if calibration is None:
            raise UserError(
                f"identity: {config.checkpoint} has no calibration; run `python -m jobs.calibrate`, or give --gamma"
            )
        try:
            gamma = calibration.gamma_for(config.identity)
        except ValueError as error:
            raise UserError(str(error)) from error
        say("generate", f"identity {config.identity:g} is gamma {gamma:.3f}")
    return gamma, 1 - gamma


@command_line
def main(argv: list[str] | None = None) -> None:
    """The command line; see `--help`."""
    run(load(GenerateConfig, argv, "python -m jobs.generate"))


if __name__ == "__main__":
    main()
