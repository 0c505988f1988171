"""How many samples of a vote to ask for at once: all together is quick, a few at a time is cheap. Pure.

A wave is taken to cost the seconds of drawing all n at once, which is to say the longest of n samples; samples that are
asked for before the vote is settled cost tokens for nothing. Which of the two is dearer is what the request's prices
say.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil

import numpy as np
from numpy.typing import NDArray

from strategies.stopping import lead_posterior
from strategies.types import Prediction, Prices

# Shares of the leading and of the second answer among the samples, equally likely: from sure to scattered. Before any
# sample is seen nothing is known of a query's own shares that would be worth more than this.
_SHARES = ((0.95, 0.04), (0.8, 0.12), (0.6, 0.2), (0.45, 0.25), (0.3, 0.2))
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_LOOKED_AHEAD = 64  # samples; a vote that is open after that is taken never to settle
_VOTES = 400  # imagined votes of each kind: sizes differ by more than the error, as all are tried on the same votes
LEVEL = 0.9  # of the upper bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How a vote is expected to go."""

    samples: float  # asked for until it is settled
    waves: float
    waves_upper: int  # nine of ten votes take no more


@dataclass(frozen=True, slots=True, kw_only=True)
class Waved(Prediction):
    """The row of a vote, with the waves it will be drawn in."""

    wave: int  # samples asked for at first
    wave_seconds: float  # of one wave, as if all n were drawn in it


def in_waves(
    row: Prediction, *, prices: Prices, threshold: float, seconds_left: float, one: float | None = None
) -> Waved:
    """The row of a vote that was predicted as drawn all at once, as it will be drawn.

    A vote in waves draws all that is left at once when time gets short: if there is time for two waves it ends by the
    deadline, and if there is not it is drawn all at once. threshold: see `strategies.stopping.settled`. one: the
    accuracy of one sample, for a threshold so low that votes are cut short of what they could gain: what is not drawn
    adds nothing, each doubling being worth half of the one before.
    """
    n, size = row.spec.n, row.spec.n
    if 2 * row.seconds_upper <= seconds_left:
        size = wave_size(n, tokens=row.tokens / n, seconds=row.seconds, prices=prices, threshold=threshold)
    course = expected_waves(n, size, threshold)
    upper = row.seconds_upper if size == n else min(row.seconds_upper * course.waves_upper, seconds_left)
    accuracy = row.accuracy
    if one is not None and n > 1:
        accuracy = one + (accuracy - one) * (1 - 1 / course.samples) / (1 - 1 / n)
    return Waved(
        spec=row.spec,
        accuracy=accuracy,
        tokens=row.tokens * course.samples / n,
        tokens_upper=row.tokens_upper,  # of a vote that never settles
        seconds=min(row.seconds * course.waves, upper),
        seconds_upper=upper,
        reason=row.reason,
        wave=size,
        wave_seconds=row.seconds,
    )


def wave_size(n: int, *, tokens: float, seconds: float, prices: Prices, threshold: float) -> int:
    """Samples of one wave of a vote of n at the lowest expected price, of equal ones the largest.

    tokens: of one sample. seconds: of one wave. threshold: see `strategies.stopping.settled`.
    """

    def price(size: int) -> float:
        course = expected_waves(n, size, threshold)
        return prices.token_price * course.samples * tokens / 1000 + prices.latency_price * course.waves * seconds

    sizes = [size for size in SIZES if size < n]
    return min([*sizes, n], key=lambda size: (price(size), -size))


@lru_cache(maxsize=4096)
def expected_waves(n: int, size: int, threshold: float) -> Course:
    """How a vote of n goes that is drawn `size` at a time until it is settled, averaged over the imagined votes."""
    waves = ceil(n / size)
    looks = min(waves - 1, _LOOKED_AHEAD // size)  # between two waves, whether it is settled
    open_at = ~_settled(n, threshold)[size - 1 : looks * size : size]
    reached = np.ones(waves)  # by wave: the share of votes that ask for it
    reached[1 : looks + 1] = np.logical_and.accumulate(open_at, axis=0).mean(axis=1)
    reached[looks + 1 :] = reached[looks]
    asked = np.full(waves, size)
    asked[-1] = n - size * (waves - 1)
    return Course(
        samples=float(reached @ asked),
        waves=float(reached.sum()),
        waves_upper=int((reached > 1 - LEVEL).sum()),
    )


@lru_cache(maxsize=64)
def _settled(n: int, threshold: float) -> NDArray[np.bool_]:
    """Which votes of n are settled, shape (samples drawn so far, votes). As `strategies.stopping.settled`."""
    lead, posterior = (of_all[:n] for of_all in _IMAGINED)
    drawn = np.arange(1, len(lead) + 1, dtype=np.int16)[:, None]
    return (posterior >= threshold) | (lead > n - drawn)


def _imagined() -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """The lead and its posterior in the imagined votes, shape (samples drawn so far, votes).

    Drawn once instead of counted out, which is exact but takes 60 ms for each threshold: a request can't wait for that.
    """
    at = np.random.default_rng(7).random((len(_SHARES), _LOOKED_AHEAD, _VOTES))
    first, second = (np.array(column)[:, None, None] for column in zip(*_SHARES, strict=True))
    counts = [np.cumsum(hit, axis=1) for hit in (at < first, (at >= first) & (at < first + second))]
    one, other = (np.concatenate([*count], axis=1) for count in counts)
    leading, trailing = np.maximum(one, other), np.minimum(one, other)
    posterior = np.zeros((_LOOKED_AHEAD + 1, _LOOKED_AHEAD // 2 + 1))
    for high, low in {*zip(leading.ravel().tolist(), trailing.ravel().tolist(), strict=True)}:
        posterior[high, low] = lead_posterior(high, low)
    return (leading - trailing).astype(np.int16), posterior[leading, trailing]


_IMAGINED = _imagined()
