"""The whole system at the paper's size, with random weights: it builds, trains a step, saves, loads and draws.

    python -m benchmarks.full_size --folder runs/full_size      4.3 GB there; minutes on two cores, no GPU

Nothing is special about the size: models are written to a folder and loaded from it as anybody's are. Prints how long
each part takes and the memory that the process has needed so far; fails above 20 GB.
"""

import argparse
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks import sd15
from benchmarks.device import PROMPT, encoded, picture
from flexip.checkpoint import load_checkpoint, save_checkpoint
from flexip.encoders import EncoderNames, Encoders, load_encoders, load_scheduler_config, load_unet
from flexip.images import Rgb
from flexip.model import FlexIP, adapter_config
from flexip.request import Request
from flexip.sampler import sample
from flexip.training import Batch, Drops, build_batch, load_noising, new_state, train_step

MOST = 20e9  # [bytes]


@dataclass(frozen=True)
class Prepared:
    """What a training needs of the frozen encoders, so that these can go."""

    batch: Batch
    shapes: dict[str, tuple[int, ...]]
    fingerprints: dict[str, str]
    resolution: int


def prepare(encoders: Encoders, reference: Rgb) -> Prepared:
    """A batch of one row, whose target is its reference."""
    features = encoded(encoders, [reference])
    columns = {family: values.float().cpu().numpy() for family, values in features.items()}
    noising = load_noising(encoders, load_scheduler_config(encoders.names.base))
    batch = build_batch(columns, torch.tensor([0.7]), Drops(0, 0, 0), noising, np.array([0]))
    return Prepared(batch, encoders.shapes, encoders.fingerprints, encoders.resolution)


def train_once(names: EncoderNames, prepared: Prepared, folder: Path) -> Path:
    """A step as `jobs.train` does it in bf16; the checkpoint."""
    unet = load_unet(names.base)
    model = FlexIP(unet, adapter_config(unet, prepared.shapes))
    state = new_state(model, learning_rate=1e-4, weight_decay=0.01)
    loss = train_step(state, prepared.batch, precision="bf16")
    if not torch.isfinite(loss):
        raise RuntimeError(f"full size: the loss of the first step is {loss}")
    return save_checkpoint(folder, model, names=names, fingerprints=prepared.fingerprints, state=state)


def draw(checkpoint: Path, reference: Rgb, steps: int) -> Rgb:
    """A picture by a checkpoint that is loaded in bf16."""
    engine = load_checkpoint(checkpoint, dtype=torch.bfloat16)
    return sample(engine, [Request(PROMPT, reference, 0.7, 0.3, steps=steps)])[0]


def run(names: EncoderNames, folder: Path, steps: int = 2) -> Rgb:
    """Everything but the writing of the models."""
    reference = picture(0)
    with told("encode"):
        prepared = prepare(load_encoders(names, dtype=torch.bfloat16), reference)
    with told("train a step, save"):
        checkpoint = train_once(names, prepared, folder / "checkpoint")
    with told(f"load, draw {steps} steps at {prepared.resolution} px"):
        return draw(checkpoint, reference, steps)


@contextmanager
def told(what: str) -> Iterator[None]:
    """Prints time and memory, and raises RuntimeError when that was too much."""
    began = time.perf_counter()
    yield
    most = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{what:36} {time.perf_counter() - began:7.1f} s   {most / 1e9:5.1f} GB at most so far", flush=True)
    if most > MOST:
        raise RuntimeError(f"{what}: took {most / 1e9:.1f} GB, allowed are {MOST / 1e9:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="new or empty; models and checkpoint stay there")
    folder = parser.parse_args().folder.resolve()
    if folder.exists() and any(folder.iterdir()):
        raise SystemExit(f"--folder {folder}: holds something; give a new one")
    torch.manual_seed(0)
    with told("build"):
        names = sd15.write_models(folder / "models")
    run(names, folder)


if __name__ == "__main__":
    main()
