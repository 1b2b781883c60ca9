"""One training step and everything it needs to be repeated exactly. Knows no launcher."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flexip.diffusion import (
    PredictionType,
    add_noise,
    alphas_bar,
    denoising_loss,
    dropped_conditions,
    min_snr_weight,
    sample_posterior,
    target,
)
from flexip.encoders import Detail, Encoders
from flexip.gate import Gate
from flexip.precision import Precision, arithmetic
from flexip.rows import DATASETS, DatasetName


@dataclass(frozen=True)
class Drops:
    """Probabilities that a row loses its text alone, its image alone, or both."""

    text: float = 0.05
    image: float = 0.05
    both: float = 0.05


@dataclass(frozen=True)
class Noising:
    """The base model's diffusion process, as a batch needs it."""

    alphas_cumprod: Float[Tensor, " T"]
    prediction_type: PredictionType
    scaling_factor: float
    unconditional_text: Float[Tensor, "L D"]  # text states of the empty prompt, for rows that lose their text


@dataclass(frozen=True)
class Noised:
    """Latents of a batch at their noise, what is to be predicted, and what each row loses."""

    noisy: Float[Tensor, "B C h w"]
    truth: Float[Tensor, "B C h w"]
    timesteps: Int[Tensor, " B"]
    alpha_bar: Float[Tensor, " B"]
    lose_text: Bool[Tensor, " B"]
    lose_image: Bool[Tensor, " B"]


@dataclass(frozen=True)
class Batch:
    """One batch with every random draw already made, so that a step is a function of it alone."""

    cls: Float[Tensor, "B Dc"]
    patches: Float[Tensor, "B N Dd"]
    text: Float[Tensor, "B L D"]
    noisy: Float[Tensor, "B C h w"]
    truth: Float[Tensor, "B C h w"]
    timesteps: Int[Tensor, " B"]
    keep: Bool[Tensor, " B"]  # False where the image was dropped
    gate: Gate
    weight: Float[Tensor, " B"]  # of the row's loss


@dataclass
class TrainState:
    """What a resumed run needs beside the data: all draws are functions of (seed, step), so no generator is kept."""

    model: Any  # FlexIP, or another that has `trainable`
    optimizer: torch.optim.Optimizer
    step: int = 0
    ema: float = 0.0  # largest decay of the average; 0 keeps none
    average: dict[str, Tensor] = field(default_factory=dict)  # of the trainable parameters, by name; empty without


def build_batch(
    columns: Mapping[str, np.ndarray],
    gamma: Float[Tensor, " B"],
    drops: Drops,
    noising: Noising,
    row_seeds: np.ndarray,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    min_snr: float | None = None,
    detail: Detail = "dino",
) -> Batch:
    """Turn feature columns ("clip", "text", "vae" and the detail's) into a batch.

    Every draw of a row comes from its own `row_seeds` entry (see `batch_rows`), so that a row is noised, timed and
    dropped alike whichever worker it is dealt to.

    Args:
        min_snr: limit of `min_snr_weight`; None weighs all rows alike.

    Raises:
        KeyError: a feature family is missing. ValueError: gamma outside 0..1.
    """
    cls, patches, text, moments = (
        torch.from_numpy(np.asarray(columns[family])).to(device, dtype) for family in ("clip", detail, "text", "vae")
    )
    noised = noise_rows(moments, drops, noising, row_seeds)
    rows, abar = len(cls), noised.alpha_bar
    return Batch(
        cls=cls,
        patches=patches,
        text=without_text(text, noised.lose_text, noising),
        noisy=noised.noisy,
        truth=noised.truth,
        timesteps=noised.timesteps,
        keep=~noised.lose_image,
        gate=Gate.dial(gamma, rows),
        weight=torch.ones_like(abar) if min_snr is None else min_snr_weight(abar, min_snr, noising.prediction_type),
    )


def noise_rows(moments: Float[Tensor, "B C2 h w"], drops: Drops, noising: Noising, row_seeds: np.ndarray) -> Noised:
    """Draw latents, noise, timestep and drops of each row from its own seed, and noise it."""
    device, dtype = moments.device, moments.dtype
    shape = (moments.shape[1] // 2, *moments.shape[2:])
    draws = [_row_draws(int(seed), shape, len(noising.alphas_cumprod), drops) for seed in row_seeds]
    posterior, noise = (torch.stack([d[i] for d in draws]).to(device, dtype) for i in (0, 1))
    timesteps, lose_text, lose_image = (torch.stack([d[i] for d in draws]).to(device) for i in (2, 3, 4))
    latents = sample_posterior(moments, posterior, noising.scaling_factor)
    abar = alphas_bar(noising.alphas_cumprod, timesteps).to(dtype)
    noisy, truth = add_noise(latents, noise, abar), target(latents, noise, abar, noising.prediction_type)
    return Noised(noisy, truth, timesteps, abar, lose_text, lose_image)


def without_text(text: Float[Tensor, "B L D"], lost: Bool[Tensor, " B"], noising: Noising) -> Float[Tensor, "B L D"]:
    """The text of each row, and that of the empty prompt in rows that lost theirs."""
    empty = noising.unconditional_text.to(text.device, text.dtype).expand(len(text), -1, -1)
    return torch.where(lost[:, None, None], empty, text)


def draw_gamma(bounds: tuple[float, float], row_seed: int) -> float:
    """A row's gamma, uniform between the bounds of its dataset; equal bounds are a constant."""
    low, high = bounds
    return low + (high - low) * float(np.random.default_rng([row_seed, 1]).random())


def _row_draws(seed: int, shape: tuple[int, ...], steps: int, drops: Drops) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    posterior = torch.randn(shape, generator=generator)
    noise = torch.randn(shape, generator=generator)
    timestep = torch.randint(0, steps, (), generator=generator)
    lose_text, lose_image = dropped_conditions(1, drops.text, drops.image, drops.both, generator)
    return posterior, noise, timestep, lose_text[0], lose_image[0]


def batch_loss(model: Any, batch: Batch) -> Float[Tensor, " B"]:
    """Weighted denoising loss of each row."""
    prediction = model(batch.noisy, batch.timesteps, batch.text, batch.cls, batch.patches, batch.gate, batch.keep)
    return denoising_loss(prediction, batch.truth) * batch.weight


def train_step(
    state: TrainState,
    batch: Batch | Sequence[Any],
    grad_clip: float = 1.0,
    reduce: Callable[[Sequence[Tensor]], None] | None = None,
    precision: Precision = "fp32",
    loss: Callable[[Any, Any], Float[Tensor, " B"]] = batch_loss,
) -> Float[Tensor, ""]:
    """One optimiser step; returns the detached mean loss on the device, without waiting for it.

    Args:
        batch: the rows of the step, or several parts of equal size whose gradients are accumulated.
        reduce: averages the gradients over the processes of the training, in place; None where there is one.
        precision: bf16 computes the prediction in half precision; parameters, loss and averages stay single.
        loss: of each row, given the model and a batch; another model has another.
    """
    parameters = list(state.model.trainable().values())
    total = accumulate_gradients(state, [batch] if isinstance(batch, Batch) else batch, precision, loss)
    if reduce:
        reduce([p.grad for p in parameters if p.grad is not None])
    torch.nn.utils.clip_grad_norm_(parameters, grad_clip)
    state.optimizer.step()
    state.step += 1
    update_average(state.average, state.model.trainable(), state.ema, state.step)
    return total


def accumulate_gradients(
    state: TrainState,
    parts: Sequence[Any],
    precision: Precision = "fp32",
    loss: Callable[[Any, Any], Float[Tensor, " B"]] = batch_loss,
) -> Float[Tensor, ""]:
    """Forward and backward pass of all parts, gradients anew; returns the detached mean loss."""
    state.optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=parts[0].noisy.device)
    for part in parts:
        with arithmetic(part.noisy.device.type, precision):
            mean = loss(state.model, part).mean() / len(parts)
        mean.backward()
        total += mean.detach()
    return total


@torch.no_grad()
def update_average(average: Mapping[str, Tensor], parameters: Mapping[str, Tensor], limit: float, step: int) -> None:
    """average <- d average + (1 - d) parameters, in place; d rises with the step from 2/11 up to `limit`."""
    if not average:
        return
    decay = min(limit, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.values()), [parameters[name] for name in average], 1 - decay)


def new_state(model: Any, learning_rate: float, weight_decay: float, ema: float = 0.0) -> TrainState:
    """AdamW over the trainable parameters alone, and their average when `ema` is above 0."""
    optimizer = torch.optim.AdamW(model.trainable().values(), lr=learning_rate, weight_decay=weight_decay)
    average = {name: p.detach().clone() for name, p in model.trainable().items()} if ema else {}
    return TrainState(model, optimizer, ema=ema, average=average)


def load_noising(encoders: Encoders, scheduler_config: Mapping[str, Any]) -> Noising:
    """The diffusion process of a base model, from its scheduler's configuration and its encoders."""
    scheduler: Any = DDPMScheduler.from_config(dict(scheduler_config))
    return Noising(
        alphas_cumprod=scheduler.alphas_cumprod,
        prediction_type=scheduler.config["prediction_type"],
        scaling_factor=encoders.vae.config.scaling_factor,
        unconditional_text=encoders.encode_text([""])[0].clone(),
    )


@dataclass(frozen=True)
class BatchRow:
    """One sample of a global batch."""

    dataset: DatasetName
    row: int  # index within the dataset's split
    seed: int  # of everything drawn for this sample at this step


def batch_rows(
    seed: int, step: int, batch_size: int, sizes: Mapping[str, int], weights: Mapping[str, float]
) -> list[BatchRow]:
    """The global batch of one step: a pure function of (seed, step), whatever the number of workers.

    Slots of the endless stream are dealt to the two datasets as evenly as their weights allow; each dataset is walked
    in a new permutation every epoch, so that no row is skipped or seen twice within one.

    Args:
        sizes: rows of each dataset, by name. weights: shares of "invariant" and "variant"; only their ratio counts.

    Raises:
        ValueError: no dataset has both rows and weight.
    """
    first, second = DATASETS
    shares = {name: max(weights.get(name, 0.0), 0.0) if sizes.get(name, 0) > 0 else 0.0 for name in DATASETS}
    total = sum(shares.values())
    if total <= 0:
        raise ValueError(f"mixture: weights {dict(weights)} and sizes {dict(sizes)} leave no rows to train on")
    share = shares[first] / total
    rows = []
    for slot in range(step * batch_size, (step + 1) * batch_size):
        firsts = _floor(slot * share)
        is_first = _floor((slot + 1) * share) > firsts
        name, position = (first, firsts) if is_first else (second, slot - firsts)
        epoch, offset = divmod(position, sizes[name])
        row = _permutation(seed, DATASETS.index(name), epoch, sizes[name])[offset]
        rows.append(BatchRow(name, int(row), _slot_seed(seed, slot)))
    return rows


def _floor(value: float) -> int:
    return int(value + 1e-9)  # so that 3 * (1/3) counts as 1


@lru_cache(maxsize=8)
def _permutation(seed: int, dataset: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng([seed, dataset, epoch]).permutation(size)


def _slot_seed(seed: int, slot: int) -> int:
    return int(np.random.SeedSequence([seed, slot]).generate_state(1, np.uint64)[0] >> 1)
