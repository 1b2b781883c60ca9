"""Invariants of the gated UNet, on random weights: they hold for every training."""

import dataclasses
from typing import Any, cast

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor2_0
from peft import LoraConfig

from flexip.adapters import AdapterConfig, SubjectTokens
from flexip.attention import KEYWORD, cross_attention_layers
from flexip.gate import Gate
from flexip.model import FlexIP

ROWS = 3
CONFIG = AdapterConfig(
    context_width=32, clip_width=24, dino_width=20, queries=4, cls_tokens=2, depth=2, heads=2, dim_head=16
)


@pytest.fixture(params=["branch", "token"])
def model(request, tiny_unet):
    torch.manual_seed(1)
    return FlexIP(tiny_unet, dataclasses.replace(CONFIG, gating=request.param)).eval()


@pytest.fixture
def inputs():
    g = torch.Generator().manual_seed(2)
    return {
        "noisy": torch.randn(ROWS, 4, 8, 8, generator=g),
        "timesteps": torch.tensor([10, 500, 900]),
        "text": torch.randn(ROWS, 7, 32, generator=g),
        "cls": torch.randn(ROWS, 24, generator=g),
        "patches": torch.randn(ROWS, 9, 20, generator=g),
    }


def gate(*gammas: float) -> Gate:
    return Gate.dial(list(gammas))


@torch.no_grad()
def test_token_counts_are_the_papers(model, inputs):
    tokens = model.subject_tokens(inputs["cls"], inputs["patches"], inputs["text"])
    assert tokens.preservation.shape == (ROWS, 4 + 2, 32)
    assert tokens.personalization.shape == (ROWS, 7, 32)


@torch.no_grad()
def test_both_weights_zero_is_the_base_model_bit_for_bit(model, inputs):
    unet = model.unet
    gated = model(**inputs, gate=Gate.weights([0.0] * ROWS, [0.0] * ROWS))
    unet.set_attn_processor(AttnProcessor2_0())
    base = unet(inputs["noisy"], inputs["timesteps"], inputs["text"], return_dict=False)[0]
    assert torch.equal(gated, base)


@torch.no_grad()
def test_each_weight_matters_and_is_read_per_row(model, inputs):
    base = model(**inputs, gate=Gate.weights([0.0] * 3, [0.0] * 3))
    mixed = model(**inputs, gate=Gate.weights([0.0, 1.0, 0.0], [0.0, 0.0, 1.0]))
    moved = (mixed - base).flatten(1).abs().amax(dim=1)
    assert moved[0] < 1e-6
    assert moved[1] > 1e-3
    assert moved[2] > 1e-3


@torch.no_grad()
def test_a_row_does_not_depend_on_its_batch(model, inputs):
    gammas = [0.2, 0.5, 0.9]
    together = model(**inputs, gate=gate(*gammas))
    for i in range(ROWS):
        alone = model(**{k: v[i : i + 1] for k, v in inputs.items()}, gate=gate(gammas[i]))
        torch.testing.assert_close(alone[0], together[i], atol=1e-5, rtol=0)


@torch.no_grad()
def test_dropped_image_is_the_base_model(model, inputs):
    keep = torch.tensor([True, False, True])
    kept = model(**inputs, gate=gate(0.5, 0.5, 0.5), keep=keep)
    base = model(**inputs, gate=Gate.weights([0.0] * 3, [0.0] * 3))
    assert torch.equal(kept[1], base[1])
    assert not torch.allclose(kept[0], base[0], atol=1e-3)


@torch.no_grad()
def test_cached_keys_and_values_equal_recomputed_ones(model, inputs):
    tokens = model.subject_tokens(inputs["cls"], inputs["patches"], inputs["text"])
    cached = model.conditioning(tokens, gate(0.3, 0.5, 0.7))
    arguments = (inputs["noisy"], inputs["timesteps"], inputs["text"])
    first = model.unet(*arguments, cross_attention_kwargs={KEYWORD: cached}, return_dict=False)[0]
    assert len(cached.text_cache) == len(list(cross_attention_layers(model.unet)))
    again = model.unet(*arguments, cross_attention_kwargs={KEYWORD: cached}, return_dict=False)[0]
    fresh = model.conditioning(tokens, gate(0.3, 0.5, 0.7))
    recomputed = model.unet(*arguments, cross_attention_kwargs={KEYWORD: fresh}, return_dict=False)[0]
    assert torch.equal(first, again)
    assert torch.equal(first, recomputed)


@torch.no_grad()
def test_text_cache_is_not_used_for_other_text_or_other_weights(model, inputs):
    subject = model.conditioning(model.subject_tokens(inputs["cls"], inputs["patches"], inputs["text"]), gate(1, 1, 1))

    def call(text):
        unet = model.unet
        return unet(
            inputs["noisy"], inputs["timesteps"], text, cross_attention_kwargs={KEYWORD: subject}, return_dict=False
        )[0]

    before = call(inputs["text"])
    assert not torch.allclose(before, call(inputs["text"] * 2), atol=1e-4)
    _, layer = next(cross_attention_layers(model.unet))
    for projection in (layer.to_k, layer.to_v):
        assert projection is not None
        projection.weight.mul_(3.0)
    assert not torch.allclose(before, call(inputs["text"]), atol=1e-6)


@torch.no_grad()
def test_text_cache_follows_the_lora_state(model, inputs):
    """A LoRA added after the projections started is seen, its scale and its removal too."""
    subject = model.conditioning(model.subject_tokens(inputs["cls"], inputs["patches"], inputs["text"]), gate(1, 1, 1))
    arguments = (inputs["noisy"], inputs["timesteps"], inputs["text"])

    def call():
        return model.unet(*arguments, cross_attention_kwargs={KEYWORD: subject}, return_dict=False)[0]

    base = call()
    torch.manual_seed(3)
    model.unet.add_adapter(LoraConfig(r=4, target_modules=["attn2.to_k", "attn2.to_v"], init_lora_weights=False))
    with_lora = call()
    model.unet.disable_adapters()
    without = call()
    assert not torch.allclose(base, with_lora, atol=1e-3)
    assert torch.equal(base, without)


@torch.no_grad()
def test_token_gating_is_one_softmax_over_scaled_tokens(tiny_unet, inputs):
    """Literal reading of the figure: scaling the tokens before W' equals what the processor computes."""
    torch.manual_seed(1)
    model = FlexIP(tiny_unet, dataclasses.replace(CONFIG, gating="token")).eval()
    tokens = model.subject_tokens(inputs["cls"], inputs["patches"], inputs["text"])
    g_p, g_s = torch.tensor([0.2, 0.6, 1.0]), torch.tensor([0.9, 0.4, 0.1])
    scaled = SubjectTokens(tokens.preservation * g_p[:, None, None], tokens.personalization * g_s[:, None, None])
    ones = Gate.weights([1.0] * 3, [1.0] * 3)
    arguments = (inputs["noisy"], inputs["timesteps"], inputs["text"])
    out = [
        model.unet(*arguments, cross_attention_kwargs={KEYWORD: conditioning}, return_dict=False)[0]
        for conditioning in (model.conditioning(tokens, Gate(g_p, g_s)), model.conditioning(scaled, ones))
    ]
    torch.testing.assert_close(out[0], out[1], atol=1e-5, rtol=0)


def test_gradients_reach_every_adapter_parameter_and_nothing_else(model, inputs):
    model(**inputs, gate=gate(0.3, 0.5, 0.7)).square().mean().backward()
    without = [name for name, p in model.trainable().items() if p.grad is None or not p.grad.any()]
    assert without == []
    assert all(p.grad is None for p in model.unet.parameters())


def test_row_mismatch_and_replaced_processor_raise(model, inputs):
    with pytest.raises(ValueError, match="conditioning has 2 rows, the UNet's batch 3"):
        model(**inputs, gate=gate(0.3, 0.5))
    pipe = pipeline(model.unet)
    model.unet.set_attn_processor(AttnProcessor2_0())
    with pytest.raises(RuntimeError, match="does not know the subject"):
        model.condition(pipe, ["a"], (inputs["cls"][:1], inputs["patches"][:1]), gate(0.5))


def test_wrong_context_width_is_refused(tiny_unet):
    with pytest.raises(ValueError, match="context_width: 48; the UNet's cross-attention width is 32"):
        FlexIP(tiny_unet, dataclasses.replace(CONFIG, context_width=48))


@pytest.mark.parametrize("gamma", [-0.1, 1.5, float("nan")])
def test_gamma_outside_its_range_is_refused(gamma):
    with pytest.raises(ValueError, match=r"gamma: .*within 0\.\.1"):
        Gate.dial(gamma)


def pipeline(unet):
    return StableDiffusionPipeline(
        vae=None,  # type: ignore[arg-type]  # no picture is decoded here
        text_encoder=None,  # type: ignore[arg-type]
        tokenizer=None,  # type: ignore[arg-type]
        unet=unet,
        scheduler=cast(Any, DDIMScheduler(steps_offset=1, clip_sample=False)),
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )
