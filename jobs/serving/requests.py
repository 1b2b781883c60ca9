"""What a client may ask for: OpenAI's image fields plus the gate, checked before anything is drawn."""

import base64
import binascii
import secrets
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from flexip.calibration import Calibration
from flexip.images import ImageError, Rgb, decode_image
from flexip.request import Request
from flexip.solvers import Solver
from jobs.config import Section
from jobs.serving.errors import RequestError, shorten
from pipelines.references import prepare_reference

LARGEST_SEED = 2**32 - 1
WEIGHTS = ("preservation_weight", "personalization_weight")
BALANCED = 0.5  # the gate of a reference that comes without one


class LimitsConfig(Section):
    """What one request may cost."""

    images: int = Field(default=8, ge=1, description="most images of one request (n)")
    steps: int = Field(default=100, ge=1, le=1000, description="most denoising steps of one image")
    prompt: int = Field(default=2000, ge=1, description="longest prompt [characters]; the text encoder reads 77 tokens")
    body_mb: float = Field(default=20, gt=0, description="largest request body [MB]")
    image_megapixels: float = Field(default=16, gt=0, description="largest reference image [million pixels]")


class ImageRequest(BaseModel):
    """The fields that both routes share."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    prompt: str = Field(min_length=1, description="what to draw")
    model: str | None = Field(None, description="the served model's name, as /v1/models tells; may be left out")
    n: int = Field(1, ge=1, description="how many images, each with a seed of its own")
    size: str = Field("auto", description="WIDTHxHEIGHT in pixels, the model's own resolution; auto takes it")
    response_format: Literal["b64_json"] = Field("b64_json", description="images are returned in the answer")
    output_format: Literal["png", "jpeg"] = Field("png", description="file format of the images")
    gamma: float | None = Field(None, ge=0, le=1, description="the dial: 0 obeys the prompt, 1 keeps the subject")
    preservation_weight: float | None = Field(None, ge=0, le=1, description="weight of identity, instead of gamma")
    personalization_weight: float | None = Field(None, ge=0, le=1, description="weight of the edit, instead of gamma")
    identity: float | None = Field(
        None, description="how much identity to keep, instead of gamma, for a checkpoint with a calibration"
    )
    cut_out: bool = Field(True, description="cut the subject out of its picture, as in training")
    guidance_scale: float = Field(5.0, ge=1, le=30, description="classifier-free guidance; 1 is without")
    num_inference_steps: int = Field(25, ge=1, description="denoising steps")
    solver: Solver = Field("ddim", description="ddim, or dpm++2m, which needs about half the steps")
    negative_prompt: str = Field("", description="what to steer away from")
    seed: int | None = Field(None, ge=0, le=LARGEST_SEED, description="of the first image, the next ones count up")
    user: str | None = Field(None, description="accepted for compatibility, not used")

    def weights(self, calibration: Calibration | None) -> tuple[float, float]:
        """(preservation, personalization): the two free weights, or gamma and 1 - gamma."""
        if self.identity is not None:
            gamma = _gamma_for(self.identity, calibration)
            return gamma, 1 - gamma
        if self.preservation_weight is not None and self.personalization_weight is not None:
            return self.preservation_weight, self.personalization_weight
        gamma = BALANCED if self.gamma is None else self.gamma
        return gamma, 1 - gamma


class GenerationRequest(ImageRequest):
    """Body of POST /v1/images/generations."""

    image: str | None = Field(None, description="reference of the subject: base64 or a data: URL; without, text alone")


class EditRequest(ImageRequest):
    """Fields of POST /v1/images/edits beside the file `image`, the reference of the subject."""


class ImageData(BaseModel):
    """One image of an answer."""

    b64_json: str = Field(description="the image file in base64")
    seed: int = Field(description="repeats this image when sent with the same fields and n = 1")


class ImagesResponse(BaseModel):
    """OpenAI's answer, with a seed beside each image."""

    created: int = Field(description="Unix time [s]")
    data: list[ImageData]


@dataclass(frozen=True)
class Served:
    """What is being served: the facts a request is checked against."""

    name: str
    resolution: int  # [px] side of every image
    limits: LimitsConfig
    calibration: Calibration | None = None


def to_rows(request: ImageRequest, reference: Rgb | None, served: Served) -> list[Request]:
    """One sampler row per image asked for, `n` seeds counting up from the given or a random one.

    Raises:
        RequestError: a value beyond the limits, another model or size, or a gate without a reference.
    """
    _check(request, reference, served)
    preservation, personalization = request.weights(served.calibration)
    first = secrets.randbelow(LARGEST_SEED) if request.seed is None else request.seed
    return [
        Request(
            prompt=request.prompt,
            reference=reference,
            preservation=preservation,
            personalization=personalization,
            negative_prompt=request.negative_prompt,
            guidance_scale=request.guidance_scale,
            steps=request.num_inference_steps,
            solver=request.solver,
            seed=(first + index) % (LARGEST_SEED + 1),
        )
        for index in range(request.n)
    ]


def _check(request: ImageRequest, reference: Rgb | None, served: Served) -> None:
    limits, side = served.limits, served.resolution
    if request.model not in (None, served.name):
        message = f"model = {shorten(request.model)}: not served here; leave it out or send {served.name!r}"
        raise RequestError(message, "model", "model_not_found", 404)
    if request.size not in ("auto", f"{side}x{side}"):
        message = f"size = {shorten(request.size)}: this model draws {side}x{side}; send that, or auto"
        raise RequestError(message, "size", status=422)
    for name, most in (("n", limits.images), ("num_inference_steps", limits.steps)):
        if getattr(request, name) > most:
            message = f"{name} = {getattr(request, name)}: should be less than or equal to {most}"
            raise RequestError(message, name, status=422)
    for name in ("prompt", "negative_prompt"):
        if len(getattr(request, name)) > limits.prompt:
            message = f"{name}: {len(getattr(request, name))} characters; at most {limits.prompt} are accepted"
            raise RequestError(message, name, status=422)
    if not request.prompt.strip():
        raise RequestError(f"prompt = {shorten(request.prompt)}: should say what to draw", "prompt", status=422)
    _check_gate(request, reference)


def _gamma_for(identity: float, calibration: Calibration | None) -> float:
    if calibration is None:
        message = f"identity = {identity:g}: this model was not calibrated; send gamma instead"
        raise RequestError(message, "identity", status=422)
    try:
        return calibration.gamma_for(identity)
    except ValueError as error:
        raise RequestError(str(error), "identity", status=422) from error


def _check_gate(request: ImageRequest, reference: Rgb | None) -> None:
    weights = [name for name in WEIGHTS if getattr(request, name) is not None]
    if request.identity is not None and (request.gamma is not None or weights):
        other = weights[0] if weights else "gamma"
        message = f"identity = {request.identity:g}: given together with {other}; give one of them"
        raise RequestError(message, "identity", status=422)
    if request.gamma is not None and weights:
        message = f"gamma = {request.gamma:g}: given together with {weights[0]}; give gamma or the two weights"
        raise RequestError(message, "gamma", status=422)
    if len(weights) == 1:
        missing = next(name for name in WEIGHTS if name not in weights)
        message = f"{missing}: missing beside {weights[0]}; give both weights, or gamma instead of them"
        raise RequestError(message, missing, "missing_field", 422)
    asked = [*weights, *(name for name in ("gamma", "identity") if getattr(request, name) is not None)]
    if reference is None and asked:
        name = asked[0]
        message = f"{name}: there is no subject to weigh; send its picture as image, or leave {name} out"
        raise RequestError(message, name, status=422)


def decode_base64(text: str) -> bytes:
    """The bytes of base64 text or of a `data:image/...;base64,` URL.

    Raises:
        RequestError: anything else, URLs of other kinds included: the server fetches nothing.
    """
    body = text.strip()
    if body.startswith("data:"):
        head, comma, body = body.partition(",")
        if not comma or not head.endswith(";base64"):
            message = f"image = {shorten(text)}: a data URL must look like data:image/png;base64,..."
            raise RequestError(message, "image", "invalid_base64")
    elif "://" in body[:12]:
        message = f"image = {shorten(text)}: the server fetches no URLs; send the picture itself as base64"
        raise RequestError(message, "image", "invalid_base64")
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        message = f"image = {shorten(text)}: not base64 ({error}); send base64 or a data URL"
        raise RequestError(message, "image", "invalid_base64") from error


def decode_reference(data: bytes, limits: LimitsConfig, cut_out: bool, param: str = "image") -> Rgb:
    """The reference as RGB, its subject cut out on white if wanted.

    Raises:
        RequestError: bytes that are no usable picture, or one that is too large or too small.
    """
    try:
        image = decode_image(data, max_pixels=limits.image_megapixels * 1e6)
        return prepare_reference(image).image if cut_out else image
    except ImageError as error:
        status = 413 if error.reason == "too_many_pixels" else 400
        raise RequestError(
            f"{param}: {error}; send a PNG, JPEG or WebP picture", param, error.reason, status
        ) from error
