"""A batch whose requests are each at a step of their own: they join and leave between UNet calls."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flexip.adapters import SubjectTokens, join_tokens, merge_references
from flexip.attention import KEYWORD, SubjectConditioning, project_text, regroup
from flexip.diffusion import guide, predict_original
from flexip.engine import Engine
from flexip.request import Request, gate_at
from flexip.solvers import Schedule, Solver, solver_schedule, solver_step


@dataclass(frozen=True)
class Rows:
    """The UNet rows of B requests: their conditional rows, then the unconditional rows of those with guidance."""

    request: Int[Tensor, " R"]  # index of the request each UNet row belongs to
    text: Float[Tensor, "R L D"]
    subject: SubjectConditioning  # its gate is replaced at every step


@dataclass(frozen=True)
class Batch:
    """B requests on their way."""

    keys: tuple[Hashable, ...]  # what the caller knows them by
    requests: tuple[Request, ...]
    schedules: tuple[Schedule, ...]
    steps: tuple[int, ...]  # done
    latents: Float[Tensor, "B C h w"]
    originals: Float[Tensor, "B C h w"]  # z_0 as predicted in the step before
    rows: Rows

    def __len__(self) -> int:
        return len(self.requests)

    @property
    def finished(self) -> list[int]:
        """Indices of the requests whose last step is done."""
        return [i for i, request in enumerate(self.requests) if self.steps[i] >= request.steps]


def admit(engine: Engine, requests: Sequence[Request], keys: Sequence[Hashable]) -> Batch:
    """The requests before their first step: encoders run, and everything is projected for every layer, once."""
    walks: set[tuple[Solver, int]] = {(r.solver, r.steps) for r in requests}
    schedules = {(s, steps): solver_schedule(engine.pipe.scheduler.config, s, steps) for s, steps in walks}
    latents = initial_noise(engine, requests)
    return Batch(
        tuple(keys),
        tuple(requests),
        tuple(schedules[r.solver, r.steps] for r in requests),
        (0,) * len(requests),
        latents,
        torch.zeros_like(latents),
        prepare_rows(engine, requests),
    )


def join(first: Batch, second: Batch) -> Batch:
    """The requests of both, in this order."""
    return _regrouped([first, second], range(len(first) + len(second)))


def keep(batch: Batch, chosen: Sequence[int]) -> Batch:
    """The chosen requests (at least one), in this order; the others leave."""
    return _regrouped([batch], chosen)


def advance(engine: Engine, batch: Batch) -> Batch:
    """One UNet call for all rows, guidance, and each request's own step of its own solver."""
    latents, rows = batch.latents, batch.rows
    device, dtype = latents.device, latents.dtype
    timesteps, alpha_bar, coefficients = (
        torch.stack([getattr(s, name)[step] for s, step in zip(batch.schedules, batch.steps, strict=True)]).to(device)
        for name in ("timesteps", "alpha_bar", "coefficients")
    )
    gate = gate_at(batch.requests, batch.steps, engine.latent_size).select(rows.request).to(device, dtype)
    owner = rows.request.to(device)
    prediction = engine.pipe.unet(
        latents[owner],
        timesteps[owner],
        encoder_hidden_states=rows.text,
        cross_attention_kwargs={KEYWORD: replace(rows.subject, gate=gate)},
        return_dict=False,
    )[0]
    kind = engine.pipe.scheduler.config["prediction_type"]
    originals = predict_original(latents, _guided(prediction, owner, batch.requests), alpha_bar.to(dtype), kind)
    return replace(
        batch,
        steps=tuple(step + 1 for step in batch.steps),
        latents=solver_step(latents, originals, batch.originals, coefficients),
        originals=originals,
    )


def initial_noise(engine: Engine, requests: Sequence[Request]) -> Float[Tensor, "B C h w"]:
    """z_T of each request from its own seed, drawn on the CPU so that it is the same on every device."""
    shape = (engine.pipe.unet.config.in_channels, *engine.latent_size)
    noise = [torch.randn(shape, generator=torch.Generator().manual_seed(r.seed)) for r in requests]
    return torch.stack(noise).to(engine.encoders.device, engine.encoders.dtype)


def prepare_rows(engine: Engine, requests: Sequence[Request]) -> Rows:
    """Encode prompts and references and project them for every layer."""
    encoders, model = engine.encoders, engine.model
    text = encoders.encode_text([r.prompt for r in requests])
    tokens, absent = _subject_tokens(engine, requests, text)
    guided = [i for i, r in enumerate(requests) if r.unet_rows == 2]
    request = torch.tensor([*range(len(requests)), *guided])
    if guided:
        text = torch.cat([text, encoders.encode_text([requests[i].negative_prompt for i in guided])])
        tokens = join_tokens(tokens, absent.select(torch.tensor(guided, device=text.device)))
    gate = gate_at(requests, [0] * len(requests), engine.latent_size).select(request)
    subject = model.conditioning(tokens, gate)
    project_text(engine.pipe.unet, text, subject)
    return Rows(request, text, subject)


def _guided(prediction: Tensor, owner: Tensor, requests: Sequence[Request]) -> Tensor:
    """One prediction a request; those with guidance have two rows."""
    count = len(requests)
    conditional, unconditional, guided = prediction[:count], prediction[count:], owner[count:]
    if not len(guided):
        return conditional
    scale = torch.tensor([r.guidance_scale for r in requests], device=prediction.device, dtype=prediction.dtype)
    conditional = conditional.clone()
    conditional[guided] = guide(unconditional, conditional[guided], scale[guided])
    return conditional


def _regrouped(batches: Sequence[Batch], chosen: Sequence[int]) -> Batch:
    """Chosen requests, counted through all batches."""
    starts = [sum(len(b) for b in batches[:n]) for n in range(len(batches))]
    owners = torch.cat([b.rows.request + start for b, start in zip(batches, starts, strict=True)])
    first = torch.cat([torch.arange(len(b.rows.request)) < len(b) for b in batches])  # conditional rows
    position = {i: n for n, i in enumerate(chosen)}
    picked = [
        (not bool(first[row]), position[owner], row) for row, owner in enumerate(owners.tolist()) if owner in position
    ]
    index = torch.tensor([row for _, _, row in sorted(picked)])
    request = torch.tensor([owner for _, owner, _ in sorted(picked)])
    device = batches[0].latents.device
    subject, text = regroup([(b.rows.subject, b.rows.text) for b in batches], index.to(device))
    of_requests = torch.tensor(list(chosen), device=device)

    def each(name: str) -> tuple[Any, ...]:
        values = [value for b in batches for value in getattr(b, name)]
        return tuple(values[i] for i in chosen)

    latents, originals = (torch.cat([getattr(b, n) for b in batches])[of_requests] for n in ("latents", "originals"))
    rows = Rows(request, text, subject)
    return Batch(each("keys"), each("requests"), each("schedules"), each("steps"), latents, originals, rows)


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
    encode = engine.references.encode if engine.references else encoders.encode_references
    cls, patches = encode(list(images.values()))
    rows, references = (torch.tensor(column, device=text.device) for column in zip(*pairs, strict=True))
    tokens = model.subject_tokens(cls[references], patches[references], text[rows])
    owners = [[n for n, (row, _) in enumerate(pairs) if row == i] for i in range(len(requests))]
    tokens = merge_references(tokens, owners, [r.merging for r in requests])
    referring = torch.tensor([bool(own) for own in owners], device=text.device)
    return tokens, model.absent_tokens(tokens, cls, patches, text).where(referring, tokens.zeros())
