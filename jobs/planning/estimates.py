"""Training, serving, storage and money, reckoned from the same table of costs."""

import dataclasses
from dataclasses import dataclass

from jobs.planning import curation
from jobs.planning.config import PlanConfig
from jobs.planning.costs import Costs
from jobs.planning.curation import STORAGE, Pass
from jobs.planning.flow import GPUS, Cluster, bottleneck

HOUR, MONTH_DAYS = 3600.0, 30.0
STATE_BYTES = 16  # of a trained parameter in a checkpoint: weight, average and two moments, in single precision


@dataclass(frozen=True)
class Leg:
    """One line of the plan: something that takes time."""

    name: str
    unit: str
    items: float
    rate: float  # items per second, failures reckoned in
    limit: str  # what keeps it from being faster
    next_limit: str  # what would, without the first; empty where there is one alone
    headroom: float  # how much faster it would be without the first limit; 1 where there is one alone

    @property
    def seconds(self) -> float:
        """Until the last item."""
        return self.items / self.rate


@dataclass(frozen=True)
class Plan:
    """All that is told."""

    curation: list[Leg]
    training: Leg
    pictures: float  # per second, of all GPUs that serve
    gpus_asked: float | None  # for the pictures a day that are asked for
    bytes: dict[str, float]  # by what takes them, in the end
    staging: float  # bytes beside them until curation ends
    cluster: Cluster

    @property
    def curation_s(self) -> float:
        """All passes, one after the other."""
        return sum(leg.seconds for leg in self.curation)


def reckon(config: PlanConfig, costs: Costs) -> Plan:
    """The whole plan. Raises ValueError: something that is needed is not there at all."""
    cluster, storage = curation.cluster_of(config, costs), _storage(config)
    done = [
        _leg(one.name, one.unit, one.items, one.allowed(cluster, storage)) for one in curation.passes(config, costs)
    ]
    stored = stored_bytes(config, costs)
    asked = config.serving.pictures_a_day
    one = pictures_per_gpu(config, costs)
    return Plan(
        curation=done,
        training=training(config, costs, cluster),
        pictures=config.serving.gpus * one,
        gpus_asked=asked / 86400 / one if asked else None,
        bytes=stored,
        staging=stored["pairs"] + stored["subjects"],
        cluster=cluster,
    )


def samples_per_second(config: PlanConfig, costs: Costs) -> dict[str, float]:
    """That each limit would allow a training alone, while nothing fails: arithmetic, the one reading thread of each
    worker, or the storage."""
    gpus = config.machines.number
    rows = {
        GPUS: gpus * config.peak * costs["utilisation.train"].value / costs["flops.train"].value,
        "reading rows": gpus * config.cpu_speed / costs["train.read"].value,
    }
    if storage := _storage(config):
        rows[STORAGE] = storage / costs["train.bytes"].value
    return rows


def training(config: PlanConfig, costs: Costs, cluster: Cluster) -> Leg:
    """Steps of the adapters' training. A failure costs half the time between two checkpoints, and a restart."""
    asked, rows = config.training, samples_per_second(config, costs)
    lost_s = 0.5 * asked.checkpoint_every * asked.batch_size / bottleneck(rows)[1]
    lost_s += HOUR * costs["failure.restart"].value
    kept = 1 / (1 + cluster.nodes * lost_s / cluster.mtbf_s)
    steps = {name: kept * rate / asked.batch_size for name, rate in rows.items()}
    return _leg("training", "step", asked.steps, steps)


def pictures_per_gpu(config: PlanConfig, costs: Costs) -> float:
    """Per second, with batches that are full."""
    calls = config.serving.steps * (2 if config.serving.guided else 1)
    flops = calls * costs["flops.unet"].value + costs["flops.picture"].value
    return config.peak * costs["utilisation.serve"].value / flops


def stored_bytes(config: PlanConfig, costs: Costs) -> dict[str, float]:
    """By what takes them, when everything is done."""
    found = curation.kinds(config, costs)
    pairs = curation.total(found, "invariant") + curation.total(found, "variant")
    return {
        "raw": curation.raw_bytes(found, costs),
        "subjects": sum(kind.number * kind.frames * costs[f"subjects.{kind.name}"].value for kind in found),
        "pairs": pairs * costs["pair.bytes"].value,
        "features": pairs * costs["features.bytes"].value,
        "checkpoints": config.training.checkpoints * STATE_BYTES * costs["parameters"].value,
    }


def money(config: PlanConfig, plan: Plan) -> dict[str, float]:
    """By what is paid for; only what a price is given for."""
    prices, found = config.prices, {}
    gpus, cpus = config.machines.number * (prices.gpu_hour or 0), config.cores * (prices.cpu_hour or 0)
    if prices.gpu_hour or prices.cpu_hour:
        found["curation"] = plan.curation_s / HOUR * (gpus + cpus)
    if prices.gpu_hour:
        found["training"] = plan.training.seconds / HOUR * gpus
        found["serving, a month"] = 24 * MONTH_DAYS * config.serving.gpus * prices.gpu_hour
    if prices.tb_month:
        found["storage, a month"] = sum(plan.bytes.values()) / 1e12 * prices.tb_month
    return found


def simulated_chain(config: PlanConfig, costs: Costs) -> Pass:
    """The pass over clips in units, as they travel through it."""
    clips = next(one for one in curation.passes(config, costs) if one.name == "clips")
    stages = curation.units(clips.stages)
    return dataclasses.replace(clips, unit="unit", items=config.simulate, stages=stages)


def _storage(config: PlanConfig) -> float | None:
    return 1e9 * config.storage_gb_s if config.storage_gb_s else None


def _leg(name: str, unit: str, items: float, allowed: dict[str, float]) -> Leg:
    limit, rate = bottleneck(allowed)
    others = {other: value for other, value in allowed.items() if other != limit}
    second, faster = bottleneck(others) if others else ("", rate)
    return Leg(name, unit, items, rate, limit, second, faster / rate)
