"""Our IP-Adapter baselines in the files' own layout, so that diffusers' implementation can draw them too.

pipe.load_ip_adapter(to_ip_adapter(model), subfolder=None, weight_name=None, image_encoder_folder=None)
pipe(..., ip_adapter_image_embeds=[image_prompt(cls, patches, model.config.method)])
"""

from torch import Tensor, cat, zeros_like

from flexip.attention import cross_attention_layers
from flexip.model import FlexIP

_PLUS_KEYS = {  # within a layer of the resampler: diffusers' name -> the file's
    "ln0": "0.norm1",
    "ln1": "0.norm2",
    "attn.to_q": "0.to_q",
    "attn.to_out.0": "0.to_out",
    "ff.0": "1.0",
    "ff.1.net.0.proj": "1.1",
    "ff.1.net.2": "1.3",
}


def to_ip_adapter(model: FlexIP) -> dict[str, dict[str, Tensor]]:
    """The trained tensors as `image_proj` and `ip_adapter`.

    Raises:
        ValueError: a method that is neither of the two, or sizes that the layout does not know: it takes 4 tokens for
            granted for IP-Adapter, depth 4 and head width 64 for IP-Adapter-Plus.
    """
    config = model.config
    if config.method == "ip-adapter":
        _require(config.cls_tokens == 4, "cls_tokens", config.cls_tokens, 4)
        projection = {_renamed(name): value for name, value in _projection(model).items()}
    elif config.method == "ip-adapter-plus":
        _require(config.depth == 4, "depth", config.depth, 4)
        _require(config.dim_head == 64, "dim_head", config.dim_head, 64)
        projection = _plus(_projection(model), config.depth)
    else:
        raise ValueError(f"method {config.method!r}: only ip-adapter and ip-adapter-plus have such a layout")
    return {"image_proj": projection, "ip_adapter": _attention(model)}


def image_prompt(cls: Tensor, patches: Tensor, method: str) -> Tensor:
    """What diffusers takes as one of `ip_adapter_image_embeds`, with guidance: first features that are zero."""
    features = cls[:, None] if method == "ip-adapter" else patches[:, None]
    return cat([zeros_like(features), features])


def _attention(model: FlexIP) -> dict[str, Tensor]:
    """The file counts all attention layers, of which every second one, the cross-attentions, has weights."""
    order = [name.removesuffix(".processor") for name in model.unet.attn_processors]
    cross = {name for name, _ in cross_attention_layers(model.unet)}
    tensors = {}
    for number, name in enumerate(name for name in order if name in cross):
        pair = model.attention[name.replace(".", "/")]
        for kind in ("to_k", "to_v"):
            tensors[f"{2 * number + 1}.{kind}_ip.weight"] = pair.get_parameter(f"{kind}.weight").detach()
    return tensors


def _projection(model: FlexIP) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in model.adapters.get_submodule("projection").named_parameters()}


def _renamed(name: str) -> str:
    return name.replace("image_embeds", "proj")


def _plus(projection: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    tensors = {name: value for name, value in projection.items() if not name.startswith("layers.")}
    for layer in range(depth):
        for ours, theirs in _PLUS_KEYS.items():
            for kind in ("weight", "bias"):
                if (name := f"layers.{layer}.{ours}.{kind}") in projection:
                    tensors[f"layers.{layer}.{theirs}.{kind}"] = projection[name]
        keys, values = (projection[f"layers.{layer}.attn.{kind}.weight"] for kind in ("to_k", "to_v"))
        tensors[f"layers.{layer}.0.to_kv.weight"] = cat([keys, values])
    return tensors


def _require(holds: bool, name: str, value: int, wanted: int) -> None:
    if not holds:
        raise ValueError(f"adapter.{name} = {value}: IP-Adapter's layout takes {wanted} for granted")
