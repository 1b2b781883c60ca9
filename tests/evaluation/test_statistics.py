"""Statistics against hand-computed values and against what an interval promises."""

import numpy as np
import pytest
from scipy import stats

from evaluation.statistics import (
    bootstrap_mean,
    corrected,
    crossed_bootstrap,
    detectable_difference,
    hypervolume,
    kendall_tau,
    krippendorff_alpha,
    largest_step,
    paired_difference,
    pareto_front,
    sign_flip_p,
    wilson,
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


def test_kendall_tau_is_scipys_with_ties_too():
    rng = np.random.default_rng(0)
    settings, curves = np.arange(6.0), rng.integers(4, size=(2, 5, 6)).astype(float)
    expected = [float(np.asarray(stats.kendalltau(settings, curve)[0])) for curve in curves.reshape(-1, 6)]
    np.testing.assert_allclose(kendall_tau(settings, curves).ravel(), expected)


def test_largest_step_is_the_biggest_jump_either_way_as_a_share_of_the_range():
    curves = np.array([[0.0, 0.1, 0.6, 0.2], [0.5, 0.5, 0.5, 0.4], [0.3, 0.3, 0.3, 0.3]])
    np.testing.assert_allclose(largest_step(curves), [5 / 6, 1, np.nan])


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


def test_a_statistic_of_several_numbers_has_an_interval_for_each():
    values = np.random.default_rng(0).normal(size=(2, 10, 3))
    every = crossed_bootstrap(lambda v: v.mean(axis=(0, 1)), values, resamples=50)
    last = crossed_bootstrap(lambda v: float(v[..., 2].mean()), values, resamples=50)
    np.testing.assert_allclose([every.low[2], every.high[2]], [last.low, last.high])
    alone = crossed_bootstrap(np.mean, values[:1, :1], resamples=50)
    np.testing.assert_allclose([alone.mean, alone.low, alone.high], [values[0, 0].mean(), np.nan, np.nan])


def test_pairs_stay_together_in_a_crossed_interval():
    """Two methods with a constant difference: the interval of the difference has no width."""
    base = np.random.default_rng(1).normal(size=(3, 20))
    both = np.stack([base + 0.5, base], axis=-1)
    found = crossed_bootstrap(lambda v: float((v[..., 0] - v[..., 1]).mean()), both, resamples=200)
    assert found.low == pytest.approx(0.5)
    assert found.high == pytest.approx(0.5)


def test_a_lead_within_its_interval_is_a_tie():
    rng = np.random.default_rng(0)
    base = rng.normal(size=20)
    clear = paired_difference(base + 0.5 + 0.1 * rng.normal(size=20), base)
    assert (clear.verdict, clear.p < 0.01, clear.detectable < 0.2) == ("better", True, True)
    assert paired_difference(base, base + 0.5 + 0.1 * rng.normal(size=20)).verdict == "worse"
    noise = paired_difference(base + rng.normal(size=20), base)
    assert (noise.verdict, noise.p > 0.05) == ("tie", True)
    assert paired_difference(base, base).verdict == "tie"
    one = paired_difference(np.array([2.0]), np.array([1.0]))
    assert (one.verdict, np.isnan(one.p), np.isnan(one.detectable)) == ("tie", True, True)


def test_subjects_are_paired_and_those_without_both_left_out():
    ours, theirs = np.array([1.0, np.nan, 3.0]), np.array([0.0, 1.0, 2.0])
    found = paired_difference(ours, theirs)
    assert (float(found.interval.mean), found.interval.subjects) == (1, 2)
    with pytest.raises(ValueError, match="none was scored"):
        paired_difference(ours[1:2], theirs[1:2])


def test_sign_flips_are_all_counted_or_drawn():
    values = np.array([0.3, 0.1, 0.2, 0.4])
    assert sign_flip_p(values) == 2 / 2**4  # nothing but all or none turned round is as extreme
    assert sign_flip_p(np.array([1.0, -1.0])) == 1
    reference = stats.permutation_test((values - 0.15,), np.mean, permutation_type="samples", n_resamples=10_000).pvalue
    assert sign_flip_p(values - 0.15) == pytest.approx(reference)
    drawn = sign_flip_p(np.random.default_rng(0).normal(0.2, 1, 30))
    exact = stats.ttest_1samp(np.random.default_rng(0).normal(0.2, 1, 30), 0)[1]
    assert drawn == pytest.approx(exact, abs=0.02)


def test_holm_multiplies_the_smallest_most_and_keeps_the_order():
    found = corrected(np.array([0.01, np.nan, 0.04, 0.03]))
    np.testing.assert_allclose(found, [0.03, np.nan, 0.06, 0.06])
    np.testing.assert_allclose(corrected(np.array([0.6, 0.7])), [1, 1])


def test_the_detectable_difference_is_found_as_often_as_promised():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(400, 15))
    detectable = np.mean([detectable_difference(row) for row in noise])
    _, p_values = stats.ttest_1samp(noise + detectable, 0, axis=1)
    found = np.mean(np.asarray(p_values) < 0.05)
    assert found == pytest.approx(0.8, abs=0.06)


def test_wilson_stays_within_0_and_1():
    none = wilson(0, 10)
    assert none.low == pytest.approx(0, abs=1e-12)
    assert none.high == pytest.approx(0.2775, abs=1e-3)
    half = wilson(50, 100)
    assert (float(half.low), float(half.high)) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert np.isnan(wilson(0, 0).low)


def test_krippendorff_alpha_of_its_authors_example():
    """Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C: nominal .743, interval .849."""
    absent = np.nan
    ratings = np.array(
        [
            [1, 2, 3, 3, 2, 1, 4, 1, 2, absent, absent, absent],
            [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, absent, 3],
            [absent, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, absent],
            [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, absent],
        ]
    )
    assert krippendorff_alpha(ratings, "nominal") == pytest.approx(0.743, abs=1e-3)
    assert krippendorff_alpha(ratings) == pytest.approx(0.849, abs=1e-3)
    assert np.isnan(krippendorff_alpha(ratings[:1]))


def test_images_of_one_subject_do_not_count_as_so_many_subjects():
    """30 subjects x 100 alike images: the subject's interval is several times that of 3000 independent images."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(30, 1)) * np.sqrt(0.3) + rng.normal(size=(30, 100)) * np.sqrt(0.7)
    of_subjects, naive = bootstrap_mean(images.mean(axis=1)), bootstrap_mean(images.ravel(), resamples=500)
    assert (of_subjects.high - of_subjects.low) / (naive.high - naive.low) > 4  # sqrt(1 + 99 x 0.3) = 5.5
