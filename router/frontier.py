"""What a vote costs at a given accuracy: the learned stopping against fixed votes and the stopping rules of the papers.

Candidates are counted one by one and waiting costs nothing: the question is only how few are enough. Frontiers are the
upper hulls of accuracy over cost, since any two settings can be mixed; `savings` compares them where they reach the
full vote's accuracy but for a little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router.blocks import numbered
from router.replay import CHECKPOINTS, Played, play
from router.stopping_training import HeldOut, played
from router.vote_state import STATE_FEATURES

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
_AT: Ints = np.array(CHECKPOINTS, dtype=np.intp)
_POSTERIOR = STATE_FEATURES.index("posterior")
_MARGIN = STATE_FEATURES.index("margin_votes")
_PRICES = (1e-5, 1e-4, 2e-4, 3e-4, 5e-4, 7e-4, 1e-3, 1.5e-3, 2e-3, 3e-3, 4e-3, 6e-3, 8e-3, 1.2e-2, 1.6e-2, 2.4e-2, 4e-2)
_THRESHOLDS = (0.55, 0.6, 0.65, 0.7, 0.76, 0.8, 0.85, 0.88, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999, 1.1)
GAPS = (0.005, 0.02)  # accuracy given up against the full vote
_BOOTSTRAPS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """One way of deciding, at each of its settings. Rows of the arrays are settings."""

    name: str
    cost: Floats  # (settings, questions): here candidates, in `router.areas` tokens or seconds
    accuracy: Floats  # (settings, questions)

    def points(self) -> list[tuple[float, float]]:
        """Means over the questions: (cost, accuracy)."""
        return list(zip(self.cost.mean(axis=1).tolist(), self.accuracy.mean(axis=1).tolist(), strict=True))

    def cost_at(self, accuracy: float, weights: Floats) -> float:
        """Lowest cost of an accuracy, mixing settings; nan where none reaches it. weights: of questions."""
        costs, reached = self.cost @ weights, self.accuracy @ weights
        above = np.flatnonzero(reached >= accuracy)
        if not len(above):
            return float("nan")
        best = costs[above].min()
        for i in above:
            below = np.flatnonzero((reached < accuracy) & (costs <= costs[i]))
            share = (accuracy - reached[below]) / (reached[i] - reached[below])
            best = min(best, (costs[below] + share * (costs[i] - costs[below])).min(initial=best))
        return float(best)


@dataclass(frozen=True, slots=True, kw_only=True)
class Saving:
    """Candidates saved against the best fixed vote, at the full vote's accuracy less `gap`. With a 95 % interval."""

    name: str
    gap: float
    cost: float
    saved: float
    low: float
    high: float


def frontiers(found: HeldOut, questions: int) -> list[Frontier]:
    """Fixed votes first. found: held-out predictions under the rule of votes."""
    data = found.data
    cap = int(_AT[data.reached.max() - 1])
    free = np.zeros(len(data))

    def collect(name: str, runs: Sequence[Played]) -> Frontier:
        return Frontier(
            name=name,
            cost=np.array([data.by_question(run.drawn, questions) for run in runs]),
            accuracy=np.array([data.by_question(run.right, questions) for run in runs]),
        )

    def until(stop: Callable[[Ints, Ints], NDArray[np.bool_]]) -> Played:
        return play(data, lambda at, rows: (stop(at, rows), np.ones(len(rows))), first=np.ones(len(data)), cap=cap)

    def unanimous(window: int) -> Callable[[Ints, Ints], NDArray[np.bool_]]:
        """Early-stopping self-consistency (Li et al., 2024): whole windows of candidates, until those of one agree."""

        def stop(at: Ints, rows: Ints) -> NDArray[np.bool_]:
            places = np.maximum(_AT[at][:, None] - 1 - np.arange(window), 0)
            last = data.answers[rows[:, None], places]
            return (_AT[at] % window == 0) & (last[:, 0] >= 0) & (last == last[:, :1]).all(axis=1)

        return stop

    weight = np.where(found.familiar, 1.0, 0.0)
    return [
        collect("fixed vote", [until(lambda at, rows, last=last: at >= last) for last in range(data.reached.max())]),
        collect(
            "adaptive consistency",
            [
                until(
                    lambda at, rows, sure=sure: (
                        (data.states[rows, at, _POSTERIOR] >= sure) | (data.states[rows, at, _MARGIN] > cap - _AT[at])
                    )
                )
                for sure in _THRESHOLDS
            ],
        ),
        collect("window agrees", [until(unanimous(window)) for window in (2, 3, 4, 8)]),
        collect("threshold by price", [played(found, price=p, wait=free, weight=0.0, cap=cap) for p in _PRICES]),
        *(
            collect(name, [played(found, price=p, wait=free, weight=share * weight, cap=cap) for p in _PRICES])
            for name, share in (("learned", 1.0), ("learned, half prior", 0.5))
        ),
    ]


def savings(found: Sequence[Frontier], blocks: Sequence[str], *, seed: int = 7) -> list[Saving]:
    """Every way but the first against the first, the fixed votes; the largest of those is the full vote.

    blocks: a name for every question; for the intervals whole blocks are resampled.
    """
    questions = found[0].cost.shape[1]
    even = np.full(questions, 1 / questions)
    draws = resampled(blocks, seed=seed)
    result: list[Saving] = []
    for gap in GAPS:
        for one in found[1:]:

            def saved(weights: Floats, one: Frontier = one, gap: float = gap) -> float:
                target = float(found[0].accuracy[-1] @ weights) - gap
                return 1 - one.cost_at(target, weights) / found[0].cost_at(target, weights)

            spread = np.array([saved(weights) for weights in draws])
            spread = spread[np.isfinite(spread)]
            low, high = np.quantile(spread, [0.025, 0.975]) if len(spread) else (np.nan, np.nan)
            target = float(found[0].accuracy[-1].mean()) - gap
            result.append(
                Saving(
                    name=one.name,
                    gap=gap,
                    cost=one.cost_at(target, even),
                    saved=saved(even),
                    low=float(low),
                    high=float(high),
                )
            )
    return result


def resampled(blocks: Sequence[str], *, seed: int = 7) -> Floats:
    """Weights of the questions in every resample, (resamples, questions). blocks: see `savings`."""
    owner = numbered(blocks)
    count = int(owner.max()) + 1
    rng = np.random.default_rng(seed)
    times = rng.multinomial(count, np.full(count, 1 / count), size=_BOOTSTRAPS)[:, owner]
    return times / times.sum(axis=1, keepdims=True)
