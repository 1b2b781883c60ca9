"""The ComfyUI nodes: loaded as ComfyUI loads them, and run against its protocol. In ComfyUI itself: the file beside."""

import json
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from comfy_nodes import FOLDER, load_nodes
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from flexip.attention import KEYWORD, cross_attention_layers, merge_heads, split_heads
from flexip.checkpoint import CheckpointError, load_checkpoint
from flexip.encoders import load_unet
from flexip.gate import Gate

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
    return load_nodes(monkeypatch)


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
