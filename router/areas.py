"""How much accuracy a way of deciding reaches over the whole range of costs: the area under its frontier.

A frontier is the upper hull of (cost, accuracy) over the settings, since any two of them can be mixed. Areas are taken
over the logarithm of the cost, from the cheapest that both can do to the dearest that still helps the fixed strategies,
and divided by the width: they are mean accuracies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from router.frontier import Frontier, resampled

Floats = NDArray[np.float64]
Points = Sequence[tuple[float, float]]
Cost = Literal["tokens", "seconds"]
_STEPS = 200  # costs at which the frontiers are compared


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """One way against the hull of the fixed strategies. gain: area - fixed, with a 95 % interval."""

    name: str
    cost: Cost
    lowest: float  # the range of costs, in tokens or seconds a question
    highest: float
    area: float
    fixed: float
    gain: float
    low: float
    high: float


def areas(cost: Cost, fixed: Frontier, ways: Sequence[Frontier], blocks: Sequence[str]) -> list[Area]:
    """fixed: every strategy is a setting. ways: a setting a price. blocks: resampled as a whole, a name a question."""
    even = np.full(fixed.cost.shape[1], 1 / fixed.cost.shape[1])
    draws = resampled(blocks)
    top = hull(fixed.points())[-1][0]
    found: list[Area] = []
    for way in ways:
        lowest = max(float(one.cost.mean(axis=1).min()) for one in (fixed, way))
        costs = np.geomspace(lowest, max(lowest, top), _STEPS)

        def area(one: Frontier, weights: Floats, costs: Floats = costs) -> float:
            points = list(zip((one.cost @ weights).tolist(), (one.accuracy @ weights).tolist(), strict=True))
            best = hull(points)
            xs, ys = zip(*best, strict=True)
            return float(np.interp(costs, xs, ys).mean())

        gains = [area(way, weights) - area(fixed, weights) for weights in draws]
        low, high = np.quantile(gains, [0.025, 0.975])
        own, theirs = area(way, even), area(fixed, even)
        found.append(
            Area(
                name=way.name,
                cost=cost,
                lowest=lowest,
                highest=float(costs[-1]),
                area=own,
                fixed=theirs,
                gain=own - theirs,
                low=float(low),
                high=float(high),
            )
        )
    return found


def hull(points: Points) -> list[tuple[float, float]]:
    """The best accuracy that mixing these gets for a cost, from the cheapest point on: rising and concave."""
    found: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if found and y <= found[-1][1]:
            continue
        while len(found) > 1 and _steeper((x, y), found[-1], found[-2]):
            found.pop()
        found.append((x, y))
    return found


def _steeper(new: tuple[float, float], last: tuple[float, float], before: tuple[float, float]) -> bool:
    return (new[1] - before[1]) * (last[0] - before[0]) >= (last[1] - before[1]) * (new[0] - before[0])


def reached(points: Points, costs: Sequence[float]) -> Floats:
    """What the hull of these points reaches at each cost; nan where even the cheapest costs more."""
    best = hull(points)
    xs, ys = zip(*best, strict=True)
    return np.interp(np.array(costs), np.array(xs), np.array(ys), left=np.nan)
