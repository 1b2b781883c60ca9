"""Draw pictures of a subject from a checkpoint, without a server; or draw one again from its receipt.

python -m jobs.generate --checkpoint demo_output/train/checkpoint --subject subject.png --prompt "on a beach"
python -m jobs.generate --checkpoint demo_output/train/checkpoint --subject subject.png --prompt "snow" --sweep 0,0.5,1
python -m jobs.generate --checkpoint demo_output/train/checkpoint --subject subject.png --from generated/00000.png
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field, model_validator

from flexip.calibration import Calibration
from flexip.canvas import Canvas
from flexip.checkpoint import load_checkpoint
from flexip.engine import Engine
from flexip.images import Rgb, decode_image, decode_painted, encode_png, grid
from flexip.motion import Motion
from flexip.sampler import sample
from flexip.solvers import Solver
from jobs.config import JobConfig, load
from jobs.console import UserError, command_line, progress, say
from jobs.people import FacesConfig, asked_motion, casting_digest, person_of, with_people
from jobs.receipt import (
    MOST_SUBJECTS,
    Box,
    DrawnCanvas,
    DrawnSubject,
    Receipt,
    Shown,
    mask_of,
    picture_file,
    sha256,
    software,
    to_request,
)
from jobs.repeat import Files, read_original
from jobs.sizes import AUTO, Size, SizeWords, check_aspect, check_size, size_of, size_words
from pipelines.references import prepare_reference


def as_list(value: Any) -> Any:
    """One value stands for a list of one."""
    return value if isinstance(value, list | tuple) else [value]


def in_fours(value: Any) -> Any:
    """Boxes that came as one list of edges, as the command line gives them."""
    flat = isinstance(value, list | tuple) and not any(isinstance(edge, list | tuple) for edge in value)
    return [value[i : i + 4] for i in range(0, len(value), 4)] if flat else value


T = TypeVar("T")
Several = Annotated[list[T], BeforeValidator(as_list)]
Weight = Annotated[float, Field(ge=0, le=1)]


class GenerateConfig(JobConfig):
    """Draw pictures of a subject: a picture of it, a prompt and a gate."""

    checkpoint: Path = Field(description="checkpoint directory, as written by jobs.train")
    prompt: str = Field(default="", description="what to draw")
    subject: Several[Path] = Field(
        default=[], description="picture of a subject, once for each of up to five; none: the base model draws"
    )
    mask: Several[Path] = Field(
        default=[], description="picture that is white where the subject may act, one for each subject"
    )
    box: Annotated[list[Box], BeforeValidator(in_fours)] = Field(
        default=[], description="instead of mask: left,top,right,bottom as fractions of the picture, for each subject"
    )
    people: Path | None = Field(
        default=None, description="DynamicID checkpoint: each subject's face is drawn as this person's, too"
    )
    expression: Several[str] = Field(
        default=[], description="of each person, as happy, or in words: 'sad and looking left'; none: as in the picture"
    )
    pose: Several[str] = Field(
        default=[], description="of each person: fully left, left, front, right or fully right; none: as in the picture"
    )
    faces: FacesConfig = Field(default=FacesConfig(), description="with people: what finds faces in pictures")
    canvas: Path | None = Field(default=None, description="picture to paint into, where canvas_mask says")
    canvas_mask: Path | None = Field(
        default=None, description="picture that is transparent, or white, where the canvas is painted"
    )
    strength: float = Field(
        default=1.0, gt=0, le=1, description="share of the steps; below 1 the canvas shines through what is painted"
    )
    original: Path | None = Field(
        default=None,
        alias="from",
        description="picture to draw again, from the receipt in it; with the files it names, and nothing else",
    )
    cut_out: bool = Field(default=True, description="cut the subject out of its picture, as in training")
    gamma: Several[Weight] = Field(
        default=[0.5], description="the dial: 0 obeys the prompt, 1 keeps the subject; one, or one for each subject"
    )
    sweep: Several[Weight] = Field(
        default=[], description="gammas that are drawn one after the other, e.g. 0,0.25,0.5,0.75,1, instead of gamma"
    )
    identity: Several[float] = Field(
        default=[], description="how much identity to keep, instead of gamma; needs a checkpoint with a calibration"
    )
    preservation: Several[float] = Field(default=[], description="weight of identity, instead of gamma")
    personalization: Several[float] = Field(default=[], description="weight of the edit, instead of 1 - gamma")
    negative_prompt: str = Field(default="", description="what to steer away from")
    guidance_scale: float = Field(default=5.0, ge=1, description="classifier-free guidance; 1 is without")
    steps: int = Field(default=25, ge=1, le=1000, description="denoising steps")
    size: SizeWords = Field(
        default=AUTO, description="of the picture, WIDTHxHEIGHT in pixels, as 96x64; auto is the model's own"
    )
    solver: Solver = Field(
        default="ddim",
        description="ddim; dpm++2m, which needs about half the steps; lcm, for a model with a few-step LoRA",
    )
    seed: int = Field(default=0, ge=0, description="of the first picture; the next ones count up")
    images: int = Field(default=1, ge=1, le=256, description="how many pictures")
    output: Path = Field(
        default=Path("generated"),
        description="directory for the PNG files, named by their seeds, and for the reference as it was used",
    )
    device: str = Field(default="cpu", description="torch device, e.g. cuda")

    @model_validator(mode="after")
    def _both_weights(self):
        if len(self.preservation) != len(self.personalization):
            raise ValueError("preservation and personalization: give both weights, or gamma alone")
        if self.identity and ("gamma" in self.model_fields_set or self.preservation):
            raise ValueError("identity: given together with gamma or the two weights; give one of them")
        if self.sweep and ("gamma" in self.model_fields_set or self.preservation or self.identity):
            raise ValueError("sweep: given together with another gate; give one of them")
        if self.sweep and not self.subject:
            raise ValueError("subject: missing beside the sweep, which says how much of it; give its picture")
        return self

    @model_validator(mode="after")
    def _as_many_as_subjects(self):
        count = len(self.subject)
        if count > MOST_SUBJECTS:
            raise ValueError(f"subject: {count} of them; at most {MOST_SUBJECTS} come into one picture")
        if self.box and self.mask:
            raise ValueError("box: given together with mask; give one of them")
        if (self.box or self.mask) and not count:
            raise ValueError("subject: missing beside the box or mask in which it is to act; give its picture")
        places = () if self.original else ("box", "mask")  # a receipt says itself which of its subjects has a mask
        for name in (*places, "gamma", "identity", "preservation"):
            given = len(getattr(self, name))
            if given not in ((0, count) if name in places else (0, 1, count)):
                raise ValueError(f"{name}: {given} for {count} subjects; give one for each")
        return self

    @model_validator(mode="after")
    def _people_and_their_motions(self):
        if self.people is None and (self.expression or self.pose):
            name = "expression" if self.expression else "pose"
            raise ValueError(f"people: missing beside {name}; give a DynamicID checkpoint")
        for name in ("expression", "pose"):
            if (given := len(getattr(self, name))) not in (0, len(self.subject)):
                raise ValueError(f"{name}: {given} for {len(self.subject)} subjects; give one for each")
        for expression, pose in _motions(self):
            asked_motion(expression, pose)
        return self

    @model_validator(mode="after")
    def _canvas_and_mask(self):
        if (self.canvas is None) != (self.canvas_mask is None):
            raise ValueError("canvas and canvas_mask: give both, what is painted into and where")
        if self.canvas is None and "strength" in self.model_fields_set:
            raise ValueError("strength: there is no canvas; give canvas and canvas_mask, or leave it out")
        return self

    @model_validator(mode="after")
    def _receipt_or_words(self):
        if self.original is None and not self.prompt.strip():
            raise ValueError("prompt is missing (what to draw); give --prompt, or --from a picture with a receipt")
        files = {"checkpoint", "people", "faces", "subject", "mask", "canvas", "canvas_mask", "original"}
        beside = files | {"output", "device"}
        if self.original is not None and (others := sorted(self.model_fields_set - beside)):
            raise ValueError(f"{others[0]}: given together with from, whose receipt says it; leave it out")
        return self


def run(config: GenerateConfig) -> list[Path]:
    """Draw and write the pictures; returns their paths.

    Raises:
        UserError, ImageError, CheckpointError: a picture, a receipt or a checkpoint that cannot be used.
    """
    files = Files(config.subject, config.mask, config.canvas, config.canvas_mask)
    original = None if config.original is None else read_original(config.original, files)
    shown, canvas = _shown(config, original), _canvas(config, original)
    engine = with_people(load_checkpoint(config.checkpoint, config.device), config.people, config.faces)
    size = _size(config, original, engine)
    _check_aspects(shown, canvas, size)
    if original is None:
        receipts = _receipts(config, engine, size)
    elif original.weights == engine.digest:
        receipts = [original]
    else:
        raise UserError(
            f"checkpoint = {config.checkpoint}: has weights {engine.digest[:16]}, but {config.original} was drawn with"
            f" {original.weights[:16]}; give the checkpoint that drew it"
        )
    shown = _cast(config, engine, shown, receipts[0])
    requests = [to_request(receipt, shown, size, canvas) for receipt in receipts]
    with progress(sum(request.calls for request in requests), "generate", "step") as bar:
        drawn = sample(engine, requests, bar.update)
    config.output.mkdir(parents=True, exist_ok=True)
    for number, subject in enumerate(shown, 1):
        name = "reference.png" if number == 1 else f"reference-{number}.png"
        (config.output / name).write_bytes(encode_png(subject.reference))
    paths = [config.output / f"{receipt.seed:05d}{_sweep_mark(config, n)}.png" for n, receipt in enumerate(receipts)]
    for path, image, receipt in zip(paths, drawn, receipts, strict=True):
        path.write_bytes(picture_file(image, receipt))
    if config.sweep:
        rows = [drawn[first : first + len(config.sweep)] for first in range(0, len(drawn), len(config.sweep))]
        (config.output / "sweep.png").write_bytes(encode_png(grid(rows)))
    say("generate", f"{len(paths)} pictures in {config.output}")
    return paths


def _sweep_mark(config: GenerateConfig, number: int) -> str:
    """What tells pictures of one seed apart."""
    return f"-{config.sweep[number % len(config.sweep)]:g}" if config.sweep else ""


def _size(config: GenerateConfig, original: Receipt | None, engine: Engine) -> Size:
    """Of all pictures. Raises UserError for one that the model cannot draw."""
    own = engine.encoders.resolution, engine.encoders.resolution
    size = size_of(original.size if original else config.size, own)
    try:
        check_size(size, engine.unit)
    except ValueError as error:
        raise UserError(str(error)) from error
    return size


def _check_aspects(shown: Sequence[Shown], canvas: Canvas | None, size: Size) -> None:
    """Raises UserError for a mask or a canvas of another aspect than the pictures'."""
    fitted = [("mask", subject.mask) for subject in shown if subject.mask is not None]
    fitted += [("canvas", canvas.image), ("canvas_mask", canvas.mask)] if canvas else []
    for name, picture in fitted:
        try:
            check_aspect(picture, size)
        except ValueError as error:
            raise UserError(f"{name}: {error}") from error


def _receipts(config: GenerateConfig, engine: Engine, size: Size) -> list[Receipt]:
    """One a picture, with the seeds counting up; in a sweep, one for each gamma of each seed."""
    receipt = Receipt(
        model="flexip",
        weights=engine.digest,
        prompt=config.prompt,
        negative_prompt=config.negative_prompt,
        seed=config.seed,
        guidance_scale=config.guidance_scale,
        steps=config.steps,
        solver=config.solver,
        software=software(),
        size=size_words(size),
        people=casting_digest(engine) if config.subject else "",
    )
    if config.canvas is not None and config.canvas_mask is not None:
        canvas, mask = (sha256(path.read_bytes()) for path in (config.canvas, config.canvas_mask))
        receipt = replace(receipt, canvas=DrawnCanvas(canvas, mask, config.strength))
    seeds = range(config.seed, config.seed + config.images)
    gates = [[(gamma, 1 - gamma)] for gamma in config.sweep] or [_weights(config, engine.calibration)]
    groups = [_subjects(config, weights) for weights in gates]
    return [replace(receipt, seed=seed, subjects=subjects) for seed in seeds for subjects in groups]


def _subjects(config: GenerateConfig, gates: Sequence[tuple[float, float]]) -> tuple[DrawnSubject, ...]:
    """The subjects, each with its own gate or all with the one."""
    count = len(config.subject)
    gates = [*gates] * count if len(gates) == 1 else gates
    boxes = config.box or [None] * count
    masks = [sha256(path.read_bytes()) for path in config.mask] or [None] * count
    drawn = tuple(
        DrawnSubject(sha256(path.read_bytes()), config.cut_out, *gate, box, mask)
        for path, gate, box, mask in zip(config.subject, gates, boxes, masks, strict=True)
    )
    if config.people is None:
        return drawn
    asked = [asked_motion(*words) or Motion() for words in _motions(config)]
    return tuple(
        replace(subject, person=True, expression=motion.expression, pose=motion.pose)
        for subject, motion in zip(drawn, asked, strict=True)
    )


def _motions(config: GenerateConfig) -> list[tuple[str, str]]:
    """What is said of each subject's expression and pose."""
    nothing = [""] * len(config.subject)
    return [*zip(config.expression or nothing, config.pose or nothing, strict=True)]


def _cast(config: GenerateConfig, engine: Engine, shown: Sequence[Shown], receipt: Receipt) -> list[Shown]:
    """The same with the people among them, which are looked for in the pictures as they are."""
    if receipt.people != (casting_digest(engine) if any(subject.person for subject in receipt.subjects) else ""):
        raise UserError(
            f"people = {config.people}: is not the DynamicID that {config.original} was drawn with, whose file has"
            f" SHA-256 {receipt.people[:16]}..."
        )
    return [
        replace(one, person=person_of(engine, _decoded(path, "subject", "a picture"), drawn, f"subject = {path}"))
        for path, one, drawn in zip(config.subject, shown, receipt.subjects, strict=True)
    ]


def _shown(config: GenerateConfig, original: Receipt | None) -> list[Shown]:
    """The subjects as the model sees them."""
    drawn = original.subjects if original else ()
    cut_outs = [subject.cut_out for subject in drawn] or [config.cut_out] * len(config.subject)
    masked = [subject.mask is not None for subject in drawn] or [bool(config.mask)] * len(config.subject)
    masks = iter(config.mask)
    return [
        Shown(_reference(path, cut_out), mask_of(_decoded(next(masks), "mask", "a picture")) if has_mask else None)
        for path, cut_out, has_mask in zip(config.subject, cut_outs, masked, strict=True)
    ]


def _reference(path: Path, cut_out: bool) -> Rgb:
    reference = _decoded(path, "subject", "a picture of the subject")
    if not cut_out:
        return reference
    prepared = prepare_reference(reference)
    say("generate", f"subject {path}: {prepared.done}")
    return prepared.image


def _canvas(config: GenerateConfig, original: Receipt | None) -> Canvas | None:
    if config.canvas is None or config.canvas_mask is None:
        return None
    image = _decoded(config.canvas, "canvas", "a picture to paint into")
    painted = decode_painted(_bytes(config.canvas_mask, "canvas_mask", "a picture that says where"))
    return Canvas(image, painted, original.canvas.strength if original and original.canvas else config.strength)


def _decoded(path: Path, field: str, wanted: str) -> Rgb:
    return decode_image(_bytes(path, field, wanted))


def _bytes(path: Path, field: str, wanted: str) -> bytes:
    if not path.is_file():
        raise UserError(f"{field} = {path}: no such file; give {wanted}")
    return path.read_bytes()


def _weights(config: GenerateConfig, calibration: Calibration | None) -> list[tuple[float, float]]:
    """The two weights of each subject, or of all, however they were asked for."""
    if config.preservation:
        return [*zip(config.preservation, config.personalization, strict=True)]
    if not config.identity:
        return [(gamma, 1 - gamma) for gamma in config.gamma]
    if calibration is None:
        raise UserError(
            f"identity: {config.checkpoint} has no calibration; run `python -m jobs.calibrate`, or give --gamma"
        )
    try:
        gammas = [calibration.gamma_for(identity) for identity in config.identity]
    except ValueError as error:
        raise UserError(str(error)) from error
    for identity, gamma in zip(config.identity, gammas, strict=True):
        say("generate", f"identity {identity:g} is gamma {gamma:.3f}")
    return [(gamma, 1 - gamma) for gamma in gammas]


@command_line
def main(argv: list[str] | None = None) -> None:
    """The command line; see `--help`."""
    run(load(GenerateConfig, argv, "python -m jobs.generate"))


if __name__ == "__main__":
    main()
