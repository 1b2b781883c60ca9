"""The baselines share everything with FlexIP but the adapters."""

import shutil

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from evaluation.baselines import ADAPTERS, PlusOverDino, load_baseline
from flexip.adapters import AdapterConfig, Adapters
from flexip.batch import draw_noise
from flexip.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from flexip.encoders import Detail, load_pipeline, load_unet
from flexip.ip_adapter import image_prompt, to_ip_adapter
from flexip.model import FlexIP, adapter_config
from flexip.request import Request
from flexip.sampler import sample
from flexip.training import Drops, batch_loss, build_batch, load_noising, new_state, train_step
from jobs.training.config import AdapterSizes

SIZES = {"queries": 4, "depth": 1, "heads": 2, "dim_head": 32}


BASELINES = [name for name in ADAPTERS if not name.startswith("flexip")]
PARTIAL = ["flexip-without-edits", "flexip-without-shape"]


def detail_of(name: str) -> Detail:
    return AdapterSizes(method=name).detail  # type: ignore[arg-type]


def build(name: str, shapes) -> FlexIP:
    torch.manual_seed(0)
    unet = load_unet()
    return FlexIP(unet, adapter_config(unet, shapes, detail_of(name), method=name, **SIZES), ADAPTERS[name])


@pytest.mark.parametrize("name", BASELINES + PARTIAL)
def test_a_baseline_is_saved_loaded_and_obeys_its_scale(pocket_encoders, reference, tmp_path, name):
    model = build(name, pocket_encoders.shapes)
    save_checkpoint(tmp_path, model, names=pocket_encoders.names, fingerprints=pocket_encoders.fingerprints)
    engine = load_baseline(tmp_path)
    asks = [Request("a creature", reference, scale, 0.0, steps=3, seed=1) for scale in (0.0, 0.5, 1.5)]
    off, half, strong = (image.astype(int) for image in sample(engine, asks))
    (base,) = sample(engine, [Request("a creature", None, steps=3, seed=1)])
    assert np.abs(off - base).max() <= 1
    assert np.abs(half - off).mean() > 1
    assert np.abs(strong - half).mean() > 1
    with pytest.raises(CheckpointError, match=f"method '{name}'; known here: flexip"):
        load_checkpoint(tmp_path)


def test_flexip_loads_beside_the_baselines(untrained_checkpoint, tmp_path):
    copied = shutil.copytree(untrained_checkpoint, tmp_path / "checkpoint")
    assert load_baseline(copied).model.config.method == "flexip"


@pytest.mark.parametrize("name", BASELINES + PARTIAL)
def test_a_baseline_learns_by_the_same_step(pocket_encoders, name):
    model = build(name, pocket_encoders.shapes)
    rng = np.random.default_rng(0)
    columns = {
        family: rng.normal(size=(4, *shape)).astype(np.float16) for family, shape in pocket_encoders.shapes.items()
    }
    config = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    noising = load_noising(pocket_encoders, config)
    batch = build_batch(columns, torch.ones(4), Drops(0, 0, 0), noising, np.arange(4), detail=detail_of(name))
    state = new_state(model, learning_rate=3e-3, weight_decay=0.0)
    first = batch_loss(model, batch).mean().item()
    for _ in range(12):
        loss = train_step(state, batch)
    assert loss.item() < first
    assert all(parameter.grad is not None for parameter in model.trainable().values())


@pytest.mark.parametrize("config", [AdapterConfig(), AdapterConfig(256, 512, 384, 8, 4, 2, 4, 64)])
def test_the_matched_baseline_has_flexip_s_parameters_within_a_twentieth(config):
    ours, theirs = (sum(p.numel() for p in module(config).parameters()) for module in (Adapters, PlusOverDino))
    assert abs(theirs / ours - 1) < 0.05


@pytest.mark.parametrize("name", ["ip-adapter", "ip-adapter-plus"])
def test_diffusers_own_ip_adapter_draws_the_same_picture(pocket_encoders, reference, tmp_path, name):
    torch.manual_seed(0)
    config = adapter_config(
        load_unet(), pocket_encoders.shapes, detail_of(name), method=name, queries=4, depth=4, heads=2, dim_head=64
    )
    model = FlexIP(load_unet(), config, ADAPTERS[name])
    with torch.no_grad():
        for parameter in model.trainable().values():
            parameter.add_(0.02 * torch.randn_like(parameter))
    save_checkpoint(tmp_path, model, names=pocket_encoders.names, fingerprints=pocket_encoders.fingerprints)
    engine = load_baseline(tmp_path)
    ask = Request("a happy creature", reference, preservation=0.8, guidance_scale=3.0, steps=4, seed=5)
    (ours,) = sample(engine, [ask])

    pipe = load_pipeline()
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.load_ip_adapter(to_ip_adapter(engine.model), subfolder=None, weight_name=None, image_encoder_folder=None)
    pipe.set_ip_adapter_scale(0.8)
    features = image_prompt(*engine.encoders.encode_references([reference]), name)
    theirs = pipe(
        ask.prompt,
        latents=draw_noise(engine, ask)[:1],
        num_inference_steps=ask.steps,
        guidance_scale=ask.guidance_scale,
        ip_adapter_image_embeds=[features],
        output_type="np",
    ).images[0]
    assert np.abs(ours.astype(float) - 255 * theirs).max() <= 1.0
    pipe.set_ip_adapter_scale(0.0)
    without = pipe(ask.prompt, latents=draw_noise(engine, ask)[:1], num_inference_steps=4, guidance_scale=3.0,
                   ip_adapter_image_embeds=[features], output_type="np").images[0]  # fmt: skip
    assert np.abs(ours.astype(float) - 255 * without).mean() > 1


def test_other_methods_and_sizes_have_no_ip_adapter_layout(pocket_encoders):
    with pytest.raises(ValueError, match=r"method 'plus-dino': only ip-adapter, .*ip-adapter-plus have"):
        to_ip_adapter(build("plus-dino", pocket_encoders.shapes))
    with pytest.raises(ValueError, match=r"adapter\.depth = 1: IP-Adapter's layout takes 4 for granted"):
        to_ip_adapter(build("ip-adapter-plus", pocket_encoders.shapes))


@pytest.mark.parametrize("name", BASELINES)
def test_no_subject_is_zero_features_in_training_as_in_sampling(pocket_encoders, name):
    model = build(name, pocket_encoders.shapes)
    shapes = pocket_encoders.shapes
    cls, patches, text = (torch.randn(2, *shapes[family]) for family in ("clip", detail_of(name), "text"))
    dropped = model.subject_tokens(cls, patches, text, torch.tensor([True, False])).preservation
    zero = model.subject_tokens(torch.zeros_like(cls), torch.zeros_like(patches), text).preservation
    assert torch.allclose(dropped[1], zero[1], atol=1e-5)
    assert not torch.allclose(dropped[0], zero[0], atol=1e-2)
    assert zero.abs().max() > 0


@pytest.mark.parametrize("name", PARTIAL)
def test_flexip_without_a_part_answers_no_subject_with_the_base_model(pocket_encoders, name):
    model = build(name, pocket_encoders.shapes)
    shapes = pocket_encoders.shapes
    cls, patches, text = (torch.randn(2, *shapes[family]) for family in ("clip", "dino", "text"))
    tokens = model.subject_tokens(cls, patches, text, torch.tensor([True, False]))
    assert tokens.preservation.shape[1] == SIZES["queries"] + (4 if name == "flexip-without-edits" else 0)
    assert tokens.personalization.shape[1] == (0 if name == "flexip-without-edits" else shapes["text"][0])
    assert tokens.preservation[0].any()
    assert not tokens.preservation[1].any()
    assert not tokens.personalization[1].any()
