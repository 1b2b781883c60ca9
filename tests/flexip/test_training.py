from functools import partial

import numpy as np
import pytest
import torch

from flexip.adapters import AdapterConfig
from flexip.diffusion import (
    add_noise,
    dropped_conditions,
    min_snr_weight,
    predict_original,
    sample_posterior,
    target,
)
from flexip.model import FlexIP
from flexip.training import (
    Drops,
    Noising,
    batch_loss,
    batch_rows,
    build_batch,
    draw_gamma,
    new_state,
    train_step,
    update_average,
)

SIZES = {"invariant": 7, "variant": 5}
EVEN = {"invariant": 0.5, "variant": 0.5}


def test_batch_rows_are_a_pure_function_of_seed_and_step():
    assert batch_rows(3, 11, 8, SIZES, EVEN) == batch_rows(3, 11, 8, SIZES, EVEN)
    assert batch_rows(3, 11, 8, SIZES, EVEN) != batch_rows(4, 11, 8, SIZES, EVEN)


@pytest.mark.parametrize("weights", [EVEN, {"invariant": 0.3, "variant": 0.7}, {"invariant": 1.0, "variant": 0.0}])
def test_every_row_once_an_epoch_in_the_shares_asked_for(weights):
    stream = [row for step in range(100) for row in batch_rows(0, step, 7, SIZES, weights)]
    for name, size in SIZES.items():
        rows = [r.row for r in stream if r.dataset == name]
        assert abs(len(rows) - 700 * weights[name]) <= 1
        for start in range(0, len(rows) - size, size):
            assert sorted(rows[start : start + size]) == list(range(size))


def test_slots_have_their_own_seeds():
    stream = [row for step in range(50) for row in batch_rows(0, step, 8, SIZES, EVEN)]
    assert len({r.seed for r in stream}) == len(stream)


def test_an_empty_dataset_gives_its_share_to_the_other():
    rows = batch_rows(0, 0, 6, {"invariant": 4, "variant": 0}, EVEN)
    assert {r.dataset for r in rows} == {"invariant"}
    with pytest.raises(ValueError, match="leave no rows"):
        batch_rows(0, 0, 6, {"invariant": 0, "variant": 0}, EVEN)


def test_drops_are_exclusive_events_of_the_given_probabilities():
    text, image = dropped_conditions(20_000, 0.1, 0.2, 0.05, torch.Generator().manual_seed(0))
    shares = [(text & ~image).float().mean(), (image & ~text).float().mean(), (text & image).float().mean()]
    np.testing.assert_allclose(shares, [0.1, 0.2, 0.05], atol=0.01)


def test_the_original_is_what_was_noised():
    g = torch.Generator().manual_seed(0)
    z, eps = torch.randn(2, 4, 3, 3, generator=g), torch.randn(2, 4, 3, 3, generator=g)
    a = torch.tensor([0.3, 0.6])
    for kind in ("epsilon", "v_prediction"):
        found = predict_original(add_noise(z, eps, a), target(z, eps, a, kind), a, kind)
        torch.testing.assert_close(found, z, atol=1e-5, rtol=0)


def test_posterior_sample_has_the_mean_and_deviation_of_the_moments():
    moments = torch.cat([torch.full((1, 2, 40, 40), 3.0), torch.full((1, 2, 40, 40), 2 * np.log(0.5))], dim=1)
    z = sample_posterior(moments, torch.randn(1, 2, 40, 40, generator=torch.Generator().manual_seed(0)), 0.2)
    assert abs(z.mean() - 0.6) < 0.01
    assert abs(z.std() - 0.1) < 0.01


@pytest.fixture
def columns():
    rng = np.random.default_rng(0)
    shapes = {"clip": (24,), "dino": (9, 20), "text": (7, 32), "vae": (8, 8, 8)}
    return {family: rng.normal(size=(4, *shape)).astype(np.float16) for family, shape in shapes.items()}


@pytest.fixture
def noising():
    betas = torch.linspace(1e-4, 0.02, 1000)
    return Noising((1 - betas).cumprod(0), "epsilon", 0.2, torch.zeros(7, 32))


@pytest.fixture
def model(tiny_unet):
    torch.manual_seed(1)
    return FlexIP(
        tiny_unet,
        AdapterConfig(
            context_width=32, clip_width=24, dino_width=20, queries=4, cls_tokens=2, depth=1, heads=2, dim_head=16
        ),
    )


def test_a_row_is_drawn_alike_wherever_it_is_dealt(columns, noising):
    gamma, seeds = torch.full((4,), 0.7), np.arange(4)
    whole = build_batch(columns, gamma, Drops(), noising, seeds)
    half = build_batch({k: v[2:] for k, v in columns.items()}, gamma[2:], Drops(), noising, seeds[2:])
    for name in ("noisy", "truth", "timesteps", "keep", "text"):
        assert torch.equal(getattr(whole, name)[2:], getattr(half, name)), name


def test_certain_drops_empty_the_text_and_the_image(columns, noising):
    batch = build_batch(columns, torch.full((4,), 0.7), Drops(0, 0, 1.0), noising, np.arange(4))
    assert not batch.text.any()
    assert not batch.keep.any()


def test_training_lowers_the_loss_on_its_batch_and_leaves_the_unet(model, columns, noising):
    frozen = {name: p.clone() for name, p in model.unet.state_dict().items()}
    batch = build_batch(columns, torch.tensor([0.7, 0.7, 0.3, 0.3]), Drops(0, 0, 0), noising, np.arange(4))
    state = new_state(model, learning_rate=3e-3, weight_decay=0.0)
    first = batch_loss(model, batch).mean().item()
    for _ in range(60):
        loss = train_step(state, batch)
    assert state.step == 60
    assert loss.item() < 0.8 * first
    assert all(torch.equal(p, frozen[name]) for name, p in model.unet.state_dict().items())


def test_half_precision_computes_nearly_the_same_and_keeps_single_weights(model, columns, noising):
    batch = build_batch(columns, torch.full((4,), 0.5), Drops(), noising, np.arange(4))
    single = batch_loss(model, batch).mean().item()
    state = new_state(model, learning_rate=1e-3, weight_decay=0.0, ema=0.9)
    half = train_step(state, batch, precision="bf16").item()
    assert half != single
    assert half == pytest.approx(single, rel=0.02)
    kept = [*model.trainable().values(), *state.average.values()]
    assert {tensor.dtype for tensor in kept} == {torch.float32}
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.trainable().values())


def test_the_average_follows_the_parameters_and_ends_where_they_rest(model, columns, noising):
    batch = build_batch(columns, torch.full((4,), 0.5), Drops(0, 0, 0), noising, np.arange(4))
    state = new_state(model, learning_rate=3e-3, weight_decay=0.0, ema=0.9)
    start = {name: p.clone() for name, p in state.average.items()}
    for _ in range(5):
        train_step(state, batch)
    name, parameter = next(iter(model.trainable().items()))
    way = (state.average[name] - start[name]).norm() / (parameter - start[name]).norm()
    assert 0.2 < way < 1  # it moved, and lags
    for step in range(200):
        update_average(state.average, model.trainable(), 0.9, step)
    torch.testing.assert_close(state.average[name], parameter.detach(), atol=1e-6, rtol=0)


def test_gamma_is_drawn_from_its_range_by_the_row_alone():
    drawn = np.array([draw_gamma((0.2, 0.6), seed) for seed in range(500)])
    assert 0.2 <= drawn.min() < 0.22
    assert 0.58 < drawn.max() <= 0.6
    assert draw_gamma((0.2, 0.6), 7) == drawn[7]
    assert draw_gamma((0.7, 0.7), 7) == 0.7


def test_min_snr_weighs_clean_rows_down_and_noisy_ones_not(columns, noising):
    build = partial(build_batch, columns, torch.full((4,), 0.5), Drops(0, 0, 0), noising, np.arange(4))
    plain, weighed = build(), build(min_snr=5.0)
    ratio = noising.alphas_cumprod[plain.timesteps] / (1 - noising.alphas_cumprod[plain.timesteps])
    assert torch.equal(plain.weight, torch.ones(4))
    torch.testing.assert_close(weighed.weight, 5 / ratio.clamp(min=5))
    v = min_snr_weight(torch.tensor([0.5, 0.9]), 5.0, "v_prediction")
    torch.testing.assert_close(v, torch.tensor([1 / 2, 5 / 10]))  # SNR 1 and 9


def test_the_loss_of_a_row_depends_on_its_own_gamma(model, columns, noising):
    seeds = np.arange(4)
    low = batch_loss(model, build_batch(columns, torch.full((4,), 0.3), Drops(0, 0, 0), noising, seeds))
    mixed = torch.tensor([0.9, 0.3, 0.3, 0.3])
    high = batch_loss(model, build_batch(columns, mixed, Drops(0, 0, 0), noising, seeds))
    assert abs(high[0] - low[0]) > 1e-4
    torch.testing.assert_close(high[1:], low[1:], atol=1e-5, rtol=0)
