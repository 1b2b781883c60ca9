"""From what a client asks to what the sampler draws: for each image a receipt, and the request that follows from it."""

import secrets
from dataclasses import dataclass, replace

from flexip.canvas import Canvas
from flexip.engine import Engine
from flexip.request import Request
from flexip.solvers import MOST_LCM_STEPS
from jobs.people import casting_digest
from jobs.receipt import MOST_SUBJECTS, DrawnCanvas, Receipt, fits, sha256, software, to_request
from jobs.serving.asked import Asked, Context
from jobs.serving.cast import cast, sitters
from jobs.serving.errors import RequestError, shorten
from jobs.serving.models import Model
from jobs.serving.pictures import decode_paint_mask, decode_picture, fitted
from jobs.serving.requests import LARGEST_SEED, Served
from jobs.sizes import Size, check_size, size_of, size_words


@dataclass(frozen=True)
class Job:
    """One image to draw, and the adapters that draw it."""

    receipt: Receipt
    request: Request
    engine: Engine


def to_jobs(asked: Asked, context: Context) -> list[Job]:
    """One job an image, `n` seeds counting up from the given or a random one. Decodes, so not for the event loop.

    Raises:
        RequestError: a value beyond the limits, another model or size, a subject, a gate or a canvas that cannot be.
    """
    request, served = asked.request, context.served
    check(asked, served)
    model, size = _model(request.model, served), size_of(request.size, served.size)
    drawn = [cast(sitter) for sitter in sitters(asked, model.engine, context, size)]
    told, canvas = _canvas(asked, size, served.limits.image_megapixels)
    first = secrets.randbelow(LARGEST_SEED) if request.seed is None else request.seed
    receipt = Receipt(
        model=model.name,
        weights=model.engine.digest,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        seed=first,
        size=size_words(size),
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
    return [Job(receipt, to_request(receipt, shown, size, canvas), model.engine) for receipt in receipts]


def check(asked: Asked, served: Served) -> None:
    """Raises RequestError for what can be told to be wrong before any picture is decoded."""
    request, subjects, limits = asked.request, asked.subjects, served.limits
    _model(request.model, served)
    _check_steps(asked, limits.steps)
    _check_size(size_of(request.size, served.size), served)
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


def _check_size(size: Size, served: Served) -> None:
    try:
        check_size(size, served.unit)
    except ValueError as error:
        raise RequestError(str(error), "size", status=422) from error
    if (pixels := size[0] * size[1]) > served.most_pixels:
        message = f"size = {size_words(size)}: {pixels} pixels; at most {served.most_pixels} are drawn here"
        raise RequestError(message, "size", status=422)


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


def _canvas(asked: Asked, size: Size, megapixels: float) -> tuple[DrawnCanvas | None, Canvas | None]:
    if asked.canvas is None:
        return None, None
    file, mask = asked.canvas
    strength = 1.0 if asked.strength is None else asked.strength
    image = fitted(decode_picture(file, megapixels, "image[0]"), size, "image[0]")
    painted = fitted(decode_paint_mask(mask, megapixels, "mask"), size, "mask")
    return DrawnCanvas(sha256(file), sha256(mask), strength), Canvas(image, painted, strength)
