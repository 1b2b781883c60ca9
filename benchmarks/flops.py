"""FLOPs of the full-size models, counted on the meta device: Stable Diffusion 1.5, CLIP ViT-H/14, DINOv2-L."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import sd15
from flexip.adapters import AdapterConfig, Adapters
from flexip.cost import training_cost
from flexip.encoders import Encoders


def step_flops(side: int) -> int:
    """Of one training row, forward and backward, with FlexIP's default adapters; `side` of the picture [px]."""
    with torch.device("meta"):
        unet = sd15.unet(side)
    shapes = sd15.SHAPES | {"vae": (8, side // 8, side // 8)}
    return training_cost(unet, AdapterConfig(), Adapters, shapes).step


def encoder_flops(side: int) -> dict[str, int]:
    """Of one row, by family."""
    with torch.device("meta"):
        models = {"clip": sd15.clip(), "dino": sd15.dino(), "text": sd15.text_encoder(), "vae": sd15.vae()}
    return _counted(models, {"clip": sd15.LOOK, "dino": sd15.LOOK, "vae": side}, 77)


def flops_of(encoders: Encoders) -> dict[str, int]:
    """The same of loaded encoders, by family."""
    size = encoders.clip.visual.image_size
    sides = {
        "clip": size if isinstance(size, int) else size[0],
        "dino": encoders.dino_processor.crop_size["height"],
        "vae": encoders.resolution,
    }
    modules = {"clip": encoders.clip, "dino": encoders.dino, "text": encoders.text_encoder, "vae": encoders.vae}
    return _counted(modules, sides, encoders.tokenizer.model_max_length)


def _counted(modules: Mapping[str, Any], sides: Mapping[str, int], tokens: int) -> dict[str, int]:
    calls: dict[str, Callable[[Any, Tensor], Any]] = {
        "clip": lambda model, pixels: model.encode_image(pixels),
        "dino": lambda model, pixels: model(pixel_values=pixels),
        "vae": lambda model, pixels: model.encode(pixels),
        "text": lambda model, words: model(words),
    }
    found = {}
    for family, model in modules.items():
        empty = _on_meta(model)
        with torch.device("meta"):
            given = torch.zeros(1, tokens, dtype=torch.long)
            if family in sides:
                given = torch.zeros(1, 3, sides[family], sides[family])
        with FlopCounterMode(display=False) as counter:
            calls[family](empty, given)
        found[family] = counter.get_total_flops()
    return found


def _on_meta(model: Any) -> Any:
    """A copy without weights, in training mode: a fused attention for inference would not be counted."""
    return copy.deepcopy(model).to("meta").train()
