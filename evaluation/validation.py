"""How good a checkpoint is, in minutes: the loss on held-out rows with fixed draws, and a small gate sweep."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8

from evaluation.sheet import SheetRow, draw_sheet
from evaluation.statistics import hypervolume
from evaluation.sweep import SweepPlan, draw_sweep, measure_sweep
from flexip.model import FlexIP
from flexip.sampler import Engine
from flexip.training import Batch, batch_loss


@dataclass(frozen=True)
class SweepFindings:
    """A small sweep in a few numbers, and as one picture."""

    identity: float  # at the strongest gamma: mean DINO cosine with the reference
    text: float  # at the weakest gamma: mean CLIP cosine with the prompt
    area: float  # that the settings dominate above chance; see `measure_sweep`
    sheet: UInt8[np.ndarray, "H W 3"]


@torch.no_grad()
def held_out_loss(model: FlexIP, batches: Iterable[Batch]) -> float:
    """Mean loss over all rows of the batches, whose timesteps, noise and gates were drawn with them.

    Raises:
        ValueError: no batch.
    """
    losses = [batch_loss(model, batch) for batch in batches]
    if not losses:
        raise ValueError("batches: none given; a loss needs at least one row")
    return float(torch.cat(losses).mean())


def sweep_findings(engine: Engine, plan: SweepPlan, batch_size: int = 22) -> SweepFindings:
    """Draw and measure a plan; the first seed goes onto the sheet."""
    images = draw_sweep(engine, plan, batch_size=batch_size)
    sweep = measure_sweep(engine.encoders, plan, images)
    rows = [
        SheetRow(subject.name, prompt, reference, list(images[s, p, 0]))
        for s, (subject, reference) in enumerate(zip(plan.subjects, plan.references, strict=True))
        for p, prompt in enumerate(plan.prompts)
    ]
    (identity, _), (_, text) = sweep.points[-1], sweep.points[0]
    area = hypervolume(sweep.points, sweep.corner)
    return SweepFindings(float(identity), float(text), area, draw_sheet(rows, plan.gammas))
