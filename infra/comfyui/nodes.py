"""The nodes, by ComfyUI's protocol: INPUT_TYPES, RETURN_TYPES, FUNCTION, and a method of that name giving a tuple."""

from dataclasses import dataclass
from typing import Any

import torch
from comfy.ldm.modules.attention import optimized_attention
from safetensors.torch import load_file
from torch import Tensor

from flexip.adapters import AdapterConfig, Adapters, merge_references
from flexip.attention import KeysValues, SubjectConditioning
from flexip.checkpoint import WEIGHTS, CheckpointError, checkpoint_path, read_config
from flexip.encoders import EncoderNames, Encoders, load_encoders
from flexip.gate import Gate

from .layers import Course, blocks_of, gated

CATEGORY = "FlexIP"


@dataclass(frozen=True)
class Loaded:
    """A checkpoint without a UNet, which here is ComfyUI's own."""

    adapters: Adapters
    projections: dict[str, tuple[Tensor, Tensor]]  # layer name in diffusers' UNet -> W'_k, W'_v
    encoders: Encoders


class LoadFlexIP:
    """A FlexIP checkpoint directory, and the encoders it was trained on."""

    CATEGORY, FUNCTION = CATEGORY, "load"
    RETURN_TYPES = ("FLEXIP",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See ComfyUI's protocol; the models are hub names or local folders, empty for those of the checkpoint."""
        models = {name: ("STRING", {"default": ""}) for name in ("base", "clip", "dino")}
        return {"required": {"checkpoint": ("STRING", {"default": "pocket"})}, "optional": models}

    def load(self, checkpoint: str, base: str = "", clip: str = "", dino: str = "") -> tuple[Loaded]:
        """Raises CheckpointError: no checkpoint there, one of a baseline, or one of other encoders."""
        directory = checkpoint_path(checkpoint)
        config = read_config(directory)
        if config["architecture"].get("method", "flexip") != "flexip":
            raise CheckpointError(f"checkpoint {directory}: method {config['architecture']['method']!r}; give a FlexIP")
        given = {name: value for name, value in {"base": base, "clip": clip, "dino": dino}.items() if value}
        encoders = load_encoders(EncoderNames(**config["encoders"] | given))
        for family in ("clip", "dino", "text"):
            if (ours := encoders.fingerprints[family]) != (theirs := config["fingerprints"][family]):
                raise CheckpointError(
                    f"checkpoint {directory}: trained on {family} encoder {theirs}, but here is {ours}"
                )
        tensors = load_file(directory / WEIGHTS)
        adapters = Adapters(AdapterConfig(**config["architecture"])).eval().requires_grad_(False)
        adapters.load_state_dict(
            {n.removeprefix("adapters."): t for n, t in tensors.items() if n.startswith("adapters.")}
        )
        names = sorted({name.rsplit(".", 2)[0] for name in tensors if name.startswith("attention.")})
        projections = {
            name.removeprefix("attention.").replace("/", "."): (
                tensors[f"{name}.to_k.weight"],
                tensors[f"{name}.to_v.weight"],
            )
            for name in names
        }
        return (Loaded(adapters, projections, encoders),)


class EncodeFlexIP:
    """Features of a subject; of several pictures of it, all of them."""

    CATEGORY, FUNCTION = CATEGORY, "encode"
    RETURN_TYPES = ("FLEXIP_SUBJECT",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See ComfyUI's protocol; the mask is 1 on the subject, and what is outside becomes white."""
        return {"required": {"flexip": ("FLEXIP",), "image": ("IMAGE",)}, "optional": {"mask": ("MASK",)}}

    def encode(self, flexip: Loaded, image: Tensor, mask: Tensor | None = None) -> tuple[tuple[Tensor, Tensor]]:
        """[CLS] and patches of (B, H, W, 3) pictures within 0..1."""
        pixels = image[..., :3]
        if mask is not None:
            inside = torch.nn.functional.interpolate(mask[:, None].float(), pixels.shape[1:3], mode="bilinear")
            inside = inside[:, 0, :, :, None].clamp(0, 1)
            pixels = inside * pixels + (1 - inside)
        pictures = list((pixels * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy())
        return (flexip.encoders.encode_references(pictures),)


class ApplyFlexIP:
    """The model with the subject in its attention, as strong as the gate says, at the steps and in the region given."""

    CATEGORY, FUNCTION = CATEGORY, "apply"
    RETURN_TYPES = ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See ComfyUI's protocol. gamma: 1 keeps identity, 0 obeys the prompt; below 0, gamma_last is gamma."""

        def number(default: float, low: float = 0.0, high: float = 1.0) -> tuple[str, dict[str, float]]:
            return "FLOAT", {"default": default, "min": low, "max": high, "step": 0.01}

        required = {
            "model": ("MODEL",),
            "flexip": ("FLEXIP",),
            "subject": ("FLEXIP_SUBJECT",),
            "positive": ("CONDITIONING",),
            "gamma": number(0.7),
            "strength": number(1.0, 0.0, 3.0),
        }
        optional = {
            "gamma_last": number(-1.0, -1.0),
            "start_at": number(0.0),
            "end_at": number(1.0),
            "mask": ("MASK",),
        }
        return {"required": required, "optional": optional}

    @torch.no_grad()
    def apply(
        self,
        model: Any,
        flexip: Loaded,
        subject: tuple[Tensor, Tensor],
        positive: list[Any],
        gamma: float,
        strength: float,
        gamma_last: float = -1.0,
        start_at: float = 0.0,
        end_at: float = 1.0,
        mask: Tensor | None = None,
    ) -> tuple[Any]:
        """A clone of the model, patched on top of what other nodes put into it.

        Raises:
            ValueError: a base model of another cross-attention width than the checkpoint's.
        """
        width = flexip.adapters.config.context_width
        text = positive[0][0].float().cpu()
        if text.shape[-1] != width:
            raise ValueError(
                f"FlexIP: the prompt's states are {text.shape[-1]} wide, the checkpoint's base model {width}"
            )
        last = gamma if gamma_last < 0 else gamma_last
        course = Course(gamma, last, strength, start_at, end_at, None if mask is None else mask[:1].float().cpu())
        conditioning, patched = _conditioning(flexip, subject, text), model.clone()
        there = patched.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {})
        for layer, block in blocks_of(flexip.projections).items():
            patch = gated(layer, conditioning, course, there.get(block, _attention))
            patched.set_model_attn2_replace(patch, *block)
        return (patched,)


def _conditioning(flexip: Loaded, subject: tuple[Tensor, Tensor], text: Tensor) -> SubjectConditioning:
    """Keys and values of the subject for every layer, once for all steps."""
    cls, patches = (features.float().cpu() for features in subject)
    length = flexip.encoders.shapes["text"][0]
    states = text[:1, :length].expand(len(cls), -1, -1)  # of a long prompt ComfyUI makes several lengths
    tokens = merge_references(flexip.adapters(cls, patches, states), [range(len(cls))], ["average"])
    p, s = (
        {layer: KeysValues(part @ k.T, part @ v.T) for layer, (k, v) in flexip.projections.items()}
        for part in (tokens.preservation, tokens.personalization)
    )
    return SubjectConditioning(p, s, Gate.weights([0.0], [0.0]), flexip.adapters.config.gating)


def _attention(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
    return optimized_attention(q, k, v, options["n_heads"])
