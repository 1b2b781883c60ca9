"""The batched sampler: rows with their own timestep, guidance, gate, prompt, reference and seed share UNet calls."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flexip.adapters import SubjectTokens, join_tokens, merge_references
from flexip.attention import KEYWORD, SubjectConditioning, check_processors, cross_attention_layers
from flexip.calibration import Calibration
from flexip.diffusion import guide, predict_original
from flexip.encoders import Encoders
from flexip.images import Rgb
from flexip.model import FlexIP
from flexip.request import Request, check_blocks, gate_at
from flexip.solvers import Schedule, Solver, solver_schedule, solver_step


@dataclass(frozen=True)
class Engine:
    """A trained model with the base pipeline and the encoders it was trained on: all that inference needs."""

    model: FlexIP
    encoders: Encoders
    pipe: Any  # diffusers StableDiffusionPipeline, attached
    digest: str = ""  # SHA-256 of the adapters' file, hex; empty for a model that was never saved
    calibration: Calibration | None = None  # what its dial means, where that was measured


Schedules = dict[tuple[Solver, int], Schedule]  # by solver and number of steps


@dataclass(frozen=True)
class Rows:
    """The UNet rows of a set of requests: their conditional rows, then unconditional rows of those with guidance."""

    request: Int[Tensor, " R"]  # index of the request each UNet row belongs to
    conditional: int  # how many lead
    text: Float[Tensor, "R L D"]
    subject: SubjectConditioning


@torch.inference_mode()
def sample(
    engine: Engine,
    requests: Sequence[Request],
    on_step: Callable[[int, int], None] | None = None,
    max_rows: int = 64,
) -> list[Rgb]:
    """Draw every request; the picture of each is the same alone and in any company.

    Args:
        on_step: called with (UNet calls done, UNet calls in all) after each.
        max_rows: most UNet rows in one call (a request with guidance has two).

    Raises:
        ValueError: a request out of bounds. RuntimeError: the pipeline's attention processors were replaced.
    """
    check_processors(engine.pipe.unet)
    check_blocks(requests, [name for name, _ in cross_attention_layers(engine.pipe.unet)])
    chunk = max(1, max_rows // 2)
    chunks = [requests[i : i + chunk] for i in range(0, len(requests), chunk)]
    total, done = sum(max(r.steps for r in c) for c in chunks), 0
    images: list[Rgb] = []
    for part in chunks:
        latents = initial_noise(engine, part)
        rows = prepare_rows(engine, part)
        schedules, originals = schedules_of(engine, part), torch.zeros_like(latents)
        active = list(range(len(part)))
        for step in range(max(r.steps for r in part)):
            still = [i for i in active if step < part[i].steps]
            if still != active:
                rows, active = _keep(rows, part, active, still), still
            latents[active], originals[active] = denoise(
                engine, rows, [part[i] for i in active], schedules, latents[active], originals[active], step
            )
            done += 1
            if on_step:
                on_step(done, total)
        images += decode(engine, latents)
    return images


def schedules_of(engine: Engine, requests: Sequence[Request]) -> Schedules:
    """Every schedule that the requests need."""
    return {(r.solver, r.steps): solver_schedule(engine.pipe.scheduler.config, r.solver, r.steps) for r in requests}


def initial_noise(engine: Engine, requests: Sequence[Request]) -> Float[Tensor, "B C h w"]:
    """z_T of each request from its own seed, drawn on the CPU so that it is the same on every device."""
    shape = (engine.pipe.unet.config.in_channels, *_latent_size(engine))
    noise = [torch.randn(shape, generator=torch.Generator().manual_seed(r.seed)) for r in requests]
    return torch.stack(noise).to(engine.encoders.device, engine.encoders.dtype)


def prepare_rows(engine: Engine, requests: Sequence[Request]) -> Rows:
    """Encode prompts and references and project them for every layer, once for all steps."""
    encoders, model = engine.encoders, engine.model
    text = encoders.encode_text([r.prompt for r in requests])
    tokens, absent = _subject_tokens(engine, requests, text)
    guided = [i for i, r in enumerate(requests) if r.guidance_scale > 1]
    request = torch.tensor([*range(len(requests)), *guided])
    if guided:
        text = torch.cat([text, encoders.encode_text([requests[i].negative_prompt for i in guided])])
        tokens = join_tokens(tokens, absent.select(torch.tensor(guided, device=text.device)))
    gate = gate_at(requests, 0, _latent_size(engine)).select(request)
    return Rows(request, len(requests), text, model.conditioning(tokens, gate))


def denoise(
    engine: Engine,
    rows: Rows,
    requests: Sequence[Request],
    schedules: Schedules,
    latents: Float[Tensor, "B C h w"],
    before: Float[Tensor, "B C h w"],
    step: int,
) -> tuple[Float[Tensor, "B C h w"], Float[Tensor, "B C h w"]]:
    """One UNet call for all rows, guidance, and each row's own step of its own solver.

    Returns:
        The latents, and z_0 as it was predicted, which the next step takes as `before`.
    """
    device, dtype = latents.device, latents.dtype
    walks = [schedules[r.solver, r.steps] for r in requests]
    timesteps, alpha_bar, coefficients = (
        torch.stack([getattr(walk, name)[step] for walk in walks]).to(device)
        for name in ("timesteps", "alpha_bar", "coefficients")
    )
    owner = rows.request.to(device)
    gate = gate_at(requests, step, _latent_size(engine)).select(rows.request).to(device, dtype)
    prediction = engine.pipe.unet(
        latents[owner],
        timesteps[owner],
        encoder_hidden_states=rows.text,
        cross_attention_kwargs={KEYWORD: replace(rows.subject, gate=gate)},
        return_dict=False,
    )[0]
    conditional, unconditional = prediction[: rows.conditional], prediction[rows.conditional :]
    guided = owner[rows.conditional :]
    if len(guided):
        scale = torch.tensor([r.guidance_scale for r in requests], device=device, dtype=dtype)
        conditional = conditional.clone()
        conditional[guided] = guide(unconditional, conditional[guided], scale[guided])
    kind = engine.pipe.scheduler.config["prediction_type"]
    original = predict_original(latents, conditional, alpha_bar.to(dtype), kind)
    return solver_step(latents, original, before, coefficients), original


def decode(engine: Engine, latents: Float[Tensor, "B C h w"]) -> list[Rgb]:
    """VAE decode to uint8 RGB, a few rows at a time."""
    vae = engine.encoders.vae
    images: list[Rgb] = []
    for part in (latents / vae.config.scaling_factor).split(8):
        pixels = vae.decode(part, return_dict=False)[0].float().clamp(-1, 1)
        images += list(((pixels + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())
    return images


def _subject_tokens(engine: Engine, requests: Sequence[Request], text: Tensor) -> tuple[SubjectTokens, SubjectTokens]:
    """Tokens of every request, each distinct reference encoded once, and those of its unconditional row.

    A request without a reference has zero tokens in both.
    """
    encoders, model = engine.encoders, engine.model
    images = {id(image): image for r in requests for image in r.references}
    order = {key: i for i, key in enumerate(images)}
    pairs = [(i, order[id(image)]) for i, r in enumerate(requests) for image in r.references]
    if not pairs:
        shapes = encoders.shapes
        families = ("clip", encoders.detail)
        cls, patches = (torch.zeros(1, *shapes[f], device=text.device, dtype=text.dtype) for f in families)
        none = model.subject_tokens(cls, patches, text[:1]).zeros()
        none = none.select(torch.zeros(len(requests), dtype=torch.long, device=text.device))
        return none, none
    cls, patches = encoders.encode_references(list(images.values()))
    rows, references = (torch.tensor(column, device=text.device) for column in zip(*pairs, strict=True))
    tokens = model.subject_tokens(cls[references], patches[references], text[rows])
    owners = [[n for n, (row, _) in enumerate(pairs) if row == i] for i in range(len(requests))]
    tokens = merge_references(tokens, owners, [r.merging for r in requests])
    referring = torch.tensor([bool(own) for own in owners], device=text.device)
    return tokens, model.absent_tokens(tokens, cls, patches, text).where(referring, tokens.zeros())


def _latent_size(engine: Engine) -> tuple[int, int]:
    side = int(engine.pipe.unet.config.sample_size)
    return side, side


def _keep(rows: Rows, requests: Sequence[Request], active: list[int], still: list[int]) -> Rows:
    """The rows of the requests that go on; requests are renumbered in their order."""
    position = {active.index(i): n for n, i in enumerate(still)}
    chosen = [r for r, owner in enumerate(rows.request.tolist()) if owner in position]
    request = torch.tensor([position[int(rows.request[r])] for r in chosen])
    index = torch.tensor(chosen)
    return Rows(request, len(still), rows.text[index.to(rows.text.device)], rows.subject.select(index))
