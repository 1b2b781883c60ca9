"""Pictures of what DynamicID does: one person in all expressions and poses, and where each person acts."""

from dataclasses import replace

import numpy as np
import torch

from evaluation.people import box_of, lineup, picture_size
from flexip.activation_maps import ActivationMaps, over
from flexip.batch import admit, advance
from flexip.engine import Engine
from flexip.images import Rgb, pad_square, resize
from flexip.motion import Motion, sweep
from flexip.people import Person
from flexip.pocket.captions import roll_call
from flexip.pocket.face import EXPRESSIONS, POSES
from flexip.request import Request
from flexip.sampler import decode, sample
from jobs.reproduction.people_albums import Album
from jobs.reproduction.people_plan import Scenario

FRONT = EXPRESSIONS.index("neutral") * len(POSES) + [*POSES].index("front")  # of an album
_FACTOR = 2  # by which small pictures are enlarged


def motion_grid(engine: Engine, album: Album, scenario: Scenario) -> Rgb:
    """Every expression (columns) in every pose (rows) from one source, which stands left of the first row."""
    assert engine.casting is not None
    face, motions = album.shots[FRONT].face, sweep(poses=tuple(POSES))
    tokens = engine.casting.moved(engine.casting.tokens([face])[0], face, motions)
    requests = [_request(scenario, [album], (Person(one[None]),)) for one in tokens]
    pictures = np.stack(sample(engine, requests)).reshape(len(POSES), len(EXPRESSIONS), *picture_size(1), 3)
    grid = np.concatenate([np.concatenate(list(row), axis=1) for row in pictures])
    left = np.full((len(grid), picture_size(1)[1], 3), 255, np.uint8)
    left[: picture_size(1)[0]] = album.shots[FRONT].picture
    return _enlarged(np.concatenate([left, grid], axis=1))


@torch.inference_mode()
def activation_rows(engine: Engine, albums: list[Album], scenario: Scenario) -> Rgb:
    """The sources, the picture, and over it the map of each person: the mean over layers and steps."""
    assert engine.casting is not None
    faces = [album.shots[FRONT].face for album in albums]
    moods = [Motion(expression, "front") for expression in ("happy", "surprised", "sad")]
    tokens = engine.casting.tokens(faces)
    people = tuple(
        Person(engine.casting.moved(one, face, [mood]), box_of(i, len(albums)))
        for i, (one, face, mood) in enumerate(zip(tokens, faces, moods, strict=False))
    )
    request = _request(scenario, albums, people)
    batch = admit(engine, [request], [0])
    maps = ActivationMaps((batch.latents.shape[2], batch.latents.shape[3]))
    assert batch.rows.faces is not None
    batch = replace(batch, rows=replace(batch.rows, faces=replace(batch.rows.faces, observe=maps)))
    for _ in range(request.steps):
        batch = advance(engine, batch)
    (picture,) = decode(engine, batch.latents)
    size = picture.shape[:2]
    heats = [over(picture, heat) for heat in maps.pictures(size)[: len(albums)]]  # the rest are unconditional rows'
    sources = [resize(pad_square(album.shots[FRONT].picture), (size[0], size[0])) for album in albums]
    return _enlarged(np.concatenate([*sources, picture, *heats], axis=1))


def stacked(rows: list[Rgb]) -> Rgb:
    """Pictures of different widths under each other, on white."""
    width = max(row.shape[1] for row in rows)
    return np.concatenate(
        [np.pad(row, ((0, 4), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    )


def _request(scenario: Scenario, albums: list[Album], people: tuple[Person, ...]) -> Request:
    asked = lineup([album.who for album in albums], np.zeros((len(albums), 2), int), scene=3)
    return Request(
        roll_call(asked),
        guidance_scale=scenario.guidance,
        steps=scenario.steps,
        solver=scenario.solver,
        size=picture_size(len(albums)),
        people=people,
    )


def _enlarged(picture: Rgb) -> Rgb:
    return picture.repeat(_FACTOR, axis=0).repeat(_FACTOR, axis=1)
