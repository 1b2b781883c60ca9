"""FlexIP on diffusers' own pipelines: the gate acts in every task, zero weights and `detach` give the bare picture."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image

from flexip.checkpoint import load_checkpoint
from flexip.encoders import load_pipeline
from flexip.gate import Gate

PROMPT = "a happy creature"
RANK = 4  # of the LoRA


@pytest.fixture(scope="module")
def engine(untrained_checkpoint):
    return load_checkpoint(untrained_checkpoint)


@pytest.fixture(scope="module")
def start() -> Image.Image:
    return Image.fromarray(np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8))


@pytest.fixture(scope="module")
def left() -> Image.Image:
    mask = np.zeros((64, 64), np.uint8)
    mask[:, :32] = 255
    return Image.fromarray(mask)


def text_to_image(parts: dict[str, Any]) -> Any:
    return StableDiffusionPipeline(**parts, requires_safety_checker=False)


def image_to_image(parts: dict[str, Any]) -> Any:
    return StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)


def inpainting(parts: dict[str, Any]) -> Any:
    return StableDiffusionInpaintPipeline(**parts, requires_safety_checker=False)


def inpainting_of_its_own(parts: dict[str, Any]) -> Any:
    """With a UNet that was made for it: nine channels, of which five show the mask and what is kept."""
    config: Any = dict(parts["unet"].config) | {"in_channels": 9}
    unet: Any = UNet2DConditionModel.from_config(config)
    weights = parts["unet"].state_dict()
    weights["conv_in.weight"] = torch.nn.functional.pad(weights["conv_in.weight"], (0, 0, 0, 0, 0, 5), value=0.01)
    unet.load_state_dict(weights)
    return inpainting(parts | {"unet": unet.eval()})


def controlled(parts: dict[str, Any]) -> Any:
    """With a ControlNet of random weights, its zero convolutions too: it has a say."""
    torch.manual_seed(0)
    channels = (16,) * len(parts["vae"].config.block_out_channels)  # it comes down to the latents' size as the VAE does
    controlnet = ControlNetModel.from_unet(parts["unet"], conditioning_embedding_out_channels=channels)
    for layer in (*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block):
        torch.nn.init.normal_(layer.weight, std=0.05)  # type: ignore[arg-type]
    return StableDiffusionControlNetPipeline(**parts, controlnet=controlnet, requires_safety_checker=False)


def with_lora(parts: dict[str, Any]) -> Any:
    """By the file keys that diffusers' own loader reads."""
    pipe: Any = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    torch.manual_seed(0)
    weights = {}
    for name, module in pipe.unet.named_modules():
        if name.endswith((".to_q", ".to_k", ".to_v")):
            weights[f"unet.{name}.lora_A.weight"] = 0.3 * torch.randn(RANK, module.in_features)
            weights[f"unet.{name}.lora_B.weight"] = 0.3 * torch.randn(module.out_features, RANK)
    pipe.load_lora_weights(weights)
    return pipe


TASKS: dict[Callable[[dict[str, Any]], Any], Callable[[Any, Any], dict[str, Any]]] = {
    text_to_image: lambda start, left: {},
    image_to_image: lambda start, left: {"image": start, "strength": 1.0},
    inpainting: lambda start, left: {"image": start, "mask_image": left, "strength": 1.0, "height": 64, "width": 64},
    inpainting_of_its_own: lambda start, left: {"image": start, "mask_image": left, "height": 64, "width": 64},
    controlled: lambda start, left: {"image": start},
    with_lora: lambda start, left: {},
}


@torch.no_grad()
@pytest.mark.parametrize("build", TASKS)
def test_the_gate_acts_in_every_task_and_zero_weights_and_detaching_give_the_bare_pipeline_s_picture(
    engine, reference, start, left, build
):
    parts = load_pipeline().components | {"scheduler": DDIMScheduler.from_config(engine.pipe.scheduler.config)}
    pipe = build({name: part for name, part in parts.items() if name != "image_encoder"})
    pipe.set_progress_bar_config(disable=True)
    subjects = engine.encoders.encode_references([reference])

    def draw(**arguments: Any) -> np.ndarray:
        options = {"num_inference_steps": 2, "guidance_scale": 3.0, "generator": torch.Generator().manual_seed(0)}
        return pipe(**arguments, **options, **TASKS[build](start, left), output_type="np").images[0]

    def gated(gate: Gate) -> np.ndarray:
        return draw(**engine.model.condition(pipe, [PROMPT], subjects, gate, 3.0))

    bare = draw(prompt=PROMPT)
    engine.model.attach(pipe)
    kept, obeyed, off = (gated(gate) for gate in (Gate.dial([1.0]), Gate.dial([0.0]), Gate.weights([0.0], [0.0])))
    assert np.abs(kept - bare).max() > 0.01
    assert np.abs(kept - obeyed).max() > 0.01
    np.testing.assert_array_equal(off, bare)
    np.testing.assert_array_equal(draw(prompt=PROMPT), bare)
    engine.model.detach(pipe)
    np.testing.assert_array_equal(draw(prompt=PROMPT), bare)
    with pytest.raises(RuntimeError, match="AttnProcessor2_0 does not know the subject"):
        gated(Gate.dial([1.0]))


@torch.no_grad()
def test_a_lora_s_scale_travels_beside_the_subject(engine, reference):
    parts = load_pipeline().components
    pipe = with_lora({name: part for name, part in parts.items() if name != "image_encoder"})
    pipe.set_progress_bar_config(disable=True)
    engine.model.attach(pipe)
    subjects = engine.encoders.encode_references([reference])

    def draw(scale: float) -> np.ndarray:
        arguments = engine.model.condition(pipe, [PROMPT], subjects, Gate.dial([0.5]), 3.0)
        arguments["cross_attention_kwargs"]["scale"] = scale
        generator = torch.Generator().manual_seed(0)
        options = {"num_inference_steps": 2, "guidance_scale": 3.0, "generator": generator, "output_type": "np"}
        return pipe(**arguments, **options).images[0]

    whole, none = draw(1.0), draw(0.0)
    assert np.abs(whole - none).max() > 0.01
    pipe.unload_lora_weights()
    np.testing.assert_allclose(draw(1.0), none, atol=1e-5)


def test_an_ip_adapter_is_not_thrown_away_without_a_word(engine):
    pipe = load_pipeline()
    layer = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2
    layer.set_processor(torch.nn.Identity())
    with pytest.raises(ValueError, match=r"processors Identity hold weights.*unload_ip_adapter"):
        engine.model.attach(pipe)
