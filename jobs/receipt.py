"""The receipt of a picture: everything that draws it again, kept in the picture file itself and in the answer.

PNG holds it as the text chunk `flexip`, JPEG and WebP in their XMP; there every format says that it was generated.
"""

import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal
from xml.sax.saxutils import escape, unescape

import numpy as np
from jaxtyping import Float
from PIL import Image
from pydantic import ConfigDict, TypeAdapter, ValidationError

from flexip.canvas import Canvas
from flexip.images import ImageError, Rgb, encode_jpeg, encode_png, encode_webp
from flexip.people import Person
from flexip.request import Request, Subject
from flexip.solvers import Solver
from jobs.sizes import AUTO, Size, SizeWords

Box = tuple[float, float, float, float]  # left, top, right, bottom as fractions of the picture
FileFormat = Literal["png", "jpeg", "webp"]
MOST_SUBJECTS = 5  # in one picture
CHUNK, XMP_CHUNK = "flexip", "XML:com.adobe.xmp"
XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">\
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" \
xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" Iptc4xmpExt:DigitalSourceType=\
"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia" xmlns:flexip="tag:flexip,2026:">\
<flexip:receipt>%s</flexip:receipt></rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>"""
XMP_RECEIPT = re.compile(r"<flexip:receipt>(.*)</flexip:receipt>", re.DOTALL)
LONGEST_XMP = 65_000  # bytes that one JPEG segment holds


@dataclass(frozen=True)
class DrawnSubject:
    """How one subject came into the picture."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    sha256: str  # of the file that shows it, as it was sent
    cut_out: bool
    preservation: float | list[float]  # a list is a schedule over the steps
    personalization: float | list[float]
    box: Box | None = None
    mask: str | None = None  # SHA-256 of the file that says where the subject may act
    person: bool = False  # whether the face is drawn as this person's, too
    expression: str = ""  # of the person; empty: that of the file
    pose: str = ""


@dataclass(frozen=True)
class DrawnCanvas:
    """What the picture was painted into."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    sha256: str  # of the canvas's file
    mask: str  # SHA-256 of the file that says where it is painted
    strength: float = 1.0


@dataclass(frozen=True)
class Receipt:
    """What was drawn, by what, and how."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    model: str
    weights: str  # SHA-256 of the adapters' file
    prompt: str
    negative_prompt: str
    seed: int
    guidance_scale: float
    steps: int
    solver: Solver
    subjects: tuple[DrawnSubject, ...] = ()
    canvas: DrawnCanvas | None = None
    version: str = ""  # of the model in its registry; empty for a directory
    software: str = ""
    size: SizeWords = AUTO  # auto: of a receipt from before pictures had sizes, the model's own
    people: str = ""  # SHA-256 of the DynamicID's file, where one of the subjects is a person
    generated: Literal[True] = True  # by a model: nobody took this picture


RECEIPT: TypeAdapter[Receipt] = TypeAdapter(Receipt)


@dataclass(frozen=True)
class Shown:
    """One subject as the model sees it."""

    reference: Rgb
    mask: Float[np.ndarray, "H W"] | None = None  # 0..1: where it may act
    person: Person | None = None  # where the face is drawn as this person's


def software() -> str:
    """The name and version of this package."""
    return f"flexip {version('flexip')}"


def sha256(data: bytes) -> str:
    """As `sha256sum` prints it."""
    return hashlib.sha256(data).hexdigest()


def to_request(receipt: Receipt, shown: Sequence[Shown], size: Size, canvas: Canvas | None = None) -> Request:
    """What the sampler is asked for. The service and its repetition both come through here, so they cannot differ.

    Args:
        shown: the subjects of the receipt, in its order. size: of the picture. canvas: the receipt's, or none.
    """
    subjects = [
        Subject(
            reference=subject.reference,
            preservation=drawn.preservation,
            personalization=drawn.personalization,
            mask=region(drawn.box, size) if subject.mask is None else subject.mask,
        )
        for drawn, subject in zip(receipt.subjects, shown, strict=True)
    ]
    return Request(
        prompt=receipt.prompt,
        negative_prompt=receipt.negative_prompt,
        guidance_scale=receipt.guidance_scale,
        steps=receipt.steps,
        solver=receipt.solver,
        seed=receipt.seed,
        others=tuple(subjects),
        size=size,
        canvas=canvas,
        people=tuple(subject.person for subject in shown if subject.person is not None),
    )


def region(box: Box | None, size: Size) -> Float[np.ndarray, "H W"] | None:
    """1 inside the box, 0 outside, and the covered part where a pixel lies across its edge."""
    if box is None:
        return None
    (left, top, right, bottom), (height, width) = box, size

    def covered(first: float, last: float, side: int) -> np.ndarray:
        edges = np.arange(side + 1, dtype=np.float32)
        return (np.minimum(edges[1:], last * side) - np.maximum(edges[:-1], first * side)).clip(0, 1)

    return np.outer(covered(top, bottom, height), covered(left, right, width)).astype(np.float32)


def mask_of(picture: Rgb) -> Float[np.ndarray, "H W"]:
    """A picture as a mask: 1 where it is white, 0 where it is black."""
    return picture.mean(axis=2, dtype=np.float32) / np.float32(255)


def picture_file(image: Rgb, receipt: Receipt | None, file_format: FileFormat = "png") -> bytes:
    """The image file with its receipt inside; the same bytes for the same pixels and receipt. A preview has none.

    Raises:
        ValueError: a receipt that is too long for JPEG; `fits` tells beforehand.
    """
    if file_format == "png":
        chunk = {CHUNK: RECEIPT.dump_json(receipt).decode()} if receipt else {}
        return encode_png(image, text=chunk | {XMP_CHUNK: XMP % ""})
    encode = encode_jpeg if file_format == "jpeg" else encode_webp
    return encode(image, xmp=_xmp(receipt))


def fits(receipt: Receipt, file_format: FileFormat) -> bool:
    """Whether a file of this format has room for the receipt; one with several long schedules may not."""
    return file_format != "jpeg" or len(_xmp(receipt)) <= LONGEST_XMP


def _xmp(receipt: Receipt | None) -> bytes:
    return (XMP % (escape(RECEIPT.dump_json(receipt).decode()) if receipt else "")).encode()


def read_receipt(data: bytes) -> Receipt:
    """The receipt in an image file.

    Raises:
        ImageError: no image, an image without a receipt, or a receipt of another version.
    """
    try:
        info = Image.open(io.BytesIO(data)).info
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError("not_an_image", "not an image that could hold a receipt") from error
    text = info.get(CHUNK) or _in_xmp(info.get("xmp", b""))
    if not text:
        raise ImageError("no_receipt", "holds no receipt; it was not drawn by FlexIP, or its metadata were removed")
    try:
        return RECEIPT.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "text"
        raise ImageError("no_receipt", f"holds no receipt of this version ({where}: {first['msg']})") from error


def _in_xmp(packet: bytes) -> str:
    """The receipt in an XMP packet, or nothing."""
    found = XMP_RECEIPT.search(packet.decode(errors="replace"))
    return unescape(found[1]) if found else ""
