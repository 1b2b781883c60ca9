"""Who a creature is: the attributes that stay when scene, style, expression and pose change."""

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from flexip.rows import SPLITS, Split

SHAPES = ("round", "square", "triangular", "hexagonal", "egg-shaped", "drop-shaped", "star-shaped", "fluffy")
COLOURS = {
    "red": (226, 72, 77),
    "orange": (245, 143, 60),
    "yellow": (247, 207, 77),
    "green": (92, 178, 92),
    "teal": (38, 168, 165),
    "blue": (66, 128, 226),
    "purple": (142, 104, 214),
    "pink": (242, 138, 182),
    "brown": (150, 100, 68),
    "gray": (140, 150, 164),
}
PATTERNS = ("plain", "striped", "spotted", "checkered", "two-tone")
TOPS = ("no ears", "round ears", "pointed ears", "long ears", "horns", "antennae", "a crest")
EYES = ("round eyes", "tall eyes", "bead eyes", "one eye")
MARKS = ("no mark", "rosy cheeks", "a forehead spot")
PROPORTIONS = {  # name: (least, most); uniform
    "width": (0.88, 1.12),
    "top_size": (0.8, 1.2),
    "eye_size": (0.85, 1.15),
    "eye_distance": (0.85, 1.15),
    "pattern_scale": (0.8, 1.25),
    "pattern_angle": (-0.6, 0.6),  # [rad]
    "tint": (-0.08, 0.08),  # lighter or darker than the named colour, as a fraction
}
_SPLIT_PERCENT = {"train": 80, "val": 10, "test": 10}


@dataclass(frozen=True)
class Identity:
    """Named attributes (one of the tuples above each) and continuous proportions (ranges in PROPORTIONS)."""

    shape: str
    colour: str  # of the body
    second: str  # colour of pattern and ears, never the body's
    pattern: str
    top: str
    eyes: str
    mark: str
    width: float
    top_size: float
    eye_size: float
    eye_distance: float
    pattern_scale: float
    pattern_angle: float
    tint: float

    @property
    def key(self) -> str:
        """16 hex characters that stay the same on every machine: the identity's name in ground truth."""
        return hashlib.sha256(repr(dataclasses.astuple(self)).encode()).hexdigest()[:16]

    def vector(self) -> np.ndarray:
        """Float32 (46,): one-hot named attributes, then proportions scaled to 0..1."""
        hot = [
            np.eye(len(names), dtype=np.float32)[names.index(value)]
            for names, value in (
                (SHAPES, self.shape),
                (tuple(COLOURS), self.colour),
                (tuple(COLOURS), self.second),
                (PATTERNS, self.pattern),
                (TOPS, self.top),
                (EYES, self.eyes),
                (MARKS, self.mark),
            )
        ]
        scaled = [(getattr(self, name) - low) / (high - low) for name, (low, high) in PROPORTIONS.items()]
        return np.concatenate([*hot, np.array(scaled, np.float32)])


def random_identity(rng: np.random.Generator) -> Identity:
    """An identity drawn from all splits; see `identity` for one of a given split."""
    colour, second = (str(name) for name in rng.choice(list(COLOURS), size=2, replace=False))
    attributes: dict[str, Any] = {
        "shape": str(rng.choice(SHAPES)),
        "colour": colour,
        "second": second,
        "pattern": str(rng.choice(PATTERNS)),
        "top": str(rng.choice(TOPS, p=(0.1, 0.15, 0.15, 0.15, 0.15, 0.15, 0.15))),
        "eyes": str(rng.choice(EYES, p=(0.4, 0.25, 0.2, 0.15))),
        "mark": str(rng.choice(MARKS, p=(0.5, 0.3, 0.2))),
    }
    for name, (low, high) in PROPORTIONS.items():
        attributes[name] = round(float(rng.uniform(low, high)), 4)
    return Identity(**attributes)


def split_of(who: Identity) -> Split:
    """The split of an identity, by a hash of its named attributes: no combination of them occurs in two splits."""
    words = "|".join((who.shape, who.colour, who.second, who.pattern, who.top, who.eyes, who.mark))
    percent = int(hashlib.sha256(words.encode()).hexdigest()[:8], 16) % 100
    for name in SPLITS:
        percent -= _SPLIT_PERCENT[name]
        if percent < 0:
            return name
    raise AssertionError("split percentages sum to 100")


def identity(split: Split, index: int) -> Identity:
    """The index-th identity of a split, the same on every machine; ValueError for an unknown split or index < 0."""
    if split not in SPLITS or index < 0:
        raise ValueError(f"split {split!r}, index {index}: the split must be one of {SPLITS} and the index >= 0")
    seed = int(hashlib.sha256(f"{split}:{index}".encode()).hexdigest()[:16], 16)
    return sample_identity(np.random.default_rng(seed), split)


def sample_identity(rng: np.random.Generator, split: Split) -> Identity:
    """An identity of the given split, by rejection."""
    while split_of(who := random_identity(rng)) != split:
        pass
    return who
