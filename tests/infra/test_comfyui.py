"""The ComfyUI nodes: loaded as ComfyUI loads them, run against its protocol, and in a ComfyUI where there is one."""

import importlib.util
import json
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from flexip.adapters import AdapterConfig
from flexip.attention import KEYWORD, cross_attention_layers, merge_heads, split_heads
from flexip.checkpoint import CheckpointError, load_checkpoint
from flexip.encoders import load_unet
from flexip.gate import Gate
from flexip.model import FlexIP

FOLDER = Path(__file__).parents[2] / "infra" / "comfyui"
SIGMAS = torch.tensor([9.0, 6.0, 3.0, 1.0, 0.0])  # of four steps
CORE = {  # ComfyUI's own nodes in our graph: what they return
    "CheckpointLoaderSimple": ("MODEL", "CLIP", "VAE"),
    "CLIPTextEncode": ("CONDITIONING",),
    "LoadImage": ("IMAGE", "MASK"),
    "EmptyLatentImage": ("LATENT",),
    "KSampler": ("LATENT",),
    "VAEDecode": ("IMAGE",),
    "SaveImage": (),
}


def optimized_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """As ComfyUI's function of that name."""
    query, key, value = (split_heads(x, heads) for x in (q, k, v))
    return merge_heads(scaled_dot_product_attention(query, key, value))


@pytest.fixture
def nodes(monkeypatch) -> Any:
    """The folder as a custom node, in a process in which ComfyUI is this one function."""
    stub = types.ModuleType("comfy.ldm.modules.attention")
    stub.optimized_attention = optimized_attention  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "comfy.ldm.modules.attention", stub)
    spec = importlib.util.spec_from_file_location(
        "flexip_nodes", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    for name in ("", ".nodes", ".layers"):
        monkeypatch.delitem(sys.modules, f"flexip_nodes{name}", raising=False)
    monkeypatch.setitem(sys.modules, "flexip_nodes", module)
    spec.loader.exec_module(module)
    return module


class Model:
    """ComfyUI's ModelPatcher, as far as patches of the text attention go."""

    def __init__(self, replaced: dict[Any, Callable] | None = None):
        self.model_options: dict[str, Any] = {"transformer_options": {}}
        if replaced:
            self.model_options["transformer_options"]["patches_replace"] = {"attn2": dict(replaced)}

    def clone(self) -> "Model":
        return Model(self.replaced)

    def set_model_attn2_replace(self, patch: Callable, block_name: str, number: int) -> None:
        replaced = self.replaced | {(block_name, number): patch}
        self.model_options["transformer_options"]["patches_replace"] = {"attn2": replaced}

    @property
    def replaced(self) -> dict[Any, Callable]:
        return self.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {})


class Block:
    """A processor that does with its layer what ComfyUI's BasicTransformerBlock does with attn2."""

    def __init__(self, patch: Callable, options: dict[str, Any]):
        self.patch, self.options = patch, options

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: Any) -> Tensor:
        q, k, v = attn.to_q(hidden_states), attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
        return attn.to_out[0](self.patch(q, k, v, self.options | {"n_heads": attn.heads}))


def options(step: int, chunks: list[int], size: tuple[int, int] = (16, 16)) -> dict[str, Any]:
    """What ComfyUI tells a patch."""
    told = {"sample_sigmas": SIGMAS, "sigmas": SIGMAS[step].repeat(len(chunks)), "cond_or_uncond": chunks}
    return told | {"original_shape": [len(chunks), 4, *size]}


@pytest.fixture
def loaded(nodes, untrained_checkpoint) -> Any:
    return nodes.NODE_CLASS_MAPPINGS["FlexIPLoad"]().load(str(untrained_checkpoint))[0]


@pytest.fixture
def subject(nodes, loaded, reference) -> Any:
    image = torch.from_numpy(reference)[None].float() / 255
    return nodes.NODE_CLASS_MAPPINGS["FlexIPEncode"]().encode(loaded, image)[0]


@pytest.fixture
def apply(nodes, loaded, subject, pocket_encoders) -> Callable[..., Model]:
    text = pocket_encoders.encode_text(["a happy creature"])
    return lambda model, **inputs: nodes.NODE_CLASS_MAPPINGS["FlexIPApply"]().apply(
        model, loaded, subject, [[text, {}]], **({"gamma": 0.7, "strength": 1.0} | inputs)
    )[0]


def draw(model: Model, blocks: dict[str, Any], told: dict[str, Any], text: Tensor) -> Tensor:
    """One call of the pocket UNet, with this model's patches in ComfyUI's blocks; the prompt is row 1."""
    unet = load_unet().eval()
    plain = lambda q, k, v, extra: optimized_attention(q, k, v, extra["n_heads"])  # noqa: E731
    for layer, module in cross_attention_layers(unet):
        module.set_processor(Block(model.replaced.get(blocks[layer], plain), told))  # type: ignore[arg-type]
    noisy = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)).repeat(2, 1, 1, 1)
    return unet(noisy, torch.tensor([500, 500]), text, return_dict=False)[0]


@torch.no_grad()
def test_the_applied_model_predicts_what_flexip_predicts(nodes, apply, untrained_checkpoint, reference):
    """With guidance, in ComfyUI's order of rows, at a step between two gammas and with a mask."""
    engine = load_checkpoint(untrained_checkpoint)
    text = engine.encoders.encode_text(["", "a happy creature"])
    cls, patches = engine.encoders.encode_references([reference] * 2)
    tokens = engine.model.subject_tokens(cls, patches, text, keep=torch.tensor([False, True]))
    mask = torch.zeros(1, 64, 64)
    mask[:, :, :40] = 1
    gate = Gate(torch.full((2,), 0.5), torch.full((2,), 0.5), {}, mask.repeat(2, 1, 1))
    noisy = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)).repeat(2, 1, 1, 1)
    kwargs = {KEYWORD: engine.model.conditioning(tokens, gate)}
    expected = engine.pipe.unet(noisy, torch.tensor([500, 500]), text, cross_attention_kwargs=kwargs, return_dict=False)

    layers = [name for name, _ in cross_attention_layers(engine.pipe.unet)]
    blocks = sys.modules["flexip_nodes.layers"].blocks_of(layers)
    patched = apply(Model(), gamma=0.8, gamma_last=-1.0, mask=mask)
    assert patched.replaced.keys() == set(blocks.values())
    moving = apply(Model(), gamma=0.7, gamma_last=0.4, mask=mask)  # 0.7, 0.6, 0.5, 0.4
    drawn = draw(moving, blocks, options(2, [1, 0]), text)
    torch.testing.assert_close(drawn, expected[0], atol=1e-4, rtol=1e-4)
    assert (draw(patched, blocks, options(2, [1, 0]), text) - drawn).abs().max() > 1e-3


@torch.no_grad()
def test_steps_outside_the_window_no_strength_and_the_negative_prompt_are_the_base_model(apply, pocket_encoders):
    q, k, v = torch.randn(3, 2, 64, 64, generator=torch.Generator().manual_seed(1))
    k, v = k[:, :5], v[:, :5]
    plain = optimized_attention(q, k, v, 2)
    windowed = next(iter(apply(Model(), start_at=0.25, end_at=0.75).replaced.values()))
    acting = [bool((windowed(q, k, v, options(s, [0, 0], (8, 8)) | {"n_heads": 2}) != plain).any()) for s in range(4)]
    assert acting == [False, True, True, False]
    off = next(iter(apply(Model(), strength=0.0).replaced.values()))
    assert torch.equal(off(q, k, v, options(0, [0, 1], (8, 8)) | {"n_heads": 2}), plain)
    on = next(iter(apply(Model()).replaced.values()))
    assert torch.equal(on(q, k, v, options(0, [0, 1], (8, 8)) | {"n_heads": 2})[1], plain[1])


def test_what_another_node_put_there_stays_and_the_model_given_is_left_alone(apply):
    other = lambda q, k, v, extra: torch.zeros_like(q)  # noqa: E731
    model = Model({("middle", 0): other})
    patched, off = apply(model), apply(model, strength=0.0)
    q = torch.randn(1, 16, 144)
    told = options(0, [0], (4, 4)) | {"n_heads": 4}
    assert model.replaced == {("middle", 0): other}
    assert not off.replaced["middle", 0](q, q, q, told).any()
    assert patched.replaced["middle", 0](q, q, q, told).any()


def test_the_blocks_of_stable_diffusion_1_5_are_those_that_comfyui_counts(nodes):
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    found = sys.modules["flexip_nodes.layers"].blocks_of([name for name, _ in cross_attention_layers(unet)])
    expected = [*(("input", n) for n in (1, 2, 4, 5, 7, 8)), *(("output", n) for n in range(3, 12)), ("middle", 0)]
    assert list(found.values()) == expected


def test_a_mask_on_the_reference_whitens_what_is_outside(nodes, loaded, subject, reference):
    encode = nodes.NODE_CLASS_MAPPINGS["FlexIPEncode"]().encode
    image, mask = torch.from_numpy(reference)[None].float() / 255, torch.ones(1, 32, 32)
    (whole,) = encode(loaded, image, mask)
    assert torch.equal(whole[1], subject[1])
    (nothing,) = encode(loaded, image, torch.zeros(1, 32, 32))
    (white,) = encode(loaded, torch.ones(1, 64, 64, 3))
    assert torch.equal(nothing[0], white[0])


def test_what_does_not_fit_is_told(nodes, loaded, subject, apply, untrained_checkpoint):
    with pytest.raises(ValueError, match="the prompt's states are 2048 wide, the checkpoint's base model"):
        nodes.NODE_CLASS_MAPPINGS["FlexIPApply"]().apply(
            Model(), loaded, subject, [[torch.zeros(1, 77, 2048), {}]], gamma=0.5, strength=1.0
        )
    with pytest.raises(CheckpointError, match=r"no config\.json there"):
        nodes.NODE_CLASS_MAPPINGS["FlexIPLoad"]().load("nowhere")
    patch = next(iter(apply(Model()).replaced.values()))
    with pytest.raises(ValueError, match="no sample_sigmas"):
        patch(*torch.zeros(3, 1, 4, 64), {"n_heads": 2, "cond_or_uncond": [0], "sigmas": torch.ones(1)})


def test_every_link_of_the_graph_has_a_type_that_its_input_takes(nodes):
    graph = json.loads((FOLDER / "workflow_api.json").read_text())
    classes = nodes.NODE_CLASS_MAPPINGS
    assert set(classes) == set(nodes.NODE_DISPLAY_NAME_MAPPINGS)
    assert set(classes) <= {node["class_type"] for node in graph.values()}
    returns = CORE | {name: node.RETURN_TYPES for name, node in classes.items()}
    for node in graph.values():
        assert node["class_type"] in returns
        if node["class_type"] not in classes:
            continue
        declared = classes[node["class_type"]].INPUT_TYPES()
        inputs = declared["required"] | declared.get("optional", {})
        assert declared["required"].keys() <= node["inputs"].keys() <= inputs.keys()
        for name, value in node["inputs"].items():
            kind = inputs[name][0]
            if isinstance(value, list):
                assert returns[graph[value[0]]["class_type"]][value[1]] == kind
            else:
                assert isinstance(value, str if kind == "STRING" else float)


@torch.no_grad()
def test_in_a_real_comfyui_unet_and_patcher(monkeypatch, nodes):
    """$FLEXIP_COMFYUI is a checkout whose requirements are importable: its UNet, its ModelPatcher, our patches."""
    if not (checkout := os.environ.get("FLEXIP_COMFYUI")):
        pytest.skip("FLEXIP_COMFYUI is not set to a checkout of ComfyUI")
    monkeypatch.syspath_prepend(checkout)
    for name in [name for name in sys.modules if name.split(".")[0] == "comfy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "argv", ["comfyui", "--cpu"])
    comfy: Any = importlib.import_module("comfy.options")
    comfy.enable_args_parsing()
    modules = {name: importlib.import_module(f"comfy.{name}") for name in ("utils", "model_patcher")}
    openai: Any = importlib.import_module("comfy.ldm.modules.diffusionmodules.openaimodel")
    attention: Any = importlib.import_module("comfy.ldm.modules.attention")
    torch.manual_seed(0)
    shape = {"block_out_channels": (32, 64), "layers_per_block": 2, "norm_num_groups": 32}
    kinds = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    unet = UNet2DConditionModel(sample_size=16, cross_attention_dim=48, attention_head_dim=4, **shape, **kinds).eval()  # type: ignore[arg-type]
    config = {"in_channels": 4, "out_channels": 4, "model_channels": 32, "channel_mult": [1, 2], "context_dim": 48}
    config |= {
        "num_res_blocks": [2, 2],
        "transformer_depth": [1, 1, 0, 0],
        "transformer_depth_output": [1, 1, 1, 0, 0, 0],
    }
    config |= {"transformer_depth_middle": 1, "num_heads": 4, "use_spatial_transformer": True, "image_size": 16}
    config |= {"use_linear_in_transformer": False, "legacy": False, "dtype": torch.float32}
    names = modules["utils"].unet_to_diffusers(config)
    theirs = openai.UNetModel(**config, operations=importlib.import_module("comfy.ops").disable_weight_init).eval()
    theirs.load_state_dict({names[name]: t for name, t in unet.state_dict().items()})
    noisy, text = torch.randn(2, 4, 16, 16), torch.randn(2, 77, 48)
    times = torch.tensor([500, 500])
    told = options(1, [1, 0])
    ours = unet(noisy, times, text, return_dict=False)[0]
    torch.testing.assert_close(theirs(noisy, times, text, transformer_options=dict(told)), ours, atol=1e-4, rtol=1e-4)

    model = FlexIP(unet, AdapterConfig(48, 24, 16, queries=4, cls_tokens=2, depth=1, heads=2, dim_head=16)).eval()
    cls, patches = torch.randn(1, 24), torch.randn(1, 9, 16)
    tokens = model.subject_tokens(cls.repeat(2, 1), patches.repeat(2, 1, 1), text, torch.tensor([False, True]))
    kwargs = {KEYWORD: model.conditioning(tokens, Gate.dial([0.7, 0.7]))}
    expected = unet(noisy, times, text, cross_attention_kwargs=kwargs, return_dict=False)[0]
    assert (expected - ours).abs().max() > 1e-3

    patcher: Any = modules["model_patcher"].ModelPatcher(torch.nn.Module(), torch.device("cpu"), torch.device("cpu"))
    layers = sys.modules["flexip_nodes.layers"]
    course = layers.Course(0.7, 0.7, 1.0, 0.0, 1.0)
    one = model.conditioning(tokens.select(torch.tensor([1])), Gate.dial([0.7]))

    def plain(q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
        return attention.optimized_attention(q, k, v, extra["n_heads"])

    clone = patcher.clone()
    for layer, block in layers.blocks_of(name.replace("/", ".") for name in model.attention).items():
        clone.set_model_attn2_replace(layers.gated(layer, one, course, plain), *block)
    found = theirs(noisy, times, text, transformer_options=told | clone.model_options["transformer_options"])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert np.isfinite(found.numpy()).all()
