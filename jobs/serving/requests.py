"""What a client may ask for and what it is answered: OpenAI's image fields, the gate, and subjects."""

from dataclasses import dataclass
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, Field, Json

from flexip.solvers import Solver
from jobs.config import Section
from jobs.receipt import MOST_SUBJECTS, FileFormat, Receipt
from jobs.serving.gates import GateFields, Schedule
from jobs.serving.models import Shelf
from jobs.sizes import AUTO, Size, SizeWords

LARGEST_SEED = 2**32 - 1
SUBJECT_ID = r"^subj_[0-9a-f]{24}$"

P = TypeVar("P")  # how a request names a picture: the picture itself in base64, or the number of an upload


class LimitsConfig(Section):
    """What one request may cost."""

    images: int = Field(default=8, ge=1, description="most images of one request (n)")
    steps: int = Field(default=100, ge=1, le=1000, description="most denoising steps of one image")
    prompt: int = Field(default=2000, ge=1, description="longest prompt [characters]; the text encoder reads 77 tokens")
    body_mb: float = Field(default=20, gt=0, description="largest request body [MB]")
    body_seconds: float = Field(default=60, gt=0, description="longest time that a body may take to arrive [s]")
    image_megapixels: float = Field(default=16, gt=0, description="largest picture in a request [million pixels]")
    picture_areas: float = Field(
        default=4, ge=1, description="largest picture that is drawn, in areas of the model's own: 4 is twice its sides"
    )
    seconds: float = Field(default=300, gt=0, description="longest time from the queue to the images [s]; then 504")


Side = Annotated[float, Field(ge=0, le=1)]


class Subject(GateFields, Generic[P]):
    """Somebody or something to bring into the picture; what it says of the gate goes before what the request says."""

    image: P | None = Field(None, description="a picture that shows it")
    subject_id: str | None = Field(None, pattern=SUBJECT_ID, description="instead of image: as /v1/subjects gave it")
    box: tuple[Side, Side, Side, Side] | None = Field(
        None, description="where it may act: left, top, right, bottom as fractions of the picture"
    )
    mask: P | None = Field(None, description="instead of box: a picture that is white where it may act")
    person: bool = Field(False, description="draw the one face in the picture as this person's, beside what gate keeps")
    expression: str = Field("", max_length=100, description="of the person, as happy, or in words: sad, looking left")
    pose: str = Field("", max_length=20, description="of the person: fully left, left, front, right or fully right")


class ImageRequest(GateFields):
    """The fields that both routes share."""

    prompt: str = Field(min_length=1, description="what to draw")
    model: str | None = Field(None, description="a name from /v1/models; none: the first of them")
    n: int = Field(1, ge=1, description="how many images, each with a seed of its own")
    size: SizeWords = Field(AUTO, description="WIDTHxHEIGHT in pixels; auto is the model's own. /v1/models tells which")
    response_format: Literal["b64_json"] = Field("b64_json", description="images are returned in the answer")
    output_format: FileFormat = Field("png", description="file format of the images")
    stream: bool = Field(False, description="answer with server-sent events, for one image")
    partial_images: int = Field(0, ge=0, le=3, description="previews to send before the image, with stream")
    cut_out: bool = Field(True, description="cut the subject out of its picture, as in training")
    guidance_scale: float = Field(5.0, ge=1, le=30, description="classifier-free guidance; 1 is without")
    num_inference_steps: int = Field(25, ge=1, description="denoising steps")
    solver: Solver = Field(
        "ddim", description="ddim; dpm++2m, which needs about half the steps; lcm, for a model with a few-step LoRA"
    )
    negative_prompt: str = Field("", description="what to steer away from")
    seed: int | None = Field(None, ge=0, le=LARGEST_SEED, description="of the first image, the next ones count up")
    quality: Literal["auto"] = Field("auto", description="for compatibility; num_inference_steps decides")
    background: Literal["auto", "opaque"] = Field("auto", description="for compatibility; images are opaque")
    user: str | None = Field(None, description="for compatibility; not used")


class GenerationRequest(ImageRequest):
    """Body of POST /v1/images/generations."""

    subjects: list[Subject[str]] = Field(
        default=[],
        description=f"at most {MOST_SUBJECTS}, pictures as base64 or data: URLs; none: text alone. Those without box "
        "and mask act everywhere, each with its share of their weights",
    )


class EditRequest(ImageRequest):
    """Fields of POST /v1/images/edits beside the files."""

    schedule: Json[Schedule] | None = Field(None, description="as in generations, as one JSON string")
    subjects: Json[list[Subject[int]]] | None = Field(
        None,
        description="one JSON string; image and mask count the uploaded image[] from 0. None: each upload is a subject",
    )
    strength: float | None = Field(
        None, gt=0, le=1, description="with mask: share of the steps; below 1 the canvas shines through what is painted"
    )


class ImageData(BaseModel):
    """One image of an answer."""

    b64_json: str = Field(description="the image file in base64, its receipt inside")
    seed: int = Field(description="repeats this image when sent with the same fields and n = 1")
    receipt: Receipt = Field(description="all that draws this image again")


class ImagesResponse(BaseModel):
    """OpenAI's answer, with a receipt beside each image."""

    created: int = Field(description="Unix time [s]")
    data: list[ImageData]
    size: str = Field(description="WIDTHxHEIGHT in pixels")
    output_format: FileFormat


@dataclass(frozen=True)
class Served:
    """What is being served: the facts a request is checked against."""

    models: Shelf
    size: Size  # of images whose size nobody asks for
    unit: int  # [px] what the sides of an image are multiples of
    limits: LimitsConfig

    @property
    def name(self) -> str:
        """Of the model that requests without a name get."""
        return self.models.default

    @property
    def most_pixels(self) -> int:
        """Of one image."""
        return int(self.limits.picture_areas * self.size[0] * self.size[1])
