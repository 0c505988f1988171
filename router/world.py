"""What every strategy of a menu achieves on every question, and what is predicted of it: arrays to choose from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router.boosted import Boosted
from router.features import FEATURE_NAMES
from router.replay import CHECKPOINTS, Speeds
from router.speed import Load, seconds
from router.training import Examples, HeldOut, calibrate, conformal_factor, fit_speed
from strategies.spec import StrategySpec
from strategies.types import Prices

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
_PROMPT = FEATURE_NAMES.index("prompt_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Arrays of shape (questions, strategies)."""

    menu: Sequence[StrategySpec]
    accuracy: Floats
    tokens: Floats
    seconds: Floats

    def utility(self, prices: Prices) -> Floats:
        return self.accuracy - prices.token_price * self.tokens / 1000 - prices.latency_price * self.seconds

    def taken(self, choice: Ints) -> tuple[Floats, Floats, Floats]:
        """Accuracy, tokens and seconds of every question's choice."""
        everyone = np.arange(len(choice))
        return self.accuracy[everyone, choice], self.tokens[everyone, choice], self.seconds[everyone, choice]


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted(World):
    """What is predicted of them, when all is drawn at once."""

    tokens_upper: Floats
    seconds_upper: Floats


def real_world(data: Examples, menu: Sequence[StrategySpec], *, step_tokens: int) -> World:
    """From the labels."""
    shape = (len(data), len(menu))
    accuracy, tokens, spent = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    model = fit_speed(data.calls)
    for i, labels in enumerate(data.labels):
        prompt = float(data.features[i][_PROMPT])
        speeds = model.speeds([(prompt, 0, spec.draws) for spec in menu])
        for j, (spec, speed) in enumerate(zip(menu, speeds, strict=True)):
            label = labels[spec]
            accuracy[i, j], tokens[i, j] = label.accuracy, label.mean_tokens
            timed = [run.seconds for run in data.pools[i].runs_of(spec)]
            modelled = seconds(spec, speed, longest=label.mean_longest, step_tokens=step_tokens)
            spent[i, j] = np.mean(timed) if timed else modelled
    return World(menu=menu, accuracy=accuracy, tokens=tokens, seconds=spent)


def predicted_world(
    data: Examples,
    menu: Sequence[StrategySpec],
    scores: HeldOut,
    boosters: Sequence[Boosted],
    parts: Sequence[Sequence[int]],
    *,
    level: float,
    speed_error: Floats,
) -> Predicted:
    """Every question as predicted by the boosters of its fold, calibrated by the other folds. See `held_out`.

    speed_error: of held-out calls, see `speed_errors`."""
    shape = (len(data), len(menu))
    accuracy, tokens, spent = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    tokens_upper, seconds_upper = np.zeros(shape), np.zeros(shape)
    models = _cross_calibrated(scores, boosters, parts, level=level, speed_error=speed_error)
    for model, part in zip(models, parts, strict=True):
        for i in part:
            cap = data.pools[i].question.max_tokens
            for j, row in enumerate(model.predict_vector(data.features[i], menu, Load(), max_tokens=cap)):
                accuracy[i, j], tokens[i, j], spent[i, j] = row.accuracy, row.tokens, row.seconds
                tokens_upper[i, j], seconds_upper[i, j] = row.tokens_upper, row.seconds_upper
    return Predicted(
        menu=menu,
        accuracy=accuracy,
        tokens=tokens,
        seconds=spent,
        tokens_upper=tokens_upper,
        seconds_upper=seconds_upper,
    )


def speeds_of(data: Examples) -> Speeds:
    """Seconds to the first token and for each after it, of waves of any size on any question, nothing else running."""
    model = fit_speed(data.calls)
    prompts = data.features[:, _PROMPT]
    sizes: Ints = np.array(CHECKPOINTS, dtype=np.intp)
    table = np.array(
        [
            [(speed.first_token, speed.per_token) for speed in model.speeds([(prompt, 0, size) for size in sizes])]
            for prompt in prompts.tolist()
        ]
    )

    def speeds(question: Ints, size: Ints) -> tuple[Floats, Floats]:
        found = table[question, np.searchsorted(sizes, np.minimum(size, sizes[-1]))]
        return found[:, 0], found[:, 1]

    return speeds


def _cross_calibrated(
    scores: HeldOut,
    boosters: Sequence[Boosted],
    parts: Sequence[Sequence[int]],
    *,
    level: float,
    speed_error: Floats,
) -> list[Boosted]:
    """Each fold's booster with the calibration fitted on the other folds' held-out predictions."""
    models: list[Boosted] = []
    for model, part in zip(boosters, parts, strict=True):
        others = ~np.isin(scores.question, list(part))
        calibration = calibrate(_where(scores, others), level=level, speed_error=speed_error)
        models.append(model.calibrated(calibration))
    return models


def _where(scores: HeldOut, mask: NDArray[np.bool_]) -> HeldOut:
    rows = [int(i) for i in np.flatnonzero(mask)]
    return HeldOut(
        question=scores.question[rows],
        spec=[scores.spec[i] for i in rows],
        raw_accuracy=scores.raw_accuracy[rows],
        mean_accuracy=scores.mean_accuracy[rows],
        accuracy=scores.accuracy[rows],
        tokens_predicted=scores.tokens_predicted[rows],
        tokens_upper=scores.tokens_upper[rows],
        tokens=[scores.tokens[i] for i in rows],
    )


def tokens_quality(
    scores: HeldOut, parts: Sequence[Sequence[int]], *, level: float
) -> tuple[Mapping[str, float], float]:
    """Coverage of the upper bound by strategy when its factor comes from other folds, and the median relative error."""
    covered: dict[str, list[float]] = {str(spec): [] for spec in scores.spec}
    for part in parts:
        inside = np.isin(scores.question, list(part))
        for spec in dict.fromkeys(scores.spec):
            same = np.array([other == spec for other in scores.spec])
            fitted = [int(i) for i in np.flatnonzero(same & ~inside)]
            judged = [int(i) for i in np.flatnonzero(same & inside)]
            factor = conformal_factor(scores.tokens_upper[fitted], [scores.tokens[i] for i in fitted], level)
            covered[str(spec)] += [float((scores.tokens[i] <= scores.tokens_upper[i] * factor).mean()) for i in judged]
    actual = np.array([draws.mean() for draws in scores.tokens])
    error = float(np.median(np.abs(scores.tokens_predicted - actual) / actual))
    return {name: float(np.mean(values)) for name, values in covered.items()}, error
