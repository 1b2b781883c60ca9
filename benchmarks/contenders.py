"""What is compared in one UNet call: the base model, FlexIP, and diffusers' own IP-Adapters, of random weights.

Each is a function without arguments that makes one call as a sampler does, with everything prepared that a request
prepares once: for FlexIP keys and values of its tokens, for IP-Adapter the features of the picture.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

import torch
from diffusers.models.attention_processor import AttnProcessor2_0, IPAdapterAttnProcessor2_0
from diffusers.models.embeddings import ImageProjection, IPAdapterPlusImageProjection, MultiIPAdapterImageProjection
from torch import nn

from flexip.adapters import AdapterConfig
from flexip.attention import KEYWORD, cross_attention_layers
from flexip.gate import Gate
from flexip.model import FlexIP

Call = Callable[[], object]
Kind = Literal["IP-Adapter", "IP-Adapter-Plus"]
TOKENS: Mapping[Kind, int] = {"IP-Adapter": 4, "IP-Adapter-Plus": 16}


def inputs(unet: Any, shapes: Mapping[str, tuple[int, ...]], rows: int) -> dict[str, Any]:
    """Noisy latents, timesteps and text states as `unet(**inputs)` takes them, on its device and in its dtype."""
    like = next(unet.parameters())
    channels, *size = shapes["vae"]
    return {
        "sample": like.new_zeros(rows, channels // 2, *size),
        "timestep": torch.full((rows,), 500, device=like.device),
        "encoder_hidden_states": like.new_zeros(rows, *shapes["text"]),
        "return_dict": False,
    }


def base(unet: Any, shapes: Mapping[str, tuple[int, ...]], rows: int) -> Call:
    """The UNet alone."""
    given = inputs(unet, shapes, rows)
    return lambda: unet(**given)[0]


def flexip(
    unet: Any, config: AdapterConfig, shapes: Mapping[str, tuple[int, ...]], rows: int, edits: bool = True
) -> Call:
    """The UNet with FlexIP, whose processors it has from then on; `edits`: with the personalization tokens."""
    given, like = inputs(unet, shapes, rows), next(unet.parameters())
    with like.device:
        model = FlexIP(unet, config).to(like.dtype)
        cls, patches = (like.new_zeros(rows, *shapes[family]) for family in ("clip", config.detail))
        gate = Gate(like.new_full((rows,), 0.7), like.new_full((rows,), 0.3))
    with torch.no_grad():
        tokens = model.subject_tokens(cls, patches, given["encoder_hidden_states"])
        if not edits:
            tokens = type(tokens)(tokens.preservation, tokens.personalization[:, :0])
        subject = model.conditioning(tokens, gate)
    return lambda: unet(**given, cross_attention_kwargs={KEYWORD: subject})[0]


def preparation(unet: Any, config: AdapterConfig, shapes: Mapping[str, tuple[int, ...]], rows: int) -> Call:
    """What FlexIP does once for a picture: its tokens, and their keys and values for every layer."""
    like, text = next(unet.parameters()), inputs(unet, shapes, rows)["encoder_hidden_states"]
    with like.device:
        model = FlexIP(unet, config).to(like.dtype)
        cls, patches = (like.new_zeros(rows, *shapes[family]) for family in ("clip", config.detail))
    return lambda: model.conditioning(model.subject_tokens(cls, patches, text), Gate.dial(0.7, rows))


def ip_adapter(unet: Any, kinds: Sequence[Kind], shapes: Mapping[str, tuple[int, ...]], rows: int) -> Call:
    """The UNet with diffusers' processors of one IP-Adapter or several, which it has from then on."""
    given, like, width = inputs(unet, shapes, rows), next(unet.parameters()), unet.config.cross_attention_dim
    tokens = [TOKENS[kind] for kind in kinds]
    with like.device:
        layers = {
            f"{name}.processor": IPAdapterAttnProcessor2_0(
                layer.inner_dim, width, tokens, cast(Any, [0.7] * len(kinds))
            )
            for name, layer in cross_attention_layers(unet)
        }
        processors: Any = {name: layers.get(name, AttnProcessor2_0()) for name in unet.attn_processors}
        unet.set_attn_processor(processors)
        unet.encoder_hid_proj = MultiIPAdapterImageProjection([_projection(kind, shapes, width) for kind in kinds])
        unet.register_to_config(encoder_hid_dim_type="ip_image_proj")
    unet.to(like.dtype)
    seen = {"IP-Adapter": shapes["clip"], "IP-Adapter-Plus": shapes["hidden"]}
    given["added_cond_kwargs"] = {"image_embeds": [like.new_zeros(rows, 1, *seen[kind]) for kind in kinds]}
    return lambda: unet(**given)[0]


def _projection(kind: Kind, shapes: Mapping[str, tuple[int, ...]], width: int) -> nn.Module:
    if kind == "IP-Adapter":
        return ImageProjection(shapes["clip"][-1], width, TOKENS[kind])
    heads = max(1, width // 64)
    return IPAdapterPlusImageProjection(shapes["hidden"][-1], width, width, heads=heads, num_queries=TOKENS[kind])


def contenders(unet: Any, config: AdapterConfig, shapes: Mapping[str, tuple[int, ...]], rows: int) -> dict[str, Call]:
    """All of them, each with a UNet of its own that shares no processors with another's."""
    return {
        "base": base(copy.deepcopy(unet), shapes, rows),
        "FlexIP": flexip(copy.deepcopy(unet), config, shapes, rows),
        "FlexIP, image tokens alone": flexip(copy.deepcopy(unet), config, shapes, rows, edits=False),
        "IP-Adapter": ip_adapter(copy.deepcopy(unet), ["IP-Adapter"], shapes, rows),
        "IP-Adapter-Plus": ip_adapter(copy.deepcopy(unet), ["IP-Adapter-Plus"], shapes, rows),
        "both IP-Adapters": ip_adapter(copy.deepcopy(unet), ["IP-Adapter", "IP-Adapter-Plus"], shapes, rows),
    }
