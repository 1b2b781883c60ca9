"""How good a checkpoint is, in minutes: the loss on held-out rows with fixed draws, and a small gate sweep."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8

from evaluation.metrics import unit
from evaluation.sheet import SheetRow, draw_sheet
from evaluation.statistics import hypervolume
from evaluation.sweep import SweepPlan, draw_sweep, embed_images, score_sweep
from flexip.model import FlexIP
from flexip.sampler import Engine
from flexip.training import Batch, batch_loss


@dataclass(frozen=True)
class SweepFindings:
    """A small sweep in a few numbers, and as one picture."""

    identity: float  # at the strongest gamma: mean DINO cosine with the reference
    text: float  # at the weakest gamma: mean CLIP cosine with the prompt
    area: float  # that the settings dominate in the plane of (identity, text) above chance; see `sweep_findings`
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
    """Draw and score a plan; the first seed goes onto the sheet.

    Chance is fixed by the references and prompts alone, so that areas of several checkpoints compare: for identity the
    mean cosine between references of different subjects (0 with one subject), for text what copies of them get.
    """
    images = draw_sweep(engine, plan, batch_size=batch_size)
    scores = score_sweep(engine.encoders, plan, images)
    identity, text = (grid.mean(axis=(0, 1, 2)) for grid in (scores.identity["dino"], scores.text))
    references = unit(embed_images(engine.encoders, [subject.reference for subject in plan.subjects])["dino"])
    others = references @ references.T
    count = len(others)
    chance = (others.sum() - np.trace(others)) / (count * (count - 1)) if count > 1 else 0.0
    area = hypervolume(np.stack([identity, text], axis=-1), np.array([chance, scores.copy_text.mean()]))
    rows = [
        SheetRow(subject.name, prompt, subject.reference, list(images[s, p, 0]))
        for s, subject in enumerate(plan.subjects)
        for p, prompt in enumerate(plan.prompts)
    ]
    strongest, weakest = int(np.argmax(plan.gammas)), int(np.argmin(plan.gammas))
    return SweepFindings(float(identity[strongest]), float(text[weakest]), area, draw_sheet(rows, plan.gammas))
