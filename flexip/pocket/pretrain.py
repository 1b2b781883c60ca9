"""What the pretraining stages share: a budget, a loop that can be stopped and taken up again, averaged weights."""

import copy
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Literal, TypeVar

import torch
from timm.optim.muon import Muon
from torch import Tensor, nn
from tqdm import tqdm

from flexip.precision import arithmetic

Model = TypeVar("Model", bound=nn.Module)
OptimizerName = Literal["adamw", "muon"]


@dataclass(frozen=True)
class Budget:
    """How long and how fast a stage trains. With `steps` the run is repeatable; else the clock ends it."""

    minutes: float  # wall clock of training, summed over restarts
    batch_size: int
    learning_rate: float  # peak; a short warm-up before, half a cosine after
    steps: int | None = None
    warm: bool = False  # start from the exported weights, with a fresh optimiser, instead of from random ones
    optimizer: OptimizerName = "adamw"
    warmup: int = 100  # steps
    save_every: float = 2.0  # minutes between checkpoints
    export_every: float = 8.0  # minutes between exports of usable weights


Report = Callable[[str, int, Mapping[str, float]], None]  # stage, step, values


def silent(stage: str, step: int, values: Mapping[str, float]) -> None:
    """A report to nobody."""


@dataclass(frozen=True)
class Workshop:
    """Where pretraining works: `directory` for renders, logs and checkpoints, `weights` for the result."""

    directory: Path
    weights: Path
    seed: int = 0
    device: str = "cpu"
    bf16: bool = False  # autocast to bfloat16: faster where the processor has it
    compiled: bool = False  # torch.compile: minutes at first, and then up to twice as fast
    report: Report = silent  # told of the losses

    def arithmetic(self) -> AbstractContextManager[None]:
        """Precision and attention of training."""
        return arithmetic(self.device, "bf16" if self.bf16 else "fp32")

    def quicken(self, *modules: nn.Module) -> None:
        """Prepares modules, in place, for many calls with few different shapes."""
        for module in modules:
            module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
            if self.compiled:
                module.compile(dynamic=False)


@dataclass
class Average(Generic[Model]):
    """Exponential moving average (`shadow`) of a model's weights; the decay rises with the steps, up to `limit`."""

    model: Model
    limit: float = 0.999
    shadow: Model = field(init=False)

    def __post_init__(self) -> None:
        self.shadow = copy.deepcopy(self.model).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.limit, (1 + step) / (10 + step))
        for slow, fast in zip(self.shadow.parameters(), self.model.parameters(), strict=True):
            slow.lerp_(fast, 1 - decay)
        for slow, fast in zip(self.shadow.buffers(), self.model.buffers(), strict=True):
            slow.copy_(fast)  # running statistics


def train(
    name: str,
    shop: Workshop,
    budget: Budget,
    modules: Mapping[str, nn.Module],
    loss_of: Callable[[int], Tensor],
    after_step: Callable[[int], None] = lambda step: None,
    export: Callable[[], None] | None = None,
) -> int:
    """Trains the modules that require gradients until the budget is spent; returns the number of steps done.

    All `modules` (averages too) are saved to `<directory>/<name>.pt` now and then and taken up again from there.
    `loss_of(step)` gives the loss of that step's batch; it draws its batch from (seed, step) alone.
    """
    parameters = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
    optimizer = build_optimizer(modules.values(), budget)
    path = shop.directory / f"{name}.pt"
    step, seconds = _resume(path, modules, optimizer)
    saved = exported = seconds
    bar = tqdm(total=1.0, initial=_share(budget, step, seconds), desc=name, mininterval=5.0, bar_format=_BAR)
    losses: list[Tensor] = []
    while (share := _share(budget, step, seconds)) < 1.0:
        begin = time.monotonic()
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(budget, step, share)
        with shop.arithmetic():
            loss = loss_of(step)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        after_step(step)
        losses.append(loss.detach())
        step, seconds = step + 1, seconds + time.monotonic() - begin
        if step % 50 == 0:
            mean = torch.stack(losses).mean().item()
            losses.clear()
            shop.report(name, step, {"loss": mean, "rows_per_second": budget.batch_size * step / seconds})
            bar.set_postfix_str(f"step {step}, loss {mean:.4f}, {budget.batch_size * step / seconds:.0f} rows/s")
        bar.update(_share(budget, step, seconds) - bar.n)
        if seconds - saved > 60 * budget.save_every:
            _save(path, modules, optimizer, step, seconds)
            saved = seconds
        if export and seconds - exported > 60 * budget.export_every:
            export()
            exported = seconds
    bar.close()
    _save(path, modules, optimizer, step, seconds)
    return step


def build_optimizer(modules: Iterable[nn.Module], budget: Budget) -> torch.optim.Optimizer:
    """AdamW; or Muon (Jordan et al. 2024) for the matrices and kernels of layers, and AdamW for all else.

    Muon's steps are scaled to the size of AdamW's, so that one learning rate serves both.
    """
    chosen = [p for module in modules for p in module.parameters() if p.requires_grad]
    if budget.optimizer == "adamw":
        return torch.optim.AdamW(chosen, lr=budget.learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    layers = [layer for module in modules for layer in module.modules() if isinstance(layer, _MATRIX_LAYERS)]
    matrices = {id(p): p for layer in layers for p in layer.parameters(recurse=False) if p.requires_grad and p.ndim > 1}
    groups = [
        {"params": list(matrices.values())},
        {"params": [p for p in chosen if id(p) not in matrices], "use_fallback": True},
    ]
    return Muon(groups, lr=budget.learning_rate, weight_decay=0.01, nesterov=True, betas=(0.9, 0.99))


def on_device(model: Model, device: str) -> Model:
    """The model, moved; with its own type, which the library's decorated `.to` loses for a type checker."""
    nn.Module.to(model, device)
    return model


_MATRIX_LAYERS = (nn.Linear, nn.Conv2d, nn.MultiheadAttention)
_BAR = "{desc} {percentage:3.0f}%|{bar:20}| {elapsed} {postfix}"


def _share(budget: Budget, step: int, seconds: float) -> float:
    share = step / budget.steps if budget.steps else seconds / (60 * budget.minutes)
    return min(1.0, share)


def _learning_rate(budget: Budget, step: int, share: float) -> float:
    warm = min(1.0, (step + 1) / budget.warmup)
    return budget.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))


def _save(
    path: Path, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, step: int, seconds: float
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".fresh")
    state = {name: module.state_dict() for name, module in modules.items()}
    torch.save({"modules": state, "optimizer": optimizer.state_dict(), "step": step, "seconds": seconds}, fresh)
    fresh.replace(path)


def _resume(path: Path, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    if not path.exists():
        return 0, 0.0
    saved = torch.load(path, weights_only=True)
    for name, module in modules.items():
        module.load_state_dict(saved["modules"][name])
    optimizer.load_state_dict(saved["optimizer"])
    return saved["step"], saved["seconds"]
