"""What is asked for one picture, and the gate that a batch of requests has at one step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import get_args

import numpy as np
import torch
from jaxtyping import Float
from torch.nn.functional import adaptive_avg_pool2d

from flexip.adapters import Merging
from flexip.canvas import Canvas, check_mask
from flexip.gate import Gate, Weights, at_step
from flexip.images import Rgb
from flexip.people import Person, check_count
from flexip.solvers import MOST_LCM_STEPS, Solver


@dataclass(frozen=True)
class Subject:
    """Somebody or something that is brought into a picture, and how much of it.

    Raises:
        ValueError: a block's weight or a mask out of bounds.
    """

    reference: Rgb | tuple[Rgb, ...]  # several show one subject
    preservation: Weights = 0.5  # see `Gate`; a list is spread over the steps
    personalization: Weights = 0.5
    merging: Merging = "average"  # of several references
    blocks: Mapping[str, float] = field(default_factory=dict)  # name of a UNet block, e.g. "up_blocks" -> weight
    mask: Float[np.ndarray, "H W"] | None = None  # 0..1: where it may act; of the picture's aspect

    def __post_init__(self):
        if not all(np.isfinite(weight) for weight in self.blocks.values()):
            raise ValueError(f"blocks: {dict(self.blocks)} must be finite numbers")
        check_mask(self.mask)

    @property
    def references(self) -> tuple[Rgb, ...]:
        """One or several."""
        return self.reference if isinstance(self.reference, tuple) else (self.reference,)


@dataclass(frozen=True)
class Request:
    """One picture asked for, of one subject, of several, or of none: then the base model answers.

    A subject with a mask acts there. Those without one act everywhere, each with its share of their weights: two with
    half of their own. Somebody may be a subject and one of the people: then both parts add up.

    Raises:
        ValueError: a number of steps, a solver, a size, a guidance, a schedule, a block's weight or a mask out of
            bounds; too many people.
    """

    prompt: str
    reference: Rgb | tuple[Rgb, ...] | None = None  # of the first subject, as what follows; see `Subject`
    preservation: Weights = 0.5
    personalization: Weights = 0.5
    negative_prompt: str = ""
    guidance_scale: float = 5.0
    steps: int = 25
    solver: Solver = "ddim"  # "dpm++2m" needs about half the steps; "lcm" is for a UNet with a few-step LoRA
    seed: int = 0
    merging: Merging = "average"
    blocks: Mapping[str, float] = field(default_factory=dict)
    mask: Float[np.ndarray, "H W"] | None = None
    others: tuple[Subject, ...] = ()  # further subjects in the same picture
    size: tuple[int, int] | None = None  # height and width of the picture [px]; none: the model's own
    canvas: Canvas | None = None  # what is painted into, at that size
    people: tuple[Person, ...] = ()  # whose faces are in it, beside the subjects; the engine's `casting` makes them

    def __post_init__(self):
        if not 1 <= self.steps <= 1000:
            raise ValueError(f"steps: {self.steps} must be within 1..1000")
        if self.solver not in get_args(Solver):
            raise ValueError(f"solver: {self.solver!r} must be one of {', '.join(get_args(Solver))}")
        if self.solver == "lcm" and self.steps > MOST_LCM_STEPS:
            raise ValueError(f"steps: {self.steps} must be within 1..{MOST_LCM_STEPS} for the solver lcm")
        if self.size and min(self.size) < 1:
            raise ValueError(f"size: {self.size[0]} x {self.size[1]}; height and width must be positive")
        if not np.isfinite(self.guidance_scale):
            raise ValueError(f"guidance_scale: {self.guidance_scale} must be a finite number; 1 means no guidance")
        check_count(len(self.people))
        for subject in (self, *self.subjects):
            for weights in (subject.preservation, subject.personalization):
                at_step(weights, 0, self.steps)
        if self.calls < 1:
            strength = self.canvas.strength if self.canvas else 1
            raise ValueError(f"strength: {strength:g} of {self.steps} steps is less than one; ask for more of either")

    @cached_property
    def subjects(self) -> tuple[Subject, ...]:
        """All of them."""
        if self.reference is None:
            return self.others
        gate = self.preservation, self.personalization
        return Subject(self.reference, *gate, self.merging, self.blocks, self.mask), *self.others

    @property
    def calls(self) -> int:
        """UNet calls until the picture is there: a walk that begins at a canvas leaves out its first steps."""
        return int(self.steps * self.canvas.strength) if self.canvas else self.steps

    @property
    def unet_rows(self) -> int:
        """Rows of a UNet call: one, or two with guidance."""
        return 2 if self.guidance_scale > 1 else 1


def gate_at(requests: Sequence[Request], steps: Sequence[int], size: tuple[int, int]) -> Gate:
    """The gate of every request's subjects, counted through, at its own step.

    Masks come at `size`, height and width of the latents.
    """
    acting = [(subject, r, step) for r, step in zip(requests, steps, strict=True) for subject in r.subjects]
    preservation, personalization = (
        [at_step(getattr(subject, name), step, r.steps) * _share(subject, r) for subject, r, step in acting]
        for name in ("preservation", "personalization")
    )
    gate = Gate.weights(preservation, personalization)
    subjects = [subject for subject, _, _ in acting]
    names = sorted({name for subject in subjects for name in subject.blocks})
    blocks = {name: torch.tensor([_block_weight(subject.blocks, name) for subject in subjects]) for name in names}
    masked = any(subject.mask is not None for subject in subjects)
    mask = torch.stack([_at_size(subject.mask, size) for subject in subjects]) if masked else None
    return Gate(gate.preservation, gate.personalization, blocks, mask)


def _share(subject: Subject, request: Request) -> float:
    """Of its weights: subjects that may act everywhere share the picture."""
    return 1.0 if subject.mask is not None else 1 / sum(other.mask is None for other in request.subjects)


def check_blocks(requests: Sequence[Request], layers: Sequence[str]) -> None:
    """Raises ValueError for a block that is the beginning of no layer's name: it would be ignored without a word."""
    for name in {name for r in requests for subject in r.subjects for name in subject.blocks}:
        if not any(layer.startswith(name) for layer in layers):
            known = sorted({".".join(layer.split(".")[:2]) for layer in layers})
            raise ValueError(f"blocks: {name!r} is no block of this UNet; known are {', '.join(known)}")


def _block_weight(blocks: Mapping[str, float], name: str) -> float:
    """A subject's weight for a block that perhaps only its neighbours name: that of its own longest beginning."""
    own = [key for key in blocks if name.startswith(key)]
    return float(blocks[max(own, key=len)]) if own else 1.0


def _at_size(mask: np.ndarray | None, size: tuple[int, int]) -> Float[torch.Tensor, "h w"]:
    if mask is None:
        return torch.ones(size)
    return adaptive_avg_pool2d(torch.as_tensor(mask, dtype=torch.float32)[None], size)[0]
