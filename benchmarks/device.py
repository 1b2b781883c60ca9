"""What FlexIP costs in seconds on one device, beside its base model and diffusers' own IP-Adapters; for the card.

    python -m benchmarks.device --output runs/device.json                           the paper's models, on a GPU
    python -m benchmarks.device --output runs/device.json --device cpu --full-size false       the pocket models

All that is compared runs in one process, in turn, round by round. Writes a JSON file that `benchmarks.card` shows.
"""

import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from benchmarks import sd15
from benchmarks.card import versions
from benchmarks.contenders import contenders
from benchmarks.flops import flops_of
from benchmarks.timing import interleaved
from flexip.checkpoint import load_checkpoint, save_checkpoint
from flexip.cost import peak_of, training_cost
from flexip.encoders import (
    EncoderNames,
    Encoders,
    empty_unet,
    load_encoders,
    load_pipeline,
    load_scheduler_config,
    load_unet,
)
from flexip.images import Rgb
from flexip.model import FlexIP, adapter_config
from flexip.request import Request
from flexip.sampler import sample
from flexip.training import Batch, Drops, build_batch, load_noising, new_state, train_step
from jobs.config import JobConfig, ModelsConfig, load
from jobs.console import command_line, say
from jobs.training.config import AdapterSizes

PROMPT = "a toy on a beach"
DTYPE = {"cuda": torch.bfloat16, "cpu": torch.float32}


class DeviceConfig(JobConfig):
    """Measure UNet calls, training and mixed requests on one device."""

    output: Path = Field(description="JSON file to write, for benchmarks.card")
    device: Literal["cuda", "cpu"] = Field(default="cuda", description="where")
    full_size: bool = Field(default=True, description="the paper's models with random weights, in place of `models`")
    models: ModelsConfig = Field(default=ModelsConfig(), description="frozen models, with full_size = false")
    adapter: AdapterSizes = Field(default=AdapterSizes(), description="architecture of the adapters")
    batches: list[int] = Field(default=[1, 8], min_length=1, description="rows of a UNet call")
    rounds: int = Field(default=50, ge=2, description="times that each case is measured, in turn with the others")
    compiled: bool = Field(default=True, description="also measure each UNet after torch.compile")
    training_rows: int = Field(default=8, ge=1, description="rows of a training step")
    requests: int = Field(default=8, ge=2, description="mixed requests that are drawn together")
    steps: int = Field(default=25, ge=2, description="most denoising steps of a request; others have fewer")


@dataclass(frozen=True)
class Table:
    """Cells as they will stand in the card; the first column is text."""

    title: str
    header: list[str]
    rows: list[list[str]]


def unet_calls(config: DeviceConfig, names: EncoderNames, shapes: dict[str, tuple[int, ...]]) -> Table:
    """Times of one UNet call: every contender, eager and compiled, at each batch size."""
    unet = load_pipeline(names.base, config.device, DTYPE[config.device]).unet.eval().requires_grad_(False)
    adapter = adapter_config(unet, shapes, **sizes_of(config))
    rows = []
    for batch in config.batches:
        cases = {f"{name}, eager": call for name, call in contenders(unet, adapter, shapes, batch).items()}
        if config.compiled:
            others = contenders(unet, adapter, shapes, batch)
            cases |= {f"{name}, compiled": torch.compile(call) for name, call in others.items()}
        with torch.no_grad():
            times = interleaved(cases, config.rounds)
        for name, seconds in times.items():
            base = times[f"base, {name.rpartition(', ')[2]}"]
            rows.append([name, str(batch), *milliseconds(seconds), f"{median(seconds) / median(base):.3f}"])
    return Table("One UNet call.", ["case", "batch", "median, ms", "p95, ms", "of base"], rows)


def training(config: DeviceConfig, names: EncoderNames, encoders: Encoders) -> Table:
    """Samples/s of the training step, with features that are there and with encoders that run before it."""
    device, count = config.device, config.training_rows
    pictures = [picture(number) for number in range(count)]
    columns = {name: values.float().cpu().numpy() for name, values in encoded(encoders, pictures).items()}
    noising = load_noising(encoders, load_scheduler_config(names.base))
    gamma = torch.full((count,), 0.7)
    batch = build_batch(columns, gamma, Drops(), noising, np.arange(count), device)
    unet = load_unet(names.base).to(device)
    state = new_state(FlexIP(unet, adapter_config(unet, encoders.shapes, **sizes_of(config))).to(device), 1e-4, 0.01)
    precision = "bf16" if device == "cuda" else "fp32"

    def step(batch: Batch) -> None:
        train_step(state, batch, precision=precision)

    def online() -> None:
        encoded(encoders, pictures)
        step(batch)

    with peak_memory(device) as taken:
        times = interleaved({"cached": lambda: step(batch), "online": online}, config.rounds)
    cost = training_cost(empty_unet(names.base), state.model.config, type(state.model.adapters), encoders.shapes).step
    work = {"cached": cost, "online": cost + sum(flops_of(encoders).values())}
    rows = [
        [
            name,
            str(count),
            *milliseconds(seconds),
            f"{count / median(seconds):.1f}",
            utilisation(count * work[name] / median(seconds), device),
            taken[0],
        ]
        for name, seconds in times.items()
    ]
    return Table(
        f"A training step in {precision}.",
        ["features", "rows", "median, ms", "p95, ms", "samples/s", "MFU", "memory of both, GB"],
        rows,
    )


def serving(config: DeviceConfig, names: EncoderNames, encoders: Encoders) -> Table:
    """Mixed requests, one after the other and sharing UNet calls: gates, steps, guidance and pictures of their own."""
    unet = empty_unet(names.base)
    adapter = adapter_config(unet, encoders.shapes, **sizes_of(config))
    with tempfile.TemporaryDirectory() as folder:
        model = FlexIP(load_unet(names.base), adapter)
        save_checkpoint(folder, model, names=names, fingerprints=encoders.fingerprints)
        del model
        engine = load_checkpoint(folder, config.device, names, DTYPE[config.device])
    wanted = [
        Request(
            PROMPT,
            picture(number % 3),
            preservation=number / config.requests,
            personalization=1 - number / config.requests,
            guidance_scale=(1.0, 5.0, 7.5)[number % 3],
            steps=config.steps - number % 2 * (config.steps // 2),
            seed=number,
        )
        for number in range(config.requests)
    ]
    cases: dict[str, Callable[[], object]] = {
        "one by one": lambda: [sample(engine, [request]) for request in wanted],
        "together": lambda: sample(engine, wanted),
    }
    with peak_memory(config.device) as taken:
        times = interleaved(cases, max(2, config.rounds // 10))
    rows = [
        [name, str(len(wanted)), *milliseconds(seconds), f"{len(wanted) / median(seconds):.2f}", taken[0]]
        for name, seconds in times.items()
    ]
    header = ["requests", "number", "median, ms", "p95, ms", "pictures/s", "memory of both, GB"]
    return Table("Mixed requests: three references, any gate, two lengths, with and without guidance.", header, rows)


def encoded(encoders: Encoders, pictures: Sequence[Rgb]) -> dict[str, torch.Tensor]:
    """All features of rows whose target is their reference."""
    cls, patches = encoders.encode_references(pictures)
    return {
        "clip": cls,
        "dino": patches,
        "text": encoders.encode_text([PROMPT] * len(pictures)),
        "vae": encoders.encode_targets(pictures),
    }


def picture(number: int) -> Rgb:
    """Noise, of its own for each number."""
    return np.random.default_rng(number).integers(0, 256, (256, 256, 3), dtype=np.uint8)


def sizes_of(config: DeviceConfig) -> dict[str, Any]:
    """The adapters' free sizes."""
    return config.adapter.model_dump(exclude={"method"})


def median(seconds: Sequence[float]) -> float:
    return statistics.median(seconds)


def milliseconds(seconds: Sequence[float]) -> list[str]:
    """Median and 95th percentile."""
    return [f"{1000 * value:.2f}" for value in (median(seconds), float(np.quantile(seconds, 0.95)))]


def utilisation(per_second: float, device: str) -> str:
    """FLOPs that a step needs, of what the device could do in bf16."""
    peak = peak_of(device)
    return f"{100 * per_second / peak:.1f}%" if peak else "peak unknown"


@contextmanager
def peak_memory(device: str) -> Iterator[list[str]]:
    """Gets the most memory that was allocated on a GPU meanwhile [GB], as text, when it is over."""
    taken: list[str] = []
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    yield taken
    taken.append(f"{torch.cuda.max_memory_allocated() / 1e9:.1f}" if device == "cuda" else "not counted on a CPU")


def measure(config: DeviceConfig, names: EncoderNames) -> list[Table]:
    """All tables, one after the other, so that each has the memory for itself."""
    encoders = load_encoders(names, config.device, DTYPE[config.device])
    tables = []
    for what in (training, serving):
        tables.append(what(config, names, encoders))
        say("device", f"{tables[-1].title} done")
    shapes = encoders.shapes
    del encoders
    return [unet_calls(config, names, shapes), *tables]


def run(config: DeviceConfig, command: str) -> Path:
    """Measures, and writes the report."""
    with tempfile.TemporaryDirectory() as folder:
        own = EncoderNames(**config.models.model_dump())
        names = sd15.write_models(Path(folder)) if config.full_size else own
        tables = measure(config, names)
    machine = torch.cuda.get_device_name() if config.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    report = {"machine": machine, "versions": versions(), "command": command, "tables": [asdict(t) for t in tables]}
    config.output.parent.mkdir(parents=True, exist_ok=True)
    config.output.write_text(json.dumps(report, indent=1) + "\n")
    say("device", f"{config.output}")
    return config.output


@command_line
def main(argv: list[str] | None = None) -> None:
    """Command line entry; see the top of the file."""
    words = sys.argv[1:] if argv is None else argv
    run(load(DeviceConfig, words, "python -m benchmarks.device"), " ".join(["python -m benchmarks.device", *words]))


if __name__ == "__main__":
    main()
