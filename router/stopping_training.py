"""Learn when to stop: the boosters of `router.stopper`, cross-fitted, calibrated and gated on held-out questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray

from router.boosters import FIXED, boost, predict
from router.clusters import Clusters, held_out_statistics
from router.courses import Courses, measure
from router.isotonic import binned_isotonic
from router.replay import CHECKPOINTS, Played, Replay, Speeds, play, price_of
from router.stopper import Stopper, blend, pays
from router.stopping import FREE, price_at, thresholds_at, waves_of
from router.vote_state import FALLING, STATE_FEATURES, VERIFIED, Rule, only_by_model, rule_of
from strategies.spec import RIGHT, StrategySpec

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
_AT: Ints = np.array(CHECKPOINTS, dtype=np.intp)
_POSTERIOR = STATE_FEATURES.index("posterior")
_MARGIN = STATE_FEATURES.index("margin_votes")
_LEADING = STATE_FEATURES.index("leading")
_SCORE = STATE_FEATURES.index("score")
_GOALS = 3  # later checkpoints that a state is an example for: more of them are nearly the same example
_QUESTIONS_A_LEAF = 15  # rows of one question are alike, so that leaves are counted in questions
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
# utility of a candidate, and what a wave's wait is worth in candidates
GATE_PRICES = ((3e-4, 0.0), (1e-3, 0.0), (3e-3, 0.0), (1e-2, 0.0), (3e-4, 4.0), (1e-3, 4.0), (3e-3, 4.0))
_COMMON: Mapping[str, Any] = {
    **FIXED,
    "num_leaves": 8,
    "lambda_l2": 50.0,
    "feature_fraction": 0.6,
    "bagging_fraction": 0.5,
}
_ROUNDS = 80
_PLAYED = 4000  # orders that a course is an average over


CLUSTER_STATISTICS = ("one_right", "three_gain", "all_gain", "three_agree")


def outcomes(votes: Replay, questions: int) -> Floats:
    """What a cluster remembers of its questions, by vote: accuracy of one sample, what three and all gain over it, and
    how far the first three agree: CLUSTER_STATISTICS. (questions, 4)."""
    last = votes.right[np.arange(len(votes)), votes.reached - 1]
    third = np.minimum(2, votes.reached - 1)
    rows = np.arange(len(votes))
    one = votes.right[:, 0]
    agree = votes.states[rows, third, STATE_FEATURES.index("leading")]
    columns = (one, votes.right[rows, third] - one, last - one, agree)
    return np.column_stack([votes.by_question(column, questions) for column in columns])


@dataclass(frozen=True, slots=True, kw_only=True)
class Boosters:
    gain: lgb.Booster
    right: lgb.Booster


def fit(replays: Sequence[Replay], statistics: Floats, keep: NDArray[np.bool_]) -> Boosters:
    """statistics: (questions, m), each question's own from others. keep: (questions,) those to learn from."""
    rng = np.random.default_rng(7)
    states: list[Floats] = []
    gained: list[Floats] = []
    seen: list[Floats] = []
    right: list[Floats] = []
    for data in replays:
        rows = data.rows_of(keep)
        for t in range(len(CHECKPOINTS)):
            there = rows[data.reached[rows] > t]
            if not len(there):
                continue
            known = np.column_stack([data.states[there, t], statistics[data.question[there]]])
            seen.append(known)
            right.append(data.right[there, t])
            for _ in range(_GOALS):
                open_ = data.reached[there] > t + 1
                here = there[open_]
                goal = rng.integers(t + 1, data.reached[here])
                states.append(np.column_stack([known[open_], np.log2(_AT[goal] / _AT[t])]))
                gained.append(data.right[here, goal] - data.right[here, t])
    questions = int(keep.sum())
    falling = [-1 if name in FALLING else 0 for name in STATE_FEATURES]
    others = statistics.shape[1]
    return Boosters(
        gain=_boost(
            {"objective": "l2", "monotone_constraints": [*falling, *[0] * others, 0]},
            np.concatenate(states),
            np.concatenate(gained),
            questions,
        ),
        right=_boost({"objective": "cross_entropy"}, np.concatenate(seen), np.concatenate(right), questions),
    )


def _boost(objective: Mapping[str, Any], rows: Floats, targets: Floats, questions: int) -> lgb.Booster:
    # a tree sees half of the rows: of few questions, fewer must do, or none could ever split
    leaf = min(_QUESTIONS_A_LEAF, questions // 8) * len(rows) // questions
    return boost({**_COMMON, **objective, "min_data_in_leaf": max(20, leaf)}, rows, targets, rounds=_ROUNDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldModel:
    """What was learned without one fold's questions."""

    boosters: Boosters
    clusters: Clusters


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Predictions on questions that the predicting boosters have not seen, for one rule."""

    data: Replay
    gains: Floats  # (rows, T, T) by checkpoint and goal; -inf where there is none
    confidence: Floats  # (rows, T), before calibration
    familiar: NDArray[np.bool_]  # (rows,)
    models: Sequence[FoldModel] = ()  # by fold: what predicted it, the same for every rule

    def take(self, rows: Ints) -> HeldOut:
        return HeldOut(
            data=self.data.take(rows),
            gains=self.gains[rows],
            confidence=self.confidence[rows],
            familiar=self.familiar[rows],
            models=self.models,
        )


def predicted(data: Replay, boosters: Boosters, statistics: Floats) -> tuple[Floats, Floats]:
    """Gains (rows, T, T) and raw confidences (rows, T). statistics: (rows, m)."""
    count = len(CHECKPOINTS)
    gains = np.full((len(data), count, count), -np.inf)
    confidence = np.full((len(data), count), np.nan)
    for t in range(count):
        there = np.flatnonzero(data.reached > t)
        if not len(there):
            break
        known = np.column_stack([data.states[there, t], statistics[there]])
        confidence[there, t] = predict(boosters.right, known)
        for goal in range(t + 1, count):
            here = data.reached[there] > goal
            if here.any():
                more = np.full(int(here.sum()), np.log2(_AT[goal] / _AT[t]))
                gains[there[here], t, goal] = predict(boosters.gain, np.column_stack([known[here], more]))
    return gains, confidence


def held_out(
    replays: Sequence[Replay],
    vectors: Floats,
    results: Floats,
    parts: Sequence[Sequence[int]],
    *,
    groups: Ints | None = None,
) -> list[HeldOut]:
    """Cross-fitted. vectors: (questions, features); results: see `outcomes`; parts: questions held out together;
    groups: (questions,) near-duplicates have the same number."""
    alike = np.arange(len(vectors)) if groups is None else groups
    models: list[FoldModel] = []
    found = [
        HeldOut(
            data=data,
            gains=np.full((len(data), len(CHECKPOINTS), len(CHECKPOINTS)), -np.inf),
            confidence=np.full((len(data), len(CHECKPOINTS)), np.nan),
            familiar=np.zeros(len(data), dtype=bool),
            models=models,
        )
        for data in replays
    ]
    for part in parts:
        keep = np.ones(len(vectors), dtype=bool)
        keep[list(part)] = False
        clusters = Clusters.fit(vectors[keep], results[keep])
        statistics = np.zeros_like(results)
        statistics[keep] = held_out_statistics(vectors[keep], results[keep], groups=alike[keep].tolist())
        boosters = fit(replays, statistics, keep)
        models.append(FoldModel(boosters=boosters, clusters=clusters))
        familiar = np.zeros(len(vectors), dtype=bool)
        for i in part:
            place = clusters.place(vectors[i])
            statistics[i], familiar[i] = place.statistics, place.familiar
        for one in found:
            rows = one.data.rows_of(~keep)
            mine = one.data.take(rows)
            one.gains[rows], one.confidence[rows] = predicted(mine, boosters, statistics[mine.question])
            one.familiar[rows] = familiar[mine.question]
    return found


def policy(
    found: HeldOut, *, token: float | None, price: float, wait: Floats, weight: float | Floats, cap: int
) -> Callable[[Ints, Ints], tuple[NDArray[np.bool_], Floats]]:
    """The rule of `router.stopper.Learned` over many rows at once, when no candidate is under way.

    token: utility of a token, or None where `price` is that of a candidate. wait: (rows,) utility of a wave.
    weight: of the model, 0 is the prior alone; one for all, or by row.
    """
    data = found.data
    weights = np.broadcast_to(np.asarray(weight, dtype=float), (len(data),))

    def decide(at: Ints, rows: Ints) -> tuple[NDArray[np.bool_], Floats]:
        states = data.states[rows, at]
        candidate = np.full(len(rows), max(price, FREE)) if token is None else price_of(states, token)
        more = np.where(_AT[at][:, None] < _AT, _AT - _AT[at][:, None], 1).astype(float)
        gains = np.where(cap >= _AT, found.gains[rows, at], -np.inf)
        cost = candidate[:, None] * more + wait[rows][:, None]
        best = (gains - cost).argmax(axis=1)
        left = np.minimum(data.reached[rows], np.searchsorted(_AT, cap, side="right")) - 1
        by_model = weights[rows] > 0
        wanted = np.where(by_model, more[np.arange(len(rows)), best], _AT[left] - _AT[at])
        wave = waves_of(wanted, price=candidate, wait=wait[rows])
        each = candidate + wait[rows] / wave
        posterior = states[:, _POSTERIOR]
        usual = price_at(posterior) / each
        over = states[:, _MARGIN] > _AT[left] - _AT[at]
        ratio = blend(pays(gains, cost), usual, weights[rows])
        by_prior = over | ((posterior >= thresholds_at(each)) & (states[:, _LEADING] > 0))
        if data.rule[0]:  # without the model, scores decide over all that may be drawn; a verifier ends it
            over = states[:, _SCORE] >= RIGHT if data.rule == VERIFIED else np.zeros(len(rows), dtype=bool)
            by_prior = over
        return np.where(by_model, (ratio <= 1) | over, by_prior), wave

    return decide


def played(
    found: HeldOut,
    *,
    token: float | None = None,
    price: float = 0.0,
    wait: Floats,
    weight: float | Floats,
    cap: int,
    each: Floats | None = None,
    speeds: Speeds | None = None,
) -> Played:
    """Play a policy, its first wave included. See `policy`.

    each: (rows,) tokens of a candidate as predicted before any has come; needed where tokens have the price.
    """
    data = found.data
    decide = policy(found, token=token, price=price, wait=wait, weight=weight, cap=cap)
    expected = price if token is None or each is None else token * each
    candidate = np.broadcast_to(np.maximum(expected, FREE), (len(data),))
    first = waves_of(np.full(len(data), float(cap)), price=candidate, wait=wait)
    if only_by_model(data.rule):
        first = np.where(np.broadcast_to(np.asarray(weight), (len(data),)) > 0, first, cap)
    return play(data, decide, first=first, cap=cap, speeds=speeds)


def gate(found: HeldOut, questions: int) -> float:
    """How far to believe the model: the weight of the highest utility over the gate's prices, where that is better than
    the prior's by more than its standard error; else 0."""
    cap = int(_AT[found.data.reached.max() - 1])
    earned: list[Floats] = []
    for weight in WEIGHTS:
        total = np.zeros(len(found.data))
        for price, waves in GATE_PRICES:
            result = played(found, price=price, wait=np.full(len(found.data), waves * price), weight=weight, cap=cap)
            total += result.right - price * (result.drawn + waves * result.waves)
        earned.append(found.data.by_question(total / len(GATE_PRICES), questions))
    best = int(np.argmax([values.mean() for values in earned]))
    ahead = earned[best] - earned[0]
    asked = np.unique(found.data.question)
    error = ahead[asked].std() / np.sqrt(len(asked))
    return WEIGHTS[best] if ahead[asked].mean() > error else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedStopper:
    model: Stopper
    found: Sequence[HeldOut]  # by rule


def train_stopper(
    replays: Sequence[Replay],
    vectors: Floats,
    menu: Sequence[StrategySpec],
    *,
    parts: Sequence[Sequence[int]],
    temperatures: tuple[float, float],
    groups: Ints | None = None,
) -> TrainedStopper:
    """replays: one a rule, the vote's first. vectors: (questions, features). parts: questions to hold out together.
    temperatures: the lowest and the highest of the pools. groups: see `held_out`."""
    results = outcomes(replays[0], len(vectors))
    found = held_out(replays, vectors, results, parts, groups=groups)
    everyone = np.ones(len(vectors), dtype=bool)
    statistics = held_out_statistics(vectors, results, groups=None if groups is None else groups.tolist())
    boosters = fit(replays, statistics, everyone)
    right_x, right_y = confidence_map(found)
    weights = {one.data.rule: gate(one, len(vectors)) for one in found}
    return TrainedStopper(
        model=Stopper(
            gain=boosters.gain,
            right=boosters.right,
            right_x=right_x,
            right_y=right_y,
            weights=weights,
            clusters=Clusters.fit(vectors, results),
            temperatures=temperatures,
            courses=courses(found, menu, weights),
        ),
        found=found,
    )


def courses(found: Sequence[HeldOut], menu: Sequence[StrategySpec], weights: Mapping[Rule, float]) -> Courses:
    """What the menu's sampled strategies come to when they are stopped, on questions the model has not seen."""
    table: dict[StrategySpec, Floats] = {}
    for one in found:
        for spec in menu:
            if spec.method == "single" or rule_of(spec) != one.data.rule or spec.n not in CHECKPOINTS:
                continue
            if only_by_model(one.data.rule) and not weights[one.data.rule]:
                continue  # without the model nothing stops it
            large = np.flatnonzero(_AT[one.data.reached - 1] >= spec.n)
            large = large[:: max(1, len(large) // _PLAYED)]
            if len(large):
                table[spec] = measure(one.data.take(large), spec.n, _player(one.take(large), weights, spec.n))
    return Courses(table=table)


def _player(found: HeldOut, weights: Mapping[Rule, float], cap: int) -> Callable[[float, float], Played]:
    # the model is asked only about queries it knows; the others are played as they would be
    weight = np.where(found.familiar, weights[found.data.rule], 0.0)

    def run(price: float, wait: float) -> Played:
        return played(found, price=price, wait=np.full(len(found.data), wait), weight=weight, cap=cap)

    return run


def confidence_map(found: Sequence[HeldOut]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Isotonic, from held-out confidences at every checkpoint."""
    raw = np.concatenate([one.confidence[np.isfinite(one.confidence)] for one in found])
    right = np.concatenate([one.data.right[np.isfinite(one.confidence)] for one in found])
    return binned_isotonic(raw, right)
