"""The pocket benchmark: edits whose obedience, and creatures whose identity, can be read off a picture.

A prompt states an edit and never says who the creature is. What was asked for and what should have been kept are known
from the world, so both are counted by the oracles, which condition nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import nn

from flexip.images import Rgb
from flexip.pocket.captions import caption
from flexip.pocket.face import POSES
from flexip.pocket.identity import Identity
from flexip.pocket.oracle import ATTRIBUTES, IDENTITY, read, visible
from flexip.pocket.world import Picture, Placement, render


@dataclass(frozen=True)
class Edit:
    """A prompt, and the attributes that it states with their values."""

    scene: str
    expression: str
    pose: str | None = None
    style: str = "flat"

    @property
    def stated(self) -> dict[str, str]:
        """Attribute -> value; a short prompt says neither pose nor, for a flat drawing, style."""
        stated = {"scene": self.scene, "expression": self.expression}
        return stated | ({"pose": self.pose, "style": self.style} if self.pose else {})

    def picture(self, who: Identity) -> Picture:
        """What a perfect answer shows, at the size that most pictures of one creature have."""
        placed = Placement(who, self.expression, POSES[self.pose or "front"], y=0.6, size=0.54)
        return Picture((placed,), self.scene, self.style)

    def prompt(self, who: Identity) -> str:
        """The sentence; the same for everybody."""
        return caption(self.picture(who), "long" if self.pose else "medium", describe_identity=False)


EDITS = (
    Edit("snow", "happy"),
    Edit("sea", "surprised"),
    Edit("moon", "angry"),
    Edit("forest", "neutral", "left"),
    Edit("beach", "sad", "fully right"),
    Edit("city", "happy", "front", "sketch"),
    Edit("desert", "afraid", "front", "pixel"),
    Edit("meadow", "disgusted", "right", "night"),
)


@dataclass(frozen=True)
class Truth:
    """What should be read from the pictures of a grid of creatures and edits."""

    identity: dict[str, Int[np.ndarray, " creatures"]]  # attribute -> index of the value
    visible: dict[str, Bool[np.ndarray, "creatures edits"]]  # attribute -> whether it shows in that style and pose
    stated: dict[str, Int[np.ndarray, " edits"]] = field(default_factory=dict)  # -1 where the edit does not say


def truth_of(creatures: Sequence[Identity], edits: Sequence[Edit] = EDITS) -> Truth:
    """The truth of every creature under every edit; what shows is decided by the renderer."""
    shown = [[visible(edit.picture(who), tuple(IDENTITY)) for edit in edits] for who in creatures]
    stated = {
        name: np.array([ATTRIBUTES[name].index(edit.stated[name]) if name in edit.stated else -1 for edit in edits])
        for name in ("scene", "expression", "pose", "style")
    }
    return Truth(
        {name: np.array([values.index(getattr(who, name)) for who in creatures]) for name, values in IDENTITY.items()},
        {name: np.array([[name in cell for cell in row] for row in shown]) for name in IDENTITY},
        stated,
    )


def read_values(oracle: nn.Module, images: Sequence[Rgb], batch: int = 128) -> dict[str, np.ndarray]:
    """Index of the value that an oracle reads for each attribute: int (images,)."""
    parts = []
    for start in range(0, len(images), batch):
        pixels = torch.from_numpy(np.stack(images[start : start + batch])).permute(0, 3, 1, 2).float() / 127.5 - 1
        parts.append({name: p.argmax(dim=1).numpy() for name, p in read(oracle, pixels).probabilities.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in ATTRIBUTES}


def identity_kept(values: dict[str, np.ndarray], truth: Truth) -> Float[np.ndarray, "creatures edits ..."]:
    """Share of the visible identity attributes that are read right; NaN where none is visible.

    values: attribute -> int (creatures, edits, ...), see `read_values`.
    """
    right, asked = 0.0, 0.0
    for name, true in truth.identity.items():
        more = values[name].ndim - 2
        shown = truth.visible[name].reshape(*truth.visible[name].shape, *[1] * more)
        right = right + shown * (values[name] == true.reshape(-1, *[1] * (more + 1)))
        asked = asked + shown * np.ones(values[name].shape)
    with np.errstate(invalid="ignore"):
        return np.asarray(right / np.where(np.asarray(asked) > 0, asked, np.nan))


def edit_obeyed(values: dict[str, np.ndarray], truth: Truth) -> Float[np.ndarray, "creatures edits ..."]:
    """Share of the attributes that the prompt states which are read right; values as for `identity_kept`."""
    right, asked = 0.0, 0.0
    for name, true in truth.stated.items():
        stated = true.reshape(1, -1, *[1] * (values[name].ndim - 2))
        right = right + (stated >= 0) * (values[name] == stated)
        asked = asked + (stated >= 0) * np.ones(values[name].shape)
    return np.asarray(right / asked)


def ceiling(creatures: Sequence[Identity], edits: Sequence[Edit] = EDITS) -> list[Rgb]:
    """The perfect answers, rendered, creature by creature: what oracles and encoders can give at most."""
    return [render(edit.picture(who), 64).image for who in creatures for edit in edits]
