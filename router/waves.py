"""How many samples of a vote to ask for at once: all together is quick, a few at a time is cheap. Pure.

A wave costs about the seconds of one sample, however large it is; samples that are asked for before the vote is settled
cost tokens for nothing. Which of the two is dearer is what the request's prices say.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from strategies.stopping import lead_posterior
from strategies.types import Prices

# Shares of the leading and of the second answer among the samples, equally likely: from sure to scattered. Before any
# sample is seen nothing is known of a query's own shares that would be worth more than this.
_SHARES = ((0.95, 0.04), (0.8, 0.12), (0.6, 0.2), (0.45, 0.25), (0.3, 0.2))
_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_LOOKED_AHEAD = 64  # samples; a vote that is open after that goes on in the same waves


def wave_size(n: int, *, tokens: float, seconds: float, prices: Prices, threshold: float) -> int:
    """Samples of one wave of a vote of n at the lowest expected price, of equal ones the largest.

    tokens, seconds: of one sample. threshold: see `strategies.stopping.settled`.
    """

    def price(size: int) -> float:
        samples, waves = expected_waves(min(n, _LOOKED_AHEAD), size, threshold)
        return prices.token_price * samples * tokens / 1000 + prices.latency_price * waves * seconds

    sizes = [size for size in _SIZES if size < n]
    return min([*sizes, n], key=lambda size: (price(size), -size))


@lru_cache(maxsize=8192)
def expected_waves(n: int, size: int, threshold: float) -> tuple[float, float]:
    """Samples and waves that a vote of n is expected to take when drawn `size` at a time, until it is settled.

    Exact, over the counts of the two leading answers; the others are taken never to lead.
    """
    first, second = (np.array(column)[:, None, None] for column in zip(*_SHARES, strict=True))
    other = 1 - first - second
    odds = np.zeros((len(_SHARES), n + 1, n + 1))
    odds[:, 0, 0] = 1 / len(_SHARES)
    sure = _settled_by_posterior(n, threshold)
    lead = np.abs(np.subtract.outer(np.arange(n + 1), np.arange(n + 1)))
    samples = waves = 0.0
    drawn = 0
    while drawn < n:
        wave = min(size, n - drawn)
        going_on = float(odds.sum())
        samples += going_on * wave
        waves += going_on
        for _ in range(wave):
            grown = odds * other
            grown[:, 1:, :] += (odds * first)[:, :-1, :]
            grown[:, :, 1:] += (odds * second)[:, :, :-1]
            odds = grown
        drawn += wave
        odds[:, sure | (lead > n - drawn)] = 0.0
    return samples, waves


@lru_cache(maxsize=512)
def _settled_by_posterior(n: int, threshold: float) -> NDArray[np.bool_]:
    """Where the leader of (first, second) counts is sure enough; shape (n + 1, n + 1)."""
    enough = np.full(n + 1, n + 1)  # by the trailing count: the leading count that settles
    leader = 1
    for trailing in range(n + 1):
        leader = max(leader, trailing)
        while leader <= n and lead_posterior(leader, trailing) < threshold:
            leader += 1
        enough[trailing] = leader
    counts = np.arange(n + 1)
    return (counts[:, None] >= enough[None, :]) | (counts[None, :] >= enough[:, None])
