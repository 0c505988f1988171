"""When one more candidate is worth its price: the rule of every checkpoint, and what it goes by without a model. Pure.

Going on to j candidates is expected to gain some accuracy and costs token_price * tokens + latency_price * seconds. The
ratio of the two says how many times over it pays: a strategy goes on while that is more than once. One model of the
gain serves every price, and a price that was never seen in training needs no other.

Without a model (or where the model does not know the query) adaptive consistency stands in, with a threshold that
follows the price: at a fixed .95 it loses 7 points of utility at the prices that people really pay. Its Beta posterior
says when to stop; it is *not* the probability of being right.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import cast

import numpy as np
from numpy.typing import NDArray

from strategies.stopping import SETTLED, By, Poll, Stop, Verdict, cannot_change, lead_posterior, settled
from strategies.types import Prices

Floats = NDArray[np.float64]

# (price of a candidate in utility, posterior at which the vote counts as settled), found on seven recorded pools
_INDEX = ((1e-4, 0.95), (5e-4, 0.88), (2e-3, 0.76), (8e-3, 0.6), (2.5e-2, 0.5))
_LOG_PRICES = np.array([log(price) for price, _ in _INDEX])
_THRESHOLDS = np.array([threshold for _, threshold in _INDEX])
FREE = 1e-5  # a candidate's price below which nobody counts: a point of accuracy for a thousand of them
# What is under way has spent some of what it costs, and will soon be there.
_TOKENS_TO_COME, _SECONDS_TO_COME = 0.5, 0.25


def threshold_at(price: float) -> float:
    """Posterior at which a vote counts as settled, when a candidate costs `price`, in utility."""
    return float(thresholds_at(np.array(price)))


def thresholds_at(prices: Floats) -> Floats:
    """The same of many prices."""
    return np.interp(np.log(np.maximum(prices, FREE)), _LOG_PRICES, _THRESHOLDS)


def price_at(posterior: Floats) -> Floats:
    """The inverse: the price of a candidate from which on a vote with this posterior is settled. Beyond the ends of the
    table it is that of no price and of every price."""
    inside = np.exp(np.interp(posterior, _THRESHOLDS[::-1], _LOG_PRICES[::-1]))
    return cast("Floats", np.where(posterior >= _THRESHOLDS[0], FREE / 2, np.where(posterior < 0.5, 1.0, inside)))


def waves_of(left: Floats, *, price: Floats, wait: Floats) -> Floats:
    """Candidates to ask for at once when about `left` more may be needed: the square root of left * wait / price.

    A wave costs `wait` whatever its size, and on average half of its last one was not needed: the sum over the waves is
    least there (the economic order quantity, Harris 1913). Where candidates cost nothing, all at once is no loss.
    """
    best = np.rint(np.sqrt(left * np.minimum(wait / np.maximum(price, FREE), left)))
    return np.where(price <= FREE, left, np.clip(best, 1, np.maximum(left, 1)))


def wave_of(left: float, *, price: float, wait: float) -> int:
    """The same of one request."""
    return max(1, int(waves_of(np.array(left), price=np.array(price), wait=np.array(wait))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """What candidates cost a request, in utility."""

    token: float  # of one completion token
    wait: float  # of waiting for one wave

    @classmethod
    def of(cls, prices: Prices, *, seconds: float) -> Spending:
        """seconds: of one wave."""
        return cls(token=prices.token_price / 1000, wait=prices.latency_price * seconds)

    def candidate(self, tokens: float) -> float:
        """tokens: of the mean candidate."""
        return max(self.token * tokens, FREE)


def mean_tokens(poll: Poll) -> float:
    return sum(vote.tokens for vote in poll.votes) / max(1, len(poll.votes))


@dataclass(frozen=True, slots=True, kw_only=True)
class ByPrice:
    """Adaptive consistency whose threshold follows the price. Implements `Stopping`.

    Where scores pick the leader it says nothing: how often an answer came does not tell how it will be scored.
    """

    spending: Spending
    by: By = "prior"

    def judge(self, poll: Poll) -> Verdict:
        if not poll.left or not (poll.by_votes or poll.verified):
            return Verdict(wave=poll.left or None)
        price = self.spending.candidate(mean_tokens(poll))
        wave = wave_of(poll.left, price=price, wait=self.spending.wait)
        if poll.verified:
            return Verdict(wave=wave)
        leader, second = poll.counts()
        dear = self.price(poll, price, wave)
        if leader and (
            cannot_change((leader, second), poll.left) or lead_posterior(leader, second) >= threshold_at(dear)
        ):
            return Verdict(stop=stop_reason(poll))
        return Verdict(wave=wave)

    def price(self, poll: Poll, candidate: float, wave: int) -> float:
        """Of one candidate more, its share of the wait included."""
        if poll.under_way:
            return _TOKENS_TO_COME * candidate + _SECONDS_TO_COME * self.spending.wait / poll.under_way
        return candidate + self.spending.wait / wave


def costs(more: Floats, *, candidate: float, wait: float, under_way: int) -> Floats:
    """Utility that `more` candidates cost, those under way first."""
    if not under_way:
        return candidate * more + wait
    coming = np.minimum(more, under_way)
    beyond = more - coming
    return candidate * (_TOKENS_TO_COME * coming + beyond) + wait * np.where(beyond > 0, 1.0, _SECONDS_TO_COME)


def stop_reason(poll: Poll) -> Stop:
    """How a stop is told to the client: the vote is settled as everybody would say, or going on is not worth it."""
    return "consensus" if poll.by_votes and settled(poll.counts(), poll.left, SETTLED) else "price"
