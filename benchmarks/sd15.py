"""The models of the paper's setting with their published sizes and random weights, and the folders they live in.

Stable Diffusion 1.5 with its CLIP ViT-L/14 text encoder and VAE; OpenCLIP ViT-H/14; DINOv2-L. Build them under
`torch.device("meta")` to count, or in a real dtype to run.

folder/            a diffusers StableDiffusionPipeline: vae unet text_encoder tokenizer scheduler
folder/open_clip/  open_clip's `local-dir:` layout
folder/dino/       a Dinov2Model with its image processor
"""

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from open_clip.tokenizer import bytes_to_unicode
from safetensors.torch import save_file
from transformers import BitImageProcessor, CLIPTextConfig, CLIPTextModel, CLIPTokenizer, Dinov2Config, Dinov2Model

from flexip.encoders import EncoderNames
from flexip.pocket.models import build_scheduler

RESOLUTION = 512  # [px]
LOOK = 224  # what CLIP and DINOv2 see [px]
SHAPES = {"clip": (1024,), "dino": (256, 1024), "hidden": (257, 1280), "text": (77, 768), "vae": (8, 64, 64)}
PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")
_MERGES = 49152 - 256 - 2  # of CLIP's byte-pair encoding


def unet(side: int = RESOLUTION) -> UNet2DConditionModel:
    """The denoiser; `side` of the picture [px]."""
    return UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8, sample_size=side // 8)


def vae() -> AutoencoderKL:
    """Factor 8, 4 latent channels."""
    config: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "sample_size": RESOLUTION,
    }
    return AutoencoderKL(**config)


def text_encoder() -> CLIPTextModel:
    """CLIP ViT-L/14's."""
    return CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12))


def tokenizer() -> CLIPTokenizer:
    """CLIP's own, from the vocabulary that open_clip brings along."""
    file = Path(open_clip.__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
    lines = gzip.decompress(file.read_bytes()).decode().split("\n")[1 : 1 + _MERGES]
    merges = [(first, second) for first, second in (line.split() for line in lines)]
    letters = list(bytes_to_unicode().values())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), *(a + b for a, b in merges)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    options: dict[str, Any] = {
        "vocab": {piece: number for number, piece in enumerate(pieces)},
        "merges": merges,
        "model_max_length": 77,
    }
    return CLIPTokenizer(**options)


def clip_config() -> dict[str, Any]:
    """The `model_cfg` of OpenCLIP's ViT-H/14."""
    config: Any = open_clip.get_model_config("ViT-H-14")
    return config


def clip(config: dict[str, Any] | None = None) -> open_clip.CLIP:
    """OpenCLIP ViT-H/14, both towers; or another `model_cfg`."""
    return open_clip.CLIP(**(config or clip_config()))


def dino() -> Dinov2Model:
    """DINOv2-L."""
    return Dinov2Model(
        Dinov2Config(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, image_size=518, patch_size=14)
    )


def dino_processor() -> BitImageProcessor:
    """As its authors publish it: the shorter side to 256, then the centre."""
    return BitImageProcessor(size={"shortest_edge": 256}, crop_size={"height": LOOK, "width": LOOK})


@dataclass(frozen=True)
class Builders:
    """What makes each model; others make it smaller."""

    unet: Callable[[], Any] = unet
    vae: Callable[[], Any] = vae
    text_encoder: Callable[[], Any] = text_encoder
    clip_config: Callable[[], dict[str, Any]] = clip_config
    dino: Callable[[], Any] = dino


def write_models(folder: Path, dtype: torch.dtype = torch.bfloat16, builders: Builders | None = None) -> EncoderNames:
    """All of them with random weights, one after the other, so that the largest alone decides the memory it takes."""
    build = builders or Builders()
    torch.set_default_dtype(dtype)
    try:
        parts: dict[str, Any] = {
            "vae": build.vae(),
            "unet": build.unet(),
            "text_encoder": build.text_encoder(),
            "tokenizer": tokenizer(),
            "scheduler": build_scheduler(),
            "safety_checker": None,
            "feature_extractor": None,
        }
        StableDiffusionPipeline(**parts, requires_safety_checker=False).save_pretrained(folder)
        del parts
        build.dino().save_pretrained(folder / "dino")
        dino_processor().save_pretrained(folder / "dino")
        _save_clip(folder / "open_clip", build.clip_config())
    finally:
        torch.set_default_dtype(torch.float32)
    return EncoderNames(str(folder), str(folder / "open_clip"), str(folder / "dino"))


def _save_clip(folder: Path, model: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    preprocess = open_clip.get_pretrained_cfg("ViT-H-14", "laion2b_s32b_b79k")
    config = {"model_cfg": model, "preprocess_cfg": {key: preprocess[key] for key in PREPROCESSING}}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    state = {name: value.contiguous() for name, value in clip(model).state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
