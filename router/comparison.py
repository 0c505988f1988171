"""One way of deciding against another on the same questions, with intervals. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router.blocks import numbered

Floats = NDArray[np.float64]
Taken = tuple[Floats, Floats, Floats]  # accuracy, tokens, seconds of every question
_BOOTSTRAPS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One way of deciding, averaged over the questions. `gain`: its utility over that of the best fixed strategy in
    hindsight, with a 95 % interval (paired bootstrap over questions)."""

    name: str
    accuracy: float
    tokens: float
    seconds: float
    utility: float
    gain: float
    low: float
    high: float


def row_of(
    name: str, taken: Taken, prices: tuple[float, float], reference: Floats | None, blocks: Sequence[str]
) -> Row:
    """reference: utilities to be compared with, by question; None: its own."""
    accuracy, tokens, seconds = taken
    utility = accuracy - prices[0] * tokens / 1000 - prices[1] * seconds
    ahead = utility - (utility if reference is None else reference)
    low, high = bootstrap(ahead, blocks)
    return Row(
        name=name,
        accuracy=float(accuracy.mean()),
        tokens=float(tokens.mean()),
        seconds=float(seconds.mean()),
        utility=float(utility.mean()),
        gain=float(ahead.mean()),
        low=low,
        high=high,
    )


def bootstrap(differences: Floats, blocks: Sequence[str], *, seed: int = 7) -> tuple[float, float]:
    """95 % interval of the mean. Whole blocks are resampled; blocks: one name a difference."""
    owner = numbered(blocks)
    sums = np.bincount(owner, weights=differences)
    sizes = np.bincount(owner)
    picks = np.random.default_rng(seed).integers(0, len(sums), size=(_BOOTSTRAPS, len(sums)))
    low, high = np.quantile(sums[picks].sum(axis=1) / sizes[picks].sum(axis=1), [0.025, 0.975])
    return float(low), float(high)
