"""The pocket models, of random weights, in the classes of the full-size system; and the folder they live in.

weights/            a diffusers StableDiffusionPipeline: vae unet text_encoder tokenizer scheduler
weights/open_clip/  open_clip's `local-dir:` layout
weights/dino/       a Dinov2Model with its image processor
"""

import copy
import json
import os
import shutil
from pathlib import Path
from typing import Any, cast

import open_clip
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import BitImageProcessor, CLIPTextConfig, CLIPTextModel, CLIPTokenizer, Dinov2Config, Dinov2Model

from flexip.pocket.tokens import TEXT_LENGTH, build_tokenizer

RESOLUTION = 64
WIDTH = 128  # of text states, CLIP and DINO alike
_MEAN, _STD = [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]


def build_vae() -> AutoencoderKL:
    """Factor 4, 4 latent channels."""
    config: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "block_out_channels": (32, 32, 96),
        "layers_per_block": 1,
        "norm_num_groups": 16,
        "latent_channels": 4,
        "sample_size": RESOLUTION,
        "scaling_factor": 1.0,
    }
    return AutoencoderKL(**config)


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    config: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "projection_dim": WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "hidden_act": "gelu",  # as in open_clip
        "max_position_embeddings": TEXT_LENGTH,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return CLIPTextModel(CLIPTextConfig(**config))


def build_unet() -> UNet2DConditionModel:
    """Text-to-latent noise predictor; attends to the text at resolutions 16, 8 and 4."""
    config: dict[str, Any] = {
        "sample_size": RESOLUTION // 4,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (64, 128, 144),
        "layers_per_block": 1,
        "cross_attention_dim": WIDTH,
        "attention_head_dim": (2, 4, 4),  # diffusers reads this as the number of heads
        "norm_num_groups": 16,
    }
    return UNet2DConditionModel(**config)


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion 1.5's schedule; `clip_sample` would wash latents out."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


def clip_config(tokens: int) -> dict[str, Any]:
    """The `model_cfg` of the open_clip model."""
    return {
        "embed_dim": WIDTH,
        "vision_cfg": {"image_size": RESOLUTION, "layers": 4, "width": WIDTH, "head_width": 32, "patch_size": 8},
        "text_cfg": {
            "context_length": TEXT_LENGTH,
            "vocab_size": tokens,
            "width": WIDTH,
            "heads": 4,
            "layers": 3,
            "hf_tokenizer_name": "pocket",  # with a local folder: the folder's own tokenizer
        },
    }


def build_clip(tokens: int) -> open_clip.CLIP:
    config = clip_config(tokens)
    return open_clip.CLIP(**config)


def build_dino() -> Dinov2Model:
    return Dinov2Model(
        Dinov2Config(
            hidden_size=WIDTH,
            num_hidden_layers=4,
            num_attention_heads=4,
            mlp_ratio=4,
            image_size=RESOLUTION,
            patch_size=8,
            layerscale_value=0.1,
            drop_path_rate=0.0,
        )
    )


def save_pipeline(
    root: Path, vae: AutoencoderKL, unet: UNet2DConditionModel, text: CLIPTextModel, tokenizer: CLIPTokenizer
) -> None:
    """Writes the diffusers part of the weights folder, fp16; folders of other models beside it stay."""
    parts: dict[str, Any] = {"vae": vae, "unet": unet, "text_encoder": text, "tokenizer": tokenizer}
    unused: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipe = StableDiffusionPipeline(**parts, scheduler=cast(Any, build_scheduler()), **unused)
    fresh = _fresh(root / "pipeline")
    pipe.save_pretrained(fresh, safe_serialization=True)
    _tidy_config(fresh / "text_encoder")
    for part in sorted(fresh.iterdir(), key=lambda path: path.is_file()):  # the index last
        _replace(part, root / part.name)
    fresh.rmdir()


def save_part(root: Path, name: str, model: Any) -> None:
    """Writes one model into its folder of the weights, e.g. "vae"; fp16 when the model is."""
    fresh = _fresh(root / name)
    model.save_pretrained(fresh)
    _tidy_config(fresh)
    _replace(fresh, root / name)


def save_clip(root: Path, clip: open_clip.CLIP, tokenizer: CLIPTokenizer) -> None:
    """Writes `open_clip/`, fp16."""
    fresh = _fresh(root / "open_clip")
    tokenizer.save_pretrained(fresh)
    preprocess = {"mean": _MEAN, "std": _STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    config = {"model_cfg": clip_config(len(tokenizer)), "preprocess_cfg": preprocess}
    (fresh / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    state = {name: value.detach().half().contiguous() for name, value in clip.state_dict().items()}
    save_file(state, fresh / "open_clip_model.safetensors")
    _replace(fresh, root / "open_clip")


def save_dino(root: Path, dino: Dinov2Model) -> None:
    """Writes `dino/`, fp16, with an image processor that resizes and crops to 64 px."""
    fresh = _fresh(root / "dino")
    dino.save_pretrained(fresh)
    _tidy_config(fresh)
    BitImageProcessor(
        size={"shortest_edge": RESOLUTION},
        crop_size={"height": RESOLUTION, "width": RESOLUTION},
        image_mean=_MEAN,
        image_std=_STD,
    ).save_pretrained(fresh)
    _replace(fresh, root / "dino")


def save_random(root: Path, seed: int) -> None:
    """Writes all models with random weights: what stages that have not run yet leave in their place."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    save_clip(root, build_clip(len(tokenizer)), tokenizer)
    save_dino(root, halved(build_dino()))
    save_pipeline(root, halved(build_vae()), halved(build_unet()), halved(build_text_encoder(tokenizer)), tokenizer)


def total_bytes(root: Path) -> int:
    """Size of all weight files below the folder."""
    return sum(path.stat().st_size for path in root.rglob("*.safetensors"))


def halved(model: torch.nn.Module) -> Any:
    """An fp16 copy of a model that goes on training in fp32."""
    return copy.deepcopy(model).half().eval()


def _tidy_config(folder: Path) -> None:
    """Files are fp16 for their size; transformers would also compute in the dtype that the configuration names.

    And a model that training took up again remembers the folder it came from, which is nobody's business.
    """
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config |= {"dtype": "float32"} if "dtype" in config else {}
    config.pop("_name_or_path", None)
    path.write_text(json.dumps(config, indent=2) + "\n")


def _fresh(target: Path) -> Path:
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    return fresh


def _replace(fresh: Path, target: Path) -> None:
    """Puts a file or folder in the place of another; a reader sees each file whole, the old one or the new one."""
    if fresh.is_file():
        fresh.chmod(0o644)  # safetensors writes 0600
        os.replace(fresh, target)
        return
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(fresh.rglob("*")):
        if path.is_file():
            path.chmod(0o644)
            (target / path.relative_to(fresh)).parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target / path.relative_to(fresh))
    shutil.rmtree(fresh)
