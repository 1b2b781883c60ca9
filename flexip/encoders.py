"""The frozen encoders, each called in one place for curation, training, serving and evaluation.

Representations, named once:
    cls       (B, Dc)       OpenCLIP projected [CLS] of the reference, not normalised        family "clip"
    patches   (B, N, Dd)    DINOv2 last-layer normed patch tokens of the reference           family "dino"
    hidden    (B, N + 1, Dh) OpenCLIP's penultimate states, [CLS] first, as IP-Adapter-Plus reads   family "hidden"
    text      (B, L, D)     CLIP text last hidden states of the caption                      family "text"
    moments   (B, 2C, h, w) VAE mean and log-variance of the target, unscaled                family "vae"

The model libraries are imported where a model is loaded: a process that loads none, or only the UNet, starts seconds
sooner, and every Ray worker is a process.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from flexip.images import Rgb, pad_square, resize
from flexip.weights import model_folder

Detail = Literal["dino", "hidden"]  # the family that the detail of a reference is read from


@dataclass(frozen=True)
class EncoderNames:
    """Where each frozen model comes from: "pocket", a hub name, or a local folder; see `flexip.weights`."""

    base: str = "pocket"  # a diffusers SD1.5 folder: vae, text encoder, tokenizer, unet, scheduler
    clip: str = "pocket"  # an open_clip model with its configuration
    dino: str = "pocket"  # a transformers Dinov2Model with its image processor


def load_pipeline(base: str = "pocket", device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """The base model as a diffusers StableDiffusionPipeline, without safety checker or progress bar."""
    from diffusers import StableDiffusionPipeline

    with _no_loading_bars():
        pipe = StableDiffusionPipeline.from_pretrained(
            _base_folder(base), dtype=dtype, safety_checker=None, requires_safety_checker=False
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def load_unet(base: str = "pocket") -> Any:
    """The base model's UNet2DConditionModel alone, in single precision."""
    from diffusers import UNet2DConditionModel

    with _no_loading_bars():
        return UNet2DConditionModel.from_pretrained(_base_folder(base), subfolder="unet")


def empty_unet(base: str = "pocket") -> Any:
    """The base model's UNet2DConditionModel on the meta device: shapes without weights."""
    from diffusers import UNet2DConditionModel

    config: Any = UNet2DConditionModel.load_config(_base_folder(base), subfolder="unet")
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(config)


def load_scheduler_config(base: str = "pocket") -> dict[str, Any]:
    """The configuration of the base model's noise schedule."""
    from diffusers import DDPMScheduler

    config: Any = DDPMScheduler.load_config(_base_folder(base), subfolder="scheduler")
    return config


@dataclass(frozen=True)
class Encoders:
    """Frozen encoders in eval mode; every method runs without gradients and returns tensors on `device`."""

    names: EncoderNames
    clip: Any
    clip_preprocess: Any
    clip_tokenizer: Any
    dino: Any
    dino_processor: Any
    tokenizer: Any
    text_encoder: Any
    vae: Any
    resolution: int  # side of the target square in pixels
    fingerprints: dict[str, str]  # family -> 16 hex characters of weights and preprocessing
    device: str
    dtype: torch.dtype
    detail: Detail = "dino"

    def encode_references(self, images: Sequence[Rgb]) -> tuple[Float[Tensor, "B Dc"], Float[Tensor, "B N Dd"]]:
        """CLIP [CLS], and DINOv2 patches or what else is the detail."""
        detail = self.encode_hidden if self.detail == "hidden" else self.encode_patches
        return self.encode_cls(images), detail(images)

    @torch.inference_mode()
    def encode_cls(self, images: Sequence[Rgb]) -> Float[Tensor, "B Dc"]:
        """CLIP [CLS] of reference crops; one that is not square is padded with white, here and below."""
        return self.clip.encode_image(self._clip_pixels([pad_square(image) for image in images]))

    @torch.inference_mode()
    def encode_patches(self, images: Sequence[Rgb]) -> Float[Tensor, "B N Dd"]:
        """DINOv2 patches of reference crops."""
        pixels = self._dino_pixels([pad_square(image) for image in images])
        return self.dino(pixel_values=pixels).last_hidden_state[:, 1:]

    @torch.inference_mode()
    def encode_hidden(self, images: Sequence[Rgb]) -> Float[Tensor, "B N Dh"]:
        """Output of OpenCLIP's last block but one for reference crops, [CLS] first."""
        found = self.clip.visual.forward_intermediates(
            self._clip_pixels([pad_square(image) for image in images]),
            indices=[len(self.clip.visual.transformer.resblocks) - 2],
            stop_early=True,
            intermediates_only=True,
            output_fmt="NLC",
            output_extra_tokens=True,
        )
        return torch.cat([found["image_intermediates_prefix"][0], found["image_intermediates"][0]], dim=1)

    @torch.inference_mode()
    def encode_text(self, prompts: Sequence[str]) -> Float[Tensor, "B L D"]:
        """Text states of prompts, padded and truncated to the tokenizer's length (77)."""
        return self._read(prompts).last_hidden_state

    @torch.inference_mode()
    def encode_sentences(self, prompts: Sequence[str]) -> Float[Tensor, "B D"]:
        """One state for each prompt: that of its end token, which has read all of it."""
        return self._read(prompts).pooler_output

    @torch.inference_mode()
    def encode_targets(self, images: Sequence[Rgb], size: tuple[int, int] | None = None) -> Float[Tensor, "B C2 h w"]:
        """VAE moments of targets: mean, then log-variance, along the channels.

        Args:
            size: height and width that they are resized to [px]; none: the square of `resolution`.
        """
        size = size or (self.resolution, self.resolution)
        pixels = np.stack([resize(image, size) for image in images]).astype(np.float32) / 127.5 - 1
        tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(self.device, self.dtype)
        return self.vae.encode(tensor).latent_dist.parameters

    @torch.inference_mode()
    def clip_image_embeddings(self, images: Sequence[Rgb]) -> Float[Tensor, "B Dc"]:
        """Unit-length CLIP image embeddings, for evaluation."""
        return self.clip.encode_image(self._clip_pixels([pad_square(i) for i in images]), normalize=True)

    @torch.inference_mode()
    def clip_text_embeddings(self, prompts: Sequence[str]) -> Float[Tensor, "B Dc"]:
        """Unit-length CLIP text embeddings, for evaluation."""
        return self.clip.encode_text(self.clip_tokenizer(list(prompts)).to(self.device), normalize=True)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of one row of each feature family."""
        side, patch = self.dino_processor.crop_size["height"], self.dino.config.patch_size
        latent = self.resolution // _vae_factor(self.vae)
        return {
            "clip": (_clip_width(self.clip),),
            "dino": ((side // patch) ** 2, self.dino.config.hidden_size),
            "hidden": _clip_hidden_shape(self.clip),
            "text": (self.tokenizer.model_max_length, self.text_encoder.config.hidden_size),
            "vae": (2 * self.vae.config.latent_channels, latent, latent),
        }

    def _read(self, prompts: Sequence[str]) -> Any:
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        return self.text_encoder(tokens.input_ids.to(self.device))

    def _clip_pixels(self, squares: Sequence[Rgb]) -> Tensor:
        pixels = torch.stack([self.clip_preprocess(Image.fromarray(image)) for image in squares])
        return pixels.to(self.device, self.dtype)

    def _dino_pixels(self, squares: Sequence[Rgb]) -> Tensor:
        # The library resizes to 256 and cuts the centre 224: that would crop the subject, so resize it whole.
        side = self.dino_processor.crop_size["height"]
        images = [resize(image, (side, side)) for image in squares]
        batch = self.dino_processor(images, do_resize=False, do_center_crop=False, return_tensors="pt")
        return batch["pixel_values"].to(self.device, self.dtype)


def load_encoders(
    names: EncoderNames | None = None, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Encoders:
    """Load the frozen encoders without the UNet.

    Raises:
        WeightsError: a model is not there. OSError: what is there is no such model.
    """
    import open_clip
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import AutoImageProcessor, CLIPTextModel, CLIPTokenizer, Dinov2Model

    names = names or EncoderNames()
    base, dino_name = _base_folder(names.base), str(model_folder("dino", names.dino))
    clip_name = f"local-dir:{model_folder('clip', names.clip)}"
    clip, preprocess = cast(tuple[Any, Any], open_clip.create_model_from_pretrained(clip_name, return_transform=True))
    with _no_loading_bars():
        dino: Any = Dinov2Model.from_pretrained(dino_name, dtype=torch.float32)
        text_encoder = CLIPTextModel.from_pretrained(base, subfolder="text_encoder", dtype=torch.float32)
        vae = AutoencoderKL.from_pretrained(base, subfolder="vae", dtype=torch.float32)
    processor = AutoImageProcessor.from_pretrained(dino_name)
    tokenizer = CLIPTokenizer.from_pretrained(base, subfolder="tokenizer")
    unet_config: Any = UNet2DConditionModel.load_config(base, subfolder="unet")
    sample_size = int(unet_config["sample_size"])
    clip_mark = fingerprint(clip.state_dict().items(), str(preprocess))
    fingerprints = {
        "clip": clip_mark,
        "dino": fingerprint(dino.state_dict().items(), _processor_text(processor)),
        "hidden": clip_mark,
        "text": fingerprint(text_encoder.state_dict().items(), json.dumps(tokenizer.get_vocab(), sort_keys=True)),
        "vae": fingerprint(vae.state_dict().items(), f"{sample_size}"),
    }
    modules = {"clip": clip, "dino": dino, "text_encoder": text_encoder, "vae": vae}
    for module in modules.values():
        module.to(device).eval().requires_grad_(False)
        if dtype is not torch.float32:  # loaded in single precision, so that fingerprints do not depend on it
            module.to(dtype)
    return Encoders(
        names=names,
        clip_preprocess=preprocess,
        clip_tokenizer=open_clip.get_tokenizer(clip_name),
        dino_processor=processor,
        tokenizer=tokenizer,
        resolution=sample_size * _vae_factor(vae),
        fingerprints=fingerprints,
        device=device,
        dtype=dtype,
        **modules,
    )


@contextmanager
def _no_loading_bars() -> Iterator[None]:
    """Loading a local file is no long step; the libraries' bars would tear the job's own lines."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = [library for library in (diffusers_logging, transformers_logging) if library.is_progress_bar_enabled()]
    for library in libraries:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in libraries:
            library.enable_progress_bar()


def fingerprint(weights: Iterable[tuple[str, Tensor]], preprocessing: str) -> str:
    """16 hex characters that change when a weight (to half precision) or the preprocessing changes."""
    digest = hashlib.sha256(preprocessing.encode())
    for name, tensor in sorted(weights):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().to("cpu", torch.float16).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _processor_text(processor: Any) -> str:
    keys = ("crop_size", "image_mean", "image_std", "rescale_factor", "resample")
    return json.dumps({key: str(getattr(processor, key, None)) for key in keys}, sort_keys=True)


def _base_folder(base: str) -> str:
    return str(model_folder("base", base))


def _vae_factor(vae: Any) -> int:
    return 2 ** (len(vae.config.block_out_channels) - 1)


def _clip_width(clip: Any) -> int:
    return int(clip.visual.output_dim)


def _clip_hidden_shape(clip: Any) -> tuple[int, int]:
    tokens, width = clip.visual.positional_embedding.shape
    return int(tokens), int(width)
