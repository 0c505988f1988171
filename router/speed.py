"""How long a strategy takes: time to first token and time per output token under the load of now."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log

from router.coverage import Widths
from strategies.spec import StrategySpec

_FASTEST, _SLOWEST = 0.02, 50.0  # bounds of the online correction
_GAIN = 0.2  # weight of a new observation, once there are some
_FEW = 4  # observations that are believed as they are: what is known before them is a guess
_AS_PREDICTED = Widths()
_SURPRISE = 0.7  # of a logarithm; what is further off than this counts as so far off


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """Recent actual seconds over predicted seconds."""

    first_token: float = 1.0
    per_token: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What the engine has to do, as the gateway knows it."""

    running: int = 0  # sequences of this gateway in work
    others: int = 0  # sequences of others, in work or waiting, as far as the engine tells
    arrivals: float = 0.0  # requests a second that this gateway has got lately
    correction: Factors = Factors()
    widths: Widths = _AS_PREDICTED

    @property
    def sequences(self) -> int:
        return self.running + self.others


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Seconds, for one engine call under the present load."""

    first_token: float
    per_token: float  # after the first, while all the call's sequences are in work

    def slowed(self, by: Factors) -> Speed:
        return Speed(first_token=self.first_token * by.first_token, per_token=self.per_token * by.per_token)


def seconds(spec: StrategySpec, speed: Speed, *, longest: float, step_tokens: int) -> float:
    """Wall time of a strategy: its longest branch, and for beam search one first token a step."""
    rounds = max(1.0, longest / step_tokens) if spec.method == "beam_search" else 1.0
    return rounds * speed.first_token + longest * speed.per_token


class _Drift:
    """A moving average of log(actual / predicted) that one outlier moves little (its error is clipped, as Huber's
    estimator does), and that a lasting change has within ten to twenty observations."""

    def __init__(self) -> None:
        self._log = 0.0
        self._seen = 0

    @property
    def factor(self) -> float:
        return exp(self._log)

    def observe(self, *, predicted: float, actual: float) -> None:
        """predicted: before any correction."""
        if predicted <= 0 or actual <= 0:
            return
        error = log(actual / predicted) - self._log
        if self._seen >= _FEW:
            error = min(max(error, -_SURPRISE), _SURPRISE)
        self._log += max(_GAIN, 1 / (self._seen + 2)) * error
        self._log = min(max(self._log, log(_FASTEST)), log(_SLOWEST))
        self._seen += 1


class Correction:
    """Keeps predictions right when the hardware, the model's server or the load changes.

    The time to the first token (the prompt, and the queue) and the time per token after it (the batch) are corrected
    apart: another tenant's long prompts slow down the one, many sequences the other.
    """

    def __init__(self) -> None:
        self._first_token = _Drift()
        self._per_token = _Drift()

    @property
    def factors(self) -> Factors:
        return Factors(first_token=self._first_token.factor, per_token=self._per_token.factor)

    def observe(self, predicted: Speed, *, first_token: float | None, per_token: float | None) -> None:
        """predicted: without any correction. Seconds that a call really took; None: it tells nothing of that."""
        if first_token is not None:
            self._first_token.observe(predicted=predicted.first_token, actual=first_token)
        if per_token is not None:
            self._per_token.observe(predicted=predicted.per_token, actual=per_token)
