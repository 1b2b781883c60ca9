"""Stage 4: the text-to-image UNet on cached latents, text encoder and autoencoder frozen."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from torch import Tensor
from torch.nn import functional
from tqdm import trange

from flexip.encoders import fingerprint
from flexip.pocket.models import build_scheduler, build_unet, halved, save_part
from flexip.pocket.pretrain import Average, Budget, Workshop, on_device, train
from flexip.pocket.pretrain_clip import text_states
from flexip.pocket.pretrain_data import Renders, pick_captions, to_tensor

_TEXT_DROPOUT = 0.1  # share of empty prompts, for classifier-free guidance


def train_unet(shop: Workshop, budget: Budget, renders: Renders) -> dict[str, float]:
    """Trains the UNet and exports its averaged weights now and then and at the end; returns `steps`."""
    torch.manual_seed(shop.seed + 3)
    pipe = StableDiffusionPipeline.from_pretrained(shop.weights, dtype=torch.float32).to(shop.device)
    unet = on_device(pipe.unet.train() if budget.warm else build_unet(), shop.device)
    alphas = build_scheduler().alphas_cumprod.to(shop.device)
    average = Average(unet)
    shop.quicken(unet)
    latents = cached_moments(shop.directory, pipe.vae, renders)
    scaling = pipe.vae.config.scaling_factor

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng((shop.seed, 4, step))
        rows = np.sort(rng.choice(len(renders), size=budget.batch_size, replace=False))
        captions = pick_captions(renders, rows, rng)
        captions = [
            "" if drop else words for drop, words in zip(rng.random(len(rows)) < _TEXT_DROPOUT, captions, strict=True)
        ]
        with torch.no_grad():
            states = text_states(pipe.text_encoder, pipe.tokenizer, captions)
        noises = torch.from_numpy(rng.standard_normal((2, len(rows), 4, *latents.shape[2:]), np.float32)).to(
            shop.device
        )
        mean, logvar = torch.from_numpy(latents[rows]).to(shop.device).float().chunk(2, dim=1)
        z = (mean + (0.5 * logvar).exp() * noises[0]) * scaling
        spread = (rng.permutation(len(rows)) + rng.random(len(rows))) / len(rows)  # evenly over the timesteps
        t = torch.from_numpy((spread * len(alphas)).astype(np.int64)).to(shop.device)
        return noise_loss(unet, alphas, z, noises[1], t, states)

    def export() -> None:
        save_part(shop.weights, "unet", halved(average.shadow))

    modules = {"unet": unet, "average": average.shadow}
    steps = train("unet", shop, budget, modules, loss_of, average.update, export)
    export()
    return {"steps": float(steps)}


def noise_loss(unet: torch.nn.Module, alphas: Tensor, z: Tensor, noise: Tensor, t: Tensor, states: Tensor) -> Tensor:
    """Mean squared error of the predicted noise, weighted by min(SNR, 5) / SNR (Min-SNR, Hang et al. 2023)."""
    a = alphas[t][:, None, None, None]
    predicted = unet(a.sqrt() * z + (1 - a).sqrt() * noise, t, states).sample.float()
    snr = alphas[t] / (1 - alphas[t])
    error = functional.mse_loss(predicted, noise, reduction="none").mean(dim=(1, 2, 3))
    return (error * snr.clamp(max=5.0) / snr).mean()


@torch.no_grad()
def cached_moments(directory: Path, vae: AutoencoderKL, renders: Renders) -> np.ndarray:
    """Mean and log variance of all renders' latents: float16 (n, 8, h, w), unscaled; computed once for each VAE."""
    path = directory / f"moments-{len(renders)}-{fingerprint(vae.state_dict().items(), '')}.npy"
    if not path.exists():
        parts = []
        for first in trange(0, len(renders), 64, desc="encoding", mininterval=5.0):
            x = to_tensor(renders.images[first : first + 64]).to(vae.device)
            moments = vae.encode(x).latent_dist.parameters  # pyright: ignore[reportAttributeAccessIssue]
            parts.append(moments.half().cpu().numpy())
        np.save(path, np.concatenate(parts))
    return np.load(path, mmap_mode="r")
