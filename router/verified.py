"""Drawing until the first candidate that is right: what best-of-N with a verifier comes to before it is stopped. Pure.

How likely a query's samples are right is not known beforehand, only their mean: the share is taken to be Beta
distributed about it, with the weight of one observation. On 495 recorded questions (SmolLM2-135M, 16 samples each)
that gives .52 for one of 8 being right and .59 for one of 16, where .52 and .61 were measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from router.waves import LEVEL, SIZES, Waved
from strategies.types import Prediction, Prices

_EVEN = 0.5  # accuracy of one sample where nothing is known of it


@dataclass(frozen=True, slots=True, kw_only=True)
class _Course:
    """What n candidates in waves of one size are expected to come to."""

    size: int
    samples: float  # asked for until one is right
    waves: float
    waves_upper: int  # nine of ten queries take no more


def until_right(row: Prediction, *, one: float | None, prices: Prices, seconds_left: float) -> Waved:
    """The row of a verified best-of-N that was predicted as drawn all at once, as it will be drawn: in waves of the
    lowest expected price, up to the first candidate that is right. With no time for two waves all are drawn at once.

    one: accuracy of one sample. seconds_left: until the deadline.
    """
    n, one = row.spec.n, _EVEN if one is None else one

    def price(course: _Course) -> float:
        tokens = row.tokens * course.samples / n
        return prices.token_price * tokens / 1000 + prices.latency_price * course.waves * row.seconds

    sizes = [n] if 2 * row.seconds_upper > seconds_left else [*(size for size in SIZES if size < n), n]
    course = min((_course(one, n, size) for size in sizes), key=lambda course: (price(course), -course.size))
    upper = row.seconds_upper if course.size == n else min(row.seconds_upper * course.waves_upper, seconds_left)
    return Waved(
        spec=row.spec,
        accuracy=row.accuracy,
        tokens=row.tokens * course.samples / n,
        tokens_upper=row.tokens_upper,  # of one in which none is right
        seconds=min(row.seconds * course.waves, upper),
        seconds_upper=upper,
        reason=row.reason,
        wave=course.size,
        wave_seconds=row.seconds,
    )


def one_right(one: float, n: int) -> float:
    """Expected probability that one of n samples is right, of which each is with probability `one` on average."""
    return 1 - _all_wrong(one, n)


def _course(one: float, n: int, size: int) -> _Course:
    reached = [(k, _all_wrong(one, k)) for k in range(0, n, size)]  # a wave is asked for if none before was right
    return _Course(
        size=size,
        samples=sum(share * min(size, n - k) for k, share in reached),
        waves=sum(share for _, share in reached),
        waves_upper=max(1, sum(share > 1 - LEVEL for _, share in reached)),
    )


@lru_cache(maxsize=8192)
def _all_wrong(one: float, n: int) -> float:
    """E[(1 - p)^n] with p ~ Beta(one, 1 - one)."""
    wrong = 1.0
    for i in range(n):
        wrong *= (1 - one + i) / (1 + i)
    return wrong
