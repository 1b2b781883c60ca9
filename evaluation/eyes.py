"""Encoders that pictures are compared by: name, fingerprint of the weights, and what is done to the pixels.

They are loaded for scoring alone. An eye that also conditions the model flatters it: compare methods by others too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from jaxtyping import Float
from PIL import Image

from evaluation.metrics import mean_patch
from evaluation.pocket import read_values
from flexip import pocket
from flexip.encoders import fingerprint
from flexip.images import Rgb, pad_square, resize
from flexip.pocket.oracle import ATTRIBUTES, OracleName
from flexip.pocket.pretrain_oracle import load_oracle

Vectors = Float[np.ndarray, "items width"]
Patches = Float[np.ndarray, "items patches width"]


class EyeError(ValueError):
    """An encoder that cannot be loaded. The message names it and says what would be right."""


@dataclass(frozen=True)
class Eye:
    """An image encoder, and the text encoder of the same space where it has one."""

    name: str
    weights: str  # 16 hex characters of weights and preprocessing
    resize: str  # from a picture to the encoder's pixels, in words
    see: Callable[[Sequence[Rgb]], Vectors]
    read: Callable[[Sequence[str]], Vectors] | None = None
    patches: Callable[[Sequence[Rgb]], Patches] | None = None  # tokens of the whole picture, squeezed to a square

    @property
    def maker(self) -> str:
        """The id of its vectors in a cache."""
        return f"{self.name} {self.weights}"


def clip_eye(name: str = "ViT-B-32-quickgelu/openai", device: str = "cpu") -> Eye:
    """An OpenCLIP model: `pocket`, `MODEL/PRETRAINED`, `hf-hub:...` or `local-dir:...`; SigLIP too.

    The picture's shorter side becomes the model's input, the rest is cropped. OpenAI's weights need the
    `-quickgelu` definitions: with the plain ones they lose accuracy.

    Raises:
        EyeError: no such model, or its weights are not there.
    """
    import open_clip
    import torch

    model_name, _, tag = name.partition("/") if ":" not in name else (name, "", "")
    if name == "pocket":
        model_name = f"local-dir:{pocket.weights_path() / 'open_clip'}"
    try:
        loaded = open_clip.create_model_from_pretrained(model_name, pretrained=tag or None, return_transform=True)
        model, transform = cast(tuple[Any, Any], loaded)
        tokenizer = open_clip.get_tokenizer(model_name)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise EyeError(f"CLIP {name!r}: cannot be loaded ({_first_line(error)}); {_HINT}") from error
    weights = fingerprint(model.state_dict().items(), str(transform))
    model.to(device).eval().requires_grad_(False)

    @torch.inference_mode()
    def see(images: Sequence[Rgb]) -> Vectors:
        pixels = torch.stack([transform(Image.fromarray(image)) for image in images]).to(device)
        return model.encode_image(pixels, normalize=True).float().cpu().numpy()

    @torch.inference_mode()
    def read(texts: Sequence[str]) -> Vectors:
        return model.encode_text(tokenizer(list(texts)).to(device), normalize=True).float().cpu().numpy()

    return Eye(name, weights, "shorter side to the input, bicubic, antialiased; centre crop", see, read)


def dino_eye(name: str = "vit_small_patch16_224.dino", device: str = "cpu") -> Eye:
    """[CLS] of a timm vision transformer, by default DINO v1's ViT-S/16: shorter side 256 bicubic, centre 224.

    `pocket`, or a transformers name or folder (`facebook/dinov2-large`): the mean of a DINOv2's unit patch tokens, as
    the adapters see it. A timm name may be followed by `@FILE`: weights to read instead of downloading them.

    Raises:
        EyeError: no such model, or its weights are not there.
    """
    if name == "pocket" or ("/" in name.partition("@")[0] and ":" not in name):
        return _patch_eye(name, device)
    return _timm_eye(name, device)


def _timm_eye(name: str, device: str) -> Eye:
    import timm
    import torch
    from torchvision import transforms

    model_name, _, file = name.partition("@")
    given: dict[str, Any] = {"pretrained_cfg_overlay": {"file": file}} if file else {}
    try:
        model: Any = timm.create_model(model_name, pretrained=True, num_classes=0, **given)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise EyeError(f"DINO {name!r}: cannot be loaded ({_first_line(error)}); {_HINT}") from error
    side = int(model.pretrained_cfg["input_size"][-1])
    steps = [
        transforms.Resize(round(side * 256 / 224), transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(side),
        transforms.ToTensor(),
        transforms.Normalize(model.pretrained_cfg["mean"], model.pretrained_cfg["std"]),
    ]
    transform: Any = transforms.Compose(steps)
    as_pixels: Any = transforms.Compose(steps[2:])
    weights = fingerprint(model.state_dict().items(), str(transform))
    model.to(device).eval().requires_grad_(False)

    @torch.inference_mode()
    def see(images: Sequence[Rgb]) -> Vectors:
        pixels = torch.stack([transform(Image.fromarray(image)) for image in images]).to(device)
        return model(pixels).float().cpu().numpy()

    @torch.inference_mode()
    def patches(images: Sequence[Rgb]) -> Patches:
        squares = torch.stack([as_pixels(resize(image, (side, side))) for image in images]).to(device)
        return model.forward_features(squares)[:, model.num_prefix_tokens :].float().cpu().numpy()

    return Eye(model_name, weights, "shorter side to 256, bicubic, antialiased; centre 224", see, patches=patches)


def _patch_eye(name: str, device: str) -> Eye:
    import torch
    from transformers import AutoImageProcessor, Dinov2Model

    folder = str(pocket.weights_path() / "dino") if name == "pocket" else name
    try:
        model: Any = Dinov2Model.from_pretrained(folder, dtype=torch.float32)
        processor: Any = AutoImageProcessor.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise EyeError(f"DINO {name!r}: cannot be loaded ({_first_line(error)}); {_HINT}") from error
    side = int(processor.crop_size["height"])
    weights = fingerprint(model.state_dict().items(), f"{side} mean of unit patches")
    model.to(device).eval().requires_grad_(False)

    @torch.inference_mode()
    def patches(images: Sequence[Rgb]) -> Patches:
        squares = [resize(image, (side, side)) for image in images]
        inputs = processor(squares, do_resize=False, do_center_crop=False, return_tensors="pt")
        return model(pixel_values=inputs["pixel_values"].to(device)).last_hidden_state[:, 1:].float().cpu().numpy()

    def see(images: Sequence[Rgb]) -> Vectors:
        return mean_patch(patches([pad_square(image) for image in images]))

    return Eye(
        "pocket DINOv2" if name == "pocket" else name,
        weights,
        f"padded to a square, {side} px, bicubic, antialiased",
        see,
        patches=patches,
    )


def oracle_eye(name: OracleName) -> Eye:
    """An oracle of the pocket world, whose vector holds the index of the value read for each of ATTRIBUTES."""
    oracle = load_oracle(pocket.weights_path(), name)

    def see(images: Sequence[Rgb]) -> Vectors:
        values = read_values(oracle, [resize(pad_square(image), (64, 64)) for image in images])
        return np.stack([values[attribute] for attribute in ATTRIBUTES], axis=1).astype(np.float32)

    return Eye(f"pocket oracle {name}", fingerprint(oracle.state_dict().items(), ""), "64 px, bicubic", see)


_HINT = "give a name whose weights are on this machine or can be downloaded, or `pocket`"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
