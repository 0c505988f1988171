"""What whole requests came to, against what they were predicted to: seconds without a bias, and upper bounds that keep
their promise while the load drifts.

The bounds are kept by adaptive conformal inference:

Gibbs & Candes (2021, "Adaptive Conformal Inference Under Distribution Shift"), in the logarithm of the bound: after
every request its width moves by gain * (missed - share of misses wanted). Whatever the requests do, the share of misses
over T of them is then off the wanted one by at most (range of the logarithm) / (gain * T), while no end of the range
is reached.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import exp, log

from strategies.spec import StrategySpec
from strategies.types import Prediction

_NARROWEST, _WIDEST = 0.5, 20.0
_GAIN = 0.15
_BIAS_GAIN, _SURPRISE = 0.1, 0.7  # of the logarithm of actual / predicted, which counts as so much at most
_LEAST_BIAS, _MOST_BIAS = 0.2, 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """Factors on predictions."""

    tokens: Mapping[str, float] = field(default_factory=dict[str, float])  # on the upper bound, by method
    seconds: float = 1.0  # on the upper bound
    expected_seconds: float = 1.0


class _Bound:
    def __init__(self, level: float) -> None:
        self._misses = 1 - level
        self._log = 0.0

    @property
    def factor(self) -> float:
        return exp(self._log)

    def observe(self, *, missed: bool) -> None:
        self._log += _GAIN * (missed - self._misses)
        self._log = min(max(self._log, log(_NARROWEST)), log(_WIDEST))


class _Bias:
    """Moves a little with every request, and no more with one that took very long than with one that took double."""

    def __init__(self) -> None:
        self._log = 0.0
        self._seen = 0

    @property
    def factor(self) -> float:
        return exp(self._log)

    def observe(self, *, predicted: float, actual: float) -> None:
        """predicted: with the factor in it."""
        if predicted <= 0 or actual <= 0:
            return
        error = min(max(log(actual / predicted), -_SURPRISE), _SURPRISE)
        self._log += max(_BIAS_GAIN, 1 / (self._seen + 2)) * error
        self._log = min(max(self._log, log(_LEAST_BIAS)), log(_MOST_BIAS))
        self._seen += 1


class Coverage:
    """Of whole requests. Tokens apart for every method: a vote that stops early leaves its bounds wide, best-of-N does
    not. Seconds together: what makes them wrong is the engine's load, and apart, the methods that ran while it was high
    would look slower than larger ones that did not."""

    def __init__(self, level: float) -> None:
        """level: share of requests within their bounds."""
        self._level = level
        self._tokens: dict[str, _Bound] = {}  # methods are few
        self._seconds = _Bound(level)
        self._bias = _Bias()

    @property
    def widths(self) -> Widths:
        return Widths(
            tokens={method: bound.factor for method, bound in self._tokens.items()},
            seconds=self._seconds.factor,
            expected_seconds=self._bias.factor,
        )

    def observe(self, row: Prediction, *, tokens: float | None, seconds: float | None) -> None:
        """row: as it was predicted, factors included. What it came to; None: it was cut before it could tell."""
        if tokens is not None:
            bound = self._tokens.setdefault(row.spec.method, _Bound(self._level))
            bound.observe(missed=tokens > row.tokens_upper)
        if seconds is not None:
            self._seconds.observe(missed=seconds > row.seconds_upper)
            self._bias.observe(predicted=row.seconds, actual=seconds)


def widened(row: Prediction, widths: Widths, *, most_tokens: float) -> Prediction:
    """most_tokens: that all candidates together can have. Bounds stay above what is expected."""
    if row.reason:
        return row
    seconds = row.seconds * widths.expected_seconds
    tokens_upper = min(row.tokens_upper * widths.tokens.get(row.spec.method, 1.0), max(most_tokens, row.tokens_upper))
    return replace(
        row,
        tokens_upper=max(row.tokens, tokens_upper),
        seconds=seconds,
        seconds_upper=max(seconds, row.seconds_upper * widths.seconds),
    )


def most_tokens(spec: StrategySpec, *, limit: int, answers: int) -> float:
    """limit: tokens of one candidate."""
    return float(limit * max(spec.draws, answers))
