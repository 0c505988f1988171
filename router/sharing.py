"""What a strategy would take if all got it: a request that comes while the engine has room must not take all of it.

Requests are decided one by one, and each sees the load of now. Judged by that alone, whoever comes first takes what
there is, and those that come next pay for it with their deadlines. So a strategy is offered only where it would keep
this request's deadline even if every request that arrives got the same: by Little's law there would then be

    x = (rate * seconds(x) - 1) * draws

sequences of other requests in work, a fixed point that grows from the load of now. Where the engine can't keep up with
so much there is none, and the seconds grow past any deadline. The smallest that fits by itself always remains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import exp

from router.speed import Load, Speed
from strategies.spec import StrategySpec
from strategies.types import Prediction

_WINDOW = 5.0  # seconds over which arrivals are counted, the latest most
_ROUNDS = 4  # towards the fixed point; what has not found it by then has grown enough to be seen

_MOST = 100_000  # sequences

Speeds = Callable[[Sequence[tuple[int, int]]], Sequence[Speed]]


class Arrivals:
    """Requests a second, as an exponential average over the last seconds."""

    def __init__(self) -> None:
        self._rate = 0.0
        self._last = 0.0

    def rate(self, now: float) -> float:
        """now: monotonic seconds."""
        return self._rate * exp(min(0.0, self._last - now) / _WINDOW)

    def observe(self, now: float) -> None:
        """A request has come."""
        self._rate = self.rate(now) + 1 / _WINDOW
        self._last = now


def shared(rows: Sequence[Prediction], load: Load, speeds: Speeds, *, seconds_left: float) -> Sequence[Prediction]:
    """The rows, predicted for the load of now and for drawing all at once; with a reason those that all could not have.

    speeds: of calls, each given as sequences already running and sequences added, in one go.
    """
    fitting = [row for row in rows if not row.reason and row.seconds_upper <= seconds_left]
    smallest = min((row.spec.draws for row in fitting), default=0)
    factors: dict[StrategySpec, float] = {}
    unsure = [row for row in fitting if row.spec.draws > smallest]  # that company may yet push past the deadline
    company = {row.spec: load.sequences for row in unsure}
    alone: dict[StrategySpec, float] = {}
    for _ in range(_ROUNDS):
        more = {row.spec: _company(row, load, factors.get(row.spec, 1.0)) for row in unsure}
        unsure = [row for row in unsure if more[row.spec] > company[row.spec]]
        if not unsure:
            break
        company |= more
        if not alone:
            alone = _seconds(unsure, speeds, [load.sequences] * len(unsure))
        crowded = _seconds(unsure, speeds, [company[row.spec] for row in unsure])
        factors |= {row.spec: max(1.0, crowded[row.spec] / alone[row.spec]) for row in unsure}
        unsure = [row for row in unsure if row.seconds_upper * factors[row.spec] <= seconds_left]
    return [_judged(row, factors.get(row.spec, 1.0), seconds_left) for row in rows]


def _company(row: Prediction, load: Load, factor: float) -> int:
    """Sequences in work beside a request's own if all get this strategy, which takes so many times its seconds."""
    requests = load.arrivals * row.seconds * factor - 1
    return max(load.sequences, load.others + round(min(requests * row.spec.draws, _MOST)))


def _seconds(rows: Sequence[Prediction], speeds: Speeds, company: Sequence[int]) -> dict[StrategySpec, float]:
    """Of one round with candidates of the mean length: of interest is only how they grow with the load."""
    calls = [(running, row.spec.draws) for running, row in zip(company, rows, strict=True)]
    different = list(dict.fromkeys(calls))
    known = dict(zip(different, speeds(different), strict=True))
    return {
        row.spec: known[call].first_token + known[call].per_token * row.tokens / row.spec.draws
        for row, call in zip(rows, calls, strict=True)
    }


def _judged(row: Prediction, factor: float, seconds_left: float) -> Prediction:
    upper = row.seconds_upper * factor
    if row.reason or factor == 1.0 or upper <= seconds_left:
        return row
    return replace(row, reason=f"may take {upper:.2f} s of {max(seconds_left, 0.0):.2f} s if all requests get it")
