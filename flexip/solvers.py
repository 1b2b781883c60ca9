"""Solvers of the denoising process as tables: a step is x' = c_x x + c_0 z_0 + c_1 z_0 of the step before + c_e eps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, LCMScheduler
from jaxtyping import Float, Int
from torch import Tensor

Solver = Literal["ddim", "dpm++2m", "lcm"]
MOST_LCM_STEPS = 50  # of the walk that latent consistency models are distilled from


@dataclass(frozen=True)
class Schedule:
    """The walk of one solver in S steps."""

    timesteps: Int[Tensor, " S"]
    alpha_bar: Float[Tensor, " T"]  # before each step, and 1 behind the last: T = S + 1
    coefficients: Float[Tensor, "S 4"]  # c_x, c_0, c_1, c_e


def solver_schedule(scheduler_config: Any, solver: Solver, steps: int, begin: int = 0) -> Schedule:
    """Timesteps, noise levels and coefficients, as diffusers' schedulers have them for this configuration.

    "ddim" is DDIM with eta = 0 (Song et al. 2021, eq. 12). "dpm++2m" is the second-order multistep DPM-Solver++
    (Lu et al. 2022, algorithm 2; midpoint), whose first and last steps are of first order. "lcm" is the multistep
    sampling of latent consistency models (Luo et al. 2023, algorithm 3), for UNets that were distilled to it, by a LoRA
    for instance; it draws new noise in every step but the last.

    Args:
        begin: the first step that is taken, where the walk begins at a picture; the table has them all.
    """
    config = dict(scheduler_config)
    if solver == "dpm++2m":
        return _dpm(config, steps, begin)
    return _ddim(config, steps) if solver == "ddim" else _lcm(config, steps)


def solver_step(
    noisy: Float[Tensor, "B C h w"],
    original: Float[Tensor, "B C h w"],
    before: Float[Tensor, "B C h w"],
    noise: Float[Tensor, "B C h w"],
    coefficients: Float[Tensor, "B 4"],
) -> Float[Tensor, "B C h w"]:
    """One step of every row by its own coefficients; `original` is z_0 as predicted now, `before` a step ago."""
    x, now, then, new = coefficients.to(noisy.dtype)[:, :, None, None, None].unbind(dim=1)
    return x * noisy + now * original + then * before + new * noise


def _ddim(config: dict[str, Any], steps: int) -> Schedule:
    scheduler: Any = DDIMScheduler.from_config(config)
    scheduler.set_timesteps(steps)
    timesteps, levels = scheduler.timesteps, scheduler.alphas_cumprod.double()
    previous = timesteps - scheduler.config["num_train_timesteps"] // steps
    after = torch.where(previous >= 0, levels[previous.clamp(min=0)], scheduler.final_alpha_cumprod.double())
    here = levels[timesteps]
    kept = ((1 - after) / (1 - here)).sqrt()  # of the noise, eps = (x - sqrt(abar) z_0) / sqrt(1 - abar)
    none = torch.zeros_like(kept)
    return _schedule(timesteps, here, [kept, after.sqrt() - kept * here.sqrt(), none, none])


def _lcm(config: dict[str, Any], steps: int) -> Schedule:
    scheduler: Any = LCMScheduler.from_config(config)
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps
    here = scheduler.alphas_cumprod.double()[timesteps]
    after = torch.cat([here[1:], torch.ones(1, dtype=here.dtype)])
    skipping, out = scheduler.get_scalings_for_boundary_condition_discrete(timesteps.double())
    return _schedule(timesteps, here, [after.sqrt() * skipping, after.sqrt() * out, 0 * here, (1 - after).sqrt()])


def _dpm(config: dict[str, Any], steps: int, begin: int) -> Schedule:
    options = {"algorithm_type": "dpmsolver++", "solver_order": 2, "final_sigmas_type": "zero"}
    scheduler: Any = DPMSolverMultistepScheduler.from_config(config, **options)
    scheduler.set_timesteps(steps)
    ratios = scheduler.sigmas.double()  # sigma / alpha at the S timesteps, and 0 at the end
    alphas = (1 + ratios.square()).rsqrt()
    rows, last = [], math.inf  # [c_x, c_0, c_1] of each step, and the h of the step before
    for step in range(steps):
        towards = ratios[step + 1] / ratios[step]  # e^-h, h the step in log SNR / 2; 0 at the end
        gain = alphas[step + 1] * (1 - towards)
        h = math.inf if step + 1 == steps else -math.log(towards)
        extrapolated = 0.0 if step in (begin, steps - 1) else 0.5 * h / last
        kept = alphas[step + 1] / alphas[step] * towards  # sigma' / sigma
        rows.append([float(kept), float(gain * (1 + extrapolated)), float(-gain * extrapolated)])
        last = h
    coefficients = torch.tensor(rows, dtype=alphas.dtype)
    return _schedule(scheduler.timesteps, alphas[:-1].square(), [*coefficients.T, torch.zeros_like(alphas[:-1])])


def _schedule(timesteps: Tensor, alpha_bar: Tensor, coefficients: Sequence[Tensor]) -> Schedule:
    levels = torch.cat([alpha_bar, torch.ones_like(alpha_bar[:1])])
    return Schedule(timesteps, levels.float(), torch.stack([*coefficients], dim=1).float())
