"""The data of the comparison: a curated training set, and creatures that nobody has trained on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flexip.images import Rgb
from flexip.pocket.identity import Identity, identity
from flexip.pocket.video import STILL_SIZE, make_world
from flexip.pocket.world import place, render
from flexip.rows import Split
from jobs import curate
from jobs.config import RayConfig
from jobs.console import say
from jobs.curate import CurateConfig
from pipelines.references import prepare_reference
from pipelines.settings import InputSettings, PairSettings, ShardSettings, SplitSettings

_READY = "manifest.json"  # of a dataset: written last


@dataclass(frozen=True)
class Creature:
    """Somebody held out: who it is, and the one picture that the methods are given, cut out by the detector."""

    who: Identity
    reference: Rgb


def held_out(split: Split, count: int) -> list[Creature]:
    """The first creatures of a split, each seen from the front in a scene and a mood of its own."""
    return [_creature(split, number) for number in range(count)]


def training_set(output: Path, videos: int, stills: int, ray: RayConfig) -> Path:
    """Renders films and stills of training identities and curates them, unless that is done; returns the dataset."""
    dataset = output / "dataset"
    if (dataset / _READY).is_file():
        return dataset
    world = output / "world"
    if not (world / "ground_truth.jsonl").is_file():
        say("render", f"{videos} videos and {stills} stills of training identities in {world}")
        make_world(world, videos, stills, seed=0)
    curate.run(_curation(world, dataset, ray))
    return dataset


def world_key(videos: int, stills: int) -> list[Any]:
    """What the training set is made of, known before anything is rendered."""
    return [videos, stills, _curation(Path("world"), Path("dataset"), RayConfig()).settings().model_dump(mode="json")]


def _curation(world: Path, dataset: Path, ray: RayConfig) -> CurateConfig:
    """All of it is for training: validation and test have identities of their own, which `world` has none of."""
    return CurateConfig(
        input=InputSettings(path=str(world), group_by_folder=True, licence="Apache-2.0"),
        output=dataset,
        splits=SplitSettings(val=0, test=0),
        pairs=PairSettings(reference_side=64),
        shards=ShardSettings(hidden=True),
        ray=ray,
    )


def _creature(split: Split, number: int) -> Creature:
    who = identity(split, number)
    rng = np.random.default_rng((number, len(split), 31))
    picture = place([who], rng, style="flat", pose="front", accessory="nothing", action="standing")
    return Creature(who, prepare_reference(render(picture, STILL_SIZE).image).image)
