"""Stage 1: the autoencoder, and the factor that brings its latents to unit variance."""

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from flexip.pocket.models import build_vae, halved, save_part
from flexip.pocket.pretrain import Average, Budget, Workshop, train
from flexip.pocket.pretrain_data import Renders, to_tensor


def train_vae(shop: Workshop, budget: Budget, renders: Renders, held_out: Renders) -> dict[str, float]:
    """Trains and exports the autoencoder; returns `psnr` [dB] on held-out renders, `scaling_factor` and `steps`."""
    torch.manual_seed(shop.seed)
    vae = build_vae().to(shop.device)
    average = Average(vae, limit=0.998)

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng((shop.seed, 1, step))
        rows = np.sort(rng.integers(len(renders), size=budget.batch_size))
        x = to_tensor(renders.images[rows]).to(shop.device)
        subject = torch.from_numpy(renders.subjects[rows]).to(shop.device)[:, None].float()
        return vae_loss(vae, x, subject)

    steps = train("vae", shop, budget, {"vae": vae, "average": average.shadow}, loss_of, average.update)
    best = average.shadow
    assert isinstance(best, AutoencoderKL)
    scaling = 1.0 / latent_std(best, to_tensor(renders.images[:256]).to(shop.device))
    best.register_to_config(scaling_factor=round(scaling, 5))
    save_part(shop.weights, "vae", halved(best))
    return {"psnr": psnr(best, held_out.images[:128]), "scaling_factor": scaling, "steps": float(steps)}


def vae_loss(vae: AutoencoderKL, x: Tensor, subject: Tensor) -> Tensor:
    """L1 of pixels and of their differences, three times as heavy on creatures, and a light KL term.

    The differences keep small faces sharp: an L1 of pixels alone averages eyes and mouths away.
    """
    posterior = vae.encode(x).latent_dist  # pyright: ignore[reportAttributeAccessIssue]
    y = vae.decode(posterior.sample()).sample.float()  # pyright: ignore[reportAttributeAccessIssue]
    weight = 1.0 + 2.0 * subject
    error = y - x
    pixels = (weight * error.abs()).mean()
    across = (weight[..., 1:] * (error[..., 1:] - error[..., :-1]).abs()).mean()
    down = (weight[..., 1:, :] * (error[..., 1:, :] - error[..., :-1, :]).abs()).mean()
    kl = posterior.kl().float().mean() / posterior.mean[0].numel()
    return pixels + 0.5 * (across + down) + 1e-4 * kl


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
