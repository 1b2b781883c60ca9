"""The nodes in ComfyUI itself: its UNet, its ModelPatcher, its sampler.

$FLEXIP_COMFYUI is a checkout whose requirements are importable; skipped without.
"""

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from comfy_nodes import load_nodes
from diffusers import UNet2DConditionModel
from torch import Tensor

from flexip.adapters import AdapterConfig
from flexip.attention import KEYWORD
from flexip.gate import Gate
from flexip.model import FlexIP

CPU = torch.device("cpu")
SHAPE = {"in_channels": 4, "out_channels": 4, "model_channels": 32, "channel_mult": [1, 2], "context_dim": 48}
SHAPE |= {"num_res_blocks": [2, 2], "transformer_depth": [1, 1, 0, 0], "transformer_depth_middle": 1, "num_heads": 4}
SHAPE |= {"transformer_depth_output": [1, 1, 1, 0, 0, 0], "use_spatial_transformer": True, "image_size": 16}
SHAPE |= {"use_linear_in_transformer": False, "legacy": False, "adm_in_channels": None, "use_temporal_attention": False}


@dataclass(frozen=True)
class Studio:
    """A small SD1.5 in both worlds, with one FlexIP, and a subject and texts for it."""

    flexip: FlexIP  # on diffusers' UNet
    patcher: Any  # ComfyUI's, with the same weights
    apply: Callable[..., Any]
    subject: tuple[Tensor, Tensor]
    text: Tensor  # (2, 77, D): of the negative prompt and of the prompt


@pytest.fixture(scope="module")
def studio() -> Iterator[Studio]:
    if not (checkout := os.environ.get("FLEXIP_COMFYUI")):
        pytest.skip("FLEXIP_COMFYUI is not set to a checkout of ComfyUI")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.syspath_prepend(checkout)
        monkeypatch.setattr(sys, "argv", ["comfyui", "--cpu"])
        importlib.import_module("comfy.options").enable_args_parsing()
        torch.manual_seed(0)
        unet = tiny_unet()
        model = FlexIP(unet, AdapterConfig(48, 24, 16, queries=4, cls_tokens=2, depth=1, heads=2, dim_head=16)).eval()
        nodes = load_nodes(monkeypatch)
        projections = {
            name.replace("/", "."): tuple(pair.get_parameter(f"{kind}.weight").detach() for kind in ("to_k", "to_v"))
            for name, pair in model.attention.items()
        }
        encoders: Any = SimpleNamespace(shapes={"text": (77, 48)})
        loaded = sys.modules["flexip_nodes.nodes"].Loaded(model.adapters, projections, encoders)
        subject, text = (torch.randn(1, 24), torch.randn(1, 9, 16)), torch.randn(2, 77, 48)
        node, patcher = nodes.NODE_CLASS_MAPPINGS["FlexIPApply"](), in_comfyui(unet)

        def apply(**inputs: Any) -> Any:
            inputs = {"gamma": 0.7, "strength": 1.0} | inputs
            return node.apply(patcher, loaded, subject, [[text[1:], {}]], **inputs)[0]

        yield Studio(model, patcher, apply, subject, text)


def tiny_unet() -> Any:
    return UNet2DConditionModel(
        sample_size=16,
        cross_attention_dim=48,
        attention_head_dim=4,
        block_out_channels=(32, 64),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()


def in_comfyui(unet: Any) -> Any:
    """ComfyUI's ModelPatcher around its own SD1.5 of these weights."""
    config = importlib.import_module("comfy.supported_models").SD15(SHAPE)
    config.unet_config = SHAPE
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", device="cpu").eval()
    names = importlib.import_module("comfy.utils").unet_to_diffusers(SHAPE)
    model.diffusion_model.load_state_dict({names[name]: tensor for name, tensor in unet.state_dict().items()})
    return importlib.import_module("comfy.model_patcher").ModelPatcher(model, CPU, CPU)


@torch.no_grad()
def test_the_applied_model_predicts_what_flexip_predicts_on_diffusers_unet(studio):
    noisy, times, text = torch.randn(2, 4, 16, 16), torch.tensor([500, 500]), studio.text
    sigmas = torch.tensor([9.0, 3.0, 0.0])
    told = {"sample_sigmas": sigmas, "sigmas": sigmas[:1].repeat(2), "cond_or_uncond": [1, 0]}

    def theirs(patcher: Any) -> Tensor:
        there = patcher.model_options["transformer_options"]
        return patcher.model.diffusion_model(noisy, times, text, transformer_options=there | told)

    def ours(**more: Any) -> Tensor:
        return studio.flexip.unet(noisy, times, text, return_dict=False, **more)[0]

    torch.testing.assert_close(theirs(studio.patcher), ours(), atol=1e-4, rtol=1e-4)
    cls, patches = (features.expand(2, *features.shape[1:]) for features in studio.subject)
    tokens = studio.flexip.subject_tokens(cls, patches, text, torch.tensor([False, True]))
    subject = studio.flexip.conditioning(tokens, Gate.dial([0.7, 0.7]))
    expected = ours(cross_attention_kwargs={KEYWORD: subject})
    torch.testing.assert_close(theirs(studio.apply()), expected, atol=1e-4, rtol=1e-4)
    assert (expected - ours()).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_its_sampler_draws_with_the_gate_the_window_and_the_mask(studio, sampler):
    sample = importlib.import_module("comfy.sample").sample
    noise, latent = torch.randn(2, 4, 16, 16), torch.zeros(2, 4, 16, 16)
    negative, positive = ([[row[None], {}]] for row in studio.text)
    mask = torch.zeros(1, 128, 128)
    mask[:, :, :64] = 1

    def draw(patcher: Any) -> Tensor:
        steps, guidance = 4, 3.0
        return sample(patcher, noise, steps, guidance, sampler, "normal", positive, negative, latent, disable_pbar=True)

    base = draw(studio.patcher)
    drawn = [draw(studio.apply(**inputs)) for inputs in ({}, {"gamma_last": 0.1}, {"start_at": 0.5}, {"mask": mask})]
    for i, one in enumerate(drawn):
        assert all(not torch.equal(one, other) for other in (base, *drawn[:i]))
    assert torch.equal(draw(studio.apply(strength=0.0)), base)
    assert torch.equal(draw(studio.patcher), base)
