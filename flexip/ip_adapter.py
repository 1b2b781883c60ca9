"""IP-Adapter files, which diffusers, ComfyUI and InvokeAI load: written from a trained model, read as first weights.

    image_proj.*                                the learned queries over the reference's features
    ip_adapter.<number>.to_k_ip|to_v_ip.weight  W'; attention layers are counted in diffusers' order, and every second
                                                has weights, the cross-attentions: in SD1.5 down 1-11, up 13-29, mid 31

Of FlexIP the file holds one branch, P_q and W'. P_cls, S and the gate have no place in it; IP-Adapter's scale is g_p.

pipe.load_ip_adapter(to_ip_adapter(model), subfolder=None, weight_name=None, image_encoder_folder=None)
pipe(..., ip_adapter_image_embeds=[image_prompt(cls, patches, model.config.method)])
"""

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from flexip.attention import cross_attention_layers
from flexip.model import FlexIP

Parts = Mapping[str, Mapping[str, Tensor]]  # image_proj and ip_adapter

SUFFIXES = {".safetensors", ".bin", ".pt", ".pth"}
QUERIES, DEPTH, HEADS, DIM_HEAD = 16, 4, 12, 64  # of IP-Adapter-Plus for SD1.5
_STREAMS = {  # method -> what it has of the image projection of IP-Adapter-Plus
    "flexip": "preservation.detail",
    "flexip-without-edits": "preservation.detail",
    "flexip-without-shape": "detail",
    "ip-adapter-plus": "projection",
}
_EXPANSIONS = {  # and of IP-Adapter's
    "flexip": "cls_expansion",
    "flexip-without-edits": "cls_expansion",
    "flexip-without-shape": "cls_expansion",
    "ip-adapter": "projection",
}
_PLUS_KEYS = {  # within a layer of the resampler: diffusers' name -> the file's
    "ln0": "0.norm1",
    "ln1": "0.norm2",
    "attn.to_q": "0.to_q",
    "attn.to_out.0": "0.to_out",
    "ff.0": "1.0",
    "ff.1.net.0.proj": "1.1",
    "ff.1.net.2": "1.3",
}


class IPAdapterError(ValueError):
    """A file that is no IP-Adapter, or a model that cannot be one; the message names what does not fit."""


def to_ip_adapter(model: FlexIP) -> dict[str, dict[str, Tensor]]:
    """The trained tensors as `image_proj` and `ip_adapter`.

    Raises:
        IPAdapterError: a method that has neither image projection, or sizes that the layout does not know: it takes 4
            tokens for granted for IP-Adapter, depth 4 and head width 64 for IP-Adapter-Plus. Gating by tokens, of which
            IP-Adapter's scale is no part.
    """
    config = model.config
    if config.gating != "branch":
        raise IPAdapterError(
            f"adapter.gating = {config.gating}: IP-Adapter's scale weighs attention, as gating branch does"
        )
    if config.method == "ip-adapter":
        _require(config.cls_tokens == 4, "cls_tokens", config.cls_tokens, 4)
        projection = {_renamed(name): value for name, value in _tensors(model, "projection").items()}
    elif config.method in _STREAMS:
        _require(config.depth == DEPTH, "depth", config.depth, DEPTH)
        _require(config.dim_head == DIM_HEAD, "dim_head", config.dim_head, DIM_HEAD)
        projection = _to_plus(_tensors(model, _STREAMS[config.method]), config.depth)
    else:
        raise IPAdapterError(
            f"method {config.method!r}: only {', '.join(['ip-adapter', *_STREAMS])} have such a layout"
        )
    return {"image_proj": projection, "ip_adapter": _attention(model)}


def save_ip_adapter(path: Path | str, model: FlexIP) -> Path:
    """Write `to_ip_adapter` as a file. Its header says which features it is to be fed; raises as that does."""
    config, path = model.config, Path(path)
    features = {"dino": "DINOv2 patches of the last layer", "hidden": "CLIP's penultimate states"}[config.detail]
    header = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.title": "FlexIP, preservation branch",
        "modelspec.architecture": "stable-diffusion-v1/ip-adapter",
        "modelspec.implementation": "flexip",
        "flexip.image_features": "CLIP [CLS]" if config.method == "ip-adapter" else features,
    }
    flat = {
        f"{part}.{name}": t.cpu().contiguous() for part, of in to_ip_adapter(model).items() for name, t in of.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(flat, path, metadata=header)
    return path


def obstacles(model: FlexIP) -> list[str]:
    """What keeps ComfyUI's and InvokeAI's own IP-Adapter nodes, which ask for less than diffusers, from the file."""
    config = model.config
    if config.method not in _STREAMS:
        return []
    wanted = {"context_width": 768, "queries": QUERIES, "heads": HEADS}
    found = [f"{n} is {getattr(config, n)}, not {value}" for n, value in wanted.items() if getattr(config, n) != value]
    return found + (["it reads DINOv2 patches, and they offer CLIP's states alone"] if config.detail == "dino" else [])


def image_prompt(cls: Tensor, patches: Tensor, method: str, guided: bool = True) -> Tensor:
    """What diffusers takes as one of `ip_adapter_image_embeds`; with guidance first features that are zero."""
    features = cls[:, None] if method == "ip-adapter" else patches[:, None]
    return torch.cat([torch.zeros_like(features), features]) if guided else features


def is_ip_adapter(name: Path | str) -> bool:
    """Whether a name is that of a file; a checkpoint is a directory."""
    return Path(name).suffix in SUFFIXES and not Path(name).is_dir()


def read_ip_adapter(path: Path | str) -> dict[str, dict[str, Tensor]]:
    """`image_proj` and `ip_adapter` of a .safetensors, or of an older .bin.

    Raises:
        IPAdapterError: no such file, or keys that are not an IP-Adapter's.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            parts: dict[str, dict[str, Tensor]] = {}
            for key, value in load_file(path).items():
                part, _, name = key.partition(".")
                parts.setdefault(part, {})[name] = value
        else:
            parts = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError) as error:
        raise IPAdapterError(f"IP-Adapter {path}: cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(parts, dict) or set(parts) != {"image_proj", "ip_adapter"}:
        found = ", ".join(sorted(map(str, parts))[:5]) if isinstance(parts, dict) else type(parts).__name__
        raise IPAdapterError(f"IP-Adapter {path}: has {found}; image_proj and ip_adapter are needed, and nothing else")
    return parts


def fitting(model: FlexIP, parts: Parts) -> dict[str, Tensor]:
    """The file's tensors by the names of the model's parameters.

    IP-Adapter-Plus gives the detail queries, IP-Adapter the [CLS] expansion, both W'. Where a FlexIP reads features of
    another width, which is so for DINOv2 in the place of CLIP, the first projection stays as it is.

    Raises:
        IPAdapterError: another kind of IP-Adapter, another base model, or sizes that differ, by name.
    """
    prefix, projection = _projection_of(model, parts["image_proj"])
    ours = model.trainable()
    found = {f"adapters.{prefix}.{name}": value for name, value in projection.items()}
    entrance = f"adapters.{prefix}.proj_in."
    if f"{entrance}weight" in found and found[f"{entrance}weight"].shape != ours[f"{entrance}weight"].shape:
        found = {name: value for name, value in found.items() if not name.startswith(entrance)}
    found |= _attention_from(model, parts["ip_adapter"])
    wanted = [n for n in ours if n.startswith((f"adapters.{prefix}.", "attention.")) and not n.startswith(entrance)]
    odd = [f"{name} is missing" for name in wanted if name not in found]
    odd += [f"{name} is unknown" for name in found if name not in ours]
    for name in found.keys() & ours.keys():
        if found[name].shape != ours[name].shape:
            odd.append(f"{name} is {tuple(found[name].shape)}, here {tuple(ours[name].shape)}")
    if odd:
        more = f"; and {len(odd) - 1} more" if len(odd) > 1 else ""
        raise IPAdapterError(f"IP-Adapter: does not fit this model: {min(odd)}{more}")
    return found


@torch.no_grad()
def begin_with_ip_adapter(model: FlexIP, parts: Parts) -> list[str]:
    """Copy what fits into the model; returns the names of what stays as it was. Raises what `fitting` raises."""
    found, ours = fitting(model, parts), model.trainable()
    for name, value in found.items():
        ours[name].copy_(value)
    return sorted(ours.keys() - found.keys())


def _projection_of(model: FlexIP, projection: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """Where in the adapters the file's image projection belongs, and its tensors by their names there."""
    method = model.config.method
    if "latents" in projection and method in _STREAMS:
        return _STREAMS[method], _from_plus(projection)
    if "proj.weight" in projection and method in _EXPANSIONS:
        return _EXPANSIONS[method], {name.replace("proj", "image_embeds"): t for name, t in projection.items()}
    kind = (
        "IP-Adapter-Plus"
        if "latents" in projection
        else "IP-Adapter"
        if "proj.weight" in projection
        else "another kind"
    )
    raise IPAdapterError(f"IP-Adapter: the file is of {kind}, from which adapter.method = {method} cannot begin")


def _numbered(model: FlexIP) -> dict[str, str]:
    """The file's number of each cross-attention layer -> the layer's name in our parameters."""
    order = [name.removesuffix(".processor") for name in model.unet.attn_processors]
    cross = {name for name, _ in cross_attention_layers(model.unet)}
    return {
        str(2 * number + 1): name.replace(".", "/")
        for number, name in enumerate(name for name in order if name in cross)
    }


def _attention(model: FlexIP) -> dict[str, Tensor]:
    return {
        f"{number}.{kind}_ip.weight": model.attention[name].get_parameter(f"{kind}.weight").detach()
        for number, name in _numbered(model).items()
        for kind in ("to_k", "to_v")
    }


def _attention_from(model: FlexIP, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = {
        f"{number}.{kind}_ip.weight": f"attention.{name}.{kind}.weight"
        for number, name in _numbered(model).items()
        for kind in ("to_k", "to_v")
    }
    return {names.get(key, key): value for key, value in tensors.items()}


def _tensors(model: FlexIP, path: str) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in model.adapters.get_submodule(path).named_parameters()}


def _renamed(name: str) -> str:
    return name.replace("image_embeds", "proj")


def _to_plus(projection: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    tensors = {name: value for name, value in projection.items() if not name.startswith("layers.")}
    for layer in range(depth):
        for ours, theirs in _PLUS_KEYS.items():
            for kind in ("weight", "bias"):
                if (name := f"layers.{layer}.{ours}.{kind}") in projection:
                    tensors[f"layers.{layer}.{theirs}.{kind}"] = projection[name]
        keys, values = (projection[f"layers.{layer}.attn.{kind}.weight"] for kind in ("to_k", "to_v"))
        tensors[f"layers.{layer}.0.to_kv.weight"] = torch.cat([keys, values])
    return tensors


def _from_plus(projection: Mapping[str, Tensor]) -> dict[str, Tensor]:
    ours = {theirs: name for name, theirs in _PLUS_KEYS.items()}
    tensors: dict[str, Tensor] = {}
    for key, value in projection.items():
        words = key.split(".")
        if words[0] != "layers" or len(words) != 5:
            tensors[key] = value
        elif words[3] == "to_kv":
            for kind, half in zip(("to_k", "to_v"), value.chunk(2), strict=True):
                tensors[f"layers.{words[1]}.attn.{kind}.weight"] = half
        else:
            inner, kind = ".".join(words[2:-1]), words[-1]
            tensors[f"layers.{words[1]}.{ours.get(inner, inner)}.{kind}"] = value
    return tensors


def _require(holds: bool, name: str, value: int, wanted: int) -> None:
    if not holds:
        raise IPAdapterError(f"adapter.{name} = {value}: IP-Adapter's layout takes {wanted} for granted")
