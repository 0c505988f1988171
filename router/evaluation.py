"""Adaptive allocation against every fixed strategy and the rules of the papers, on held-out questions.

Every question is predicted by boosters that have not seen it, calibrated, gated and priced by what was found on others.
What a strategy achieves on a question comes from the recorded pool (`router.labels`), and what it achieves when it is
stopped from playing the pool through (`router.replay`), waves ending whole. Seconds, one request at a time, are those
of one speed model fitted on all timed calls, at the recorded lengths, except for beam search, whose runs were timed.
The oracle takes the best of each question's labels, noise included: it is a bound that nobody reaches.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.areas import Area, Cost, areas
from router.budgets import AtBudget, at_budgets
from router.comparison import Row, Taken, row_of
from router.frontier import Frontier, Saving, frontiers, savings
from router.isotonic import binned_isotonic
from router.learning import near_duplicates, replays_of
from router.pools import Pool
from router.reliability import Reliability, reliability
from router.stopped import Stops
from router.stopping_training import HeldOut, outcomes
from router.stopping_training import held_out as held_out_stops
from router.training import examples, folds, held_out, speed_errors
from router.vote_state import rule_of
from router.world import World, predicted_world, real_world, speeds_of, tokens_quality
from strategies.spec import StrategySpec
from strategies.types import Prices

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
# utility per 1,000 tokens and per second: from free to so dear that one sample is all that pays
PRICES: tuple[tuple[float, float], ...] = (
    (0.0, 0.0),
    (0.1, 0.01),
    (0.3, 0.0),
    (0.3, 0.03),
    (1.0, 0.0),
    (1.0, 0.1),
    (3.0, 0.0),
    (3.0, 0.1),
    (3.0, 0.3),
    (10.0, 1.0),
)
# the prices along a frontier of accuracy over tokens, and over seconds
_TOKEN_PRICES = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_SECOND_PRICES = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
BEST_FIXED = "best fixed"
ORACLE = "oracle"
_MIDDLE = Prices(token_price=0.3, latency_price=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class AtPrice:
    """Everything at one pair of prices.

    rows: adaptive (both levels), before sampling alone, while sampling alone, adaptive consistency by price, lookup
    (the paper's table: the fixed strategy that was best on the training questions), random at adaptive's cost, the best
    fixed one in hindsight (on the very questions it is judged on), and the oracle.
    """

    token_price: float
    latency_price: float
    rows: tuple[Row, ...]
    mix: Mapping[str, float]  # share of the questions that adaptive gave each strategy

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    @property
    def closed(self) -> float | None:
        """The share of the way from the best fixed strategy to the oracle that adaptive goes, in utility. None where
        there is none."""
        fixed = next(row for row in self.rows if row.name.startswith(BEST_FIXED)).utility
        oracle = self.row(ORACLE).utility
        return (self.row("adaptive").utility - fixed) / (oracle - fixed) if oracle - fixed > 1e-9 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """(candidates, accuracy) of one way to stop a vote, by its settings."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    questions: int
    samples: int
    families: int
    unseen_families: bool  # every question was predicted by a model that has not seen its family
    familiar: float  # share of the questions that the stopping model said it knows
    fixed: tuple[Row, ...]  # every strategy of the menu, at zero prices
    prices: tuple[AtPrice, ...]
    budgets: tuple[AtBudget, ...]
    areas: tuple[Area, ...]
    curves: tuple[Curve, ...]
    savings: tuple[Saving, ...]
    reliability: tuple[Reliability, ...]  # of predicted accuracies, and of confidence
    level: float  # of the upper bounds
    coverage: Mapping[str, float]  # by strategy: share of outcomes under the calibrated upper bound on tokens
    tokens_error: float  # median of |predicted - actual| / actual
    speed_error: float  # the same, for engine calls

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def evaluate(
    pools: Sequence[Pool],
    menu: Sequence[StrategySpec],
    *,
    step_tokens: int,
    level: float = 0.9,
    borda_power: float = 1.0,
    unseen_families: bool = False,
) -> Evaluation:
    """unseen_families: a whole family is held out at once, so that no model has seen a question of its kind.

    Raises ValueError when there are too few questions, or nothing on the menu that samples tell of.
    """
    data = examples(pools, menu, borda_power=borda_power)
    offered = [spec for spec in menu if all(spec in row for row in data.labels)]
    parts = folds(data.pools, by=(lambda pool: pool.question.family) if unseen_families else None)
    scores, boosters = held_out(data, offered, step_tokens=step_tokens, parts=parts)
    errors = speed_errors(data, boosters)
    predicted = predicted_world(data, offered, scores, boosters, parts, level=level, speed_error=errors)
    world = real_world(data, offered, step_tokens=step_tokens)
    replays = replays_of(data.pools, offered, borda_power=borda_power)
    if not replays:
        raise ValueError("nothing on the menu can be told from samples: offer votes, or best-of-N by log probabilities")
    found = held_out_stops(
        replays, data.features, outcomes(replays[0], len(data)), parts, groups=near_duplicates(data.pools)
    )
    stops = Stops(found, parts=parts, world=world, predicted=predicted, speeds=speeds_of(data), vectors=data.features)
    beliefs = stops.beliefs()
    # questions of one family share their template: where families are the unit of the split, they are of the resampling
    asked = [pool.question for pool in pools]
    blocks = [one.family if unseen_families else one.group or one.id for one in asked]
    ways = frontiers(found[0], len(data))
    coverage, tokens_error = tokens_quality(scores, parts, level=level)
    everyone = np.arange(len(data))
    return Evaluation(
        questions=len(data),
        samples=min(len(pool.samples) for pool in pools),
        families=len({pool.question.family for pool in pools}),
        unseen_families=unseen_families,
        familiar=float(found[0].familiar.mean()),
        fixed=tuple(
            row_of(str(spec), world.taken(everyone * 0 + i), (0.0, 0.0), None, blocks) for i, spec in enumerate(offered)
        ),
        prices=tuple(_at_price(stops, beliefs, blocks, prices) for prices in PRICES),
        budgets=at_budgets(stops, data, beliefs, blocks, level=level, borda_power=borda_power),
        areas=(
            *_areas(stops, beliefs, blocks, "tokens", [(price, 0.0) for price in _TOKEN_PRICES]),
            *_areas(stops, beliefs, blocks, "seconds", [(0.0, price) for price in _SECOND_PRICES]),
        ),
        curves=tuple(Curve(name=way.name, points=tuple(way.points())) for way in ways),
        savings=tuple(savings(ways, blocks)),
        reliability=(
            reliability("predicted accuracy", predicted.accuracy.ravel(), world.accuracy.ravel()),
            *_confidence(found, parts, stops),
        ),
        level=level,
        coverage=coverage,
        tokens_error=tokens_error,
        speed_error=float(np.median(np.abs(1 / errors - 1))),
    )


def _at_price(stops: Stops, beliefs: Sequence[float], blocks: Sequence[str], pair: tuple[float, float]) -> AtPrice:
    prices = Prices(token_price=pair[0], latency_price=pair[1])
    world = stops.world
    fixed = world.utility(prices)
    by_price = stops.outcomes(prices, learned=False)
    adaptive = stops.chosen(prices, beliefs)
    unlearned = [j for j, s in enumerate(world.menu) if s.method in ("single", "majority_vote") or s.verified]
    best = np.full(len(fixed), int(fixed.mean(axis=0).argmax()))
    ways = _adaptive(stops, prices, adaptive) | {
        "adaptive consistency by price": by_price.taken(stops.best_elsewhere(by_price.utility(prices), unlearned)),
        "lookup": world.taken(stops.best_elsewhere(fixed)),
    }
    ways["random at equal cost"] = _random(world, ways["adaptive"][1].mean())
    ways |= {
        f"{BEST_FIXED} in hindsight: {world.menu[int(best[0])]}": world.taken(best),
        ORACLE: world.taken(fixed.argmax(axis=1)),
    }
    reference = fixed[np.arange(len(fixed)), best]
    return AtPrice(
        token_price=pair[0],
        latency_price=pair[1],
        rows=tuple(row_of(name, taken, pair, reference, blocks) for name, taken in ways.items()),
        mix={str(spec): float((adaptive == j).mean()) for j, spec in enumerate(world.menu) if (adaptive == j).any()},
    )


def _areas(
    stops: Stops, beliefs: Sequence[float], blocks: Sequence[str], cost: Cost, pairs: Sequence[tuple[float, float]]
) -> list[Area]:
    """Frontiers along the prices of one cost, the other being free."""
    place = 1 if cost == "tokens" else 2
    taken: dict[str, list[Taken]] = defaultdict(list)
    for pair in pairs:
        prices = Prices(token_price=pair[0], latency_price=pair[1])
        for name, way in _adaptive(stops, prices, stops.chosen(prices, beliefs)).items():
            taken[name].append(way)
    ways = [
        Frontier(name=name, cost=np.array([way[place] for way in each]), accuracy=np.array([way[0] for way in each]))
        for name, each in taken.items()
    ]
    world = stops.world
    fixed = Frontier(
        name="fixed", cost=(world.tokens if cost == "tokens" else world.seconds).T, accuracy=world.accuracy.T
    )
    return areas(cost, fixed, ways, blocks)


def _adaptive(stops: Stops, prices: Prices, chosen: Ints) -> dict[str, Taken]:
    """Both levels of deciding, and each alone. chosen: before sampling."""
    learned = stops.outcomes(prices, learned=True)
    return {
        "adaptive": learned.taken(chosen),
        "before sampling alone": stops.world.taken(stops.predicted.utility(prices).argmax(axis=1)),
        "while sampling alone": learned.taken(stops.best_elsewhere(learned.utility(prices))),
    }


def _random(world: World, tokens: float) -> Taken:
    """A strategy drawn by lot, without looking at the query: the cheapest and the dearest, so often that the mean
    tokens are as asked for."""
    means = world.tokens.mean(axis=0)
    cheap, dear = int(means.argmin()), int(means.argmax())
    share = float(np.clip((tokens - means[cheap]) / max(means[dear] - means[cheap], 1e-9), 0, 1))

    def mixed(column: Floats) -> Floats:
        return (1 - share) * column[:, cheap] + share * column[:, dear]

    return mixed(world.accuracy), mixed(world.tokens), mixed(world.seconds)


def _confidence(
    found: Sequence[HeldOut], parts: Sequence[Sequence[int]], stops: Stops
) -> tuple[Reliability, Reliability]:
    """Of the confidence that a response shows, for queries that the model knows: at every checkpoint, and where the
    menu's largest strategies stopped, at a middle price. Each fold is calibrated by the others."""
    fold = np.zeros(1 + max(i for part in parts for i in part), dtype=np.intp)
    for k, part in enumerate(parts):
        fold[list(part)] = k
    shown = [np.full_like(one.confidence, np.nan) for one in found]
    for k in range(len(parts)):
        others = [fold[one.data.question] != k for one in found]
        there = [
            np.isfinite(one.confidence) & (one.familiar & mine)[:, None]
            for one, mine in zip(found, others, strict=True)
        ]
        raw = np.concatenate([one.confidence[mask] for one, mask in zip(found, there, strict=True)])
        right = np.concatenate([one.data.right[mask] for one, mask in zip(found, there, strict=True)])
        if len(raw):
            xs, ys = binned_isotonic(raw, right)
            for one, mine, values in zip(found, others, shown, strict=True):
                rows = one.familiar & ~mine
                values[rows] = np.interp(one.confidence[rows], xs, ys)
    everywhere = [np.isfinite(values) for values in shown]
    at_all = reliability(
        "confidence",
        np.concatenate([values[mask] for values, mask in zip(shown, everywhere, strict=True)]),
        np.concatenate([one.data.right[mask] for one, mask in zip(found, everywhere, strict=True)]),
    )
    told: list[Floats] = []
    came: list[Floats] = []
    for one, values in zip(found, shown, strict=True):
        largest = max((s for s in stops.world.menu if rule_of(s) == one.data.rule), key=lambda s: s.n, default=None)
        run = stops.run(largest, _MIDDLE, learned=True) if largest is not None else None
        if run is not None:
            final = values[np.arange(len(values)), run[1].at]
            told.append(final[np.isfinite(final)])
            came.append(run[1].right[np.isfinite(final)])
    at_stops = reliability(
        "confidence where it stopped", np.concatenate([*told, np.empty(0)]), np.concatenate([*came, np.empty(0)])
    )
    return at_all, at_stops
