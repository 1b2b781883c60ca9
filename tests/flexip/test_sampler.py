"""The batched sampler on the pocket models: equal to diffusers, independent of company, one call for mixed requests."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, LCMScheduler, StableDiffusionImg2ImgPipeline
from PIL import Image

from flexip.attention import cross_attention_layers
from flexip.batch import admit, advance, draw_noise
from flexip.canvas import Canvas
from flexip.checkpoint import load_checkpoint
from flexip.diffusion import predict_original
from flexip.gate import Gate
from flexip.request import Request
from flexip.sampler import Drawing, decode, sample
from flexip.solvers import Solver, solver_schedule, solver_step


@pytest.fixture(scope="module")
def engine(untrained_checkpoint) -> Any:
    return load_checkpoint(untrained_checkpoint)


def diffusers_scheduler(solver: Solver, config: dict[str, Any]) -> Any:
    if solver != "dpm++2m":
        return {"ddim": DDIMScheduler, "lcm": LCMScheduler}[solver].from_config(config)
    return DPMSolverMultistepScheduler.from_config(config, final_sigmas_type="zero")


def their_step(scheduler: Any, prediction: torch.Tensor, t: int, noisy: torch.Tensor):
    """What diffusers makes of it, and the noise that it draws if it is LCM."""
    if "LCM" not in type(scheduler).__name__:
        return scheduler.step(prediction, t, noisy).prev_sample, torch.zeros_like(noisy)
    noise = torch.randn(noisy.shape, generator=torch.Generator().manual_seed(t))
    drawn = scheduler.step(prediction, t, noisy, generator=torch.Generator().manual_seed(t))
    return drawn.prev_sample, noise


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("solver", ["ddim", "dpm++2m", "lcm"])
def test_every_number_of_steps_equals_diffusers(engine, solver, kind):
    config = dict(engine.pipe.scheduler.config) | {"prediction_type": kind}
    for steps in range(1, 51):
        scheduler = diffusers_scheduler(solver, config)
        scheduler.set_timesteps(steps)
        schedule = solver_schedule(config, solver, steps)
        assert schedule.timesteps.tolist() == scheduler.timesteps.tolist()
        g = torch.Generator().manual_seed(steps)
        theirs = ours = torch.randn(2, 4, 4, 4, generator=g)
        before = torch.zeros_like(ours)
        for i, t in enumerate(scheduler.timesteps):
            prediction = torch.randn(2, 4, 4, 4, generator=g)
            theirs, noise = their_step(scheduler, prediction, int(t), theirs)
            original = predict_original(ours, prediction, schedule.alpha_bar[i].expand(2), kind)
            ours = solver_step(ours, original, before, noise, schedule.coefficients[i].expand(2, 4))
            before = original
        torch.testing.assert_close(ours, theirs, atol=1e-5 * float(theirs.abs().max()), rtol=0)


def requests(reference) -> list[Request]:
    return [
        Request("a happy creature on a beach", reference, 0.7, 0.3, guidance_scale=3.0, steps=6, seed=1),
        Request("a sad creature", reference[:, ::-1].copy(), 0.2, 0.8, guidance_scale=1.0, steps=3, seed=2),
        Request("a creature at night", None, guidance_scale=5.0, steps=4, seed=3, negative_prompt="snow"),
        Request("a creature", reference, 0.0, 0.0, guidance_scale=5.0, steps=6, solver="dpm++2m", seed=4),
    ]


def test_a_picture_is_the_same_alone_and_in_any_company(engine, reference):
    together = sample(engine, requests(reference))
    for request, image in zip(requests(reference), together, strict=True):
        (alone,) = sample(engine, [request])
        assert np.abs(alone.astype(int) - image.astype(int)).max() <= 1


def test_mixed_requests_share_their_unet_calls(engine, reference, monkeypatch):
    rows = []
    forward = engine.pipe.unet.forward

    def counted(noisy, *args, **kwargs):
        rows.append(len(noisy))
        return forward(noisy, *args, **kwargs)

    monkeypatch.setattr(engine.pipe.unet, "forward", counted)
    sample(engine, requests(reference))
    assert rows == [7, 7, 7, 6, 4, 4]  # rows with guidance count twice; requests leave after their own steps


def test_requests_join_between_steps_and_nothing_is_projected_twice(engine, reference, monkeypatch):
    """One after two steps, one with more tokens after four; each picture is the one drawn alone."""
    asked = [*requests(reference)[:3], dataclasses.replace(requests(reference)[0], reference=(reference, reference))]
    asked[3] = dataclasses.replace(asked[3], merging="concatenate", preservation=1.0)
    alone = [sample(engine, [ask])[0] for ask in asked]
    counted = _count_rows(engine, monkeypatch)
    drawing, coming, drawn = Drawing(engine), dict(zip("abcd", asked, strict=True)), {}
    for begins in ("ab", "", "c", "", "d", *[""] * 6):
        drawing.add({key: coming[key] for key in begins})
        drawn |= drawing.step()
    assert list(drawn) == ["b", "a", "c", "d"]
    assert len(drawing) == 0
    for key, picture in zip("abcd", alone, strict=True):
        assert np.abs(drawn[key].astype(int) - picture.astype(int)).max() <= 1
    assert counted == {"text": 7, "subject": 5}  # UNet rows: three with guidance, one without; c has no subject


def test_pictures_of_one_size_share_a_unet_call_whatever_other_sizes_are_drawn(engine, reference, monkeypatch):
    first, other, *_ = requests(reference)
    left = np.concatenate([np.ones((64, 32)), np.zeros((64, 64))], axis=1)
    wide = dataclasses.replace(first, size=(64, 96), mask=left, seed=5)
    asked = {
        "a": first,
        "b": wide,
        "c": dataclasses.replace(other, size=(64, 64)),
        "d": dataclasses.replace(wide, seed=6),
    }
    alone = {key: sample(engine, [ask])[0] for key, ask in asked.items()}
    shapes = []
    forward = engine.pipe.unet.forward

    def counted(noisy, *args, **kwargs):
        shapes.append((len(noisy), *noisy.shape[-2:]))
        return forward(noisy, *args, **kwargs)

    monkeypatch.setattr(engine.pipe.unet, "forward", counted)
    drawing, drawn = Drawing(engine), {}
    drawing.add(asked)
    assert (len(drawing), drawing.unet_calls, drawing.unet_rows) == (4, 2, 7)
    drawing.step()
    drawing.remove({"d"})
    assert {*drawing.preview({"b", "c"})} == {"b", "c"}
    while len(drawing):
        drawn |= drawing.step()
    assert shapes == [(3, 16, 16), (4, 16, 24)] + [(3, 16, 16), (2, 16, 24)] * 2 + [(2, 16, 16), (2, 16, 24)] * 3
    assert {key: picture.shape for key, picture in drawn.items()} == {
        "a": (64, 64, 3),
        "b": (64, 96, 3),
        "c": (64, 64, 3),
    }
    for key, picture in drawn.items():
        assert np.abs(picture.astype(int) - alone[key].astype(int)).max() <= 1
    everywhere, nowhere = sample(
        engine, [dataclasses.replace(wide, mask=mask) for mask in (np.ones_like(left), 0 * left)]
    )
    assert len({picture.tobytes() for picture in (alone["b"], everywhere, nowhere)}) == 3


def test_a_canvas_may_have_another_shape_than_the_models(engine, reference):
    painted = np.zeros((48, 96), np.float32)
    painted[:, 48:] = 1
    picture = np.random.default_rng(0).integers(0, 255, (48, 96, 3), np.uint8)
    ask = dataclasses.replace(requests(reference)[0], size=(48, 96), canvas=Canvas(picture, painted))
    (drawn,) = sample(engine, [ask])
    np.testing.assert_array_equal(drawn[:, :40], picture[:, :40])
    assert np.abs(drawn[:, 56:].astype(int) - picture[:, 56:]).mean() > 5


@pytest.mark.parametrize(
    ("size", "said"), [((64, 70), "64 x 70 must be multiples of 16; 64 x 64 would be"), ((0, 64), "0 x 64; height")]
)
def test_a_size_that_cannot_be_drawn_is_refused(engine, size, said):
    with pytest.raises(ValueError, match=f"^size: {said}"):
        sample(engine, [Request("a creature", size=size)])


def _count_rows(engine, monkeypatch) -> dict[str, int]:
    """How many rows the first layer's key projections of text and subject see from now on."""
    name, layer = next(cross_attention_layers(engine.pipe.unet))
    counted = {"text": 0, "subject": 0}
    of_subject: Any = engine.model.attention[name.replace(".", "/")]
    modules: dict[str, Any] = {"text": layer.to_k, "subject": of_subject["to_k"]}
    for kind, module in modules.items():

        def forward(states, kind=kind, inner=module.forward):
            of_prompt = kind == "subject" and states.shape[1] == 77  # S, which has a token for each of the prompt's
            counted[kind] += 0 if of_prompt else len(states)
            return inner(states)

        monkeypatch.setattr(module, "forward", forward)
    return counted


def test_a_request_given_up_leaves_the_others_alone(engine, reference):
    asked = dict(zip("abcd", requests(reference), strict=True))
    drawing, drawn = Drawing(engine), {}
    drawing.add(asked)
    drawing.step()
    drawing.remove({"a", "nobody"})
    assert (len(drawing), drawing.unet_rows) == (3, 5)
    while len(drawing):
        drawn |= drawing.step()
    assert list(drawn) == ["b", "c", "d"]
    for key, picture in drawn.items():
        (alone,) = sample(engine, [asked[key]])
        assert np.abs(picture.astype(int) - alone.astype(int)).max() <= 1


def test_previews_come_near_to_the_picture_and_do_not_change_it(engine, reference):
    asked = dict(zip("abcd", requests(reference), strict=True))
    drawing, seen = Drawing(engine), []
    drawing.add(asked)
    while len(drawing):
        finished = drawing.step()
        seen.append(drawing.preview({"a", "b", "nobody"}))
        if "a" in finished:
            break
    assert [sorted(previews) for previews in seen] == [["a", "b"], ["a", "b"], ["a"], ["a"], ["a"], []]
    (alone,) = sample(engine, [asked["a"]])
    assert np.abs(finished["a"].astype(int) - alone.astype(int)).max() <= 1
    far = [np.abs(previews["a"].astype(int) - alone).mean() for previews in seen[:-1]]
    assert far[-1] < 0.5 * far[0]


def test_the_seed_decides_the_picture(engine, reference):
    base = requests(reference)[0]
    pair = [base, dataclasses.replace(base, seed=99)]
    (first, other), (again, _) = sample(engine, pair), sample(engine, pair)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first.astype(int) - other.astype(int)).mean() > 2


def test_zero_weights_and_no_reference_are_the_base_model(engine, reference):
    ask = requests(reference)[3]
    gated, plain = sample(engine, [ask, dataclasses.replace(ask, reference=None, preservation=1.0)])
    np.testing.assert_array_equal(gated, plain)


@torch.no_grad()
@pytest.mark.parametrize(("gammas", "size"), [((0.7,), (64, 64)), ((0.9, 0.4, 0.0), (64, 96))])
def test_the_attached_pipeline_draws_the_samplers_picture(engine, reference, gammas, size):
    """`pipe(**condition(...))`, the diffusers way, against the batched sampler; a schedule of gates too, and wide."""
    weights = {"preservation": gammas, "personalization": tuple(1 - gamma for gamma in gammas)}
    ask = dataclasses.replace(requests(reference)[0], **weights, size=size)
    gates = [Gate.dial([gamma]) for gamma in gammas]
    subjects = engine.encoders.encode_references([reference])
    config: Any = engine.pipe.scheduler.config
    engine.pipe.scheduler = DDIMScheduler.from_config(config)
    arguments = engine.model.condition(engine.pipe, [ask.prompt], subjects, gates, ask.guidance_scale, n=1)
    noise = draw_noise(engine, ask)[:1]
    latents = engine.pipe(
        **arguments,
        latents=noise,
        height=size[0],
        width=size[1],
        guidance_scale=ask.guidance_scale,
        num_inference_steps=ask.steps,
        output_type="latent",
        return_dict=False,
    )[0]
    batch = admit(engine, [ask], ["it"])
    for _ in range(6):
        batch = advance(engine, batch)
    ours = batch.latents
    torch.testing.assert_close(ours, latents, atol=1e-4, rtol=1e-4)
    assert np.abs(decode(engine, ours)[0].astype(int) - sample(engine, [ask])[0].astype(int)).max() <= 1


@torch.no_grad()
def test_condition_gives_two_rows_a_picture_with_guidance_and_refuses_other_rows(engine, reference):
    subjects = engine.encoders.encode_references([reference, reference])
    arguments = engine.model.condition(engine.pipe, ["a", "b"], subjects, Gate.dial([0.7, 0.3]), 4.0, n=3)
    subject = arguments["cross_attention_kwargs"]["subject"]
    assert arguments["prompt_embeds"].shape[0] == arguments["negative_prompt_embeds"].shape[0] == 6
    assert subject.gate.preservation.tolist() == pytest.approx([0.7] * 3 + [0.3] * 3 + [0.7] * 3 + [0.3] * 3)
    assert not any(kv.keys[:6].any() for kv in subject.preservation.values())
    with pytest.raises(ValueError, match="conditioning has 12 rows, the UNet's batch 6"):
        engine.pipe(**arguments, guidance_scale=1.0, num_inference_steps=1)
    with pytest.raises(ValueError, match="2 prompts, 2 subjects, 1 gate rows"):
        engine.model.condition(engine.pipe, ["a", "b"], subjects, Gate.dial([0.7]), 4.0)


@torch.no_grad()
def test_attach_conditions_image_to_image_too(engine, reference):
    pipe: Any = StableDiffusionImg2ImgPipeline(**engine.pipe.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    engine.model.attach(pipe)
    subjects = engine.encoders.encode_references([reference])
    start = Image.fromarray(np.full((64, 64, 3), 128, np.uint8))

    def draw(gamma: float) -> np.ndarray:
        arguments = engine.model.condition(pipe, ["a creature"], subjects, Gate.dial([gamma]), 3.0)
        generator = torch.Generator().manual_seed(0)
        options = {"strength": 0.9, "num_inference_steps": 4, "guidance_scale": 3.0, "generator": generator}
        return pipe(**arguments, image=start, output_type="np", **options).images[0]

    kept, obeyed = draw(1.0), draw(0.0)
    assert kept.shape == (64, 64, 3)
    assert np.abs(kept - obeyed).max() > 0.01


@torch.no_grad()
def test_attach_refuses_another_unet(engine, tiny_unet):
    with pytest.raises(ValueError, match=r"pipe\.unet: cross-attention layers differ"):
        engine.model.attach(SimpleNamespace(unet=tiny_unet))


def test_progress_counts_the_requests_of_every_unet_call(engine, reference):
    seen = []
    sample(engine, requests(reference)[:2], on_steps=seen.append)
    assert seen == [2, 2, 2, 1, 1, 1]


@pytest.mark.parametrize(("field", "value"), [("steps", 0), ("guidance_scale", float("nan"))])
def test_requests_out_of_bounds_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        Request("a creature", **{field: value})
