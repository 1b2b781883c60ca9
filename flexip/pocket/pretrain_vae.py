"""Stage 1: the autoencoder, and the factor that brings its latents to unit variance."""

from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional

from flexip.pocket.models import RESOLUTION, build_vae, halved, save_part
from flexip.pocket.pretrain import Average, Budget, Workshop, on_device, train
from flexip.pocket.pretrain_data import Renders, to_tensor

_WINDOW = 40  # [px]
_WHOLE = 0.4  # share of steps on whole pictures
_SHRUNK = 0.6  # share of those in which the latents are shrunk before they are decoded


def train_vae(shop: Workshop, budget: Budget, renders: Renders, held_out: Renders) -> dict[str, float]:
    """Trains and exports the autoencoder; returns `psnr` [dB] on held-out renders, `scaling_factor` and `steps`."""
    torch.manual_seed(shop.seed)
    vae = AutoencoderKL.from_pretrained(shop.weights / "vae") if budget.warm else build_vae()
    vae = on_device(vae.float().train(), shop.device)
    average = Average(vae, limit=0.998)
    shop.quicken(vae.encoder, vae.decoder)

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng((shop.seed, 1, step))
        whole = rng.random() < _WHOLE
        images, subjects = (draw_whole if whole else draw_windows)(renders, budget.batch_size, rng)
        scale = float(rng.choice([0.5, 0.75])) if whole and rng.random() < _SHRUNK else 1.0
        subject = torch.from_numpy(subjects).to(shop.device)[:, None].float()
        return vae_loss(vae, to_tensor(images).to(shop.device), subject, scale)

    steps = train("vae", shop, budget, {"vae": vae, "average": average.shadow}, loss_of, average.update)
    best = average.shadow
    scaling = 1.0 / latent_std(best, to_tensor(renders.images[:256]).to(shop.device))
    best.register_to_config(scaling_factor=round(scaling, 5))
    save_part(shop.weights, "vae", halved(best))
    return {"psnr": psnr(best, held_out.images[:128]), "scaling_factor": scaling, "steps": float(steps)}


def draw_whole(renders: Renders, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`count` pictures (B, H, W, 3) and their subject masks (B, H, W), uint8."""
    rows = rng.integers(len(renders), size=count)
    return renders.images[rows], renders.subjects[rows]


def draw_windows(renders: Renders, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Windows on creatures (2 B, 40, 40, 3) and their subject masks (2 B, 40, 40), uint8; `count` is B.

    What is hard is the faces; two windows of 40 px see more of them than one whole picture, for less work.
    """
    rows = rng.integers(len(renders), size=2 * count)
    middles = 0.5 * (renders.boxes[rows][:, :2] + renders.boxes[rows][:, 2:]) + rng.uniform(-8, 8, (len(rows), 2))
    corners = np.clip(np.rint(middles) - _WINDOW // 2, 0, RESOLUTION - _WINDOW).astype(int)
    cuts = [(r, slice(y, y + _WINDOW), slice(x, x + _WINDOW)) for r, (x, y) in zip(rows, corners, strict=True)]
    return np.stack([renders.images[cut] for cut in cuts]), np.stack([renders.subjects[cut] for cut in cuts])


def vae_loss(vae: AutoencoderKL, x: Tensor, subject: Tensor, scale: float = 1.0) -> Tensor:
    """L1 of pixels and of their differences, three times as heavy on creatures, and a light KL term.

    The differences keep small faces sharp: an L1 of pixels alone averages eyes and mouths away. With a `scale` below
    1 the shrunk latents have to decode to the shrunk picture: latents that follow the picture's coarse structure are
    easier to generate (EQ-VAE, Kouzelis et al. 2025; Skorokhodov et al. 2025).

    x: (B, 3, H, W) in -1..1; subject: (B, 1, H, W), 0 or 1.
    """
    posterior = vae.encode(x).latent_dist  # pyright: ignore[reportAttributeAccessIssue]
    z: Any = posterior.sample()
    if scale != 1.0:
        z, x, subject = (_shrink(part, scale) for part in (z.float(), x, subject))
    y = vae.decode(z).sample.float()  # pyright: ignore[reportAttributeAccessIssue]
    weight = 1.0 + 2.0 * subject
    error = y - x
    pixels = (weight * error.abs()).mean()
    across = (weight[..., 1:] * (error[..., 1:] - error[..., :-1]).abs()).mean()
    down = (weight[..., 1:, :] * (error[..., 1:, :] - error[..., :-1, :]).abs()).mean()
    kl = posterior.kl().float().mean() / posterior.mean[0].numel()
    return pixels + 0.5 * (across + down) + 1e-4 * kl


def _shrink(images: Tensor, scale: float) -> Tensor:
    return functional.interpolate(images, scale_factor=scale, mode="bilinear", antialias=True)


@torch.no_grad()
def latent_std(vae: AutoencoderKL, x: Tensor) -> float:
    """Standard deviation of sampled latents over a batch (B, 3, H, W)."""
    return float(vae.encode(x).latent_dist.sample().std())  # pyright: ignore[reportAttributeAccessIssue]


@torch.no_grad()
def psnr(vae: AutoencoderKL, images: np.ndarray) -> float:
    """Mean over images (B, H, W, 3) of the reconstruction's peak signal-to-noise ratio [dB]."""
    x = to_tensor(images).to(vae.device)
    y = vae.decode(vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1)  # pyright: ignore[reportAttributeAccessIssue]
    mse = ((y - x) / 2).square().mean(dim=(1, 2, 3))
    return float((-10 * mse.log10()).mean())
