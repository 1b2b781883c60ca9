"""Noising, targets, losses and condition dropout: one pure function an equation."""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

PredictionType = Literal["epsilon", "v_prediction"]
Latents = Float[Tensor, "B C h w"]


def sample_posterior(moments: Float[Tensor, "B C2 h w"], noise: Latents, scaling_factor: float) -> Latents:
    """z = s (mu + sigma eps): one draw from the VAE's posterior, scaled as the UNet expects (LDM, section 3.1)."""
    mean, log_variance = moments.chunk(2, dim=1)
    return scaling_factor * (mean + torch.exp(0.5 * log_variance.clamp(-30, 20)) * noise)


def add_noise(latents: Latents, noise: Latents, alpha_bar: Float[Tensor, " B"]) -> Latents:
    """z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) eps (DDPM, eq. 4)."""
    a = alpha_bar[:, None, None, None]
    return a.sqrt() * latents + (1 - a).sqrt() * noise


def target(latents: Latents, noise: Latents, alpha_bar: Float[Tensor, " B"], kind: PredictionType) -> Latents:
    """What the UNet is asked to predict: eps, or v = sqrt(abar) eps - sqrt(1 - abar) z_0 (progressive distillation)."""
    if kind == "epsilon":
        return noise
    a = alpha_bar[:, None, None, None]
    return a.sqrt() * noise - (1 - a).sqrt() * latents


def predict_original(
    noisy: Latents, prediction: Latents, alpha_bar: Float[Tensor, " B"], kind: PredictionType
) -> Latents:
    """z_0 as the prediction implies it at z_t."""
    a = alpha_bar[:, None, None, None]
    if kind == "epsilon":
        return (noisy - (1 - a).sqrt() * prediction) / a.sqrt()
    return a.sqrt() * noisy - (1 - a).sqrt() * prediction


def denoising_loss(prediction: Latents, truth: Latents) -> Float[Tensor, " B"]:
    """Mean squared error of each row."""
    return (prediction.float() - truth.float()).square().mean(dim=(1, 2, 3))


def min_snr_weight(alpha_bar: Float[Tensor, " B"], limit: float, kind: PredictionType) -> Float[Tensor, " B"]:
    """Weight of a row's loss: min(SNR, limit) over what the prediction type already weighs it by.

    Hang et al. 2023, section 3.4: SNR for epsilon, SNR + 1 for v. An infinite limit leaves epsilon's loss as it is.
    """
    ratio = alpha_bar / (1 - alpha_bar)
    return ratio.clamp(max=limit) / (ratio if kind == "epsilon" else ratio + 1)


def guide(unconditional: Latents, conditional: Latents, scale: Float[Tensor, " B"]) -> Latents:
    """Classifier-free guidance, each row with its own scale: u + s (c - u)."""
    return unconditional + scale[:, None, None, None] * (conditional - unconditional)


def dropped_conditions(
    rows: int, text: float, image: float, both: float, generator: torch.Generator
) -> tuple[Bool[Tensor, " B"], Bool[Tensor, " B"]]:
    """Which rows lose their text and which their image: three exclusive events, drawn with one uniform number a row.

    Args:
        text, image, both: probabilities of losing text alone, image alone, both (IP-Adapter: 0.05 each).
    """
    u = torch.rand(rows, generator=generator)
    loses_both = u < both
    loses_text = (u >= both) & (u < both + text)
    loses_image = (u >= both + text) & (u < both + text + image)
    return loses_both | loses_text, loses_both | loses_image


def alphas_bar(alphas_cumprod: Float[Tensor, " T"], timesteps: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """abar_t of each row."""
    return alphas_cumprod.to(timesteps.device)[timesteps]
