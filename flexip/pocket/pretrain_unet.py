"""Stage 6: the text-to-image UNet on cached latents, and the text encoder with it; autoencoder and DINO frozen.

The text encoder begins as OpenCLIP's text tower and goes on learning from the UNet's loss, as in latent diffusion
(Rombach et al. 2022, section 3.3). Contrast alone leaves it nearly blind for what batches are never told apart by.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional
from tqdm import trange
from transformers import Dinov2Model

from flexip.encoders import fingerprint
from flexip.pocket.models import WIDTH, build_scheduler, build_unet, halved, save_part
from flexip.pocket.pretrain import Average, Budget, Workshop, on_device, train
from flexip.pocket.pretrain_clip import text_states
from flexip.pocket.pretrain_data import Renders, pick_captions, to_tensor

_TEXT_DROPOUT = 0.1  # share of empty prompts, for classifier-free guidance
_ALIGNMENT_WEIGHT = 0.1


def train_unet(shop: Workshop, budget: Budget, renders: Renders) -> dict[str, float]:
    """Trains the UNet and exports its averaged weights now and then and at the end; returns `steps`."""
    torch.manual_seed(shop.seed + 3)
    pipe = StableDiffusionPipeline.from_pretrained(shop.weights, dtype=torch.float32).to(shop.device)
    unet = on_device(pipe.unet.train() if budget.warm else build_unet(), shop.device)
    alphas = build_scheduler().alphas_cumprod.to(shop.device)
    text = on_device(pipe.text_encoder.train(), shop.device)
    average, text_average = Average(unet), Average(text)
    alignment = on_device(Alignment(unet), shop.device)
    shop.quicken(unet)
    latents = cached_moments(shop.directory, pipe.vae, renders)
    patches = cached_patches(shop, renders)
    scaling = pipe.vae.config.scaling_factor

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng((shop.seed, 4, step))
        rows = np.sort(rng.choice(len(renders), size=budget.batch_size, replace=False))
        captions = pick_captions(renders, rows, rng)
        captions = [
            "" if drop else words for drop, words in zip(rng.random(len(rows)) < _TEXT_DROPOUT, captions, strict=True)
        ]
        states = text_states(text, pipe.tokenizer, captions)
        noises = torch.from_numpy(rng.standard_normal((2, len(rows), 4, *latents.shape[2:]), np.float32)).to(
            shop.device
        )
        mean, logvar = torch.from_numpy(latents[rows]).to(shop.device).float().chunk(2, dim=1)
        z = (mean + (0.5 * logvar).exp() * noises[0]) * scaling
        spread = (rng.permutation(len(rows)) + rng.random(len(rows))) / len(rows)  # evenly over the timesteps
        t = torch.from_numpy((spread * len(alphas)).astype(np.int64)).to(shop.device)
        denoising = noise_loss(unet, alphas, z, noises[1], t, states)
        return denoising + _ALIGNMENT_WEIGHT * alignment(torch.from_numpy(patches[rows]).to(shop.device))

    def update(step: int) -> None:
        average.update(step)
        text_average.update(step)

    def export() -> None:
        save_part(shop.weights, "unet", halved(average.shadow))
        save_part(shop.weights, "text_encoder", halved(text_average.shadow))

    modules = {
        "unet": unet, "text": text, "average": average.shadow, "text average": text_average.shadow,
        "alignment": alignment,
    }  # fmt: skip
    steps = train("unet", shop, budget, modules, loss_of, update, export)
    export()
    return {"steps": float(steps)}


class Alignment(nn.Module):
    """Draws what a UNet sees at resolution 8, in the noise, to what DINO sees in the clean picture there.

    REPA (Yu et al. 2024): a denoiser spends most of its training on finding such features by itself.
    """

    def __init__(self, unet: UNet2DConditionModel):
        super().__init__()
        blocks: Any = unet.down_blocks
        layer = blocks[1].attentions[-1]
        self.project = nn.Sequential(nn.Linear(layer.config.in_channels, 256), nn.SiLU(), nn.Linear(256, WIDTH))
        self._seen: list[Tensor] = []  # of the UNet's latest call
        layer.register_forward_hook(self._keep)

    def forward(self, patches: Tensor) -> Tensor:
        """1 - cosine, over all places, of the projected features of the UNet's latest call and patches (B, 64, D)."""
        seen = self.project(self._seen.pop().flatten(2).transpose(1, 2))
        return 1 - functional.cosine_similarity(seen.float(), patches.float(), dim=-1).mean()

    def _keep(self, layer: nn.Module, inputs: object, output: tuple[Tensor, ...]) -> None:
        self._seen[:] = [output[0]]


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
        _save_whole(path, np.concatenate(parts))
    return np.load(path, mmap_mode="r")


@torch.no_grad()
def cached_patches(shop: Workshop, renders: Renders) -> np.ndarray:
    """DINO's patches of all renders: float16 (n, 64, D); computed once for each DINO."""
    dino = on_device(Dinov2Model.from_pretrained(shop.weights / "dino", dtype=torch.float32), shop.device).eval()
    path = shop.directory / f"patches-{len(renders)}-{fingerprint(dino.state_dict().items(), '')}.npy"
    if not path.exists():
        parts = []
        for first in trange(0, len(renders), 64, desc="encoding", mininterval=5.0):
            x = to_tensor(renders.images[first : first + 64]).to(shop.device)
            parts.append(dino(x).last_hidden_state[:, 1:].half().cpu().numpy())
        _save_whole(path, np.concatenate(parts))
    return np.load(path, mmap_mode="r")


def _save_whole(path: Path, array: np.ndarray) -> None:
    """A stage that is stopped here leaves no half of a file behind for the next one to trust."""
    fresh = path.with_suffix(".fresh.npy")
    np.save(fresh, array)
    fresh.replace(path)
