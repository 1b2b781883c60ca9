"""Fits the calibration of a dial to a scored sweep."""

import numpy as np
from jaxtyping import Float
from sklearn.isotonic import IsotonicRegression

from flexip.calibration import Calibration


def fit_calibration(
    gammas: Float[np.ndarray, " gammas"],
    identity: Float[np.ndarray, "subjects gammas"],
    *,
    metric: str,
    protocol: str,
) -> Calibration:
    """The rising curve nearest to the subjects' means in least squares (isotonic regression).

    Raises:
        ValueError: fewer than two gammas, or gammas that do not rise.
    """
    if len(gammas) < 2 or not bool((np.diff(gammas) > 0).all()):
        raise ValueError(f"gammas = {list(gammas)}: a calibration needs two rising values at least")
    fitted = IsotonicRegression(increasing=True).fit_transform(gammas, identity.mean(axis=0))
    return Calibration(
        gammas=[float(gamma) for gamma in gammas],
        identity=[round(float(value), 6) for value in fitted],
        metric=metric,
        subjects=len(identity),
        protocol=protocol,
    )
