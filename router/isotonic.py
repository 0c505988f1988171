"""Isotonic regression: the non-decreasing map that calibrates predictions. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def isotonic(predicted: Floats, actual: Floats) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Pool adjacent violators: the non-decreasing map from predicted to actual, as points to interpolate between."""
    order = np.argsort(predicted, kind="stable")
    blocks: list[list[float]] = []  # sum of x, sum of y, weight
    for x, y in zip(predicted[order], actual[order], strict=True):
        blocks.append([float(x), float(y), 1.0])
        while len(blocks) > 1 and blocks[-2][1] / blocks[-2][2] >= blocks[-1][1] / blocks[-1][2]:
            x2, y2, w2 = blocks.pop()
            blocks[-1] = [blocks[-1][0] + x2, blocks[-1][1] + y2, blocks[-1][2] + w2]
    xs = tuple(round(block[0] / block[2], 6) for block in blocks)
    ys = tuple(round(block[1] / block[2], 6) for block in blocks)
    return xs, ys


def binned_isotonic(
    predicted: Floats, actual: Floats, *, bins: int = 200
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The same over equally filled bins, for many predictions: the map stays small."""
    parts = np.array_split(np.argsort(predicted, kind="stable"), min(bins, len(predicted)))
    return isotonic(
        np.array([predicted[part].mean() for part in parts]), np.array([actual[part].mean() for part in parts])
    )
