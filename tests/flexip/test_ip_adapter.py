"""IP-Adapter files: diffusers draws our picture from one, other tools' layouts hold, and one is a beginning."""

import dataclasses
import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from evaluation.baselines import ADAPTERS
from flexip.adapters import AdapterConfig, SubjectTokens, join_tokens
from flexip.attention import KEYWORD
from flexip.encoders import load_pipeline, load_unet
from flexip.gate import Gate
from flexip.ip_adapter import (
    IPAdapterError,
    begin_with_ip_adapter,
    fitting,
    image_prompt,
    obstacles,
    read_ip_adapter,
    save_ip_adapter,
    to_ip_adapter,
)
from flexip.model import FlexIP, adapter_config

PROMPT, SCALE = "a happy creature", 0.8


def small(unet, shapes, seed: int = 0, **changes) -> FlexIP:
    """FlexIP of the sizes that the layout takes for granted, and otherwise small, with no two weights alike."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"queries": 4, "depth": 4, "heads": 2, "dim_head": 64} | changes
    model = FlexIP(unet, adapter_config(unet, shapes, **sizes)).eval()
    with torch.no_grad():
        for parameter in model.trainable().values():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def model(pocket_encoders) -> FlexIP:
    return small(load_unet(), pocket_encoders.shapes)


@torch.no_grad()
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_diffusers_draws_our_picture_with_p_cls_and_s_off(model, pocket_encoders, reference, tmp_path, guidance):
    """Unconditional rows have the tokens of features that are zero, as everywhere with IP-Adapter."""
    cls, patches = pocket_encoders.encode_references([reference])
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    options = {"num_inference_steps": 3, "guidance_scale": guidance, "latents": latents, "output_type": "np"}

    def alone(cls, patches) -> SubjectTokens:
        tokens = model.subject_tokens(cls, patches, text)
        return SubjectTokens(tokens.preservation[:, : model.config.queries], tokens.personalization[:, :0])

    ours = load_pipeline()
    text = pocket_encoders.encode_text([PROMPT])
    tokens = alone(cls, patches)
    if guidance > 1:
        tokens = join_tokens(alone(torch.zeros_like(cls), torch.zeros_like(patches)), tokens)
    model.attach(ours)
    rows = len(tokens.preservation)
    subject = model.conditioning(tokens, Gate.weights([SCALE] * rows, [0.0] * rows))
    expected = ours(PROMPT, cross_attention_kwargs={KEYWORD: subject}, **options).images[0]

    theirs = load_pipeline()
    save_ip_adapter(tmp_path / "flexip.safetensors", model)
    theirs.load_ip_adapter(str(tmp_path), subfolder="", weight_name="flexip.safetensors", image_encoder_folder=None)
    theirs.set_ip_adapter_scale(SCALE)
    features = image_prompt(cls, patches, "flexip", guided=guidance > 1)
    drawn = theirs(PROMPT, ip_adapter_image_embeds=[features], **options).images[0]
    assert np.abs(drawn - expected).max() <= 1e-3
    theirs.set_ip_adapter_scale(0.0)
    assert np.abs(theirs(PROMPT, ip_adapter_image_embeds=[features], **options).images[0] - expected).max() > 0.01


def full_size(**changes) -> FlexIP:
    """On SD1.5's UNet; shapes without weights."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        config = dataclasses.replace(AdapterConfig(), **changes)
        return FlexIP(unet, config, ADAPTERS[config.method])


def test_at_full_size_the_keys_are_those_that_comfyui_and_invokeai_look_for():
    """By what their loaders do: the parts by prefix and nothing beside them; the base model by the width of layer 1;
    the kind by `latents`, `proj_in.weight`; then strict loading into their own classes, whose names are listed here."""
    tensors = to_ip_adapter(full_size())
    widths = [320, 320, 640, 640, 1280, 1280] + [1280] * 3 + [640] * 3 + [320] * 3 + [1280]
    numbers = range(1, 32, 2)
    expected = {
        f"{n}.{kind}_ip.weight": (width, 768)
        for n, width in zip(numbers, widths, strict=True)
        for kind in ("to_k", "to_v")
    }
    assert {name: tuple(t.shape) for name, t in tensors["ip_adapter"].items()} == expected

    norm = {"weight": (768,), "bias": (768,)}
    projection = {"latents": (1, 16, 768), "proj_in.weight": (768, 1024), "proj_in.bias": (768,)}
    projection |= {"proj_out.weight": (768, 768), "proj_out.bias": (768,)}
    projection |= {f"norm_out.{kind}": shape for kind, shape in norm.items()}
    for layer in (f"layers.{number}" for number in range(4)):
        projection |= {f"{layer}.{part}.{k}": s for part in ("0.norm1", "0.norm2", "1.0") for k, s in norm.items()}
        projection |= {f"{layer}.0.to_q.weight": (768, 768), f"{layer}.0.to_kv.weight": (1536, 768)}
        projection |= {f"{layer}.0.to_out.weight": (768, 768)}
        projection |= {f"{layer}.1.1.weight": (3072, 768), f"{layer}.1.3.weight": (768, 3072)}
    assert {name: tuple(t.shape) for name, t in tensors["image_proj"].items()} == projection
    assert obstacles(full_size()) == ["it reads DINOv2 patches, and they offer CLIP's states alone"]


def test_at_full_size_the_baseline_has_the_published_number_of_parameters():
    """IP-Adapter-Plus for SD1.5: 49.1 M, of which 19.2 M are W'."""
    plus = full_size(method="ip-adapter-plus", detail="hidden", dino_width=1280)
    counts = {part: sum(t.numel() for t in of.values()) / 1e6 for part, of in to_ip_adapter(plus).items()}
    assert sum(counts.values()) == pytest.approx(49.1, abs=0.05)
    assert counts["ip_adapter"] == pytest.approx(19.17, abs=0.01)
    assert obstacles(plus) == []


@torch.no_grad()
@pytest.mark.parametrize(
    ("variable", "file"),
    [
        ("FLEXIP_INVOKEAI", "invokeai/backend/ip_adapter/resampler.py"),
        ("FLEXIP_COMFYUI_IPADAPTER", "image_proj_models.py"),
    ],
)
def test_another_tool_s_own_projection_makes_our_tokens_of_the_file(model, variable, file):
    """$FLEXIP_INVOKEAI and $FLEXIP_COMFYUI_IPADAPTER are checkouts of InvokeAI and ComfyUI_IPAdapter_plus."""
    if not (checkout := os.environ.get(variable)):
        pytest.skip(f"{variable} is not set to a checkout")
    spec = importlib.util.spec_from_file_location("theirs", Path(checkout) / file)
    assert spec
    assert spec.loader
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config, tensors = model.config, to_ip_adapter(model)["image_proj"]
    sizes = {"depth": 4, "dim_head": 64, "heads": config.heads, "num_queries": config.queries, "ff_mult": 4}
    width = {"dim": config.context_width, "embedding_dim": config.dino_width, "output_dim": config.context_width}
    theirs = module.Resampler(**sizes, **width).eval()
    theirs.load_state_dict(tensors)
    patches = torch.randn(2, 9, config.dino_width)
    torch.testing.assert_close(theirs(patches), model.adapters.preservation.detail(patches), atol=1e-5, rtol=1e-5)


def test_the_file_says_what_it_is_to_be_fed_and_has_the_two_parts_alone(model, tmp_path):
    path = save_ip_adapter(tmp_path / "models" / "flexip.safetensors", model)
    with safe_open(path, "pt") as file:
        assert file.metadata()["modelspec.architecture"] == "stable-diffusion-v1/ip-adapter"
        assert file.metadata()["flexip.image_features"] == "DINOv2 patches of the last layer"
        assert {name.split(".")[0] for name in file.keys()} == {"image_proj", "ip_adapter"}  # noqa: SIM118 - not a dict


def test_a_file_gives_back_every_tensor_it_was_made_of_and_leaves_the_others(model, pocket_encoders, tmp_path):
    path = save_ip_adapter(tmp_path / "flexip.safetensors", model)
    other = small(load_unet(), pocket_encoders.shapes, seed=1)
    before = {name: p.clone() for name, p in other.trainable().items()}
    left = begin_with_ip_adapter(other, read_ip_adapter(path))
    assert {".".join(name.split(".")[:3]) for name in left} == {
        "adapters.cls_expansion.image_embeds",
        "adapters.cls_expansion.norm",
        "adapters.personalization.edits",
        "adapters.preservation.shape",
    }
    for name, parameter in other.trainable().items():
        assert torch.equal(parameter, before[name] if name in left else model.trainable()[name]), name


def test_from_ip_adapter_plus_all_but_the_entrance_of_other_features_is_taken(model, tmp_path):
    """As published: of CLIP's wider states, and as a .bin of two parts."""
    parts = to_ip_adapter(model)
    width = model.config.dino_width + 32
    parts["image_proj"]["proj_in.weight"] = torch.randn(len(parts["image_proj"]["proj_in.bias"]), width)
    torch.save(parts, tmp_path / "plus.bin")
    found = fitting(model, read_ip_adapter(tmp_path / "plus.bin"))
    assert "adapters.preservation.detail.latents" in found
    assert not any("detail.proj_in" in name for name in found)
    assert sum(name.startswith("attention.") for name in found) == len(parts["ip_adapter"])


def test_from_plain_ip_adapter_the_cls_expansion_begins(model, pocket_encoders):
    plain = FlexIP(
        load_unet(), dataclasses.replace(model.config, method="ip-adapter"), ADAPTERS["ip-adapter"]
    )  # W' and 4 tokens of the [CLS]
    parts = to_ip_adapter(plain)
    begin_with_ip_adapter(model := small(load_unet(), pocket_encoders.shapes), parts)
    ours = model.trainable()
    assert torch.equal(ours["adapters.cls_expansion.image_embeds.weight"], parts["image_proj"]["proj.weight"])


def test_what_is_no_ip_adapter_or_does_not_fit_is_told(model, pocket_encoders, tmp_path):
    path = tmp_path / "file.safetensors"
    with pytest.raises(IPAdapterError, match="cannot be read"):
        read_ip_adapter(path)
    save_file({"lora.down": torch.zeros(1)}, path)
    with pytest.raises(IPAdapterError, match="has lora; image_proj and ip_adapter are needed"):
        read_ip_adapter(path)
    save_ip_adapter(path, model)
    tensors = load_file(path)
    save_file({name: t for name, t in tensors.items() if not name.endswith("1.to_k_ip.weight")}, path)
    with pytest.raises(IPAdapterError, match=r"attention\.down_blocks/0/\S+to_k\.weight is missing"):
        fitting(model, read_ip_adapter(path))
    save_ip_adapter(path, small(load_unet(), pocket_encoders.shapes, queries=3))
    with pytest.raises(IPAdapterError, match=r"detail\.latents is \(1, 3, \d+\), here \(1, 4, \d+\)$"):
        fitting(model, read_ip_adapter(path))
    with pytest.raises(IPAdapterError, match="of another kind, from which"):
        fitting(model, {"image_proj": {"proj.3.weight": torch.zeros(1)}, "ip_adapter": {}})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"depth": 1}, r"adapter\.depth = 1: IP-Adapter's layout takes 4 for granted"),
        ({"dim_head": 32}, r"adapter\.dim_head = 32: .* takes 64"),
        ({"gating": "token"}, r"adapter\.gating = token"),
    ],
)
def test_sizes_that_the_layout_does_not_know_are_refused(changes, said):
    with pytest.raises(IPAdapterError, match=said):
        to_ip_adapter(full_size(**changes))
