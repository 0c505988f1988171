"""Probabilities and their log odds. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_SURE = 1e-3  # no accuracy is taken to be nearer to 0 or 1


def sigmoid(z: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-z))


def log_odds(p: Floats) -> Floats:
    p = np.clip(p, _SURE, 1 - _SURE)
    return np.log(p / (1 - p))


def between(one: Floats, other: Floats, share: Floats | float) -> Floats:
    """From one (share 0) to the other (share 1), in log odds."""
    return sigmoid(share * log_odds(other) + (1 - share) * log_odds(one))
