"""Learn the predictors from pools: LightGBM boosters, calibration, and a card that says what they are worth.

Cross-fitting: the calibration maps and every held-out figure come from predictions on questions that the predicting
booster has not seen; the boosters that are saved are then fitted on all of them. Same pools, same files.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray

from router.boosted import (
    QUANTILES,
    Boosted,
    Calibration,
    SpecMeans,
    SpeedModel,
    features_of,
    shrink,
)
from router.boosters import FIXED, boost
from router.isotonic import isotonic
from router.labels import Label, label_table
from router.odds import log_odds
from router.pools import Call, Pool
from router.predictors import spec_vector
from router.speed import Load
from strategies.spec import StrategySpec

Floats = NDArray[np.float64]
FOLDS = 5
_COMMON: Mapping[str, Any] = {
    **FIXED,
    "lambda_l2": 10.0,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.8,
}
ACCURACY: Mapping[str, Any] = {**_COMMON, "objective": "cross_entropy", "num_leaves": 12, "min_data_in_leaf": 60}
LENGTH: Mapping[str, Any] = {**_COMMON, "num_leaves": 8, "min_data_in_leaf": 100}
SPEED: Mapping[str, Any] = {
    **_COMMON,
    "objective": "huber",
    "num_leaves": 8,
    "min_data_in_leaf": 10,
    "lambda_l2": 1.0,
    "feature_fraction": 1.0,
    "monotone_constraints": [1, 1, 1],  # more to read and more company never make it faster
}
ROUNDS = 220
FEWEST_POOLS = 40
_LENGTHS, _FEWEST_LENGTHS = 40_000, 4  # samples that lengths are learned from: in all, and of one question at least
GAIN_WEIGHTS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
GATE_PRICES = (0.0, 0.1, 0.3, 1.0, 3.0)  # utility per 1,000 tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Pools as training data: one entry a question, in the pools' order."""

    pools: Sequence[Pool]
    features: Floats  # (questions, features)
    labels: Sequence[Mapping[StrategySpec, Label]]
    calls: Sequence[Call]  # timed engine calls of all pools; they tell of the engine, not of a question

    def __len__(self) -> int:
        return len(self.pools)

    def without(self, part: Sequence[int], calls: Sequence[int]) -> Examples:
        """All but these questions and these calls."""
        rows = sorted(set(range(len(self))) - set(part))
        return Examples(
            pools=[self.pools[i] for i in rows],
            features=self.features[rows],
            labels=[self.labels[i] for i in rows],
            calls=[self.calls[i] for i in sorted(set(range(len(self.calls))) - set(calls))],
        )

    def call_parts(self, k: int) -> list[range]:
        """The calls in k parts, dealt out in turn: a load sweep stands in one place and must not be in one part."""
        return [range(part, len(self.calls), k) for part in range(k)]


def examples(pools: Sequence[Pool], menu: Sequence[StrategySpec], *, borda_power: float = 1.0) -> Examples:
    """Raises ValueError when there are too few questions to learn from."""
    if len(pools) < FEWEST_POOLS:
        raise ValueError(f"{len(pools)} questions are too few to train on: record at least {FEWEST_POOLS}")
    vectors = np.array([features_of(pool.question).vector() for pool in pools])
    return Examples(
        pools=pools,
        features=vectors,
        labels=label_table(pools, menu, borda_power=borda_power),
        calls=[call for pool in pools for call in pool.calls],
    )


def folds(pools: Sequence[Pool], k: int = FOLDS, *, by: Callable[[Pool], str] | None = None) -> list[list[int]]:
    """Questions in k parts of equal mix: each family is dealt out in turn. `by`: whole groups go into one part.

    Near-duplicates always do.
    """
    parts: list[list[int]] = [[] for _ in range(k)]
    if by is not None:
        groups = list(dict.fromkeys(by(pool) for pool in pools))
        for i, pool in enumerate(pools):
            parts[groups.index(by(pool)) % k].append(i)
        return parts
    alike: dict[tuple[str, str], list[int]] = {}  # near-duplicates on both sides of a split would be learned by heart
    for i, pool in enumerate(pools):
        alike.setdefault((pool.question.family, pool.question.group or pool.question.id), []).append(i)
    for place, key in enumerate(sorted(alike)):
        parts[place % k] += alike[key]
    return [sorted(part) for part in parts]


def fit(data: Examples, menu: Sequence[StrategySpec], *, step_tokens: int) -> Boosted:
    """Boosters on all the examples, without calibration."""
    means = spec_means(data, menu)
    rows, specs, targets = accuracy_rows(data, menu)
    init = log_odds(np.array([means[spec].accuracy for spec in specs]))
    accuracy = _boost(ACCURACY, rows, targets, start=init)
    owners, lengths = length_rows(data)
    mean_length = _boost({**LENGTH, "objective": "poisson"}, owners, lengths)
    quantiles = {
        q: _boost({**LENGTH, "objective": "quantile", "alpha": q}, owners, np.log1p(lengths)) for q in QUANTILES
    }
    return Boosted(
        accuracy=accuracy,
        mean_length=mean_length,
        quantiles=quantiles,
        speed_model=fit_speed(data.calls),
        means=means,
        calibration=Calibration.none(),
        step_tokens=step_tokens,
        version="uncalibrated",
    )


def fit_speed(calls: Sequence[Call]) -> SpeedModel:
    """Raises ValueError without calls."""
    usable = [call for call in calls if call.longest > 1]
    if not usable:
        raise ValueError("the pools hold no timed engine calls to learn the engine's speed from")
    rows = np.array([[call.prompt_tokens, call.running, call.added] for call in usable], dtype=float)
    first = np.log([max(call.first_token_seconds, 1e-4) for call in usable])
    each = np.log([max((call.seconds - call.first_token_seconds) / (call.longest - 1), 1e-5) for call in usable])
    return SpeedModel(
        first_token=_boost(SPEED, rows, first),
        per_token=_boost(SPEED, rows, each),
        widest=max(call.added for call in usable),
    )


def _boost(parameters: Mapping[str, Any], rows: Floats, targets: Floats, *, start: Floats | None = None) -> lgb.Booster:
    return boost(parameters, rows, targets, rounds=ROUNDS, start=start)


def spec_means(data: Examples, menu: Sequence[StrategySpec]) -> dict[StrategySpec, SpecMeans]:
    """For every entry of the menu that some question has an outcome for."""
    means: dict[StrategySpec, SpecMeans] = {}
    for spec in menu:
        known = [(pool, row[spec]) for pool, row in zip(data.pools, data.labels, strict=True) if spec in row]
        if not known:
            continue
        right = [label.accuracy for _, label in known]
        right += [stand.accuracy for row in data.labels if spec not in row and (stand := _stand_in(spec, row))]
        lengths = np.array([np.mean([sample.tokens for sample in pool.samples]) for pool, _ in known])
        tokens = np.array([label.mean_tokens for _, label in known])
        longest = np.array([label.mean_longest for _, label in known])
        means[spec] = SpecMeans(
            accuracy=float(np.mean(right)),
            tokens=float(tokens.mean()),
            token_ratio=float(tokens.sum() / (spec.draws * lengths.sum())),
            longest_ratio=float(longest.sum() / lengths.sum()),
        )
    return means


def _stand_in(spec: StrategySpec, row: Mapping[StrategySpec, Label]) -> Label | None:
    """Of a question with fewer samples than the strategy draws, what the largest strategy of its kind did: a budget
    draws more only where answers disagree, and means over those questions alone would tell of hard ones only."""
    smaller = [other for other in row if replace(other, n=spec.n) == spec and other.n < spec.n]
    return row[max(smaller, key=lambda other: other.n)] if smaller else None


def accuracy_rows(data: Examples, menu: Sequence[StrategySpec]) -> tuple[Floats, list[StrategySpec], Floats]:
    """One row a (question, strategy) with an outcome: features, the strategies, the soft labels."""
    pairs = [(i, spec) for i, row in enumerate(data.labels) for spec in menu if spec in row]
    vectors = {spec: spec_vector(spec) for spec in menu}
    rows = np.hstack([data.features[[i for i, _ in pairs]], np.array([vectors[spec] for _, spec in pairs])])
    return rows, [spec for _, spec in pairs], np.array([data.labels[i][spec].accuracy for i, spec in pairs])


def length_rows(data: Examples) -> tuple[Floats, Floats]:
    """One row a sample: its question's features, its tokens. Of many questions the first few samples of each, which
    are as good as any: a question's own lengths differ little, so that more questions tell more than more samples."""
    each = max(_FEWEST_LENGTHS, _LENGTHS // len(data))
    lengths = [[float(sample.tokens) for sample in pool.samples[:each]] for pool in data.pools]
    return np.repeat(data.features, [len(own) for own in lengths], axis=0), np.concatenate(lengths)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Predictions for questions the predicting boosters have not seen, beside what happened."""

    question: NDArray[np.int_]  # index into the examples
    spec: Sequence[StrategySpec]
    raw_accuracy: Floats  # before calibration
    mean_accuracy: Floats  # the strategy's average on the training questions
    accuracy: Floats  # label
    tokens_predicted: Floats
    tokens_upper: Floats  # before conformal correction
    tokens: Sequence[Floats]  # label draws


def held_out(
    data: Examples, menu: Sequence[StrategySpec], *, step_tokens: int, parts: Sequence[Sequence[int]]
) -> tuple[HeldOut, list[Boosted]]:
    """Cross-fitted predictions, and the boosters of every fold."""
    collected: list[tuple[int, StrategySpec, float, float, float, float]] = []
    boosters: list[Boosted] = []
    for part, calls in zip(parts, data.call_parts(len(parts)), strict=True):
        model = fit(data.without(part, calls), menu, step_tokens=step_tokens)
        boosters.append(model)
        for i in part:
            specs = [spec for spec in menu if spec in data.labels[i] and spec in model.means]
            cap = data.pools[i].question.max_tokens
            predicted = model.predict_vector(data.features[i], specs, Load(), max_tokens=cap)
            collected += [
                (i, row.spec, row.accuracy, row.tokens, row.tokens_upper, model.means[row.spec].accuracy)
                for row in predicted
            ]
    collected.sort(key=lambda row: row[0])
    return (
        HeldOut(
            question=np.array([row[0] for row in collected]),
            spec=[row[1] for row in collected],
            raw_accuracy=np.array([row[2] for row in collected]),
            mean_accuracy=np.array([row[5] for row in collected]),
            accuracy=np.array([data.labels[row[0]][row[1]].accuracy for row in collected]),
            tokens_predicted=np.array([row[3] for row in collected]),
            tokens_upper=np.array([row[4] for row in collected]),
            tokens=[data.labels[row[0]][row[1]].tokens for row in collected],
        ),
        boosters,
    )


def conformal_factor(upper: Floats, actual: Sequence[Floats], level: float) -> float:
    """The factor on predicted upper bounds that makes a share `level` of held-out outcomes stay under them."""
    ratios = np.concatenate([draws / bound for draws, bound in zip(actual, upper, strict=True)])
    questions = len(actual)
    corrected = min(1.0, level * (questions + 1) / questions)
    return float(np.quantile(ratios, corrected, method="higher"))


def _by_question(scores: HeldOut) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Rows of the questions, (questions, strategies), those with equally many strategies together, after which of all
    the questions each is."""
    order = np.argsort(scores.question, kind="stable")
    starts = np.flatnonzero(np.diff(scores.question[order])) + 1
    groups = np.split(order, starts)
    sizes = np.array([len(rows) for rows in groups])
    alike = [np.flatnonzero(sizes == size) for size in np.unique(sizes)]
    return [(places, np.stack([groups[i] for i in places])) for places in alike]


def calibrated(scores: HeldOut, calibration: Calibration) -> Floats:
    """Held-out accuracies as the calibration turns them out."""
    result = np.empty_like(scores.raw_accuracy)
    for _, rows in _by_question(scores):
        result[rows] = calibration.accuracies(scores.raw_accuracy[rows], scores.mean_accuracy[rows])
    return result


def level_map(scores: HeldOut, weight: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Isotonic map from a question's mean predicted accuracy over the strategies to its actual one."""
    questions = len(np.unique(scores.question))
    predicted, actual = np.zeros(questions), np.zeros(questions)
    for places, rows in _by_question(scores):
        predicted[places] = shrink(scores.raw_accuracy[rows], scores.mean_accuracy[rows], weight).mean(axis=1)
        actual[places] = scores.accuracy[rows].mean(axis=1)
    return isotonic(predicted, actual)


def gain_weight(scores: HeldOut) -> float:
    """The weight of `shrink`: the smallest that earned as much on held-out questions, within one standard error, as
    the best one did. Earnings are utilities summed over GATE_PRICES."""
    actual_tokens = np.array([draws.mean() for draws in scores.tokens])
    questions = len(np.unique(scores.question))
    earned = np.zeros((len(GAIN_WEIGHTS), questions))
    for at, weight in enumerate(GAIN_WEIGHTS):
        xs, ys = level_map(scores, weight)
        accuracy = calibrated(scores, replace(Calibration.none(), gain_weight=weight, accuracy_x=xs, accuracy_y=ys))
        for price in GATE_PRICES:
            predicted = accuracy - price * scores.tokens_predicted / 1000
            actual = scores.accuracy - price * actual_tokens / 1000
            for places, rows in _by_question(scores):
                best = predicted[rows].argmax(axis=1)
                earned[at, places] += actual[rows[np.arange(len(rows)), best]]
    behind = earned[earned.mean(axis=1).argmax()] - earned
    error = behind.std(axis=1) / np.sqrt(questions)
    return GAIN_WEIGHTS[int(np.flatnonzero(behind.mean(axis=1) <= error)[0])]


def calibrate(scores: HeldOut, *, level: float, speed_error: Floats) -> Calibration:
    """Isotonic map of accuracy, conformal factors of tokens per strategy and of seconds."""
    weight = gain_weight(scores)
    xs, ys = level_map(scores, weight)
    factors: dict[StrategySpec, float] = {}
    rows_of: dict[StrategySpec, list[int]] = defaultdict(list)
    for i, spec in enumerate(scores.spec):
        rows_of[spec].append(i)
    for spec, rows in rows_of.items():
        factors[spec] = conformal_factor(scores.tokens_upper[rows], [scores.tokens[i] for i in rows], level)
    return Calibration(
        gain_weight=weight,
        belief=1.0,
        accuracy_x=xs,
        accuracy_y=ys,
        tokens_factor=factors,
        seconds_factor=float(np.quantile(speed_error, level, method="higher")) if len(speed_error) else 1.5,
        level=level,
    )


def speed_errors(data: Examples, boosters: Sequence[Boosted]) -> Floats:
    """Actual over predicted seconds of every timed call, each predicted by a booster that has not seen it."""
    ratios: list[float] = []
    for model, part in zip(boosters, data.call_parts(len(boosters)), strict=True):
        for call in (data.calls[i] for i in part):
            speed = model.speeds([(call.prompt_tokens, call.running, call.added)])[0]
            ratios.append(call.seconds / (speed.first_token + call.longest * speed.per_token))
    return np.array(ratios)
