"""Oracles: two classifiers that read from a picture who is in it and what it shows. For evaluation, never conditioning.

They differ in architecture, seed and training pictures, so that a mistake which both make is the picture's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock
from torchvision.models.vgg import make_layers

from flexip.pocket.face import EXPRESSIONS, POSES
from flexip.pocket.identity import COLOURS, EYES, MARKS, PATTERNS, SHAPES, TOPS
from flexip.pocket.props import ACCESSORIES, ACTIONS
from flexip.pocket.scenes import SCENES
from flexip.pocket.styles import STYLES
from flexip.pocket.world import Picture, Placement, render

OracleName = Literal["residual", "plain"]
ORACLES: tuple[OracleName, ...] = ("residual", "plain")

IDENTITY: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "second": tuple(COLOURS),
    "pattern": PATTERNS,
    "top": TOPS,
    "eyes": EYES,
    "mark": MARKS,
}
STATE: dict[str, tuple[str, ...]] = {
    "expression": EXPRESSIONS,
    "pose": tuple(POSES),
    "accessory": ACCESSORIES,
    "action": ACTIONS,
}
SETTING: dict[str, tuple[str, ...]] = {"scene": SCENES, "style": STYLES}
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "subject": ("nothing", "creature"), **IDENTITY, **STATE, **SETTING
}  # fmt: skip
NEEDS_CREATURE = (*IDENTITY, *STATE)

_CLEAR = 40  # difference of a colour channel that a person notices at a glance, of 255
_ENOUGH = 6  # pixels of a 64 px picture


@dataclass(frozen=True)
class Reading:
    """What an oracle reads from B pictures: probabilities (B, values) of each attribute, by its name."""

    probabilities: dict[str, Tensor]

    def values(self, attribute: str) -> list[str]:
        """The most probable value for each picture."""
        return [ATTRIBUTES[attribute][int(index)] for index in self.probabilities[attribute].argmax(dim=1)]


def build_oracle(name: OracleName) -> nn.Module:
    """(B, 3, 64, 64) in -1..1 to logits (B, sum of values): a net of residual blocks, or a plain one without shortcuts.

    Both halve by maxima and keep positions to the end: marks and eyes are few pixels, which an average loses.
    """
    outputs = sum(len(values) for values in ATTRIBUTES.values())
    if name == "residual":
        stem = [nn.Conv2d(3, 24, 5, padding=2, bias=False), nn.BatchNorm2d(24), nn.ReLU(inplace=True)]
        widths = (24, 32, 48, 64, 64)
        blocks = [layer for pair in pairwise(widths) for layer in (nn.MaxPool2d(2), _residual_block(*pair))]
        return nn.Sequential(*stem, *blocks, nn.Flatten(), nn.Dropout(0.1), nn.Linear(widths[-1] * 4 * 4, outputs))
    layers = make_layers([16, 24, "M", 40, 40, "M", 64, 64, "M", 72, "M"], batch_norm=True)
    return nn.Sequential(layers, nn.Flatten(), nn.Dropout(0.1), nn.Linear(72 * 4 * 4, outputs))


def _residual_block(before: int, after: int) -> BasicBlock:
    widen = nn.Sequential(nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after))
    return BasicBlock(before, after, downsample=widen)


def split_logits(logits: Tensor) -> dict[str, Tensor]:
    """Logits (B, sum of values) by attribute."""
    parts = logits.split([len(values) for values in ATTRIBUTES.values()], dim=1)
    return dict(zip(ATTRIBUTES, parts, strict=True))


@torch.no_grad()
def read(oracle: nn.Module, images: Tensor) -> Reading:
    """Reads pictures (B, 3, 64, 64) in -1..1 and their mirror images, where left is right: the mean of both logits."""
    seen, mirrored = split_logits(oracle(images)), split_logits(oracle(images.flip(-1)))
    mirrored["pose"] = mirrored["pose"].flip(1)
    return Reading({name: ((seen[name] + mirrored[name]) / 2).softmax(dim=1) for name in seen})


def truth_of(picture: Picture) -> dict[str, int]:
    """Index of the true value of each attribute of the foremost creature; -1 where there is none to have it."""
    words: dict[str, str] = {"subject": "creature" if picture.creatures else "nothing"}
    words |= {"scene": picture.scene, "style": picture.style}
    if picture.creatures:
        placed = picture.creatures[-1]
        words |= {name: getattr(placed.identity, name) for name in IDENTITY}
        words |= {name: getattr(placed, name) for name in STATE}
    return {name: values.index(words[name]) if name in words else -1 for name, values in ATTRIBUTES.items()}


def visible(picture: Picture, attributes: Sequence[str] = NEEDS_CREATURE) -> set[str]:
    """The attributes of the foremost creature that show: any other value would change the 64 px picture clearly.

    Decided by the renderer alone, so that what counts as readable does not depend on who reads.
    """
    image = render(picture, 64).image.astype(np.int16)
    return {name for name in attributes if _shows(picture, name, image)}


def _shows(picture: Picture, attribute: str, image: np.ndarray) -> bool:
    placed = picture.creatures[-1]
    true = getattr(placed.identity if attribute in IDENTITY else placed, attribute)
    for value in ATTRIBUTES[attribute]:
        if value == true or (attribute in ("colour", "second") and value in _colours(placed)):
            continue
        other = render(_with(picture, attribute, value), 64).image
        if (np.abs(other - image).max(axis=2) > _CLEAR).sum() < _ENOUGH:
            return False
    return True


def _colours(placed: Placement) -> tuple[str, str]:
    return placed.identity.colour, placed.identity.second


def _with(picture: Picture, attribute: str, value: str) -> Picture:
    """The picture with another value of one attribute of its foremost creature."""
    placed = picture.creatures[-1]
    if attribute in IDENTITY:
        changed = replace(placed, identity=replace(placed.identity, **{attribute: value}))
    elif attribute == "pose":
        changed = replace(placed, yaw=POSES[value])
    else:
        changed = replace(placed, **{attribute: value})
    return replace(picture, creatures=(*picture.creatures[:-1], changed))
