"""Questions that belong together, by a name they share, and some of very many. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def numbered(names: Sequence[str]) -> NDArray[np.intp]:
    """A number for every name, equal for equal ones, from 0 in order of first appearance."""
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.array([number[name] for name in names], dtype=np.intp)


def some(count: int, most: int, *, seed: int = 7) -> NDArray[np.intp]:
    """Which of `count` questions to look at where `most` are enough: all, or so many at random, always the same."""
    if count <= most:
        return np.arange(count, dtype=np.intp)
    return np.sort(np.random.default_rng(seed).permutation(count)[:most])
