"""Curation as chains of stages: what each pass of `pipelines/curate.py` needs, and how long it takes.

Times of CPUs are measured ones times the number of frames, crops or pairs; times of GPUs are counted FLOPs over the
peak and an assumed utilisation. A worker that needs both needs them one after the other, as the code does.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jobs.planning.config import PlanConfig
from jobs.planning.costs import Costs
from jobs.planning.flow import Cluster, Stage, bottleneck, limits
from pipelines.passes import CPUS, Pools
from pipelines.units import MOST_CLIPS

STORAGE = "storage"


@dataclass(frozen=True)
class Kind:
    """All inputs of one kind: how many, and what one of them has."""

    name: str
    number: float  # images, clips or sets
    megapixels: float  # that are decoded of one
    frames: float  # that are kept of one
    crops: float
    invariant: float  # pairs
    variant: float


@dataclass(frozen=True)
class Pass:
    """One pass over all its items."""

    name: str
    unit: str
    items: float
    stages: Sequence[Stage]
    bytes: float = 0.0  # read of the storage, of one item

    def allowed(self, cluster: Cluster, storage: float | None) -> dict[str, float]:
        """Items per second, by limit; `storage` [bytes/s], None where it is none."""
        found = limits(self.stages, cluster)
        return found | ({STORAGE: storage / self.bytes} if storage and self.bytes else {})

    def rate(self, cluster: Cluster, storage: float | None) -> tuple[str, float]:
        """What limits it, and items per second."""
        return bottleneck(self.allowed(cluster, storage))


def kinds(config: PlanConfig, costs: Costs) -> list[Kind]:
    """What there is to curate."""
    value = {name: cost.value for name, cost in costs.items()}
    pixels = {
        "image": value["image.megapixels"],
        "clip": value["clip.seconds"] * value["clip.fps"] * value["clip.megapixels"],
        "set": value["set.images"] * value["set.megapixels"],
    }
    sources = {"image": 1.0, "clip": 1.0, "set": value["set.images"]}
    numbers = {"image": config.images, "clip": config.clips, "set": config.sets}
    found = []
    for name, number in numbers.items():
        frames = sources[name] * value[f"frames.{name}"]
        pairs = [value.get(f"{sort}.{name}", 0.0) for sort in ("invariant", "variant")]
        found.append(Kind(name, number, pixels[name], frames, frames * value[f"crops.{name}"], *pairs))
    return found


def total(found: Sequence[Kind], what: str) -> float:
    """Of all inputs: frames, crops, invariant, variant or megapixels."""
    return sum(kind.number * getattr(kind, what) for kind in found)


def raw_bytes(found: Sequence[Kind], costs: Costs) -> float:
    """Of the inputs."""
    return sum(kind.number * kind.megapixels * 1e6 * costs[f"raw.{kind.name}"].value for kind in found)


def cluster_of(config: PlanConfig, costs: Costs) -> Cluster:
    """Where it runs."""
    mtbf = config.mtbf_hours or costs["failure.mtbf"].value
    repair = costs["failure.repair"].value
    return Cluster(config.cores, config.machines.number, config.node_count, 3600 * mtbf, 3600 * repair)


def passes(config: PlanConfig, costs: Costs) -> list[Pass]:
    """The passes, in their order."""
    found = kinds(config, costs)
    clips = sum(kind.number for kind in found)
    value, speed = {name: cost.value for name, cost in costs.items()}, config.cpu_speed
    pools = Pools.of(config.cores, config.machines.number, config.captions)
    tasks = int(config.cores / CPUS)
    pairs, raw = total(found, "invariant") + total(found, "variant"), raw_bytes(found, costs)
    feature = Stage("features", pools.encoders, value["features"] / speed, gpu_seconds(config, costs, "features"))
    rows = value["rows"] * total(found, "frames") / clips / speed
    subjects = sum(kind.number * kind.frames * value[f"subjects.{kind.name}"] for kind in found)
    return [
        Pass("hash", "clip", clips, [Stage("hash", tasks, value["hash"] * raw / 1e9 / clips / speed)], raw / clips),
        Pass("clips", "clip", clips, chain(config, costs, found), raw / clips),
        Pass("driver", "clip", clips, [Stage("one process", 1, value["plan"] / speed)]),
        Pass("features", "pair", max(pairs, 1.0), [feature], value["pair.bytes"]),
        Pass("rows", "clip", clips, [Stage("rows", tasks, rows)], subjects / clips),
    ]


def chain(config: PlanConfig, costs: Costs, found: Sequence[Kind]) -> list[Stage]:
    """The four steps of the pass over clips, for the mean clip."""
    clips = sum(kind.number for kind in found)
    pools = Pools.of(config.cores, config.machines.number, config.captions)
    crops = total(found, "crops") / clips
    cpu = {
        "read": _mean(found, {kind.name: kind.megapixels * costs[f"read.{kind.name}"].value for kind in found}),
        "search": _mean(found, {kind.name: kind.frames * costs[f"search.{kind.name}"].value for kind in found}),
        "embed": crops * costs["embed"].value,
        "pairs": _mean(found, {kind.name: costs[f"pairs.{kind.name}"].value for kind in found}),
    }
    caption = crops * gpu_seconds(config, costs, "caption") if config.captions else 0.0
    embed = crops * gpu_seconds(config, costs, "embed")
    tasks = int(config.cores / CPUS) - pools.readers - pools.searchers - pools.encoders
    return [
        Stage("read", pools.readers, cpu["read"] / config.cpu_speed),
        Stage("search", pools.searchers, cpu["search"] / config.cpu_speed, caption),
        Stage("embed", pools.encoders, cpu["embed"] / config.cpu_speed, embed),
        Stage("pairs", max(1, tasks), cpu["pairs"] / config.cpu_speed),
    ]


def units(stages: Sequence[Stage]) -> list[Stage]:
    """The same chain for a unit, the most clips that go through it together and are lost together."""
    return [Stage(s.name, s.workers, MOST_CLIPS * s.cpu_s, MOST_CLIPS * s.gpu_s) for s in stages]


def gpu_seconds(config: PlanConfig, costs: Costs, work: str) -> float:
    """Of one caption, crop or pair on one GPU."""
    used = "caption" if work == "caption" else "encode"
    return costs[f"flops.{work}"].value / (config.peak * costs[f"utilisation.{used}"].value)


def _mean(found: Sequence[Kind], values: Mapping[str, float]) -> float:
    number = sum(kind.number for kind in found)
    return math.fsum(kind.number * values[kind.name] for kind in found) / number
