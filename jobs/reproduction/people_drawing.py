"""The pictures of one group of people: drawn by a DynamicID, or made without one as a control."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from evaluation.people import (
    HEIGHT,
    box_of,
    lineup,
    motion_of,
    picture_size,
    scene_of,
)
from flexip.casting import Casting
from flexip.encoders import load_encoders, load_pipeline
from flexip.engine import Engine
from flexip.images import Rgb, resize
from flexip.model import FlexIP, adapter_config
from flexip.people import Person
from flexip.pocket.captions import roll_call
from flexip.pocket.face import POSES
from flexip.pocket.world import Picture, render
from flexip.request import Request
from flexip.sampler import decode, sample
from jobs.reproduction.people_albums import Album, Shot
from jobs.reproduction.people_plan import PeopleMethod, Scenario

BATCH = 32  # pictures that are drawn together

Pictures = UInt8[np.ndarray, "cells H W 3"]


@dataclass(frozen=True)
class Group:
    """People who are drawn together, and all that is asked of them."""

    scenario: Scenario
    number: int
    albums: Sequence[Album]  # of each of them

    motions: tuple[np.ndarray, np.ndarray]  # of the sources and of the targets, (cells, people, 2) each

    @property
    def sources(self) -> list[list[Shot]]:
        """Everybody's, cell by cell."""
        return [
            [album.shots[shot_of(motion)] for album, motion in zip(self.albums, cell, strict=True)]
            for cell in self.motions[0]
        ]

    @property
    def close_ups(self) -> UInt8[np.ndarray, "cells people 64 64 3"]:
        """Of the sources."""
        return np.stack([[shot.close_up for shot in cell] for cell in self.sources])

    def answers(self, copied: bool = False) -> list[Picture]:
        """The perfect answers; `copied`: with the motions of the sources instead."""
        who = [album.who for album in self.albums]
        motions = self.motions[0 if copied else 1]
        return [lineup(who, cell, scene_of(self.number, c), seed=c) for c, cell in enumerate(motions)]

    @property
    def sentences(self) -> list[str]:
        """What each picture should show of a scene."""
        return [roll_call(answer) for answer in self.answers()]


def shot_of(motion: Int[np.ndarray, "2"]) -> int:
    """Which picture of an album shows a motion."""
    return int(motion[0]) * len(POSES) + int(motion[1])


def base_engine() -> Engine:
    """The pocket base model; its adapters are asked for nothing."""
    encoders, pipe = load_encoders(), load_pipeline("pocket")
    unused = FlexIP(pipe.unet, adapter_config(pipe.unet, encoders.shapes, queries=1, depth=1, heads=1, dim_head=8))
    return Engine(unused.eval(), encoders, pipe)


def draw_group(engine: Engine, method: PeopleMethod, group: Group) -> Pictures:
    """A picture for each cell by an engine with people; noise is that of the cell, whatever the method."""
    assert engine.casting is not None
    people, scenario = cast_group(engine.casting, method, group), group.scenario
    requests = [
        Request(
            roll_call(answer, method.told),
            guidance_scale=scenario.guidance,
            steps=scenario.steps,
            solver=scenario.solver,
            seed=10_000 * group.number + cell,
            size=picture_size(scenario.people),
            people=people[cell],
        )
        for cell, answer in enumerate(group.answers())
    ]
    return np.stack(sample(engine, requests, max_rows=2 * BATCH))


def cast_group(casting: Casting, method: PeopleMethod, group: Group) -> list[tuple[Person, ...]]:
    """The people of each cell: one in each box, or without SAA everybody's tokens in a row that acts everywhere."""
    faces = [shot.face for cell in group.sources for shot in cell]
    tokens = casting.tokens(faces)
    if method.moved:
        targets = [motion_of(motion) for cell in group.motions[1] for motion in cell]
        tokens = torch.cat(
            [casting.moved(one, face, [to]) for one, face, to in zip(tokens, faces, targets, strict=True)]
        )
    count = group.scenario.people
    return [_cast(cell, method.activated) for cell in tokens.unflatten(0, (-1, count))]


def _cast(tokens: Float[Tensor, "people K D"], activated: bool) -> tuple[Person, ...]:
    count = len(tokens)
    if not activated:
        return (Person(tokens, shares=(1.0,) * count),)
    return tuple(Person(one[None], box_of(i, count)) for i, one in enumerate(tokens))


def make_group(engine: Engine, method: PeopleMethod, group: Group) -> Pictures:
    """The pictures of a control."""
    size = picture_size(group.scenario.people)
    if method.way == "copied":
        return np.stack([_beside(group, cell, size) for cell in range(group.scenario.cells)])
    images = [render(answer, size).image for answer in group.answers(copied=method.way == "pasted")]
    return np.stack(_coded(engine, images) if method.way == "rendered and coded" else images)


def _beside(group: Group, cell: int, size: tuple[int, int]) -> Rgb:
    """The sources beside each other, of each the part around the creature that has a place's shape."""
    if group.scenario.people == 1:
        return group.sources[cell][0].picture
    height, width = size[0], size[1] // len(group.albums)
    side = HEIGHT * 7 // 9  # at which a creature is as large as one beside others
    left, above = (side - width) // 2, height - side
    zoomed = [resize(close, (side, side))[:, left : left + width] for close in group.close_ups[cell]]
    strips = [np.pad(one, ((above, 0), (0, 0), (0, 0)), mode="edge") for one in zoomed]
    return np.concatenate(strips, axis=1)


@torch.inference_mode()
def _coded(engine: Engine, images: Sequence[Rgb]) -> list[Rgb]:
    """What the VAE leaves of pictures: no drawing can show more."""
    mean, _ = engine.encoders.encode_targets(images, images[0].shape[:2]).chunk(2, dim=1)
    return decode(engine, mean * engine.encoders.vae.config.scaling_factor)
