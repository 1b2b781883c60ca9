"""VariFace-shaped data: pictures of one person in seven expressions and five poses, each with its face (DynamicID).

A cell is a picture whose expression and pose are known: drawn for the pocket world, or photographed and named by
whoever took it. From there on both go the same way: one face has to be found, and it has to be the same person's as in
the other cells.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from flexip.encoders import Encoders
from flexip.faces import Face, FaceError, FaceLibrary
from flexip.images import Rgb, decode_image, encode_png, pad_square, resize
from flexip.imr import motion_inputs
from flexip.motion import Motion, Wording
from flexip.pocket.face import EXPRESSIONS, POSES
from flexip.pocket.identity import Identity, split_of
from flexip.pocket.world import place, render
from flexip.rows import FaceRow, Split, face_key
from pipelines.records import StageCount

LEAST_SIMILARITY = 0.5  # to the person's mean; of ArcFace's vectors this is surely the same person


@dataclass(frozen=True)
class Cell:
    """One picture of a person, and what is known of it.

    Raises:
        ValueError: an expression or pose that does not exist.
    """

    picture: Rgb
    person: str
    split: Split
    expression: str
    pose: str
    caption: str
    source: str = ""
    licence: str = ""
    consent: str = ""
    provenance: str = ""

    def __post_init__(self):
        Motion(self.expression, self.pose)


def pocket_cells(who: Identity, seed: int, size: int) -> Iterator[Cell]:
    """The 35 pictures of a creature, each in a scene of its own; captions do not say who it is."""
    for e, expression in enumerate(EXPRESSIONS):
        for p, pose in enumerate(POSES):
            rng = np.random.default_rng([seed, int(who.key, 16) % (1 << 32), e, p])
            frame = render(place([who], rng, expression=expression, pose=pose), size)
            caption, source = frame.captions["long plain"], f"pocket:{who.key}/{expression}/{pose}"
            yield Cell(
                frame.image, who.key, split_of(who), expression, pose, caption, source, "Apache-2.0", "drawn", "pocket"
            )


def face_rows(
    cells: Sequence[Cell], library: FaceLibrary, size: int, least_similarity: float = LEAST_SIMILARITY
) -> list[FaceRow]:
    """The rows of one person's cells, in their order: one each, accepted or rejected.

    Reasons: no_face, several_faces, another_person.

    Args:
        size: side of the target picture [px].

    Raises:
        ValueError: cells of several people.
    """
    if len({cell.person for cell in cells}) > 1:
        raise ValueError(f"cells: of {len({cell.person for cell in cells})} people; give those of one at a time")
    faces = [_look(cell, library) for cell in cells]
    mean = _direction([face.identity for face in faces if isinstance(face, Face)])
    return [_row(cell, face, mean, size, least_similarity) for cell, face in zip(cells, faces, strict=True)]


def count_faces(rows: Sequence[FaceRow]) -> StageCount:
    """How the rows ended: accepted + rejected = inputs."""
    count = StageCount()
    for row in rows:
        count.add(row.status, row.reason)
    return count


def face_columns(encoders: Encoders, rows: Sequence[FaceRow], wording: Wording) -> dict[str, np.ndarray]:
    """What both stages of training read of accepted rows, a row each, in float32.

    "identity", "hidden" of the crop, "text" of the caption, "vae" of the picture; "map" and "prompt" of the motion.

    Raises:
        ValueError: a row that was rejected, or none.
    """
    if not rows or any(row.status != "accepted" for row in rows):
        raise ValueError(f"rows: {sum(row.status != 'accepted' for row in rows)} of {len(rows)} are not accepted")
    motions = [Motion(row.expression, row.pose, np.reshape(row.landmarks, (-1, 2))) for row in rows]
    inputs = motion_inputs(encoders, motions, wording)
    tensors = {
        "hidden": encoders.encode_hidden([decode_image(row.crop) for row in rows]),
        "text": encoders.encode_text([row.caption for row in rows]),
        "vae": encoders.encode_targets([decode_image(row.picture) for row in rows]),
        "map": inputs.maps,
        "prompt": inputs.prompts,
    }
    identity = np.array([row.identity for row in rows], np.float32)
    return {"identity": identity, **{name: value.float().cpu().numpy() for name, value in tensors.items()}}


def by_person(columns: Mapping[str, np.ndarray], rows: Sequence[FaceRow]) -> dict[str, dict[str, np.ndarray]]:
    """The columns of everybody apart, in the order in which people first appear."""
    people = np.array([row.person for row in rows])
    return {who: {name: c[people == who] for name, c in columns.items()} for who in dict.fromkeys(people.tolist())}


def _look(cell: Cell, library: FaceLibrary) -> Face | FaceError:
    try:
        return library.only(cell.picture, cell.source or "picture")
    except FaceError as error:
        return error


def _row(cell: Cell, face: Face | FaceError, mean: np.ndarray, size: int, least_similarity: float) -> FaceRow:
    picture = encode_png(resize(pad_square(cell.picture), (size, size)))
    row = FaceRow(
        key=face_key(picture, cell.person, cell.expression, cell.pose),
        person=cell.person,
        split=cell.split,
        expression=cell.expression,
        pose=cell.pose,
        status="rejected",
        caption=cell.caption,
        source=cell.source,
        licence=cell.licence,
        consent=cell.consent,
        provenance=cell.provenance,
    )
    if isinstance(face, FaceError):
        return replace(row, reason=face.reason)
    similarity = float(face.identity @ mean)
    if similarity < least_similarity:
        return replace(row, reason="another_person", similarity=similarity)
    return replace(
        row,
        status="accepted",
        picture=picture,
        crop=encode_png(face.crop),
        landmarks=[float(value) for value in face.landmarks.ravel()],
        identity=[float(value) for value in face.identity],
        similarity=similarity,
    )


def _direction(vectors: Sequence[np.ndarray]) -> np.ndarray:
    """Unit vector of their mean; zeros of none."""
    mean = np.mean(vectors, axis=0) if vectors else np.zeros(1, np.float32)
    return mean / max(float(np.linalg.norm(mean)), 1e-12)
