"""One method after the other: trained, drawn, read. What is finished is kept under the hash of all it depends on."""

import json
import platform
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from safetensors.torch import load_file

from evaluation.baselines import load_baseline
from evaluation.pocket import EDITS
from evaluation.readings import Readings, joined, load_readings, read_pictures, save_readings
from flexip.checkpoint import WEIGHTS
from flexip.encoders import Encoders
from flexip.engine import Engine
from flexip.images import Rgb, decode_image, encode_png, resize
from flexip.pocket.identity import identity
from flexip.request import Request
from flexip.sampler import sample
from jobs import train
from jobs.config import load
from jobs.console import say
from jobs.reproduction.parts import Maker, make_parts, worker_count
from jobs.reproduction.place import Place, key_of
from jobs.reproduction.plan import Method, Sweep
from jobs.reproduction.worlds import Creature, held_out, training_set, world_key
from jobs.training.config import TrainConfig
from jobs.training.record import FREE_FIELDS, PEOPLE_FIELDS

BATCH = 64  # pictures that are drawn together
STRIP_CREATURES = 8  # whose pictures are kept, an edit each


@dataclass(frozen=True)
class Trial:
    """A trained method and how it is drawn."""

    method: Method
    seed: int
    sweep: Sweep
    guidance: float

    @property
    def dial(self) -> tuple[float, ...]:
        return self.sweep.dial(self.method)

    @property
    def name(self) -> str:
        return f"{self.method.name}-{self.seed}-{self.sweep.split}-g{self.guidance:g}"

    def requests(self, creature: Creature, number: int) -> list[Request]:
        """One for each edit, noise and setting, in this order; all settings start from the same noise."""
        return [
            Request(
                edit.prompt(creature.who),
                creature.reference,
                *self.method.weights(setting),
                guidance_scale=self.guidance,
                steps=self.sweep.steps,
                solver=self.sweep.solver,
                seed=10_000 * noise + number,
            )
            for edit in EDITS
            for noise in range(self.sweep.noises)
            for setting in self.dial
        ]


def readings_of(place: Place, trial: Trial) -> Readings:
    """What is read of a trial's grid: from the archive, else trained, drawn and read now."""
    path = archived(place, trial)
    if path.is_file():
        return load_readings(path)
    checkpoint = trained(place, trial.method, trial.seed)
    parts, began = place.output / "parts" / path.stem, time.monotonic()
    _draw_parts(place, trial, checkpoint, parts)
    readings = joined([load_readings(part) for part in sorted(parts.glob("*.npz"))])
    _write_facts(path.with_suffix(".json"), place, trial, checkpoint, time.monotonic() - began)
    if trial.sweep == place.preset.main and trial.seed == place.preset.seeds[0]:
        strips = [decode_image(strip.read_bytes()) for strip in sorted(parts.glob("*.png"))]
        path.with_suffix(".png").write_bytes(encode_png(np.concatenate(strips)))
    save_readings(path, readings)
    shutil.rmtree(parts)
    return readings


def archived(place: Place, trial: Trial) -> Path:
    """Where the readings of a trial are kept; .json and .png beside them."""
    content = [_training_key(place, trial.method, trial.seed), asdict(trial.sweep), trial.guidance, trial.dial]
    content += [[edit.prompt(identity(trial.sweep.split, 0)) for edit in EDITS], place.judges_digest]
    return place.archive / f"{trial.name}-{key_of(content)}.npz"


def trained(place: Place, method: Method, seed: int) -> Path:
    """The checkpoint of a method and a seed: the one that is there, or trained now, or to its end."""
    dataset = training_set(place.output, place.preset.videos, place.preset.stills, place.ray)
    output = place.output / "runs" / _training_key(place, method, seed)
    checkpoint = output / "checkpoint"
    if not (checkpoint / "config.json").is_file():
        say("train", f"{method.title}, seed {seed}")
        began = time.monotonic()
        result = train.run(_train_config(place, method, seed, dataset, output))
        facts = {"samples_per_second": result.samples_per_second, "seconds_of_the_last_start": time.monotonic() - began}
        (output / "facts.json").write_text(json.dumps(facts))
    return checkpoint


def _draw_parts(place: Place, trial: Trial, checkpoint: Path, parts: Path) -> None:
    """A file of readings for every creature, and of the first ones a strip of pictures; those that exist are kept."""
    parts.mkdir(parents=True, exist_ok=True)
    missing = [n for n in range(trial.sweep.creatures) if not (parts / f"{n:04d}.npz").is_file()]
    prepare = partial(_part_maker, place, trial, checkpoint, parts)
    make_parts(prepare, missing, trial.name, "creature")


def _part_maker(place: Place, trial: Trial, checkpoint: Path, parts: Path) -> Maker:
    """Draws a creature's pictures and reads them."""
    engine, creatures = load_baseline(checkpoint), held_out(trial.sweep.split, trial.sweep.creatures)

    def make(number: int) -> None:
        creature = creatures[number]
        drawn = np.stack(_draw(engine, trial, creature, number))
        images = drawn.reshape(1, len(EDITS), trial.sweep.noises, len(trial.dial), *drawn.shape[1:])
        if number < STRIP_CREATURES:
            (parts / f"{number:04d}.png").write_bytes(encode_png(_strip(creature, images[0, number % len(EDITS), 0])))
        save_readings(parts / f"{number:04d}.npz", read(place, engine.encoders, [creature], images))

    return make


def _draw(engine: Engine, trial: Trial, creature: Creature, number: int) -> list[Rgb]:
    with torch.autocast(
        torch.device(engine.encoders.device).type, torch.bfloat16, enabled=trial.sweep.precision == "bf16"
    ):
        return sample(engine, trial.requests(creature, number), max_rows=2 * BATCH)


def read(place: Place, encoders: Encoders, creatures: Sequence[Creature], images: np.ndarray) -> Readings:
    """What oracles and encoders read of pictures (creatures, edits, noises, settings, H, W, 3)."""
    prompts = [edit.prompt(creatures[0].who) for edit in EDITS]
    return read_pictures(place.judges, encoders, [creature.reference for creature in creatures], prompts, images)


def _strip(creature: Creature, images: UInt8[np.ndarray, "settings H W 3"]) -> Rgb:
    return np.concatenate([resize(creature.reference, images.shape[1:3]), *images], axis=1)


def _train_config(place: Place, method: Method, seed: int, dataset: Path, output: Path) -> TrainConfig:
    options = [word for name, value in method.options.items() for word in (f"--{name}", str(value))]
    return load(
        TrainConfig,
        [
            *("--config", str(place.recipe), "--dataset", str(dataset), "--output", str(output)),
            *("--steps", str(place.preset.steps), "--seed", str(seed)),
            *("--optimizer.warmup", str(min(200, place.preset.steps // 4))),
            *options,
        ],
        "jobs.reproduce",
    ).model_copy(update={"ray": place.ray})


def _training_key(place: Place, method: Method, seed: int) -> str:
    config = _train_config(place, method, seed, Path("dataset"), Path("output"))
    settings = config.model_dump(mode="json", exclude=FREE_FIELDS | PEOPLE_FIELDS)
    content = [settings, world_key(place.preset.videos, place.preset.stills), place.models_digest]
    return f"{config.adapter.method}-{seed}-{key_of(content)}"


def _write_facts(path: Path, place: Place, trial: Trial, checkpoint: Path, seconds: float) -> None:
    """What a reader of the numbers wants to know beside them."""
    stored = json.loads((checkpoint / "config.json").read_text())
    facts = {
        "method": trial.method.name,
        "seed": trial.seed,
        "sweep": asdict(trial.sweep),
        "dial": trial.dial,
        "guidance": trial.guidance,
        "training": stored["training"],
        "architecture": stored["architecture"],
        "fingerprints": stored["fingerprints"],
        "parameters": sum(tensor.numel() for tensor in load_file(checkpoint / WEIGHTS).values()),
        "speed": json.loads((checkpoint.parent / "facts.json").read_text()),
        "seconds_of_drawing": round(seconds),
        "machine": f"{platform.machine()}, {worker_count()} processes of one thread",
        "versions": {name: version(name) for name in ("torch", "diffusers", "ray")},
        "dataset": json.loads((place.output / "dataset/manifest.json").read_text())["sizes"],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(facts, indent=1) + "\n")
