"""Who comes into a picture: from each subject of a request, what the receipt says of it and what the model is shown."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from flexip.engine import Engine
from flexip.faces import FaceError
from flexip.images import Rgb
from flexip.motion import Motion
from flexip.people import Person
from jobs.console import UserError
from jobs.people import asked_motion, person_of
from jobs.receipt import DrawnSubject, Shown, mask_of, sha256
from jobs.serving.asked import Asked, Context
from jobs.serving.errors import RequestError
from jobs.serving.gates import weights
from jobs.serving.pictures import decode_picture, decode_reference, fitted
from jobs.serving.requests import Subject
from jobs.sizes import Size


@dataclass(frozen=True)
class Sitter:
    """One subject of a request, and what it is understood with."""

    subject: Subject
    path: str  # of its fields, as `subjects[0].`
    asked: Asked
    engine: Engine
    context: Context
    size: Size  # of the picture

    @property
    def megapixels(self) -> float:
        """Of the largest picture that is decoded."""
        return self.context.served.limits.image_megapixels

    def file(self, field: Literal["image", "mask"]) -> bytes:
        """What the subject names there."""
        return self.asked.file_of(getattr(self.subject, field), f"{self.path}{field}")

    def picture(self, field: Literal["image", "mask"]) -> Rgb:
        """The same, decoded."""
        return decode_picture(self.file(field), self.megapixels, f"{self.path}{field}")

    def refusal(self, field: str, problem: str, code: str = "invalid_value") -> RequestError:
        """What is wrong with one of its fields; `problem` goes on after the field's name."""
        return RequestError(f"{self.path}{field}{problem}", f"{self.path}{field}", code, 422)


def sitters(asked: Asked, engine: Engine, context: Context, size: Size) -> list[Sitter]:
    """All subjects of a request for a picture of this size."""
    return [Sitter(s, f"subjects[{i}].", asked, engine, context, size) for i, s in enumerate(asked.subjects)]


def cast(sitter: Sitter) -> tuple[DrawnSubject, Shown]:
    """What the receipt says of the subject, and what the model is shown. Decodes, so not for the event loop.

    Raises:
        RequestError: a picture, a gate, a place or a person that cannot be.
    """
    subject = sitter.subject
    preservation, personalization = _weights(sitter)
    _check_box(sitter)
    motion = _motion(sitter)
    digest, mask = _mask(sitter)
    source, cut_out, reference = _reference(sitter)
    drawn = DrawnSubject(source, cut_out, preservation, personalization, subject.box, digest)
    if not (subject.person or motion):
        return drawn, Shown(reference, mask)
    motion = motion or Motion()
    drawn = replace(drawn, person=True, expression=motion.expression, pose=motion.pose)
    return drawn, Shown(reference, mask, _person(sitter, drawn, reference))


def _weights(sitter: Sitter) -> tuple[float | list[float], float | list[float]]:
    """Those of the subject's own gate, or else of the request's."""
    subject, request = sitter.subject, sitter.asked.request
    said, where = (subject, sitter.path) if subject.said else (request, "")
    return weights(said, request.num_inference_steps, sitter.engine.calibration, where)


def _check_box(sitter: Sitter) -> None:
    box = sitter.subject.box
    if box is None:
        return
    if sitter.subject.mask is not None:
        raise sitter.refusal("box", ": given together with mask; send one of them")
    left, top, right, bottom = box
    if left >= right or top >= bottom:
        raise sitter.refusal("box", f" = {list(box)}: empty; send left < right and top < bottom, each within 0..1")


def _motion(sitter: Sitter) -> Motion | None:
    """What the person is to do; None where nothing is said."""
    subject = sitter.subject
    try:
        motion = asked_motion(subject.expression, subject.pose)
    except ValueError as error:
        field, _, problem = str(error).partition(":")
        raise sitter.refusal(field, f":{problem}") from error
    if (subject.person or motion) and sitter.engine.casting is None:
        field = "expression" if subject.expression else "pose" if subject.pose else "person"
        told = ": this model draws no people; leave person, expression and pose out"
        raise sitter.refusal(field, told, "no_people")
    return motion


def _mask(sitter: Sitter) -> tuple[str | None, np.ndarray | None]:
    """SHA-256 of the mask's file, and the mask."""
    if sitter.subject.mask is None:
        return None, None
    mask = fitted(sitter.picture("mask"), sitter.size, f"{sitter.path}mask")
    return sha256(sitter.file("mask")), mask_of(mask)


def _reference(sitter: Sitter) -> tuple[str, bool, Rgb]:
    """(SHA-256 of the file, whether its subject is cut out, the reference as the encoders see it)."""
    subject, context, cut_out = sitter.subject, sitter.context, sitter.asked.request.cut_out
    if (subject.image is None) == (subject.subject_id is None):
        problem = "missing" if subject.image is None else "given together with subject_id"
        raise sitter.refusal("image", f": {problem}; send image or subject_id")
    if subject.subject_id is not None:
        info, reference = context.store.use(context.owner, subject.subject_id, f"{sitter.path}subject_id")
        return info.sha256, info.cut_out, reference
    file = sitter.file("image")
    return sha256(file), cut_out, decode_reference(file, sitter.megapixels, cut_out, f"{sitter.path}image")


def _person(sitter: Sitter, drawn: DrawnSubject, reference: Rgb) -> Person | None:
    """Of the whole picture: what is cut out may lack hair, or a part of the face."""
    kept = sitter.subject.subject_id is not None
    field, picture = ("subject_id", reference) if kept else ("image", sitter.picture("image"))
    try:
        return person_of(sitter.engine, picture, drawn, f"{sitter.path}{field}")
    except FaceError as error:
        raise RequestError(str(error), f"{sitter.path}{field}", error.reason, 422) from error
    except UserError as error:
        raise RequestError(f"{sitter.path}{error}", f"{sitter.path}expression", "no_motions", 422) from error
