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

    tokens: float = 1.0  # on the upper bound
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Method:
    tokens: _Bound
    seconds: _Bound
    bias: _Bias


@dataclass(slots=True)
class Coverage:
    """Of whole requests, apart for every method: a vote that stops early leaves its bounds wide, best-of-N does not."""

    level: float  # share of requests within their bounds
    _methods: dict[str, _Method] = field(default_factory=dict[str, _Method])

    def widths(self) -> Mapping[str, Widths]:
        """By method, of which there are a few."""
        return {
            name: Widths(
                tokens=method.tokens.factor, seconds=method.seconds.factor, expected_seconds=method.bias.factor
            )
            for name, method in self._methods.items()
        }

    def observe(self, row: Prediction, *, tokens: float | None, seconds: float | None) -> None:
        """row: as it was predicted, factors included. What it came to; None: it was cut before it could tell."""
        method = self._methods.get(row.spec.method)
        if method is None:
            method = _Method(tokens=_Bound(self.level), seconds=_Bound(self.level), bias=_Bias())
            self._methods[row.spec.method] = method
        if tokens is not None:
            method.tokens.observe(missed=tokens > row.tokens_upper)
        if seconds is not None:
            method.seconds.observe(missed=seconds > row.seconds_upper)
            method.bias.observe(predicted=row.seconds, actual=seconds)


def widened(row: Prediction, widths: Mapping[str, Widths], *, most_tokens: float) -> Prediction:
    """most_tokens: that all candidates together can have. Bounds stay above what is expected."""
    by = widths.get(row.spec.method)
    if by is None or row.reason:
        return row
    seconds = row.seconds * by.expected_seconds
    return replace(
        row,
        tokens_upper=max(row.tokens, min(row.tokens_upper * by.tokens, most_tokens)),
        seconds=seconds,
        seconds_upper=max(seconds, row.seconds_upper * by.seconds),
    )


def most_tokens(spec: StrategySpec, *, limit: int, answers: int) -> float:
    """limit: tokens of one candidate."""
    return float(limit * max(spec.draws, answers))
