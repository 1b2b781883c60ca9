"""Painting into a picture: equal to diffusers' pipelines, beside requests of other kinds, the rest kept to the bit."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
)

from flexip.batch import admit, advance
from flexip.canvas import Canvas, paste
from flexip.checkpoint import load_checkpoint
from flexip.request import Request
from flexip.sampler import Drawing, decode, sample

STEPS = 4


@pytest.fixture(scope="module")
def engine(untrained_checkpoint) -> Any:
    return load_checkpoint(untrained_checkpoint)


@pytest.fixture
def canvas(reference) -> Canvas:
    """A picture of which the right half is painted."""
    mask = np.zeros((64, 64), np.float32)
    mask[:, 32:] = 1
    return Canvas(np.ascontiguousarray(reference[::-1]), mask)


@pytest.fixture
def ask(canvas) -> Request:
    return Request("a creature at night", guidance_scale=3.0, steps=STEPS, seed=5, canvas=canvas)


def walk(engine, request: Request) -> torch.Tensor:
    """The latents behind the last step."""
    batch = admit(engine, [request], ["it"])
    while not batch.finished:
        batch = advance(engine, batch)
    return batch.latents


def through_diffusers(engine, pipeline: Any, request: Request, scheduler: Any, **more: Any) -> torch.Tensor:
    """The same request by one of diffusers' pipelines, which take the latents of the canvas as its image."""
    assert request.canvas is not None
    pipe = pipeline(**engine.pipe.components | {"scheduler": scheduler}, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    mean, _ = engine.encoders.encode_targets([request.canvas.image]).chunk(2, dim=1)
    return pipe(
        request.prompt,
        image=mean * engine.encoders.vae.config.scaling_factor,
        guidance_scale=request.guidance_scale,
        num_inference_steps=request.steps,
        generator=torch.Generator().manual_seed(request.seed),
        strength=request.canvas.strength,
        output_type="latent",
        return_dict=False,
        **more,
    )[0]


def schedulers(engine) -> dict[str, Any]:
    config = engine.pipe.scheduler.config
    dpm: Any = DPMSolverMultistepScheduler.from_config(config, final_sigmas_type="zero")
    return {"ddim": DDIMScheduler.from_config(config), "dpm++2m": dpm}


@torch.no_grad()
@pytest.mark.parametrize("solver", ["ddim", "dpm++2m"])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_painting_into_a_picture_equals_diffusers(engine, ask, solver: Any, strength):
    ask = replace(ask, solver=solver, canvas=replace(ask.canvas, strength=strength))
    mask = torch.from_numpy(ask.canvas.mask)[None, None]
    more = {"mask_image": mask, "masked_image_latents": torch.zeros(1, 4, 8, 8), "height": 64, "width": 64}
    theirs = through_diffusers(engine, StableDiffusionInpaintPipeline, ask, schedulers(engine)[solver], **more)
    torch.testing.assert_close(walk(engine, ask), theirs, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("solver", ["ddim", "dpm++2m"])
def test_a_canvas_painted_everywhere_is_image_to_image(engine, ask, solver: Any):
    everywhere = Canvas(ask.canvas.image, np.ones((8, 8), np.float32), strength=0.75)
    ask = replace(ask, solver=solver, canvas=everywhere, steps=8)
    theirs = through_diffusers(engine, StableDiffusionImg2ImgPipeline, ask, schedulers(engine)[solver])
    torch.testing.assert_close(walk(engine, ask), theirs, atol=1e-4, rtol=1e-4)
    assert ask.calls == 6


def test_what_is_kept_comes_back_to_the_bit_and_before_that_up_to_the_vae(engine, ask):
    (picture,) = sample(engine, [ask])
    np.testing.assert_array_equal(picture[:, :32], ask.canvas.image[:, :32])
    assert np.abs(picture[:, 40:].astype(int) - ask.canvas.image[:, 40:]).mean() > 5
    with torch.no_grad():
        (unpasted,) = decode(engine, walk(engine, ask))
        mean, _ = engine.encoders.encode_targets([ask.canvas.image]).chunk(2, dim=1)
        (through_vae,) = decode(engine, mean * engine.encoders.vae.config.scaling_factor)
    assert np.abs(unpasted[:, :16].astype(int) - through_vae[:, :16]).mean() < 8  # the VAE sees across the edge
    drawing = Drawing(engine)
    drawing.add({"it": ask})
    drawing.step()
    np.testing.assert_array_equal(drawing.preview({"it"})["it"][:, :32], ask.canvas.image[:, :32])


def test_canvases_share_their_calls_with_everything_else(engine, ask, reference):
    asked = [
        ask,
        replace(ask, reference=reference, preservation=0.9, solver="dpm++2m", seed=6),
        replace(ask, canvas=replace(ask.canvas, strength=0.5), solver="lcm", seed=7),
        Request("a happy creature", reference, 0.7, 0.3, guidance_scale=1.0, steps=3, seed=8),
        Request("a happy creature", reference, 0.7, 0.3, steps=3, solver="lcm", seed=9),
    ]
    together = sample(engine, asked)
    for request, picture in zip(asked, together, strict=True):
        (alone,) = sample(engine, [request])
        assert np.abs(picture.astype(int) - alone.astype(int)).max() <= 1


def test_a_soft_mask_mixes_and_another_size_is_fitted(reference):
    black = np.zeros((64, 64, 3), np.uint8)
    halfway = paste(np.full((64, 64, 3), 200, np.uint8), Canvas(black, np.full((8, 8), 0.25, np.float32)))
    assert (halfway == 50).all()
    half = np.repeat(np.array([[0, 1]], np.float32), 128, axis=0).repeat(64, axis=1)
    wide = Canvas(np.full((128, 128, 3), 7, np.uint8), half)
    pasted = paste(reference, wide)
    assert (pasted[:, :30] == 7).all()
    np.testing.assert_array_equal(pasted[:, 34:], reference[:, 34:])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"strength": 0.0}, "above 0 and at most 1"),
        ({"strength": float("nan")}, "above 0"),
        ({"mask": np.full((4, 4), 2.0, np.float32)}, r"values within 0\.\.1"),
        ({"strength": 0.2}, "0.2 of 4 steps is less than one"),
    ],
)
def test_a_canvas_out_of_bounds_is_refused(ask, fields, said):
    with pytest.raises(ValueError, match=said):
        replace(ask, canvas=replace(ask.canvas, **fields))
