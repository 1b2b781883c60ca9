"""What is read from faces: whose they are, what they express, where they look. One interface for any face library."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from evaluation.metrics import assigned_similarity
from evaluation.pocket import read_values
from flexip import pocket
from flexip.encoders import fingerprint
from flexip.faces import FaceLibrary
from flexip.images import Rgb, resize
from flexip.pocket.face import EXPRESSIONS, POSES


@dataclass(frozen=True)
class Faces:
    """The faces found in one picture, in any order."""

    embeddings: Float[np.ndarray, "found width"]
    expressions: tuple[str | None, ...]  # None where the reader does not tell
    poses: tuple[str | None, ...]

    @property
    def packed(self) -> Float[np.ndarray, " numbers"]:
        """All of it as numbers for a cache: how many faces and numbers of each, then embedding, expression, pose."""
        said = [
            [-1 if e is None else EXPRESSIONS.index(e), -1 if p is None else list(POSES).index(p)]
            for e, p in zip(self.expressions, self.poses, strict=True)
        ]
        rows = np.concatenate([self.embeddings, np.array(said).reshape(-1, 2)], axis=1)
        return np.concatenate([rows.shape, rows.ravel()]).astype(np.float32)

    @classmethod
    def unpacked(cls, numbers: Float[np.ndarray, " numbers"]) -> "Faces":
        """What was `packed`."""
        rows = numbers[2:].reshape(int(numbers[0]), int(numbers[1]))
        expressions, poses = (rows[:, column].astype(int) for column in (-2, -1))
        said = (
            tuple(names[i] if i >= 0 else None for i in found)
            for names, found in ((EXPRESSIONS, expressions), (list(POSES), poses))
        )
        return cls(rows[:, :-2], *said)


@dataclass(frozen=True)
class FaceReader:
    """A detector with an identity net and readers of expression and pose, under one name."""

    name: str
    weights: str
    read: Callable[[Sequence[Rgb]], list[Faces]]
    tells_motion: bool = True  # expression and pose, beside identity


@dataclass(frozen=True)
class FaceScores:
    """What one picture kept of the people asked for. An identity without a face has similarity 0 and is wrong."""

    similarity: float  # mean over identities
    detected: float  # share of identities that were given a face
    expression: float  # share that shows the expression asked for; NaN where none was
    pose: float


def score_faces(
    found: Faces,
    wanted: Float[np.ndarray, "wanted width"],
    expressions: Sequence[str | None],
    poses: Sequence[str | None],
) -> FaceScores:
    """Faces of one picture against the identities, expressions and poses asked for, by the best assignment.

    A high similarity beside a wrong expression or pose is a copy: read the three together.
    """
    similarity, chosen = assigned_similarity(found.embeddings, wanted)
    return FaceScores(
        similarity=float(similarity.mean()),
        detected=float((chosen >= 0).mean()),
        expression=_share(found.expressions, chosen, expressions),
        pose=_share(found.poses, chosen, poses),
    )


def library_faces(library: FaceLibrary) -> FaceReader:
    """A face library of the project, for real pictures: it tells whose a face is, and neither expression nor pose."""

    def read(images: Sequence[Rgb]) -> list[Faces]:
        found = [[face.identity for face in library.find(image)] for image in images]
        nothing = [(None,) * len(faces) for faces in found]
        return [
            Faces(np.array(faces, dtype=np.float32).reshape(-1, library.identity_width), unsaid, unsaid)
            for faces, unsaid in zip(found, nothing, strict=True)
        ]

    return FaceReader(f"{library.name} faces", library.fingerprint, read, tells_motion=False)


def pocket_faces() -> FaceReader:
    """Creatures: identity by the pocket identity net, expression and pose by an oracle, which conditions nothing.

    A picture of the pocket world has its creature in the middle; there is a face where the oracle sees a creature.
    """
    from flexip.pocket.face_nets import load_face_net
    from flexip.pocket.pretrain_oracle import load_oracle

    weights = pocket.weights_path()
    identity, oracle = load_face_net(weights, "identity"), load_oracle(weights, "residual")

    def read(images: Sequence[Rgb]) -> list[Faces]:
        whole = [resize(image, (64, 64)) for image in images]
        values = read_values(oracle, whole)
        embeddings = embed_creatures(identity, whole)
        names = list(POSES)
        return [
            Faces(embeddings[i : i + 1], (EXPRESSIONS[values["expression"][i]],), (names[values["pose"][i]],))
            if values["subject"][i]
            else Faces(embeddings[:0], (), ())
            for i in range(len(whole))
        ]

    both = [*identity.state_dict().items(), *((f"oracle.{k}", v) for k, v in oracle.state_dict().items())]
    return FaceReader("pocket face nets", fingerprint(both, "64 px, crop 4..60 x 6..62"), read)


@torch.inference_mode()
def embed_creatures(identity: nn.Module, images: Sequence[Rgb]) -> Float[np.ndarray, "images width"]:
    """Unit vectors by the pocket identity net, of pictures of 64 px with a creature in the middle."""
    crops = np.stack([resize(image[6:62, 4:60], (64, 64)) for image in images])
    return identity(torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 127.5 - 1).numpy()


def _share(read: Sequence[str | None], chosen: np.ndarray, asked: Sequence[str | None]) -> float:
    """Share of what was asked for that the assigned faces show."""
    right = [which >= 0 and read[which] == word for which, word in zip(chosen, asked, strict=True) if word is not None]
    return float(np.mean(right)) if right else float("nan")
