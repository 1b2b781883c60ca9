"""What a face does, its expression and where it looks: in words, read from words, or shown by a driving face.

The seven expressions and five poses are those of KDEF (Lundqvist et al. 1998), which the paper's data have too.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from flexip.faces import Face
from flexip.pocket.face import EXPRESSIONS, POSES

MAP = 96  # side of a landmark map [px]

_EXPRESSION_WORDS = {
    "afraid": "afraid scared frightened fearful terrified fear",
    "angry": "angry furious mad annoyed anger",
    "disgusted": "disgusted revolted disgust",
    "happy": "happy smiling smile laughing joyful cheerful glad grinning",
    "neutral": "neutral calm relaxed expressionless serious",
    "sad": "sad crying unhappy sorrowful gloomy",
    "surprised": "surprised astonished amazed shocked startled surprise",
}
_EXPRESSION_OF = {word: name for name, words in _EXPRESSION_WORDS.items() for word in words.split()}
_AHEAD = {"front", "frontal", "ahead", "forward", "forwards", "straight", "camera", "viewer"}
_FULLY = {"fully", "completely", "far", "profile", "sideways"}
_SLIGHTLY = {"slightly", "half", "little", "bit"}
_FILLERS = {
    *("a", "an", "the", "and", "is", "are", "very", "in", "of", "at", "to", "towards", "with", "on", "his", "her"),
    *("their", "face", "faces", "facing", "head", "eyes", "person", "creature", "look", "looks", "looking", "turned"),
    *("turning", "expression", "side"),
}


@dataclass(frozen=True)
class Motion:
    """An expression and a pose; what is not said is left to the reconfigurator.

    Raises:
        ValueError: an expression or a pose that does not exist.
    """

    expression: str = ""  # one of EXPRESSIONS
    pose: str = ""  # one of POSES
    landmarks: Float[np.ndarray, "M 2"] | None = None  # x, y as fractions of the face's crop: of a driving face

    def __post_init__(self):
        for name, value, known in (("expression", self.expression, EXPRESSIONS), ("pose", self.pose, tuple(POSES))):
            if value and value not in known:
                raise ValueError(f"{name}: {value!r} must be one of {', '.join(known)}")


@dataclass(frozen=True)
class Wording:
    """How a text encoder is told of a motion; `{}` stands for the word."""

    expression: str
    pose: str
    poses: Mapping[str, str] = field(default_factory=dict)  # other words for a pose


# The sentences that the pocket text encoder has learnt, and those that the published code makes for KDEF.
POCKET_WORDING = Wording("a {} creature", "looking {}", {"front": "ahead"})
KDEF_WORDING = Wording("the expression is {}", "the face is {}", {"left": "slightly left", "right": "slightly right"})


def sentence(motion: Motion, wording: Wording) -> str:
    """The motion in words; empty when it is shown by landmarks alone."""
    parts = [wording.expression.format(motion.expression)] if motion.expression else []
    if motion.pose:
        parts.append(wording.pose.format(wording.poses.get(motion.pose, motion.pose)))
    return ", ".join(parts)


def parse_motion(text: str) -> Motion:
    """Reads "surprised, looking left" or "a furious face, turned fully to the right".

    Raises:
        ValueError: words that are not known, that contradict each other, or that say nothing of a motion.
    """
    words = re.findall(r"[a-z]+", text.lower())
    known = _EXPRESSION_OF.keys() | _AHEAD | _FULLY | _SLIGHTLY | _FILLERS | {"left", "right"}
    if strange := [word for word in words if word not in known]:
        raise ValueError(f"expression: {strange[0]!r} in {text!r} is not understood; {_vocabulary()}")
    moods = {_EXPRESSION_OF[word] for word in words if word in _EXPRESSION_OF}
    sides = {"ahead" if word in _AHEAD else word for word in words if word in _AHEAD | {"left", "right"}}
    if len(moods) > 1 or len(sides) > 1:
        raise ValueError(f"expression: {text!r} says {' and '.join(sorted(moods if len(moods) > 1 else sides))}")
    if not moods and not sides:
        raise ValueError(f"expression: {text!r} says neither an expression nor a pose; {_vocabulary()}")
    fully = bool(_FULLY & {*words})
    if fully and not sides & {"left", "right"}:
        raise ValueError(f"expression: {text!r} says how far a face is turned and not where; say left or right")
    return Motion(next(iter(moods), ""), _pose(next(iter(sides), ""), fully))


def driven_by(face: Face) -> Motion:
    """The motion of a driving face."""
    return Motion(landmarks=face.landmarks)


def sweep(expressions: Sequence[str] = EXPRESSIONS, poses: Sequence[str] = ("",)) -> list[Motion]:
    """Every expression in every pose, pose by pose. Raises ValueError for one that does not exist."""
    return [Motion(expression, pose) for pose in poses for expression in expressions]


def landmark_map(landmarks: Float[np.ndarray, "M 2"] | None) -> Float[np.ndarray, "1 96 96"]:
    """One white pixel a landmark on black, in -1..1; all black without any. What lies outside is left out."""
    picture = np.full((1, MAP, MAP), -1.0, np.float32)
    if landmarks is not None:
        x, y = np.floor(np.asarray(landmarks, np.float64) * MAP).astype(int).T
        inside = (x >= 0) & (y >= 0) & (x < MAP) & (y < MAP)
        picture[0, y[inside], x[inside]] = 1.0
    return picture


def _pose(side: str, fully: bool) -> str:
    return "front" if side == "ahead" else f"fully {side}" if fully else side


def _vocabulary() -> str:
    return f"expressions are {', '.join(EXPRESSIONS)}, poses {', '.join(POSES)}"
