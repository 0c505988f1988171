"""Predictors: features and a menu in, one row of predictions a menu entry out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log2
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from router.features import FEATURE_NAMES, Features
from router.speed import Load, Speed, seconds
from router.stopper import Stopper
from router.verified import one_right
from router.vote_state import SCORED_BY
from strategies.spec import StrategySpec
from strategies.types import Prediction

_ONE = 0.5  # accuracy of one sample, as far as the prior knows
_BY_METHOD = ("single", "majority_vote", "best_of_n", "beam_search")
SPEC_FEATURES = (
    *(f"is_{method}" for method in _BY_METHOD),
    "log2_n",
    "log2_draws",
    "expansion",
    "weighted",
    "scored_by",  # see `router.vote_state`
)


class Predictor(Protocol):
    """Predicts accuracy, tokens and seconds of strategies on a query."""

    @property
    def name(self) -> str:
        """Who decides: "model" or "prior"."""
        ...

    @property
    def version(self) -> str | None: ...

    @property
    def stopper(self) -> Stopper | None:
        """The learned stopping model, where there is one."""
        ...

    def predict(
        self, features: Features, specs: Sequence[StrategySpec], load: Load, *, max_tokens: int
    ) -> Sequence[Prediction]:
        """One row a spec, in order. max_tokens: what one candidate may have at most."""
        ...

    def speeds(self, calls: Sequence[tuple[float, int, int]]) -> Sequence[Speed]:
        """Seconds of engine calls, before any online correction. Calls: prompt tokens, sequences already running,
        sequences added."""
        ...


def spec_vector(spec: StrategySpec) -> list[float]:
    """A menu entry as numbers, in the order of SPEC_FEATURES."""
    return [
        *(float(spec.method == method) for method in _BY_METHOD),
        log2(spec.n),
        log2(spec.draws),
        float(spec.expansion),
        {"naive": 0.0, "borda": 0.5, "weighted": 1.0}[spec.rule],
        SCORED_BY.get(spec.scorer or "", 0.0),
    ]


# What suggests that candidates can agree on an answer. Where nothing does, a vote has nothing to count.
_ANSWERS = (
    "numbers", "latex_commands", "dollar_maths", "boxed", "choices", "form_how_many", "form_how_much", "form_yes_no",
    "json_output", "tool_forced",
)  # fmt: skip


def named(vector: NDArray[np.float64]) -> dict[str, float]:
    """Features in FEATURE_NAMES' order, by name."""
    return dict(zip(FEATURE_NAMES, vector.tolist(), strict=True))


def can_agree(values: Mapping[str, float]) -> bool:
    """Whether a query's features suggest that candidates could agree on an answer."""
    return any(values[name] for name in _ANSWERS)


def averages(usual: NDArray[np.float64], menu: Sequence[StrategySpec], *, agree: bool) -> NDArray[np.float64]:
    """Accuracies of a query that a model does not know: what the strategies come to on average. Open text, of which no
    two candidates can agree, gains nothing from more of it, unless a verifier looks. usual: (strategies,)."""
    gains = np.array([agree or spec.verified for spec in menu])
    return np.where(gains, usual, usual.min())


class Prior:
    """What decides while no model is loaded. Rules of thumb, and said to be so: `decided_by` is "prior".

    Accuracy: one sample is right half of the time, and of more a verifier finds one that is. Without it, where the
    question has numbers, choices or another sign of an answer that can be compared, more candidates add up to .12, each
    doubling less than the one before, a little more with a scorer and with beam search (the order found by Snell et al.
    2024); open text gains nothing. Tokens: a candidate uses a third of what it may, at most 256; nine of ten use no
    more than three times that. Seconds: half a second to the first token and 20 ms for each after it, until the online
    correction knows better.
    """

    name = "prior"
    version: str | None = None
    stopper: Stopper | None = None

    def __init__(self, *, step_tokens: int = 32) -> None:
        self._step_tokens = step_tokens

    def predict(
        self, features: Features, specs: Sequence[StrategySpec], load: Load, *, max_tokens: int
    ) -> Sequence[Prediction]:
        agree = can_agree(features.values)
        return [self._row(spec, load, max_tokens=max_tokens, agree=agree) for spec in specs]

    def speeds(self, calls: Sequence[tuple[float, int, int]]) -> Sequence[Speed]:
        crowds = [1 + (running + added) / 32 for _, running, added in calls]
        return [Speed(first_token=0.5 * crowd, per_token=0.02 * crowd) for crowd in crowds]

    def _row(self, spec: StrategySpec, load: Load, *, max_tokens: int, agree: bool) -> Prediction:
        each = min(256.0, max(1.0, max_tokens / 3))
        gain = 0.12 * (1 - 1 / spec.draws)
        if spec.verified:
            gain, agree = one_right(_ONE, spec.n) - _ONE, True  # a verifier sees what is right where no vote could
        better = {"single": 0.0, "majority_vote": 0.0, "best_of_n": 0.005, "beam_search": 0.02}[spec.method]
        speed = self.speeds([(0, load.sequences, spec.draws)])[0].slowed(load.correction)
        return Prediction(
            spec=spec,
            accuracy=_ONE + (gain + better if agree else 0.0),
            tokens=each * spec.draws,
            tokens_upper=min(3 * each, max_tokens) * spec.draws,
            seconds=seconds(spec, speed, longest=each, step_tokens=self._step_tokens),
            seconds_upper=seconds(spec, speed, longest=min(3 * each, max_tokens), step_tokens=self._step_tokens),
        )
