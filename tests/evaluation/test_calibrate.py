"""The calibration against curves whose answer is known."""

import numpy as np
import pytest

from evaluation.calibrate import fit_calibration

GAMMAS = np.linspace(0, 1, 5)


def fit(*curves):
    return fit_calibration(GAMMAS, np.array(curves, float), metric="dino", protocol="abc")


def test_a_rising_curve_is_kept_and_turned_round():
    calibration = fit([0.1, 0.3, 0.5, 0.7, 0.9])
    assert calibration.identity == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])
    for identity in (0.1, 0.35, 0.6, 0.9):
        assert calibration.identity_at(calibration.gamma_for(identity)) == pytest.approx(identity)
    assert calibration.gamma_for(0.4) == pytest.approx(0.375)


def test_noise_is_made_monotone_and_the_smallest_gamma_is_taken():
    calibration = fit([0.2, 0.6, 0.4, 0.5, 0.9], [0.2, 0.6, 0.4, 0.5, 0.9])
    assert calibration.identity == pytest.approx([0.2, 0.5, 0.5, 0.5, 0.9])
    assert calibration.gamma_for(0.5) == pytest.approx(0.25)
    asked = np.linspace(0.2, 0.9, 50)
    given = [calibration.gamma_for(identity) for identity in asked]
    assert given == sorted(given)
    assert calibration.subjects == 2


def test_a_dial_that_does_nothing_reaches_one_value():
    flat = fit([0.4] * 5)
    assert flat.gamma_for(0.4) == 0
    with pytest.raises(ValueError, match=r"gamma 0 to 1 keeps 0\.400 to 0\.400"):
        flat.gamma_for(0.5)


def test_out_of_reach_says_what_is_in_reach():
    with pytest.raises(ValueError, match=r"identity = 0\.95: out of .* reach; .* 0\.100 to 0\.900 \(dino"):
        fit([0.1, 0.3, 0.5, 0.7, 0.9]).gamma_for(0.95)


def test_one_gamma_is_no_calibration():
    with pytest.raises(ValueError, match="two rising values"):
        fit_calibration(np.array([0.5]), np.ones((2, 1)), metric="dino", protocol="abc")
