"""Records that cross a wall of the project, each a dataclass with its Arrow schema.

Axis legend used in every shape annotation of the project:
B rows, H W pixels, h w latent pixels, C latent channels, N image patches, Q learned queries, L text tokens,
K subject tokens, D context width, Dc CLIP width, Dd DINO width, Dh width of CLIP's states, Di identity width, F faces,
M landmarks, X positions of a layer.
"""

import dataclasses
import hashlib
import types
import typing
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa

Status = Literal["accepted", "rejected", "quarantined"]
SourceKind = Literal["image", "video", "multiview"]
CaptionSource = Literal["", "table", "text", "manifest", "model", "fallback"]  # a file beside it, ..., a template
DatasetName = Literal["invariant", "variant"]
Split = Literal["train", "val", "test"]

DATASETS: tuple[DatasetName, ...] = ("invariant", "variant")
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class SubjectRow:
    """One subject in one frame of one source; a source or frame that yields none still has a row that says why."""

    key: str  # hash of (source content, frame index, box): see subject_key
    source: str  # uri as given by the user
    source_hash: str  # SHA-256 of the source's bytes, hex
    kind: SourceKind
    unit: Literal["source", "frame", "subject"]  # what this row counts
    status: Status
    reason: str = ""  # why rejected or quarantined; empty when accepted
    licence: str = ""
    consent: str = ""  # on what ground people in it are shown
    provenance: str = ""  # where the source comes from
    frame_index: int = 0
    timestamp: float = 0.0  # [s] from the start of the source
    track: str = ""  # subjects of one track are one identity
    cluster: str = ""  # identity cluster: decides the split
    box: list[float] = field(default_factory=list)  # x0, y0, x1, y1 as fractions of the frame
    mask: bytes = b""  # PNG, one channel, the frame's size
    frame: bytes = b""  # JPEG or PNG of the frame at curation resolution
    phrase: str = ""  # what the subject is, in words
    caption: str = ""
    caption_source: CaptionSource = ""  # where the caption came from; empty where there is none
    scores: dict[str, float] = field(default_factory=dict)  # values that the filters measured


@dataclass(frozen=True)
class PairRow:
    """Reference and target of one training pair (FlexIP, Fig. 3: Frame A and Frame B)."""

    pair_id: str
    dataset: DatasetName
    split: Split
    cluster: str  # identity cluster, the unit of the split
    reference_key: str  # SubjectRow.key
    target_key: str
    reference: bytes  # PNG, square, subject on white
    reference_mask: bytes  # PNG, one channel
    target: bytes  # PNG, square, the training resolution
    caption: str  # describes the target
    time_gap: float  # [s] between the two frames; 0 for one still
    identity_similarity: float  # cosine of the two crops' DINO embeddings, -1..1
    pixel_similarity: float  # 1 - mean absolute difference of the two crops, 0..1
    source: str = ""
    licence: str = ""
    consent: str = ""  # on what ground people in it are shown
    provenance: str = ""  # where the source comes from


@dataclass(frozen=True)
class FaceRow:
    """One picture of one person whose expression and pose are known (VariFace of DynamicID: 7 x 5 of everybody).

    A picture that cannot be used still has a row that says why.
    """

    key: str  # hash of (source content, person, expression, pose): see face_key
    person: str  # the unit of the split
    split: Split
    expression: str
    pose: str
    status: Status
    reason: str = ""  # why rejected; empty when accepted
    picture: bytes = b""  # PNG, square: the target
    crop: bytes = b""  # PNG, square, the face upright: the reference
    landmarks: list[float] = field(default_factory=list)  # x, y by turns, as fractions of the crop
    identity: list[float] = field(default_factory=list)  # the face library's vector, unit length
    similarity: float = 0.0  # cosine of it with the person's mean, -1..1
    caption: str = ""  # describes the picture
    source: str = ""
    licence: str = ""
    consent: str = ""  # on what ground the person is shown
    provenance: str = ""  # where the source comes from


def face_key(content: bytes, person: str, expression: str, pose: str) -> str:
    """The identity of a face row: 32 hex characters, the same on every machine and in every run."""
    text = f"{hashlib.sha256(content).hexdigest()}:{person}:{expression}:{pose}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def subject_key(source_hash: str, frame_index: int, box: list[float]) -> str:
    """The identity of a subject row: 32 hex characters, the same on every machine and in every run."""
    text = f"{source_hash}:{frame_index}:" + ",".join(f"{edge:.4f}" for edge in box)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def arrow_schema(row_class: type) -> pa.Schema:
    """Arrow schema of a row dataclass; field order and nullability are part of the format (nothing is null)."""
    hints = typing.get_type_hints(row_class)
    fields = [pa.field(f.name, _arrow_type(hints[f.name]), nullable=False) for f in dataclasses.fields(row_class)]
    return pa.schema(fields)


def _arrow_type(hint: object) -> pa.DataType:
    scalars = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_(), bytes: pa.large_binary()}
    if isinstance(hint, type) and hint in scalars:
        return scalars[hint]
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return pa.string()
    if origin is list:
        return pa.list_(_arrow_type(args[0]))
    if origin is dict:
        return pa.map_(_arrow_type(args[0]), _arrow_type(args[1]))
    if origin is types.UnionType:
        raise TypeError(f"{hint}: unions do not cross walls; give the field an empty value of its own type")
    raise TypeError(f"{hint}: no Arrow type is declared for it; use str, int, float, bool, bytes, list or dict")
