"""What a strategy would take if all got it: a request that comes while the engine has room must not take all of it.

Requests are decided one by one, and each sees the load of now. Judged by that alone, whoever comes first takes what
there is, and those that come next pay for it with their deadlines. So a strategy is offered only where it would keep
this request's deadline even if every request that arrives got the same: by Little's law there would then be

    x = (rate * seconds(x) - 1) * draws

sequences of other requests in work, a fixed point that grows from the load of now. Where the engine can't keep up with
so much there is none, and the seconds grow past any deadline. `single`, or what else is the smallest, always remains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import exp

from router.speed import Load, Speed
from strategies.types import Prediction

_WINDOW = 5.0  # seconds over which arrivals are counted, the latest most
_ROUNDS = 4  # towards the fixed point; what has not found it by then has grown enough to be seen

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
    offered = [row for row in rows if not row.reason]
    smallest = min((row.spec.draws for row in offered), default=0)
    judged = [row for row in offered if row.spec.draws > smallest]
    if not judged or load.arrivals * max(row.seconds for row in judged) <= 1:
        return rows
    alone = [_seconds(row, speed) for row, speed in zip(judged, _at(speeds, judged, [load.sequences]), strict=True)]
    stretch = [1.0] * len(judged)
    for _ in range(_ROUNDS):
        company = [
            max(load.sequences, load.others + round((load.arrivals * row.seconds * factor - 1) * row.spec.draws))
            for row, factor in zip(judged, stretch, strict=True)
        ]
        now = [_seconds(row, speed) for row, speed in zip(judged, _at(speeds, judged, company), strict=True)]
        stretch = [max(1.0, then / before) for then, before in zip(now, alone, strict=True)]
    factors = {row.spec: factor for row, factor in zip(judged, stretch, strict=True)}
    return [_judged(row, factors.get(row.spec, 1.0), seconds_left) for row in rows]


def _at(speeds: Speeds, rows: Sequence[Prediction], company: Sequence[int]) -> Sequence[Speed]:
    """company: of each row, or one for all."""
    running = list(company) * (len(rows) if len(company) == 1 else 1)
    return speeds([(others, row.spec.draws) for others, row in zip(running, rows, strict=True)])


def _seconds(row: Prediction, speed: Speed) -> float:
    """Of one round with candidates of the mean length: of interest is only how they grow with the load."""
    return speed.first_token + speed.per_token * row.tokens / row.spec.draws


def _judged(row: Prediction, factor: float, seconds_left: float) -> Prediction:
    upper = row.seconds_upper * factor
    if row.reason or factor == 1.0 or upper <= seconds_left:
        return row
    return replace(row, reason=f"may take {upper:.2f} s of {max(seconds_left, 0.0):.2f} s if all requests get it")
