"""One method after the other: trained, drawn, read. What is finished is kept under the hash of all it depends on."""

import json
import platform
import shutil
import time
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from safetensors.torch import load_file

from evaluation.people import PeopleReadings, balanced_motions, joined, load_people_readings, read_people, save_people
from evaluation.people_scores import Case
from flexip.checkpoint import WEIGHTS, load_people
from flexip.faces import FaceLibrary, open_faces
from flexip.images import Rgb, decode_image, encode_png, pad_square, resize
from flexip.pocket.face_nets import FACE_NETS, face_net_path, load_face_net
from flexip.pocket.identity import identity
from jobs import train
from jobs.config import ModelsConfig, load
from jobs.console import say
from jobs.curate import FacesConfig, draw_faces
from jobs.reproduction.parts import Maker, make_parts, worker_count
from jobs.reproduction.people_albums import album_of
from jobs.reproduction.people_drawing import Group, base_engine, draw_group, make_group, shot_of
from jobs.reproduction.people_plan import PeopleMethod, PeoplePreset, Scenario
from jobs.reproduction.place import OutOfTime, Place, digest_of, key_of
from jobs.training.config import TrainConfig
from jobs.training.record import ADAPTERS_FIELDS, FREE_FIELDS

STRIPS = 3  # groups whose pictures are kept
STRIP_CELLS = 8  # pictures of each


@dataclass(frozen=True)
class PeopleTrial:
    """A method, and what it is asked for."""

    method: PeopleMethod
    scenario: Scenario

    @property
    def name(self) -> str:
        return f"{self.method.name}-{self.scenario.people}"


@dataclass(frozen=True)
class Clock:
    """Says when no further piece of work begins."""

    deadline: float  # of time.monotonic

    def begin(self, work: str) -> None:
        """Raises OutOfTime after the deadline."""
        if time.monotonic() > self.deadline:
            raise OutOfTime(work)


Here = Place[PeoplePreset]


def readings_of(place: Here, trial: PeopleTrial, clock: Clock) -> PeopleReadings:
    """What is read of a trial's pictures: from the archive, else trained, drawn and read now."""
    path = archived(place, trial)
    if path.is_file():
        return load_people_readings(path)
    checkpoint = trained(place, trial.method, clock) if trial.method.way == "drawn" else None
    clock.begin(trial.name)
    parts, began = place.output / "parts" / path.stem, time.monotonic()
    _draw_parts(place, trial, checkpoint, parts)
    readings = joined([load_people_readings(part) for part in sorted(parts.glob("*.npz"))])
    facts = _facts(checkpoint) if checkpoint else {}
    facts |= {"seconds_of_drawing": round(time.monotonic() - began)} | _surroundings(place, trial)
    strips = [decode_image(strip.read_bytes()) for strip in sorted(parts.glob("*.png"))]
    place.archive.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".png").write_bytes(encode_png(np.concatenate(strips)))
    path.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")
    save_people(path, readings)
    shutil.rmtree(parts)
    return readings


def archived(place: Here, trial: PeopleTrial) -> Path:
    """Where the readings of a trial are kept; .json and .png beside them."""
    method = trial.method
    content = [_last_key(place, method) if method.way == "drawn" else method.way, method.told, asdict(trial.scenario)]
    content += [place.models_digest, place.judges_digest, _faces_digest(place)]
    return place.archive / f"{trial.name}-{key_of(content)}.npz"


def case_of(scenario: Scenario) -> Case:
    """What all methods are asked for."""
    who = [[identity("test", n) for n in _members(scenario, group)] for group in range(scenario.groups)]
    return Case(who, *balanced_motions(scenario.groups, scenario.people, scenario.cells))


def group_of(place: Here, scenario: Scenario, number: int, library: FaceLibrary) -> Group:
    """The people of a group, and what is asked of them."""
    case, folder = case_of(scenario), place.output / "albums"
    source, target = case.source[number], case.target[number]
    albums = [
        album_of(n, map(shot_of, source[:, i]), library, folder) for i, n in enumerate(_members(scenario, number))
    ]
    return Group(scenario, number, albums, (source, target))


def _members(scenario: Scenario, group: int) -> range:
    """Numbers of the people of a group; nobody is in two groups."""
    return range(group * scenario.people, (group + 1) * scenario.people)


def trained(place: Here, method: PeopleMethod, clock: Clock) -> Path:
    """The checkpoint of a method: the one that is there, or trained now, or to its end, in one stage or in two."""
    first = _trained(place, _anchoring_key(place, method), _anchoring(place, method), clock)
    if not method.moved:
        return first
    return _trained(place, _last_key(place, method), _reconfiguration(place, method, str(first)), clock)


def _trained(place: Here, key: str, config: TrainConfig, clock: Clock) -> Path:
    output = place.output / "runs" / key
    checkpoint = output / "checkpoint"
    if not (checkpoint / "config.json").is_file():
        dataset = _dataset(place, clock)
        clock.begin(key)
        say("train", f"{config.stage}, {'with' if config.people.activated else 'without'} SAA: {output}")
        result = train.run(config.model_copy(update={"dataset": dataset, "output": output}))
        (output / "facts.json").write_text(json.dumps({"samples_per_second": result.samples_per_second}))
    return checkpoint


def _dataset(place: Here, clock: Clock) -> Path:
    """Curates people to train on, unless that is done."""
    output = place.output / f"faces-{key_of(_world(place))}"
    if not (output / "manifest.json").is_file():
        clock.begin("faces")
        draw_faces(FacesConfig(**place.preset.faces.model_dump(), output=output, models=ModelsConfig(), ray=place.ray))
    return output


def _draw_parts(place: Here, trial: PeopleTrial, checkpoint: Path | None, parts: Path) -> None:
    """A file of readings for every group, and of the first ones a strip of pictures; those that exist are kept."""
    parts.mkdir(parents=True, exist_ok=True)
    missing = [n for n in range(trial.scenario.groups) if not (parts / f"{n:04d}.npz").is_file()]
    make_parts(partial(_part_maker, place, trial, checkpoint, parts), missing, trial.name, "group")


def _part_maker(place: Here, trial: PeopleTrial, checkpoint: Path | None, parts: Path) -> Maker:
    """Draws a group's pictures, or makes them without a checkpoint, and reads them."""
    library, engine = open_faces("pocket"), base_engine()
    if checkpoint is not None:
        engine = load_people(engine, checkpoint, library)
    net = load_face_net(place.weights, "identity")
    draw = draw_group if checkpoint else make_group

    def make(number: int) -> None:
        group = group_of(place, trial.scenario, number, library)
        images, sources = draw(engine, trial.method, group)[None], group.close_ups[None]
        readings = read_people(place.judges, net, engine.encoders, sources, group.sentences, images)
        if number < STRIPS:
            (parts / f"{number:04d}.png").write_bytes(encode_png(_strip(group, images[0])))
        save_people(parts / f"{number:04d}.npz", readings)

    return make


def _strip(group: Group, images: UInt8[np.ndarray, "cells H W 3"]) -> Rgb:
    """The sources of the first picture, shrunk to one square, and pictures of cells that are spread over all."""
    height = images.shape[1]
    sources = resize(pad_square(np.concatenate(list(group.close_ups[0]), axis=1)), (height, height))
    chosen = np.linspace(0, len(images) - 1, min(STRIP_CELLS, len(images))).round().astype(int)
    return np.concatenate([sources, *images[chosen]], axis=1)


def _anchoring(place: Here, method: PeopleMethod) -> TrainConfig:
    words = ("--stage", "anchoring", "--people.activated", str(method.activated).lower())
    return _config(place, place.preset.anchoring, *words)


def _reconfiguration(place: Here, method: PeopleMethod, start: str) -> TrainConfig:
    words = ("--stage", "reconfiguration", "--people.activated", str(method.activated).lower(), "--start", start)
    return _config(place, place.preset.reconfiguration, *words)


def _config(place: Here, steps: int, *words: str) -> TrainConfig:
    common = ("--config", str(place.recipe), "--dataset", "dataset", "--output", "output", "--steps", str(steps))
    common += ("--optimizer.warmup", str(min(200, steps // 4)), "--workers", str(place.preset.workers))
    return load(TrainConfig, [*common, *words], "jobs.reproduce_people").model_copy(update={"ray": place.ray})


def _anchoring_key(place: Here, method: PeopleMethod) -> str:
    return _key(place, _anchoring(place, method))


def _last_key(place: Here, method: PeopleMethod) -> str:
    first = _anchoring_key(place, method)
    return _key(place, _reconfiguration(place, method, first)) if method.moved else first


def _key(place: Here, config: TrainConfig) -> str:
    settings = config.model_dump(mode="json", exclude=FREE_FIELDS | ADAPTERS_FIELDS)
    return f"{config.stage}-{'saa' if config.people.activated else 'plain'}-{key_of([settings, *_world(place)])}"


def _world(place: Here) -> list[Any]:
    """What the data are made of, known before anything is drawn."""
    return [place.preset.faces.model_dump(mode="json"), place.models_digest, _faces_digest(place)]


def _faces_digest(place: Here) -> str:
    """Of the face library, which trains and casts."""
    return digest_of(face_net_path(place.weights, name) for name in FACE_NETS)


def _facts(checkpoint: Path) -> dict:
    """What a reader of the numbers wants to know of a training."""
    stored = json.loads((checkpoint / "config.json").read_text())
    return {
        "training": stored["training"],
        "architecture": stored["architecture"],
        "fingerprints": stored["fingerprints"],
        "parameters": sum(tensor.numel() for tensor in load_file(checkpoint / WEIGHTS).values()),
        "speed": json.loads((checkpoint.parent / "facts.json").read_text()),
    }


def _surroundings(place: Here, trial: PeopleTrial) -> dict:
    library = open_faces("pocket")
    groups = [group_of(place, trial.scenario, number, library) for number in range(trial.scenario.groups)]
    sources = [shot for group in groups for cell in group.sources for shot in cell]
    return {
        "sources": len({id(shot) for shot in sources}),
        "retakes": sum({id(shot): shot.retakes for shot in sources}.values()),
        "method": asdict(trial.method),
        "scenario": asdict(trial.scenario),
        "machine": f"{platform.machine()}, {worker_count()} processes of one thread",
        "versions": {name: version(name) for name in ("torch", "diffusers", "ray")},
    }
