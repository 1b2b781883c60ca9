"""People in a picture, for jobs.generate and jobs.serve alike: who casts them, and what a receipt says of each."""

from pathlib import Path

from pydantic import Field

from flexip.checkpoint import load_people
from flexip.engine import Engine
from flexip.faces import FaceError, FaceLibraryError, FaceLibraryName, open_faces
from flexip.images import Rgb
from flexip.motion import Motion, parse_motion
from flexip.people import Person
from jobs.config import Section
from jobs.console import UserError
from jobs.receipt import DrawnSubject


class FacesConfig(Section):
    library: FaceLibraryName = Field(
        default="pocket", description="what finds faces: the one that the DynamicID was trained with"
    )
    detector: str = Field(default="", description="for opencv: YuNet's .onnx file")
    recogniser: str = Field(default="", description="for opencv: SFace's .onnx file")
    root: str = Field(default="", description="for insightface: folder that holds models/buffalo_l")


def with_people(engine: Engine, checkpoint: Path | str | None, faces: FacesConfig) -> Engine:
    """The engine, and a DynamicID beside it where there is one to load.

    Raises:
        UserError: the face library is not here. CheckpointError: as `load_people`.
    """
    if checkpoint is None:
        return engine
    try:
        library = open_faces(faces.library, faces.detector, faces.recogniser, faces.root)
    except FaceLibraryError as error:
        raise UserError(str(error)) from error
    return load_people(engine, checkpoint, library)


def asked_motion(expression: str, pose: str) -> Motion | None:
    """The motion that is asked for in words, as "surprised, looking left"; None where nothing is said.

    Raises:
        ValueError: words that are not understood, or a pose that is none.
    """
    if not expression and not pose:
        return None
    said = parse_motion(expression) if expression else Motion()
    return Motion(said.expression, pose or said.pose)


def person_of(engine: Engine, picture: Rgb, drawn: DrawnSubject, field: str) -> Person | None:
    """The person that a receipt says a subject is, or None for another subject.

    Args:
        picture: as it was sent, not cut out. field: what it is called in an error.

    Raises:
        FaceError: no face in the picture, or several. UserError: nothing casts people here, or it knows no motions.
    """
    if not drawn.person:
        return None
    if engine.casting is None:
        raise UserError("people: there is no DynamicID here to draw somebody's face with; give its checkpoint")
    try:
        motion = asked_motion(drawn.expression, drawn.pose)
        return engine.casting.person(picture, motion, drawn.box, field=field)
    except FaceError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from error


def casting_digest(engine: Engine) -> str:
    """Of the DynamicID, for a receipt; empty without one."""
    return engine.casting.digest if engine.casting else ""
