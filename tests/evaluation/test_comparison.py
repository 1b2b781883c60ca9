"""The comparison's arithmetic on synthetic dials with known answers."""

import numpy as np
import pytest

from evaluation.comparison import Scores, relabelled, single_steps
from evaluation.gate_sweep import GateSweep, area_ratio

GAMMAS = np.linspace(0, 1, 11)


def dial(identity, edit, *, creatures: int = 12, trainings: int = 3, noise: float = 0.0, seed: int = 0) -> Scores:
    """Every creature has the given curves, up to noise."""
    rng = np.random.default_rng(seed)
    shape = (trainings, creatures, 2, 2, len(identity))
    grids = [np.broadcast_to(values, shape) + noise * rng.normal(size=shape) for values in (identity, edit)]
    return Scores(np.linspace(0, 1, len(identity)), *grids)


def sweep(scores: Scores, chance: tuple[float, float] = (0.0, 0.0)) -> GateSweep:
    return scores.sweep("someone", chance)


def test_an_even_dial_is_ordered_and_smooth():
    found = sweep(dial(GAMMAS, 1 - GAMMAS, noise=0.01))
    assert found.tau_identity.mean == pytest.approx(1)
    assert found.tau_text.mean == pytest.approx(-1)
    assert found.step.mean == pytest.approx(0.1, abs=0.01)
    assert found.tau_identity.low > 0.9


def test_a_switch_is_ordered_and_not_smooth():
    switch = 1 / (1 + np.exp(-60 * (GAMMAS - 0.55)))
    scores = dial(switch, 1 - switch)
    assert sweep(scores).tau_identity.mean > 0.9
    assert sweep(scores).step.mean > 0.8
    assert single_steps(scores)[0].mean > 0.8


def test_relabelling_does_not_hide_the_jumps_of_single_trajectories():
    """Half of the creatures switch early, half late: their mean has two steps, each of them jumps once."""
    early, late = (GAMMAS > 0.25).astype(float), (GAMMAS > 0.75).astype(float)
    grid = np.stack([early, late])[None, :, None, None, :]
    scores = Scores(GAMMAS, np.repeat(grid, 2, axis=0), np.repeat(1 - grid, 2, axis=0))
    assert sweep(scores).step.mean == pytest.approx(0.5)
    assert [steps.mean for steps in single_steps(scores)] == pytest.approx([1, 1])


def test_relabelling_evens_a_crooked_dial():
    fine = np.linspace(0, 1, 41)
    crooked = fine**3
    even = relabelled(fine, crooked, crooked[None])[0]
    assert np.abs(crooked - fine).max() > 0.3
    np.testing.assert_allclose(even, fine, atol=0.05)


def test_the_dominated_area_is_measured_from_chance():
    corner = dial(np.array([0.2, 0.8]), np.array([0.9, 0.9]))
    assert sweep(corner).area.mean == pytest.approx(0.8 * 0.9)
    assert sweep(corner, (0.2, 0.1)).area.mean == pytest.approx(0.6 * 0.8)
    assert sweep(dial(np.array([0.1, 0.2]), np.array([0.1, 0.05])), (0.2, 0.1)).area.mean == 0


def test_a_better_dial_has_a_ratio_above_one_whose_interval_excludes_equality():
    better = sweep(dial(GAMMAS, np.sqrt(1 - GAMMAS), noise=0.02, seed=1))
    worse, alike = (sweep(dial(GAMMAS, 1 - GAMMAS, noise=0.02, seed=seed)) for seed in (2, 3))
    assert area_ratio(better, worse).low > 1.2
    same = area_ratio(worse, alike)
    assert same.low < 1 < same.high or abs(same.mean - 1) < 0.02
    with pytest.raises(ValueError, match="a ratio is paired"):
        area_ratio(better, sweep(dial(GAMMAS, GAMMAS, creatures=5)))


def test_curves_have_a_band_for_every_setting():
    identity, edit = sweep(dial(GAMMAS, 1 - GAMMAS, noise=0.1)).curves
    np.testing.assert_allclose(identity.mean, GAMMAS, atol=0.05)
    np.testing.assert_allclose(edit.mean, 1 - GAMMAS, atol=0.05)
    assert (identity.low <= identity.mean).all()
    assert (identity.mean <= identity.high).all()
    assert identity.mean.shape == (11,)


def test_cells_without_anything_visible_are_left_out():
    scores = dial(GAMMAS, 1 - GAMMAS)
    grid = np.array(scores.identity)
    grid[:, :, 0] = np.nan
    partly = Scores(GAMMAS, grid, scores.edit)
    assert sweep(partly).tau_identity.mean == pytest.approx(1)
    assert single_steps(partly)[0].mean == pytest.approx(0.1)
