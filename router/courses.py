"""How a strategy goes that stops when more is not worth its price: measured on held-out questions, by price. Pure.

Before sampling, the allocator compares strategies at the request's prices, and what each will draw depends on them. The
table holds, for every sampled strategy and a grid of prices, what became of it on held-out questions under the very
rule that will stop it; between the grid's points it is interpolated in the logarithm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.odds import log_odds, sigmoid
from router.replay import CHECKPOINTS, Played, Replay
from router.stopping import FREE, Spending, wave_of
from router.waves import Waved
from strategies.spec import StrategySpec
from strategies.types import Prediction, Prices

Floats = NDArray[np.float64]
PRICES = (1e-5, 1e-4, 3e-4, 1e-3, 2e-3, 4e-3, 8e-3, 2e-2, 6e-2)  # utility of a candidate
WAITS = (0.0, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # utility of waiting for a wave, in candidates
_LEVEL = 0.9
_COLUMNS = ("gain", "samples", "length", "waves", "waves_upper")
_AT_ONCE = 1e3  # a wait so dear, in candidates, that everything is drawn in one wave


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """One strategy at one price, on average."""

    gain: float  # of accuracy by stopping, in log odds: under 0 where what is saved costs some
    samples: float  # tokens drawn, as a share of those that all n candidates have
    length: float  # the waves' longest candidates one after another, over the longest of all n
    waves: float
    waves_upper: float  # nine of ten questions take no more


@dataclass(frozen=True, slots=True, kw_only=True)
class Courses:
    """Arrays of shape (prices, waits, columns) by strategy."""

    table: Mapping[StrategySpec, Floats]

    def at(self, spec: StrategySpec, *, price: float, wait: float) -> Course | None:
        """price: utility of a candidate; wait: of a wave. None for a strategy that was not measured."""
        grid = self.table.get(spec)
        if grid is None:
            return None
        price = max(price, FREE)
        row, right = _place(np.log(price), np.log(PRICES))
        column, up = _place(np.log1p(wait / price), np.log1p(WAITS))
        corners = grid[row : row + 2, column : column + 2]
        values = (1 - right) * ((1 - up) * corners[0, 0] + up * corners[0, 1]) + right * (
            (1 - up) * corners[1, 0] + up * corners[1, 1]
        )
        return Course(**dict(zip(_COLUMNS, values.tolist(), strict=True)))

    def to_json(self) -> dict[str, Any]:
        return {str(spec): np.round(grid, 5).tolist() for spec, grid in self.table.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Courses:
        """Raises ValueError for a table of another shape."""
        table = {StrategySpec.parse(spec): np.array(grid, dtype=float) for spec, grid in data.items()}
        if any(grid.shape != (len(PRICES), len(WAITS), len(_COLUMNS)) for grid in table.values()):
            raise ValueError("the table of courses has another shape")
        return cls(table=table)


def as_stopped(row: Prediction, courses: Courses, *, prices: Prices, seconds_left: float) -> Waved | None:
    """The row of a strategy that was predicted as drawn all at once and never stopped, as it will go. None where that
    was not measured.

    With no time for two waves it is drawn all at once. seconds_left: until the deadline.
    """
    n = row.spec.n
    spending = Spending.of(prices, seconds=row.seconds)
    price = spending.candidate(row.tokens / n)
    at_once = 2 * row.seconds_upper > seconds_left
    course = courses.at(row.spec, price=price, wait=_AT_ONCE * price if at_once else spending.wait)
    if course is None:
        return None
    wave = n if at_once else wave_of(n, price=price, wait=spending.wait)
    upper = row.seconds_upper if wave == n else min(row.seconds_upper * course.waves_upper, seconds_left)
    accuracy = sigmoid(log_odds(np.array(row.accuracy)) + course.gain)
    return Waved(
        spec=row.spec,
        accuracy=float(accuracy),
        tokens=row.tokens * course.samples,
        tokens_upper=row.tokens_upper,  # of one that never stops
        seconds=min(row.seconds * course.length, upper),
        seconds_upper=upper,
        reason=row.reason,
        wave=wave,
        wave_seconds=row.seconds,
    )


def _place(value: float, grid: Floats) -> tuple[int, float]:
    """The cell's lower index, and how far into it."""
    value = float(np.clip(value, grid[0], grid[-1]))
    index = min(int(np.searchsorted(grid, value, side="right")) - 1, len(grid) - 2)
    return index, float((value - grid[index]) / (grid[index + 1] - grid[index]))


def measure(data: Replay, cap: int, run: Callable[[float, float], Played]) -> Floats:
    """One strategy's grid. run: plays the rows at a candidate's price and a wave's wait, both in utility."""
    full = data.tokens[:, :cap]
    tokens, longest = full.sum(axis=1).mean(), full.max(axis=1).mean()
    never = log_odds(data.right[:, CHECKPOINTS.index(cap)].mean())
    grid = np.zeros((len(PRICES), len(WAITS), len(_COLUMNS)))
    for i, price in enumerate(PRICES):
        for j, waits in enumerate(WAITS):
            result = run(price, waits * price)
            grid[i, j] = (
                log_odds(result.right.mean()) - never,
                result.tokens.mean() / tokens,
                result.longest.mean() / longest,
                result.waves.mean(),
                np.quantile(result.waves, _LEVEL, method="higher"),
            )
    return grid
