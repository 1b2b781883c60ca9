"""Draw pictures of a subject from a checkpoint, without a server; or draw one again from its receipt.

python -m jobs.generate --checkpoint demo_output/train/checkpoint --subject subject.png --prompt "on a beach"
python -m jobs.generate --checkpoint demo_output/train/checkpoint --subject subject.png --from generated/00000.png
"""

from pathlib import Path

from pydantic import Field, model_validator

from flexip.calibration import Calibration
from flexip.checkpoint import load_checkpoint
from flexip.engine import Engine
from flexip.images import Rgb, decode_image, encode_png
from flexip.sampler import sample
from flexip.solvers import Solver
from jobs.config import JobConfig, load
from jobs.console import UserError, command_line, progress, say
from jobs.receipt import Box, DrawnSubject, Receipt, Shown, mask_of, picture_file, sha256, software, to_request
from jobs.repeat import read_original
from pipelines.references import prepare_reference


class GenerateConfig(JobConfig):
    """Draw pictures of a subject: a picture of it, a prompt and a gate."""

    checkpoint: Path = Field(description="checkpoint directory, as written by jobs.train")
    prompt: str = Field(default="", description="what to draw")
    subject: Path | None = Field(default=None, description="picture of the subject; none: the base model draws")
    mask: Path | None = Field(default=None, description="square picture that is white where the subject may act")
    box: Box | None = Field(
        default=None, description="instead of mask: left,top,right,bottom as fractions of the picture"
    )
    original: Path | None = Field(
        default=None,
        alias="from",
        description="picture to draw again, from the receipt in it; with its --subject and --mask, and nothing else",
    )
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
        if self.box is not None and self.mask is not None:
            raise ValueError("box: given together with mask; give one of them")
        if (self.box is not None or self.mask is not None) and self.subject is None:
            raise ValueError("subject: missing beside the box or mask in which it is to act; give its picture")
        return self

    @model_validator(mode="after")
    def _receipt_or_words(self):
        if self.original is None and not self.prompt.strip():
            raise ValueError("prompt is missing (what to draw); give --prompt, or --from a picture with a receipt")
        beside = {"checkpoint", "subject", "mask", "original", "output", "device"}
        if self.original is not None and (others := sorted(self.model_fields_set - beside)):
            raise ValueError(f"{others[0]}: given together with from, whose receipt says it; leave it out")
        return self


def run(config: GenerateConfig) -> list[Path]:
    """Draw and write the pictures; returns their paths.

    Raises:
        UserError, ImageError, CheckpointError: a picture, a receipt or a checkpoint that cannot be used.
    """
    original = None
    if config.original is not None:
        original = read_original(config.original, config.subject, config.mask)
    cut_out = original.subjects[0].cut_out if original and original.subjects else config.cut_out
    shown = _shown(config, cut_out)
    engine = load_checkpoint(config.checkpoint, config.device)
    if original is None:
        receipts = _receipts(config, engine)
    elif original.weights == engine.digest:
        receipts = [original]
    else:
        raise UserError(
            f"checkpoint = {config.checkpoint}: has weights {engine.digest[:16]}, but {config.original} was drawn with"
            f" {original.weights[:16]}; give the checkpoint that drew it"
        )
    requests = [to_request(receipt, shown, engine.encoders.resolution) for receipt in receipts]
    with progress(sum(request.steps for request in requests), "generate", "step") as bar:
        drawn = sample(engine, requests, bar.update)
    config.output.mkdir(parents=True, exist_ok=True)
    for subject in shown:
        (config.output / "reference.png").write_bytes(encode_png(subject.reference))
    paths = [config.output / f"{receipt.seed:05d}.png" for receipt in receipts]
    for path, image, receipt in zip(paths, drawn, receipts, strict=True):
        path.write_bytes(picture_file(image, receipt))
    say("generate", f"{len(paths)} pictures in {config.output}")
    return paths


def _receipts(config: GenerateConfig, engine: Engine) -> list[Receipt]:
    """One a picture, with the seeds counting up."""
    subjects: tuple[DrawnSubject, ...] = ()
    preservation, personalization = _weights(config, engine.calibration)
    if config.subject is not None:
        mask = sha256(config.mask.read_bytes()) if config.mask else None
        digest = sha256(config.subject.read_bytes())
        subjects = (DrawnSubject(digest, config.cut_out, preservation, personalization, config.box, mask),)
    return [
        Receipt(
            model="flexip",
            weights=engine.digest,
            prompt=config.prompt,
            negative_prompt=config.negative_prompt,
            seed=config.seed + index,
            guidance_scale=config.guidance_scale,
            steps=config.steps,
            solver=config.solver,
            subjects=subjects,
            software=software(),
        )
        for index in range(config.images)
    ]


def _shown(config: GenerateConfig, cut_out: bool) -> list[Shown]:
    """The subject as the model sees it, or nobody."""
    if config.subject is None:
        return []
    reference = _decoded(config.subject, "subject", "a picture of the subject")
    if cut_out:
        prepared = prepare_reference(reference)
        reference = prepared.image
        say("generate", f"subject {config.subject}: {prepared.done}")
    mask = mask_of(_decoded(config.mask, "mask", "a black and white picture")) if config.mask else None
    return [Shown(reference, mask)]


def _decoded(path: Path, field: str, wanted: str) -> Rgb:
    if not path.is_file():
        raise UserError(f"{field} = {path}: no such file; give {wanted}")
    return decode_image(path.read_bytes())


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
