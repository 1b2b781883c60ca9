"""Statistics against hand-computed values and against what an interval promises."""

import numpy as np
import pytest

from evaluation.statistics import (
    bootstrap_mean,
    crossed_bootstrap,
    hypervolume,
    kendall_tau,
    largest_step,
    pareto_front,
)


def test_mean_and_interval_of_a_spread():
    values = np.array([[0.0, 10.0], [1.0, 10.0], [2.0, 10.0], [3.0, 10.0]])
    found = bootstrap_mean(values)
    np.testing.assert_allclose(found.mean, [1.5, 10])
    assert 0 < found.low[0] < 1.5 < found.high[0] < 3
    assert found.low[1] == found.high[1] == 10  # no spread between subjects, no width
    assert (found.subjects, found.confidence) == (4, 0.95)


def test_interval_is_the_same_every_time_and_wider_for_more_confidence():
    values = np.random.default_rng(0).normal(size=12)
    first, again, wide = bootstrap_mean(values), bootstrap_mean(values), bootstrap_mean(values, confidence=0.99)
    assert (first.low, first.high) == (again.low, again.high)
    assert wide.low < first.low < first.high < wide.high


def test_one_subject_has_a_mean_and_no_interval():
    found = bootstrap_mean(np.array([[0.2, 0.4]]))
    np.testing.assert_allclose(found.mean, [0.2, 0.4])
    assert np.isnan(found.low).all()
    assert np.isnan(found.high).all()


def test_interval_covers_the_truth_about_as_often_as_promised():
    rng = np.random.default_rng(1)
    intervals = [bootstrap_mean(rng.normal(size=40), resamples=400, seed=i) for i in range(200)]
    covered = np.mean([interval.low <= 0 <= interval.high for interval in intervals])
    assert covered == pytest.approx(0.95, abs=0.05)


def test_kendall_tau_of_known_orders():
    gammas = np.array([0.0, 0.5, 1.0])
    curves = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [1.0, 3.0, 2.0], [7.0, 7.0, 7.0]])
    np.testing.assert_allclose(kendall_tau(gammas, curves), [1, -1, 1 / 3, 0])


def test_largest_step_is_the_biggest_jump_either_way():
    np.testing.assert_allclose(largest_step(np.array([[0.0, 0.1, 0.6, 0.2], [0.5, 0.5, 0.5, 0.4]])), [0.5, 0.1])


def test_one_gamma_has_neither_order_nor_steps():
    assert np.isnan(kendall_tau(np.array([0.5]), np.ones((2, 1)))).all()
    assert np.isnan(largest_step(np.ones((2, 1)))).all()


def test_the_front_is_what_nothing_beats_in_both():
    points = np.array([[0.1, 0.9], [0.5, 0.5], [0.4, 0.4], [0.9, 0.1], [0.5, 0.2], [0.1, 0.8]])
    np.testing.assert_allclose(pareto_front(points), [[0.1, 0.9], [0.5, 0.5], [0.9, 0.1]])
    np.testing.assert_allclose(pareto_front(points[::-1]), pareto_front(points))
    np.testing.assert_allclose(pareto_front(np.array([[0.3, 0.3], [0.3, 0.3]])), [[0.3, 0.3]])


def test_hypervolume_of_known_staircases():
    zero = np.zeros(2)
    assert hypervolume(np.array([[0.5, 0.4]]), zero) == pytest.approx(0.2)
    assert hypervolume(np.array([[0.2, 0.9], [0.6, 0.5], [0.5, 0.5]]), zero) == pytest.approx(0.2 * 0.9 + 0.4 * 0.5)
    assert hypervolume(np.array([[0.2, 0.9], [0.6, 0.5]]), np.array([0.1, 0.4])) == pytest.approx(0.1 * 0.5 + 0.4 * 0.1)
    assert hypervolume(np.array([[0.2, 0.9]]), np.array([0.3, 0.3])) == 0
    more = hypervolume(np.array([[0.2, 0.9], [0.6, 0.5], [0.4, 0.8]]), zero)
    assert more > hypervolume(np.array([[0.2, 0.9], [0.6, 0.5]]), zero)


def test_a_crossed_interval_is_wider_than_that_of_subjects_alone_when_trainings_differ():
    rng = np.random.default_rng(0)
    subjects = rng.normal(size=(1, 40))
    alike, different = subjects + np.zeros((3, 1)), subjects + np.array([[-1.0], [0.0], [1.0]])
    narrow, wide = (crossed_bootstrap(np.mean, values, resamples=800) for values in (alike, different))
    assert narrow.mean == pytest.approx(wide.mean)
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
    again = crossed_bootstrap(np.mean, different, resamples=800)
    assert (again.low, again.high) == (wide.low, wide.high)


def test_pairs_stay_together_in_a_crossed_interval():
    """Two methods with a constant difference: the interval of the difference has no width."""
    base = np.random.default_rng(1).normal(size=(3, 20))
    both = np.stack([base + 0.5, base], axis=-1)
    found = crossed_bootstrap(lambda v: float((v[..., 0] - v[..., 1]).mean()), both, resamples=200)
    assert found.low == pytest.approx(0.5)
    assert found.high == pytest.approx(0.5)
