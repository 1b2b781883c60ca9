"""The control surface: every option changes the picture as it says, and none changes its neighbours'."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from flexip.attention import KEYWORD, cross_attention_layers
from flexip.batch import prepare_rows
from flexip.checkpoint import load_checkpoint
from flexip.gate import Gate, at_step, linear, window
from flexip.request import Request, Subject
from flexip.sampler import sample


@pytest.fixture(scope="module")
def engine(untrained_checkpoint) -> Any:
    return load_checkpoint(untrained_checkpoint)


@pytest.fixture
def ask(reference) -> Request:
    return Request("a happy creature", reference, 0.9, 0.4, guidance_scale=3.0, steps=4, seed=5)


@pytest.fixture
def base(engine, ask) -> np.ndarray:
    return draw(engine, replace(ask, reference=None))


def draw(engine, *requests: Request) -> np.ndarray:
    """The pictures as signed numbers; a single one without its axis."""
    images = np.stack(sample(engine, requests)).astype(int)
    return images if len(requests) > 1 else images[0]


def test_a_schedule_is_spread_over_the_steps():
    assert [at_step([1.0, 0.0], step, 4) for step in range(4)] == [1, 1, 0, 0]
    assert [at_step([1.0, 0.5, 0.0], step, 4) for step in range(4)] == [1, 1, 0.5, 0]
    assert at_step(0.3, 2, 4) == 0.3
    assert linear(0.0, 1.0, 5) == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert window(0.8, 0.25, 0.75, 4) == (0.0, 0.8, 0.8, 0.0)
    with pytest.raises(ValueError, match="5 values for 4 steps; give 1 to 4"):
        Request("a", preservation=(1.0,) * 5, steps=4)
    with pytest.raises(ValueError, match="needs 0 <= start <= end <= 1"):
        window(1.0, 0.8, 0.2, 4)


def test_a_schedule_acts_at_its_steps(engine, ask, base):
    constant = draw(engine, ask)
    listed = draw(engine, replace(ask, preservation=(0.9,) * 4, personalization=linear(0.4, 0.4, 4)))
    early = draw(engine, replace(ask, preservation=window(0.9, 0, 0.5, 4), personalization=0.0))
    late = draw(engine, replace(ask, preservation=window(0.9, 0.5, 1, 4), personalization=0.0))
    never = draw(engine, replace(ask, preservation=(0.0,), personalization=(0.0, 0.0)))
    np.testing.assert_array_equal(listed, constant)
    np.testing.assert_array_equal(never, base)
    assert np.abs(early - late).mean() > 2
    assert np.abs(early - base).mean() > 2


def test_a_block_s_weight_acts_there_alone(engine, ask, base):
    whole = draw(engine, ask)
    same = draw(engine, replace(ask, blocks={"down_blocks": 1.0}))
    none = draw(engine, replace(ask, blocks={"down_blocks": 0.0, "mid_block": 0.0, "up_blocks": 0.0}))
    without_up = draw(engine, replace(ask, blocks={"up_blocks": 0.0}))
    inner = draw(engine, replace(ask, blocks={"down_blocks": 0.0, "mid_block": 0.0, "up": 0.0, "up_blocks.1": 1.0}))
    np.testing.assert_array_equal(same, whole)
    np.testing.assert_array_equal(none, base)
    for picture in (without_up, inner):
        assert np.abs(picture - whole).mean() > 1
        assert np.abs(picture - base).mean() > 1
    with pytest.raises(ValueError, match=r"'attic' is no block of this UNet; known are down_blocks\.0, "):
        draw(engine, replace(ask, blocks={"attic": 0.0}))
    with pytest.raises(ValueError, match="must be finite"):
        replace(ask, blocks={"up_blocks": float("nan")})
    with pytest.raises(ValueError, match="values within"):
        replace(ask, mask=np.full((4, 4), np.nan, np.float32))


def test_a_mask_keeps_the_subject_in_its_region(engine, ask, base):
    left = np.zeros((64, 64), np.float32)
    left[:, :32] = 1
    masked = draw(engine, replace(ask, mask=left, guidance_scale=1.0, steps=1))
    plain, alone = (draw(engine, replace(ask, reference=r, guidance_scale=1.0, steps=1)) for r in (ask.reference, None))
    change = np.abs(masked - alone).mean(axis=(0, 2))
    assert change[:24].mean() > 1.5 * change[40:].mean()
    assert np.abs(plain - alone).mean() > np.abs(masked - alone).mean()
    np.testing.assert_array_equal(draw(engine, replace(ask, mask=np.ones((8, 8), np.float32))), draw(engine, ask))
    np.testing.assert_array_equal(draw(engine, replace(ask, mask=np.zeros((64, 64), np.float32))), base)
    with pytest.raises(ValueError, match=r"values within 0\.\.1"):
        replace(ask, mask=2 * left)


def test_the_mask_of_a_wide_picture_keeps_its_aspect():
    mask = torch.zeros(1, 16, 32)
    mask[:, :, :16] = 1
    local = Gate(torch.ones(1), torch.ones(1), mask=mask).local("up_blocks.0", 4 * 8)
    assert local is not None
    assert torch.equal(local.reshape(4, 8), torch.tensor([1.0] * 4 + [0.0] * 4).expand(4, 8))


def test_several_references_are_averaged_or_stand_side_by_side(engine, ask):
    one, other = ask.reference, np.ascontiguousarray(ask.reference[::-1, :, ::-1])
    single = draw(engine, ask)
    twice = [draw(engine, replace(ask, reference=(one, one.copy()), merging=m)) for m in ("average", "concatenate")]
    both = [draw(engine, replace(ask, reference=(one, other), merging=m)) for m in ("average", "concatenate")]
    for picture in twice:  # a second copy adds nothing, either way
        assert np.abs(picture - single).max() <= 2
    assert np.abs(both[0] - single).mean() > 1
    assert np.abs(both[1] - single).mean() > 1
    assert np.abs(both[0] - both[1]).mean() > 0.5


def test_all_options_share_one_batch_and_leave_each_other_alone(engine, ask):
    other = np.ascontiguousarray(ask.reference[:, ::-1])
    requests = [
        ask,
        replace(ask, preservation=linear(1.0, 0.0, 4), seed=6),
        replace(ask, blocks={"up_blocks": 0.3}, seed=7),
        replace(ask, blocks={"up_blocks.1": 0.0, "down": 0.5}, seed=8),
        replace(ask, mask=np.eye(16, dtype=np.float32), seed=9),
        replace(ask, reference=(ask.reference, other), merging="concatenate", seed=10),
        replace(ask, reference=(ask.reference, other, other), guidance_scale=1.0, steps=3, seed=11),
        replace(ask, reference=None, seed=12),
    ]
    together = draw(engine, *requests)
    for request, picture in zip(requests, together, strict=True):
        assert np.abs(draw(engine, request) - picture).max() <= 1


def half(left: bool) -> np.ndarray:
    mask = np.zeros((64, 64), np.float32)
    mask[:, slice(0, 32) if left else slice(32, 64)] = 1
    return mask


@torch.no_grad()
def test_several_subjects_add_up_each_in_its_region(engine, reference):
    """Z - Z_T of the layer that comes first, where nothing has acted before, in one UNet call for all requests."""
    one = Subject(reference, 0.9, 0.4, mask=half(left=True))
    two = Subject(np.ascontiguousarray(reference[::-1, :, ::-1]), 0.3, 0.8, mask=half(left=False))
    free = [replace(subject, mask=None) for subject in (one, two)]
    groups = [(), (one,), (two,), (one, two), (two, one), (free[0],), (free[1],), (*free,), (one, *free)]
    rows = prepare_rows(engine, [Request("two creatures", guidance_scale=1.0, others=group) for group in groups])
    seen = []
    layers: dict[str, Any] = dict(cross_attention_layers(engine.pipe.unet))
    hook = layers[min(layers)].to_out[0].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    noisy = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).expand(len(groups), -1, -1, -1)
    engine.pipe.unet(noisy, 500, encoder_hidden_states=rows.text, cross_attention_kwargs={KEYWORD: rows.subject})
    hook.remove()
    first, second, both, turned, free_first, free_second, shared, mixed = seen[0][1:] - seen[0][0]
    assert first.abs().max() > 0.01
    assert second.abs().max() > 0.01
    expected = [
        (both, first + second),
        (turned, both),
        (shared, (free_first + free_second) / 2),
        (mixed, first + shared),
    ]
    for found, right in expected:
        torch.testing.assert_close(found, right, atol=1e-5, rtol=1e-4)


def test_groups_and_single_subjects_share_calls_and_no_subject_is_projected_twice(engine, ask, reference, monkeypatch):
    other = Subject(np.ascontiguousarray(reference[::-1]), 0.7, 0.3)
    asked = [
        ask,
        replace(ask, others=(other,), seed=6),
        replace(ask, mask=half(left=True), others=(replace(other, mask=half(left=False)), other), seed=7),
        replace(ask, reference=None, others=(replace(other, preservation=linear(1.0, 0.0, 4)),) * 5, seed=8),
        replace(ask, reference=None, guidance_scale=1.0, seed=9),
    ]
    alone = [draw(engine, request) for request in asked]
    name = min(dict(cross_attention_layers(engine.pipe.unet)))
    of_layer: Any = engine.model.attention[name.replace(".", "/")]
    projection, projected = of_layer["to_k"], []
    forward = projection.forward
    monkeypatch.setattr(projection, "forward", lambda tokens: (projected.append(tokens.shape[:2]), forward(tokens))[1])
    for picture, right in zip(draw(engine, *asked), alone, strict=True):
        assert np.abs(picture - right).max() <= 1
    assert [count for count, _ in projected] == [22, 22]  # P and S of 11 subjects, with and without them, once
    assert np.abs(alone[1] - alone[0]).mean() > 1


def test_what_is_wrong_with_one_of_several_subjects_is_told(ask, reference):
    with pytest.raises(ValueError, match="5 values for 4 steps"):
        replace(ask, others=(Subject(reference, preservation=(1.0,) * 5),))
    with pytest.raises(ValueError, match="must be finite"):
        Subject(reference, blocks={"up_blocks": float("inf")})
