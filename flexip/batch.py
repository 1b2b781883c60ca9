"""A batch of pictures of one size, each at a step of its own: requests join and leave between UNet calls."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flexip.adapters import SubjectTokens, join_tokens, merge_references
from flexip.attention import KEYWORD, SubjectConditioning, project_text, regroup
from flexip.canvas import Ground, prepare_ground
from flexip.diffusion import add_noise, guide, predict_original
from flexip.engine import Engine
from flexip.request import Request, gate_at
from flexip.saa import Faces, layout_guidance, regroup_faces
from flexip.solvers import Schedule, Solver, solver_schedule, solver_step

THRESHOLD = 0.3  # below it a face's w is 0 in sampling, as in DynamicID's published sampler


@dataclass(frozen=True)
class Rows:
    """The UNet rows of B requests: their conditional rows, then the unconditional rows of those with guidance."""

    request: Int[Tensor, " R"]  # index of the request each UNet row belongs to
    text: Float[Tensor, "R L D"]
    subject: SubjectConditioning  # its gate is replaced at every step
    entry: Int[Tensor, " S"]  # whose row each of its rows is, of the requests' subjects counted through
    faces: Faces | None = None  # of all rows that have people


@dataclass(frozen=True)
class Batch:
    """B requests on their way."""

    keys: tuple[Hashable, ...]  # what the caller knows them by
    requests: tuple[Request, ...]
    schedules: tuple[Schedule, ...]
    steps: tuple[int, ...]  # done, or left out by a walk that begins at a canvas
    noise: tuple[Float[Tensor, "_ C h w"], ...]  # z_T of each, and what its solver adds in later steps
    latents: Float[Tensor, "B C h w"]
    originals: Float[Tensor, "B C h w"]  # z_0 as predicted in the step before
    ground: Ground
    rows: Rows

    def __len__(self) -> int:
        return len(self.requests)

    @property
    def finished(self) -> list[int]:
        """Indices of the requests whose last step is done."""
        return [i for i, request in enumerate(self.requests) if self.steps[i] >= request.steps]


def admit(engine: Engine, requests: Sequence[Request], keys: Sequence[Hashable]) -> Batch:
    """The requests, of pictures of one size, before their first step.

    Encoders run, and everything is projected for every layer, once.
    """
    walks: list[tuple[Solver, int, int]] = [(r.solver, r.steps, r.steps - r.calls) for r in requests]
    skipped = [begin for _, _, begin in walks]
    schedules = {walk: solver_schedule(engine.pipe.scheduler.config, *walk) for walk in {*walks}}
    noise = [draw_noise(engine, r) for r in requests]
    size, shape = engine.picture_size(requests[0]), engine.latent_shape(requests[0])
    canvases = {id(r.canvas): r.canvas for r in requests}  # several pictures may be painted into one
    grounds = {key: prepare_ground(engine.encoders, canvas, size, shape) for key, canvas in canvases.items()}
    ground = _stacked([grounds[id(r.canvas)] for r in requests])
    latents = _begun(ground.kept, noise, [schedules[walk] for walk in walks], skipped)
    return Batch(
        tuple(keys),
        tuple(requests),
        tuple(schedules[walk] for walk in walks),
        tuple(skipped),
        tuple(noise),
        latents,
        torch.zeros_like(latents),
        ground,
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
        _each_at(batch.schedules, name, batch.steps).to(device) for name in ("timesteps", "alpha_bar", "coefficients")
    )
    following = _each_at(batch.schedules, "alpha_bar", [step + 1 for step in batch.steps]).to(device, dtype)
    gate = (
        gate_at(batch.requests, batch.steps, (latents.shape[2], latents.shape[3])).select(rows.entry).to(device, dtype)
    )
    owner = rows.request.to(device)
    prediction = engine.pipe.unet(
        latents[owner],
        timesteps[owner],
        encoder_hidden_states=rows.text,
        cross_attention_kwargs={KEYWORD: replace(rows.subject, gate=gate, companion=_guided_faces(batch))},
        return_dict=False,
    )[0].to(dtype)  # guidance and solver are exact, whatever the precision of the UNet
    kind = engine.pipe.scheduler.config["prediction_type"]
    originals = predict_original(latents, _guided(prediction, owner, batch.requests), alpha_bar.to(dtype), kind)
    first, new = _noises(batch)
    latents = solver_step(latents, originals, batch.originals, new, coefficients)
    return replace(
        batch,
        steps=tuple(step + 1 for step in batch.steps),
        latents=batch.ground.under(latents, first, following),
        originals=originals,
    )


def draw_noise(engine: Engine, request: Request) -> Float[Tensor, "S C h w"]:
    """z_T of a request and, for a solver that draws, the noise that each step but the last adds.

    It comes from the request's own seed, on the CPU so that it is the same on every device.
    """
    shape = engine.latent_shape(request)
    generator = torch.Generator().manual_seed(request.seed)
    draws = request.steps if request.solver == "lcm" else 1
    noise = [torch.randn(shape, generator=generator) for _ in range(draws)]
    return torch.stack(noise).to(engine.encoders.device, engine.encoders.dtype)


def prepare_rows(engine: Engine, requests: Sequence[Request]) -> Rows:
    """Encode prompts and references and project them for every layer."""
    encoders, model, size = engine.encoders, engine.model, engine.latent_shape(requests[0])[1:]
    text = encoders.encode_text([r.prompt for r in requests])
    tokens, absent = _subject_tokens(engine, requests, text)
    guided = [i for i, r in enumerate(requests) if r.unet_rows == 2]
    counts = [len(r.subjects) for r in requests]
    owners = [*range(len(requests)), *guided]
    entry = _members(counts, owners)
    if guided:
        text = torch.cat([text, encoders.encode_text([requests[i].negative_prompt for i in guided])])
        tokens = join_tokens(tokens, absent.select(_members(counts, guided).to(text.device)))
    gate = gate_at(requests, [0] * len(requests), size).select(entry)
    faces = _faces(engine, requests, guided, size)
    acting = _acting(counts, owners, text.device)
    subject = replace(model.conditioning(tokens, gate), rows=acting, companion=faces)
    project_text(engine.pipe.unet, text, subject)
    return Rows(torch.tensor(owners), text, subject, entry, faces)


def _faces(engine: Engine, requests: Sequence[Request], guided: Sequence[int], size: tuple[int, int]) -> Faces | None:
    """The people of each UNet row; in unconditional rows nobody stands where somebody is."""
    if not any(r.people for r in requests):
        return None
    if engine.casting is None:
        raise ValueError("people: this engine casts none; load a DynamicID with load_people, or ask for nobody")
    people = [*(r.people for r in requests), *(engine.casting.absent(requests[i].people) for i in guided)]
    return engine.casting.model.faces(people, size, threshold=THRESHOLD)


def _guided_faces(batch: Batch) -> Faces | None:
    """The faces with the layout guidance of each request's own step."""
    if batch.rows.faces is None:
        return None
    guidance = [layout_guidance(step, r.steps) for step, r in zip(batch.steps, batch.requests, strict=True)]
    return batch.rows.faces.at(torch.tensor(guidance)[batch.rows.request])


def _members(counts: Sequence[int], groups: Sequence[int]) -> Int[Tensor, " S"]:
    """Indices of the members of these groups; members lie one group after the other, `counts` in each."""
    ends = [*accumulate(counts)]
    return torch.tensor([n for g in groups for n in range(ends[g] - counts[g], ends[g])], dtype=torch.long)


def _acting(counts: Sequence[int], owners: Sequence[int], device: torch.device) -> Int[Tensor, " S"] | None:
    """The UNet row of each subject, `counts` for each request; None when every row has one."""
    rows = [row for row, owner in enumerate(owners) for _ in range(counts[owner])]
    return None if rows == [*range(len(owners))] else torch.tensor(rows, dtype=torch.long, device=device)


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


def _begun(
    kept: Tensor, noise: Sequence[Tensor], schedules: Sequence[Schedule], skipped: Sequence[int]
) -> Float[Tensor, "B C h w"]:
    """z_T, or the canvas with as much noise as the first step that is taken expects."""
    first = torch.stack([drawn[0] for drawn in noise])
    alpha_bar = _each_at(schedules, "alpha_bar", skipped).to(first.device, first.dtype)
    begins = torch.tensor(skipped, device=first.device)[:, None, None, None] > 0
    return torch.where(begins, add_noise(kept, first, alpha_bar), first)


def _each_at(schedules: Sequence[Schedule], name: str, steps: Sequence[int]) -> Tensor:
    """A column of each schedule at its own step."""
    return torch.stack([getattr(s, name)[step] for s, step in zip(schedules, steps, strict=True)])


def _noises(batch: Batch) -> tuple[Float[Tensor, "B C h w"], Float[Tensor, "B C h w"]]:
    """The noise that each request began with, and what it adds in this step (any, for a solver that adds none)."""
    counted = zip(batch.noise, batch.steps, strict=True)
    now = [noise[min(step + 1, len(noise) - 1)] for noise, step in counted]
    return torch.stack([noise[0] for noise in batch.noise]), torch.stack(now)


def _regrouped(batches: Sequence[Batch], chosen: Sequence[int]) -> Batch:
    """Chosen requests, counted through all batches."""
    starts = [sum(len(b) for b in batches[:n]) for n in range(len(batches))]
    owners = torch.cat([b.rows.request + start for b, start in zip(batches, starts, strict=True)]).tolist()
    first = torch.cat([torch.arange(len(b.rows.request)) < len(b) for b in batches])  # conditional rows
    position = {i: n for n, i in enumerate(chosen)}
    picked = sorted((not bool(first[row]), position[i], row) for row, i in enumerate(owners) if i in position)
    index, request = [row for _, _, row in picked], [owner for _, owner, _ in picked]
    device = batches[0].latents.device

    def each(name: str) -> tuple[Any, ...]:
        values = [value for b in batches for value in getattr(b, name)]
        return tuple(values[i] for i in chosen)

    requests: tuple[Request, ...] = tuple(r for b in batches for r in b.requests)
    members = _members([len(requests[owner].subjects) for owner in owners], index).to(device)
    parts = [(b.rows.subject, b.rows.text) for b in batches]
    subject, text = regroup(parts, torch.tensor(index, device=device), members)
    counts = [len(requests[i].subjects) for i in chosen]
    faces = regroup_faces([(b.rows.faces, len(b.rows.request)) for b in batches], index)
    subject = replace(subject, rows=_acting(counts, request, device), companion=faces)
    rows = Rows(torch.tensor(request), text, subject, _members(counts, request), faces)
    of_requests = torch.tensor(list(chosen), device=device)
    latents, originals = (torch.cat([getattr(b, n) for b in batches])[of_requests] for n in ("latents", "originals"))
    ground = _stacked([b.ground for b in batches]).select(of_requests)
    told = (each("keys"), each("requests"), each("schedules"), each("steps"), each("noise"))
    return Batch(*told, latents, originals, ground, rows)


def _stacked(grounds: Sequence[Ground]) -> Ground:
    return Ground(torch.cat([g.kept for g in grounds]), torch.cat([g.painted for g in grounds]))


def _subject_tokens(engine: Engine, requests: Sequence[Request], text: Tensor) -> tuple[SubjectTokens, SubjectTokens]:
    """Tokens of every subject, counted through, each distinct reference encoded once, and of its unconditional row."""
    encoders, model = engine.encoders, engine.model
    subjects = [(i, subject) for i, r in enumerate(requests) for subject in r.subjects]
    if not subjects:
        shapes = encoders.shapes
        families = ("clip", encoders.detail)
        cls, patches = (torch.zeros(1, *shapes[f], device=text.device, dtype=text.dtype) for f in families)
        nobody = model.subject_tokens(cls, patches, text[:1])
        none = nobody.select(torch.empty(0, dtype=torch.long, device=text.device))
        return none, none
    images = {id(image): image for _, subject in subjects for image in subject.references}
    order = {key: i for i, key in enumerate(images)}
    pairs = [(n, i, order[id(image)]) for n, (i, subject) in enumerate(subjects) for image in subject.references]
    encode = engine.references.encode if engine.references else encoders.encode_references
    cls, patches = encode(list(images.values()))
    _, rows, references = (torch.tensor(column, device=text.device) for column in zip(*pairs, strict=True))
    tokens = model.subject_tokens(cls[references], patches[references], text[rows])
    owners = [[row for row, (owner, _, _) in enumerate(pairs) if owner == n] for n in range(len(subjects))]
    tokens = merge_references(tokens, owners, [subject.merging for _, subject in subjects])
    return tokens, model.absent_tokens(tokens, cls, patches, text)
