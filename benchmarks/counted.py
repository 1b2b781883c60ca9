"""FLOPs of everything that a GPU does at the paper's sizes, for `benchmarks.curation`: counted on the meta device."""

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BlipConfig, BlipForConditionalGeneration

from benchmarks import sd15
from benchmarks.card import OURS, training
from benchmarks.contenders import contenders, preparation
from benchmarks.flops import encoder_flops
from benchmarks.launches import count
from flexip.adapters import AdapterConfig
from pipelines.settings import CaptionSettings

# Salesforce/blip-image-captioning-large, as its config.json says: ViT-L/16 at 384 px before BERT-base.
BLIP: dict[str, Any] = {
    "vision_config": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "image_size": 384,
        "patch_size": 16,
    },
    "text_config": {"encoder_hidden_size": 1024},
}


def counted() -> dict[str, tuple[float, str]]:
    """Value and unit of each, by name."""
    cost, encoding, (call, once) = training(sd15.RESOLUTION), encoder_flops(sd15.RESOLUTION), picture_flops()
    return {
        "flops.train": (cost.step, "FLOP/row, forward and backward"),
        "flops.embed": (encoding["dino"], "FLOP/crop"),
        "flops.features": (sum(encoding.values()), "FLOP/pair"),
        "flops.caption": (caption_flops(CaptionSettings().max_tokens), "FLOP/caption"),
        "flops.unet": (call, "FLOP/row of a UNet call"),
        "flops.picture": (
            once + decoder_flops() + encoding["clip"] + encoding["dino"] + 2 * encoding["text"],
            "FLOP/picture, beside UNet calls",
        ),
        "parameters": (cost.trained, "trained parameters"),
    }


def picture_flops() -> tuple[int, int]:
    """Of one row of a UNet call after the first, and of what is done once a picture before its calls."""
    with torch.no_grad():
        with torch.device("meta"):
            unet = sd15.unet()
        call = contenders(unet, AdapterConfig(), sd15.SHAPES, rows=1)[OURS]
        count(call)  # the first caches keys and values
        return count(call).flops, count(preparation(unet, AdapterConfig(), sd15.SHAPES, rows=1)).flops


def decoder_flops() -> int:
    """Of one picture out of its latent."""
    with torch.device("meta"):
        vae: Any = sd15.vae().train()
        latent = torch.zeros(1, 4, sd15.RESOLUTION // 8, sd15.RESOLUTION // 8)
    with FlopCounterMode(display=False) as counter:
        vae.decode(latent)
    return counter.get_total_flops()


def caption_flops(tokens: int) -> int:
    """Of one caption of so many tokens: the picture once, and each token once, as with cached keys and values."""
    with torch.device("meta"):
        model = BlipForConditionalGeneration(BlipConfig(**BLIP)).train()
        side = BLIP["vision_config"]["image_size"]
        pixels, words = torch.zeros(1, 3, side, side), torch.zeros(1, tokens, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        states = model.vision_model(pixel_values=pixels).last_hidden_state
        model.text_decoder(input_ids=words, encoder_hidden_states=states)
    return counter.get_total_flops()
