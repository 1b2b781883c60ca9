"""What a training will cost, before it is started."""

from flexip.adapters import AdapterConfig
from flexip.cost import PEAKS, Cost, training_cost
from flexip.encoders import empty_unet
from flexip.model import adapter_config
from flexip.rows import DATASETS
from jobs.training.config import TrainConfig
from jobs.weights import encoder_names
from pipelines.shards import PairDataset

GIB = 2**30
MFU = 0.3  # share of a GPU's peak that such a training reaches: measured ones of others are 0.24 to 0.33


def training_cost_of(config: TrainConfig, shapes: dict[str, tuple[int, ...]]) -> Cost:
    """Counted for the configured adapters; `shapes` of one row of each feature family."""
    from evaluation.baselines import ADAPTERS

    unet = empty_unet(encoder_names(config.models).base)
    architecture: AdapterConfig = adapter_config(unet, shapes, config.adapter.detail, **config.adapter.model_dump())
    return training_cost(unet, architecture, ADAPTERS[config.adapter.method], shapes)


def describe(config: TrainConfig, dataset: PairDataset, shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """Lines for `--dry_run`; `shapes` as above."""
    cost = training_cost_of(config, shapes)
    return [*_model_lines(cost), *_run_lines(config, dataset, cost), *_time_lines(config, cost)]


def _model_lines(cost: Cost) -> list[str]:
    width = max(map(len, cost.parameters))
    modules = [f"  {name:<{width}} {count / 1e6:9.2f} M" for name, count in cost.parameters.items()]
    tokens = ", ".join(f"{count} {name}" for name, count in cost.tokens.items())
    return [
        f"trained parameters: {cost.trained / 1e6:.2f} M, beside {cost.frozen / 1e6:.2f} M frozen of the UNet",
        *modules,
        f"tokens of a row: {tokens}",
        f"FLOPs of a row: {cost.step / 1e9:.1f} G, of them forward {cost.forward / 1e9:.1f} G",
    ]


def _run_lines(config: TrainConfig, dataset: PairDataset, cost: Cost) -> list[str]:
    workers = config.worker_counts[-1]
    rows = config.batch_size // config.workers // config.accumulate  # the most that one worker computes at once
    memory = cost.memory(rows, ema=config.optimizer.ema > 0, workers=workers)
    sizes = {name: dataset.size(name, "train") for name in DATASETS}
    weights = config.mixture.model_dump()
    present = {name: weights[name] for name in DATASETS if sizes[name] and weights[name]}
    epochs = [
        f"{sizes[name] * sum(present.values()) / weight / config.batch_size:.1f} of {name} ({sizes[name]} pairs)"
        for name, weight in present.items()
    ]
    return [
        f"memory of a worker: at most {memory / GIB:.2f} GiB with {rows} rows at once, in single precision "
        "and without a fused attention",
        f"steps in an epoch: {', '.join(epochs) or 'no pairs to train on'}; {config.steps} steps of "
        f"{config.batch_size} rows in all",
    ]


def _time_lines(config: TrainConfig, cost: Cost) -> list[str]:
    total = cost.step * config.batch_size * config.steps
    times = [f"{name} {_duration(total / (peak * MFU * config.gpus))}" for name, peak in PEAKS.items()]
    return [f"on {config.gpus} GPUs at {MFU:.0%} of their bf16 peak: {', '.join(times)}"]


def _duration(seconds: float) -> str:
    days = seconds / 86400
    return f"{days:.1f} days" if days >= 0.1 else f"{seconds / 60:.1f} minutes"
