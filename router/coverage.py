"""Upper bounds that keep their promise while the load drifts: adaptive conformal inference.

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """Factors on the upper bounds."""

    tokens: float = 1.0
    seconds: float = 1.0


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


@dataclass(slots=True)
class Coverage:
    """Of whole requests, apart for every method: a vote that stops early leaves its bounds wide, best-of-N does not."""

    level: float  # share of requests within their bounds
    _bounds: dict[str, tuple[_Bound, _Bound]] = field(default_factory=dict[str, tuple[_Bound, _Bound]])

    def widths(self) -> Mapping[str, Widths]:
        """By method, of which there are a few."""
        return {
            method: Widths(tokens=tokens.factor, seconds=seconds.factor)
            for method, (tokens, seconds) in self._bounds.items()
        }

    def observe(self, row: Prediction, *, tokens: float | None, seconds: float | None) -> None:
        """row: as it was predicted, widths included. What it came to; None: it was cut before it could tell."""
        bounds = self._bounds.setdefault(row.spec.method, (_Bound(self.level), _Bound(self.level)))
        if tokens is not None:
            bounds[0].observe(missed=tokens > row.tokens_upper)
        if seconds is not None:
            bounds[1].observe(missed=seconds > row.seconds_upper)


def widened(row: Prediction, widths: Mapping[str, Widths], *, most_tokens: float) -> Prediction:
    """most_tokens: that all candidates together can have. Bounds stay above what is expected."""
    by = widths.get(row.spec.method)
    if by is None or row.reason:
        return row
    return replace(
        row,
        tokens_upper=max(row.tokens, min(row.tokens_upper * by.tokens, most_tokens)),
        seconds_upper=max(row.seconds, row.seconds_upper * by.seconds),
    )


def most_tokens(spec: StrategySpec, *, limit: int, answers: int) -> float:
    """limit: tokens of one candidate."""
    return float(limit * max(spec.draws, answers))
