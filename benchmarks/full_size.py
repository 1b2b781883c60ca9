"""FLOPs of the full-size models, counted on the meta device: Stable Diffusion 1.5, CLIP ViT-H/14, DINOv2-L."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from flexip.adapters import AdapterConfig, Adapters
from flexip.cost import training_cost
from flexip.encoders import Encoders


def step_flops(side: int) -> int:
    """Of one training row, forward and backward, with FlexIP's default adapters; `side` of the picture [px]."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8, sample_size=side // 8)
    shapes = {"clip": (1024,), "dino": (256, 1024), "text": (77, 768), "vae": (8, side // 8, side // 8)}
    return training_cost(unet, AdapterConfig(), Adapters, shapes).step


def encoder_flops(side: int) -> dict[str, int]:
    """Of one row, by family."""
    import open_clip
    from diffusers import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel, Dinov2Config, Dinov2Model

    autoencoder: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
    }
    vision: Any = open_clip.get_model_config("ViT-H-14")
    with torch.device("meta"):
        vae = AutoencoderKL(**autoencoder)
        dino = Dinov2Model(Dinov2Config(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, image_size=224))
        text = CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12))
        clip = open_clip.CLIP(**vision)
    return _counted({"clip": clip, "dino": dino, "text": text, "vae": vae}, {"clip": 224, "dino": 224, "vae": side}, 77)


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
