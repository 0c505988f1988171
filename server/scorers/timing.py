"""How long a scorer's calls take, as they were seen to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from contextlib import contextmanager
from math import exp, log, sqrt

_GUESSED, _GUESSED_UPPER = 1 / 30, 1 / 10  # of the time limit, while no call has been seen
_NINE_OF_TEN = 1.2816  # standard deviations above the mean
_NEWEST = 0.1  # least weight of a new call
_SHORTEST = 1e-4  # seconds


class Timing:
    """Seconds of one call, its wait in the queue included: moving mean and spread of their logarithm.

    Until calls have been seen the time limit stands for them: the operator knows the order of magnitude, and sets it
    well above what is usual. That guess counts as much as one call does.
    """

    def __init__(self, *, limit: float) -> None:
        """limit: seconds after which a call is given up."""
        self._mean = log(limit * _GUESSED)
        self._variance = (log(_GUESSED_UPPER / _GUESSED) / _NINE_OF_TEN) ** 2
        self._seen = 1

    @property
    def usual(self) -> float:
        return exp(self._mean)

    @property
    def upper(self) -> float:
        """Nine of ten calls take no longer."""
        return exp(self._mean + _NINE_OF_TEN * sqrt(self._variance))

    def observe(self, seconds: float) -> None:
        self._seen += 1
        weight = max(_NEWEST, 1 / self._seen)
        missed = log(max(seconds, _SHORTEST)) - self._mean
        self._mean += weight * missed
        self._variance = (1 - weight) * (self._variance + weight * missed**2)

    @contextmanager
    def watch(self) -> Generator[None]:
        """Times a call. One that fails tells nothing; one that is given up would have taken longer still, which tells
        something if it has taken long already."""
        started = time.monotonic()
        try:
            yield
        except asyncio.CancelledError:
            if (seconds := time.monotonic() - started) > self.usual:
                self.observe(seconds)
            raise
        self.observe(time.monotonic() - started)
