"""From what a client asks to what the sampler draws: for each image a receipt, and the request that follows from it."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flexip.images import Rgb
from flexip.request import Request
from jobs.receipt import DrawnSubject, Receipt, Shown, mask_of, sha256, software, to_request
from jobs.serving.errors import RequestError, shorten
from jobs.serving.gates import weights
from jobs.serving.pictures import decode_picture, decode_reference
from jobs.serving.requests import LARGEST_SEED, MOST_SUBJECTS, ImageRequest, Served, Subject
from jobs.serving.subjects import SubjectStore

Bytes = Callable[[Any, str], bytes]  # (picture as the request names it, path of the field) -> file


@dataclass(frozen=True)
class Job:
    """One image to draw."""

    receipt: Receipt
    request: Request


@dataclass(frozen=True)
class Context:
    """What a request is answered with, beside what it brings."""

    served: Served
    store: SubjectStore
    owner: str  # the key's name


def to_jobs(request: ImageRequest, subjects: Sequence[Subject], file_of: Bytes, context: Context) -> list[Job]:
    """One job an image, `n` seeds counting up from the given or a random one. Decodes, so not for the event loop.

    Raises:
        RequestError: a value beyond the limits, another model or size, a subject or a gate that cannot be.
    """
    served = context.served
    check(request, subjects, served)
    drawn = [_subject(request, s, f"subjects[{i}].", file_of, context) for i, s in enumerate(subjects)]
    first = secrets.randbelow(LARGEST_SEED) if request.seed is None else request.seed
    receipts = [
        Receipt(
            model=served.name,
            weights=served.weights,
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            seed=(first + index) % (LARGEST_SEED + 1),
            guidance_scale=request.guidance_scale,
            steps=request.num_inference_steps,
            solver=request.solver,
            subjects=tuple(subject for subject, _ in drawn),
            software=software(),
        )
        for index in range(request.n)
    ]
    shown = [picture for _, picture in drawn]
    return [Job(receipt, to_request(receipt, shown, served.resolution)) for receipt in receipts]


def check(request: ImageRequest, subjects: Sequence[Subject], served: Served) -> None:
    """Raises RequestError for what can be told to be wrong before any picture is decoded."""
    limits = served.limits
    if request.model not in (None, served.name):
        message = f"model = {shorten(request.model)}: not served here; leave it out or send {served.name!r}"
        raise RequestError(message, "model", "model_not_found", 404)
    if request.size not in ("auto", served.size):
        message = f"size = {shorten(request.size)}: this model draws {served.size}; send that, or auto"
        raise RequestError(message, "size", status=422)
    for name, most in (("n", 1 if request.stream else limits.images), ("num_inference_steps", limits.steps)):
        if (value := getattr(request, name)) > most:
            also = " with stream" if name == "n" and request.stream else ""
            raise RequestError(f"{name} = {value}: should be less than or equal to {most}{also}", name, status=422)
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
        message = f"subjects: {len(subjects)} of them; this model brings at most {MOST_SUBJECTS} into a picture"
        raise RequestError(message, "subjects", "too_many_subjects", 422)
    if request.said and not subjects:
        name = request.said[0]
        message = f"{name}: there is no subject to weigh; send one, or leave {name} out"
        raise RequestError(message, name, status=422)


def _subject(
    request: ImageRequest, subject: Subject, path: str, file_of: Bytes, context: Context
) -> tuple[DrawnSubject, Shown]:
    asked, where = (subject, path) if subject.said else (request, "")
    preservation, personalization = weights(asked, request.num_inference_steps, context.served.calibration, where)
    _check_box(subject, path)
    digest, mask = _mask(subject, path, file_of, context)
    source, cut_out, reference = _reference(request, subject, path, file_of, context)
    drawn = DrawnSubject(source, cut_out, preservation, personalization, subject.box, digest)
    return drawn, Shown(reference, mask)


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
    picture = decode_picture(file, context.served.limits.image_megapixels, f"{path}mask")
    height, width = picture.shape[:2]
    if height != width:
        message = f"{path}mask: {width}x{height} pixels; images are square, and so must it be"
        raise RequestError(message, f"{path}mask", status=422)
    return sha256(file), mask_of(picture)


def _check_box(subject: Subject, path: str) -> None:
    if subject.box is None:
        return
    if subject.mask is not None:
        raise RequestError(f"{path}box: given together with mask; send one of them", f"{path}box", status=422)
    left, top, right, bottom = subject.box
    if left >= right or top >= bottom:
        message = f"{path}box = {list(subject.box)}: empty; send left < right and top < bottom, each within 0..1"
        raise RequestError(message, f"{path}box", status=422)
