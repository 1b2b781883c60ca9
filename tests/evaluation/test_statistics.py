"""Statistics against hand-computed values and against what an interval promises."""

import numpy as np
import pytest

from evaluation.statistics import bootstrap_mean, kendall_tau, largest_step


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
