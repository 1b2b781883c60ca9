"""Solvers of the denoising ODE as tables: every step is x' = c_x x + c_0 z_0 + c_1 z_0 of the step before."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from jaxtyping import Float, Int
from torch import Tensor

Solver = Literal["ddim", "dpm++2m"]


@dataclass(frozen=True)
class Schedule:
    """The walk of one solver in S steps."""

    timesteps: Int[Tensor, " S"]
    alpha_bar: Float[Tensor, " S"]
    coefficients: Float[Tensor, "S 3"]  # c_x, c_0, c_1


def solver_schedule(scheduler_config: Any, solver: Solver, steps: int) -> Schedule:
    """Timesteps, noise levels and coefficients, as diffusers' schedulers have them for this configuration.

    "ddim" is DDIM with eta = 0 (Song et al. 2021, eq. 12). "dpm++2m" is the second-order multistep DPM-Solver++
    (Lu et al. 2022, algorithm 2; midpoint), whose first and last steps are of first order.
    """
    table: Callable[[Any, int], Schedule] = _ddim if solver == "ddim" else _dpm
    return table(dict(scheduler_config), steps)


def solver_step(
    noisy: Float[Tensor, "B C h w"],
    original: Float[Tensor, "B C h w"],
    before: Float[Tensor, "B C h w"],
    coefficients: Float[Tensor, "B 3"],
) -> Float[Tensor, "B C h w"]:
    """One step of every row by its own coefficients; `original` is z_0 as predicted now, `before` a step ago."""
    x, now, then = coefficients.to(noisy.dtype)[:, :, None, None, None].unbind(dim=1)
    return x * noisy + now * original + then * before


def _ddim(config: dict[str, Any], steps: int) -> Schedule:
    scheduler: Any = DDIMScheduler.from_config(config)
    scheduler.set_timesteps(steps)
    timesteps, levels = scheduler.timesteps, scheduler.alphas_cumprod.double()
    previous = timesteps - scheduler.config["num_train_timesteps"] // steps
    after = torch.where(previous >= 0, levels[previous.clamp(min=0)], scheduler.final_alpha_cumprod.double())
    here = levels[timesteps]
    kept = ((1 - after) / (1 - here)).sqrt()  # of the noise, eps = (x - sqrt(abar) z_0) / sqrt(1 - abar)
    coefficients = torch.stack([kept, after.sqrt() - kept * here.sqrt(), torch.zeros_like(kept)], dim=1)
    return Schedule(timesteps, here.float(), coefficients.float())


def _dpm(config: dict[str, Any], steps: int) -> Schedule:
    options = {"algorithm_type": "dpmsolver++", "solver_order": 2, "final_sigmas_type": "zero"}
    scheduler: Any = DPMSolverMultistepScheduler.from_config(config, **options)
    scheduler.set_timesteps(steps)
    ratios = scheduler.sigmas.double()  # sigma / alpha at the S timesteps, and 0 at the end
    alphas = (1 + ratios.square()).rsqrt()
    rows, last = [], math.inf
    for step in range(steps):
        towards = ratios[step + 1] / ratios[step]  # e^-h, h the step in log SNR / 2; 0 at the end
        gain = alphas[step + 1] * (1 - towards)
        h = math.inf if step + 1 == steps else -math.log(towards)
        extrapolated = 0.0 if step == 0 or step + 1 == steps else 0.5 * h / last
        kept = alphas[step + 1] / alphas[step] * towards  # sigma' / sigma
        rows.append([float(kept), float(gain * (1 + extrapolated)), float(-gain * extrapolated)])
        last = h
    return Schedule(scheduler.timesteps, alphas[:-1].square().float(), torch.tensor(rows))
