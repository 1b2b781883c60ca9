"""Gradients averaged over real processes: the mean itself, bits that repeat, and a resume that repeats them."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from gang import run_gang
from safetensors.torch import load_file, save_file

from flexip.adapters import AdapterConfig
from flexip.checkpoint import load_training_state, save_checkpoint
from flexip.encoders import EncoderNames
from flexip.model import FlexIP
from flexip.reduction import average_over_ranks, copy_from_first
from flexip.training import Batch, Drops, Noising, TrainState, build_batch, new_state, train_step

WIDTHS = AdapterConfig(
    context_width=32, clip_width=24, dino_width=20, queries=4, cls_tokens=2, depth=1, heads=2, dim_head=16
)
ROWS = 12
STEPS, STOP = 5, 3


def averaged(rank: int, world: int, folder: Path) -> None:
    """Values of very different sizes, whose sum depends on the order, in shapes that no number of ranks divides."""
    shapes = [(7,), (2, 3), ()]
    everyone = [
        [
            torch.randn(shape, generator=torch.Generator().manual_seed(10 * r + i)) * 10.0 ** (4 * r)
            for i, shape in enumerate(shapes)
        ]
        for r in range(world)
    ]
    found = {}
    for ordered in (True, False):
        mine = [tensor.clone() for tensor in everyone[rank]]
        average_over_ranks(mine, ordered)
        found |= {f"{ordered}-{i}": tensor for i, tensor in enumerate(mine)}
    for i in range(len(shapes)):
        total = everyone[0][i].clone()
        for other in everyone[1:]:
            total += other[i]
        assert torch.equal(found[f"True-{i}"], total / world)
        torch.testing.assert_close(found[f"False-{i}"], total / world)
    first = [torch.full((3,), float(rank))]
    copy_from_first(first)
    assert not first[0].any()
    save_file(found, folder / f"averaged-{rank}.safetensors")


def test_the_mean_is_the_sum_in_the_order_of_ranks_and_the_same_on_all(tmp_path):
    run_gang(3, tmp_path, averaged, tmp_path)
    first, *others = (load_file(tmp_path / f"averaged-{rank}.safetensors") for rank in range(3))
    assert all(torch.equal(other[name], first[name]) for other in others for name in first)


def test_one_process_is_its_own_mean():
    values = [torch.tensor([1.0, 2.0])]
    average_over_ranks(values, ordered=True)
    assert values[0].tolist() == [1.0, 2.0]


def tiny_state() -> TrainState:
    return new_state(FlexIP(tiny_models.unet(), WIDTHS), learning_rate=1e-3, weight_decay=0.01, ema=0.9)


def rows_of(step: int, rows: slice) -> Batch:
    """Some rows of the global batch of one step."""
    rng = np.random.default_rng(step)
    shapes = {"clip": (24,), "dino": (9, 20), "text": (7, 32), "vae": (8, 8, 8)}
    columns = {family: rng.normal(size=(ROWS, *shape)).astype(np.float16)[rows] for family, shape in shapes.items()}
    betas = torch.linspace(1e-4, 0.02, 1000)
    noising = Noising((1 - betas).cumprod(0), "epsilon", 0.2, torch.zeros(7, 32))
    seeds = np.arange(ROWS)[rows] + 100 * step
    return build_batch(columns, torch.full((len(seeds),), 0.5), Drops(), noising, seeds)


def advance(state: TrainState, rank: int, world: int, steps: int, accumulate: int = 1) -> list[float]:
    share = ROWS // world // accumulate
    losses = []
    while state.step < steps:
        starts = [rank * ROWS // world + i * share for i in range(accumulate)]
        parts = [rows_of(state.step, slice(start, start + share)) for start in starts]
        losses.append(train_step(state, parts, reduce=partial(average_over_ranks, ordered=True)))
    average_over_ranks(losses, ordered=True)
    return [loss.item() for loss in losses]


def stopped_and_resumed(rank: int, world: int, folder: Path) -> None:
    whole, first, second = tiny_state(), tiny_state(), tiny_state()
    losses = advance(whole, rank, world, STEPS)
    advance(first, rank, world, STOP)
    kept = folder / f"stopped-{world}-{rank}"
    save_checkpoint(kept, first.model, names=EncoderNames(), fingerprints={}, state=first)
    load_training_state(second, kept)
    assert second.step == STOP
    assert advance(second, rank, world, STEPS) == losses[STOP:]
    for name, parameter in whole.model.trainable().items():
        assert torch.equal(second.model.trainable()[name], parameter), name
        assert torch.equal(second.average[name], whole.average[name]), name
    weights = {name: parameter.detach() for name, parameter in whole.model.trainable().items()}
    save_file(weights, folder / f"weights-{world}-{rank}.safetensors")


@pytest.mark.parametrize("world", [2, 3])
def test_a_stopped_and_resumed_run_ends_with_the_same_bits(world, tmp_path):
    run_gang(world, tmp_path, stopped_and_resumed, tmp_path)
    first, *others = (load_file(tmp_path / f"weights-{world}-{rank}.safetensors") for rank in range(world))
    assert all(torch.equal(other[name], first[name]) for other in others for name in first)


def test_accumulated_parts_are_the_same_step():
    whole, parts = tiny_state(), tiny_state()
    ours, theirs = advance(whole, 0, 1, 1), advance(parts, 0, 1, 1, accumulate=3)
    assert ours == pytest.approx(theirs, rel=1e-6)
    for name, parameter in whole.model.trainable().items():
        gradient, other = parameter.grad, parts.model.trainable()[name].grad
        assert gradient is not None
        assert other is not None
        torch.testing.assert_close(gradient, other, atol=1e-6, rtol=1e-4)
