"""From what a client asks to what the sampler draws: for each image a receipt, and the request that follows from it."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flexip.canvas import Canvas
from flexip.engine import Engine
from flexip.faces import FaceError
from flexip.images import Rgb
from flexip.motion import Motion
from flexip.people import Person
from flexip.request import Request
from flexip.solvers import MOST_LCM_STEPS
from jobs.console import UserError
from jobs.people import asked_motion, casting_digest, person_of
from jobs.receipt import (
    MOST_SUBJECTS,
    DrawnCanvas,
    DrawnSubject,
    Receipt,
    Shown,
    fits,
    mask_of,
    sha256,
    software,
    to_request,
)
from jobs.serving.errors import RequestError, shorten
from jobs.serving.gates import weights
from jobs.serving.models import Model
from jobs.serving.pictures import decode_paint_mask, decode_picture, decode_reference, decode_square
from jobs.serving.requests import LARGEST_SEED, ImageRequest, Served, Subject
from jobs.serving.subjects import SubjectStore

Bytes = Callable[[Any, str], bytes]  # (picture as the request names it, path of the field) -> file


@dataclass(frozen=True)
class Asked:
    """A request with what is named in it."""

    request: ImageRequest
    subjects: Sequence[Subject]
    file_of: Bytes
    canvas: tuple[bytes, bytes] | None = None  # its file and its mask's
    strength: float | None = None


@dataclass(frozen=True)
class Job:
    """One image to draw, and the adapters that draw it."""

    receipt: Receipt
    request: Request
    engine: Engine


@dataclass(frozen=True)
class Context:
    """What a request is answered with, beside what it brings."""

    served: Served
    store: SubjectStore
    owner: str  # the key's name


def to_jobs(asked: Asked, context: Context) -> list[Job]:
    """One job an image, `n` seeds counting up from the given or a random one. Decodes, so not for the event loop.

    Raises:
        RequestError: a value beyond the limits, another model or size, a subject, a gate or a canvas that cannot be.
    """
    request, served = asked.request, context.served
    check(asked, served)
    model = _model(request.model, served)
    drawn = [_subject(asked, s, f"subjects[{i}].", model.engine, context) for i, s in enumerate(asked.subjects)]
    told, canvas = _canvas(asked, served.limits.image_megapixels)
    first = secrets.randbelow(LARGEST_SEED) if request.seed is None else request.seed
    receipt = Receipt(
        model=model.name,
        weights=model.engine.digest,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        seed=first,
        guidance_scale=request.guidance_scale,
        steps=request.num_inference_steps,
        solver=request.solver,
        subjects=tuple(subject for subject, _ in drawn),
        canvas=told,
        version=model.version,
        software=software(),
        people=casting_digest(model.engine) if any(subject.person for subject, _ in drawn) else "",
    )
    if not fits(receipt, request.output_format):
        message = (
            f"output_format = {request.output_format}: has no room for schedules as long as these; send png or webp"
        )
        raise RequestError(message, "output_format", status=422)
    receipts = [replace(receipt, seed=(first + index) % (LARGEST_SEED + 1)) for index in range(request.n)]
    shown = [picture for _, picture in drawn]
    return [Job(receipt, to_request(receipt, shown, served.resolution, canvas), model.engine) for receipt in receipts]


def check(asked: Asked, served: Served) -> None:
    """Raises RequestError for what can be told to be wrong before any picture is decoded."""
    request, subjects, limits = asked.request, asked.subjects, served.limits
    _model(request.model, served)
    _check_steps(asked, limits.steps)
    if request.size not in ("auto", served.size):
        message = f"size = {shorten(request.size)}: this model draws {served.size}; send that, or auto"
        raise RequestError(message, "size", status=422)
    if request.n > (most := 1 if request.stream else limits.images):
        also = " with stream" if request.stream else ""
        raise RequestError(f"n = {request.n}: should be less than or equal to {most}{also}", "n", status=422)
    for name in ("prompt", "negative_prompt"):
        if len(getattr(request, name)) > limits.prompt:
            message = f"{name}: {len(getattr(request, name))} characters; at most {limits.prompt} are accepted"
            raise RequestError(message, name, status=422)
    if not request.prompt.strip():
        raise RequestError(f"prompt = {shorten(request.prompt)}: should say what to draw", "prompt", status=422)
    if request.partial_images and not request.stream:
        message = f"partial_images = {request.partial_images}: only with stream = true; send both or neither"
        raise RequestError(message, "partial_images", status=422)
    if len(subjects) > MOST_SUBJECTS:
        message = f"subjects: {len(subjects)} of them; at most {MOST_SUBJECTS} come into one picture"
        raise RequestError(message, "subjects", "too_many_subjects", 422)
    if request.said and not subjects:
        name = request.said[0]
        message = f"{name}: there is no subject to weigh; send one, or leave {name} out"
        raise RequestError(message, name, status=422)


def _check_steps(asked: Asked, most: int) -> None:
    steps, name = asked.request.num_inference_steps, "num_inference_steps"
    few = asked.request.solver == "lcm" and most > MOST_LCM_STEPS
    if steps > (MOST_LCM_STEPS if few else most):
        told = f"{MOST_LCM_STEPS} with lcm" if few else f"{most}"
        raise RequestError(f"{name} = {steps}: should be less than or equal to {told}", name, status=422)
    if asked.strength is not None and int(steps * asked.strength) < 1:
        message = f"strength = {asked.strength:g}: of {steps} steps that is less than one; send more of either"
        raise RequestError(message, "strength", status=422)


def _model(name: str | None, served: Served) -> Model:
    model = served.models.get(name)
    if model is None:
        names = " or ".join(repr(known.name) for known in served.models.all())
        message = f"model = {shorten(name)}: not served here; leave it out or send {names}"
        raise RequestError(message, "model", "model_not_found", 404)
    return model


def _canvas(asked: Asked, megapixels: float) -> tuple[DrawnCanvas | None, Canvas | None]:
    if asked.canvas is None:
        return None, None
    file, mask = asked.canvas
    strength = 1.0 if asked.strength is None else asked.strength
    image, painted = decode_square(file, megapixels, "image[0]"), decode_paint_mask(mask, megapixels, "mask")
    return DrawnCanvas(sha256(file), sha256(mask), strength), Canvas(image, painted, strength)


def _subject(asked: Asked, subject: Subject, path: str, engine: Engine, context: Context) -> tuple[DrawnSubject, Shown]:
    request, file_of = asked.request, asked.file_of
    said, where = (subject, path) if subject.said else (request, "")
    preservation, personalization = weights(said, request.num_inference_steps, engine.calibration, where)
    _check_box(subject, path)
    motion = _motion(subject, path, engine)
    digest, mask = _mask(subject, path, file_of, context)
    source, cut_out, reference = _reference(request, subject, path, file_of, context)
    drawn = DrawnSubject(source, cut_out, preservation, personalization, subject.box, digest)
    if not (subject.person or motion):
        return drawn, Shown(reference, mask)
    drawn = replace(
        drawn, person=True, expression=motion.expression if motion else "", pose=motion.pose if motion else ""
    )
    return drawn, Shown(reference, mask, _person(subject, drawn, reference, path, file_of, context, engine))


def _motion(subject: Subject, path: str, engine: Engine) -> Motion | None:
    """What the person is to do. Raises RequestError for what is not understood, or cannot be done here."""
    try:
        motion = asked_motion(subject.expression, subject.pose)
    except ValueError as error:  # its message begins with the field
        raise RequestError(f"{path}{error}", f"{path}{str(error).partition(':')[0]}", status=422) from error
    if (subject.person or motion) and engine.casting is None:
        name = "expression" if subject.expression else "pose" if subject.pose else "person"
        message = f"{path}{name}: this model draws no people; leave person, expression and pose out"
        raise RequestError(message, f"{path}{name}", "no_people", 422)
    return motion


def _person(
    subject: Subject, drawn: DrawnSubject, reference: Rgb, path: str, file_of: Bytes, context: Context, engine: Engine
) -> Person | None:
    """Of the whole picture: what is cut out may lack hair, or a part of the face."""
    field, picture = f"{path}subject_id", reference
    if subject.subject_id is None:
        field = f"{path}image"
        picture = decode_picture(file_of(subject.image, field), context.served.limits.image_megapixels, field)
    try:
        return person_of(engine, picture, drawn, field)
    except FaceError as error:
        raise RequestError(str(error), field, error.reason, 422) from error
    except UserError as error:
        raise RequestError(f"{path}{error}", f"{path}expression", "no_motions", 422) from error


def _reference(
    request: ImageRequest, subject: Subject, path: str, file_of: Bytes, context: Context
) -> tuple[str, bool, Rgb]:
    """(SHA-256 of the file, whether its subject is cut out, the reference as the encoders see it)."""
    if (subject.image is None) == (subject.subject_id is None):
        problem = "missing" if subject.image is None else "given together with subject_id"
        message = f"{path}image: {problem}; send image or subject_id"
        raise RequestError(message, f"{path}image", status=422)
    if subject.subject_id is not None:
        info, reference = context.store.use(context.owner, subject.subject_id, f"{path}subject_id")
        return info.sha256, info.cut_out, reference
    file = file_of(subject.image, f"{path}image")
    megapixels = context.served.limits.image_megapixels
    reference = decode_reference(file, megapixels, request.cut_out, f"{path}image")
    return sha256(file), request.cut_out, reference


def _mask(subject: Subject, path: str, file_of: Bytes, context: Context) -> tuple[str | None, np.ndarray | None]:
    """SHA-256 of the mask's file, and the mask."""
    if subject.mask is None:
        return None, None
    file = file_of(subject.mask, f"{path}mask")
    return sha256(file), mask_of(decode_square(file, context.served.limits.image_megapixels, f"{path}mask"))


def _check_box(subject: Subject, path: str) -> None:
    if subject.box is None:
        return
    if subject.mask is not None:
        raise RequestError(f"{path}box: given together with mask; send one of them", f"{path}box", status=422)
    left, top, right, bottom = subject.box
    if left >= right or top >= bottom:
        message = f"{path}box = {list(subject.box)}: empty; send left < right and top < bottom, each within 0..1"
        raise RequestError(message, f"{path}box", status=422)
