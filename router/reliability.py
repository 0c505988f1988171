"""How far predicted probabilities are what comes true. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_BINS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Predictions of about equal size, and how often they came true."""

    predicted: float
    actual: float
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """error: expected calibration error over equally filled bins. brier: mean squared error."""

    name: str
    bins: tuple[Bin, ...]
    error: float
    brier: float


def reliability(name: str, predicted: Floats, actual: Floats) -> Reliability:
    """Over equally filled bins; of nothing, no bins and nan."""
    if not len(predicted):
        return Reliability(name=name, bins=(), error=float("nan"), brier=float("nan"))
    order = np.argsort(predicted, kind="stable")
    bins = [
        Bin(predicted=float(predicted[part].mean()), actual=float(actual[part].mean()), count=len(part))
        for part in np.array_split(order, min(_BINS, len(order)))
    ]
    error = sum(abs(one.predicted - one.actual) * one.count for one in bins) / len(order)
    return Reliability(name=name, bins=tuple(bins), error=float(error), brier=float(np.mean((predicted - actual) ** 2)))
