"""How long a strategy takes: time to first token and time per output token under the load of now."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log

from strategies.spec import StrategySpec

_FASTEST, _SLOWEST = 0.05, 50.0  # bounds of the online correction
_MEMORY = 0.8  # weight of the past in the online correction


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What the engine has to do, as the gateway knows it."""

    running: int = 0  # sequences of this gateway in work
    correction: float = 1.0  # recent actual seconds over predicted seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Seconds, for one engine call under the present load."""

    first_token: float
    per_token: float  # after the first, while all the call's sequences are in work

    def slowed(self, factor: float) -> Speed:
        return Speed(first_token=self.first_token * factor, per_token=self.per_token * factor)


def seconds(spec: StrategySpec, speed: Speed, *, longest: float, step_tokens: int) -> float:
    """Wall time of a strategy: its longest branch, and for beam search one first token a step."""
    rounds = max(1.0, longest / step_tokens) if spec.method == "beam_search" else 1.0
    return rounds * speed.first_token + longest * speed.per_token


class Correction:
    """Keeps predictions right when the hardware, the model's server or the load changes: an exponential moving
    average of log(actual / predicted)."""

    def __init__(self) -> None:
        self._log = 0.0

    @property
    def factor(self) -> float:
        return exp(self._log)

    def observe(self, *, predicted: float, actual: float) -> None:
        """`predicted`: seconds as predicted with the factor of that time already in it."""
        if predicted <= 0 or actual <= 0:
            return
        missed = self._log + log(actual / predicted)
        self._log = min(max(_MEMORY * self._log + (1 - _MEMORY) * missed, log(_FASTEST)), log(_SLOWEST))
