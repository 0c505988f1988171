"""Adaptive allocation under hard budgets, against fixed strategies under the same, on held-out questions.

The allocator may choose what fits by its upper bounds, as in `router.policy`; whatever is chosen then runs under the
budget itself (`router.metered`). So do the fixed strategies: none is left out, those that don't fit are cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from router.allocator import checkpoints
from router.blocks import some
from router.comparison import Row, row_of
from router.metered import NO_LIMIT, Limits, Speed, Spent, sampled, searched
from router.policy import choose
from router.replay import numbers_of, vote_of
from router.stopped import Stops
from router.training import Examples
from router.vote_state import BY_VOTES, rule_of
from router.waves import Waved
from router.world import World, speeds_of
from strategies.spec import StrategySpec
from strategies.stopping import Stopping
from strategies.types import Allocation, Budget, Prediction, Prices, Query

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
TOKENS = (1.5, 2.0, 4.0, 8.0, 16.0, 32.0)  # budgets, in mean samples
SECONDS = (1.5, 2.0, 3.0, 5.0)  # deadlines, in mean seconds of one sample
# (utility per 1,000 tokens, per second): the budget alone, and with the prices of `balanced` besides
PRICES = ((0.0, 0.0), (0.1, 0.01))
FITS = "best fixed that fits"
CUT = "best fixed, cut to fit"
_QUESTIONS = 2000  # asked at most
_REQUESTS = 1000  # in all, at each budget and for each strategy, but one a question at least


@dataclass(frozen=True, slots=True, kw_only=True)
class AtBudget:
    """Everything under one budget, at one pair of prices.

    rows: adaptive (both levels), before sampling alone, while sampling alone (one strategy for all, the best on the
    other questions), the best fixed strategy in hindsight of those that fit as often as the upper bounds promise (the
    gains are over this one; where none does, the one of the fewest tokens), and of all, cut where they don't fit.
    """

    max_total_tokens: int | None
    deadline: float | None  # seconds
    token_price: float
    latency_price: float
    questions: int
    rows: tuple[Row, ...]
    mix: Mapping[str, float]  # share of the questions that adaptive gave each strategy
    feasible: float  # share of the questions for which something on the menu was predicted to fit

    @property
    def limit(self) -> str:
        return f"{self.max_total_tokens} tokens" if self.max_total_tokens is not None else f"{self.deadline:.2f} s"

    def row(self, name: str) -> Row:
        """The one of this name, or whose name begins with it."""
        return next(row for row in self.rows if row.name.startswith(name))


class Requests:
    """Every strategy of a menu on recorded questions, under limits."""

    def __init__(self, stops: Stops, data: Examples, *, level: float, borda_power: float) -> None:
        """stops: of the same questions. level: of the upper bounds."""
        self.questions: list[int] = some(len(data), _QUESTIONS).tolist()
        self._stops, self._data, self._level, self._power = stops, data, level, borda_power
        self._menu = stops.world.menu
        self._stoppers = [stops.stopper(k) for k in range(len(stops.courses))]
        speeds = speeds_of(data)
        self._speeds: dict[int, Speed] = {}
        for i in self.questions:

            def speed(size: int, i: int = i) -> tuple[float, float]:
                first, each = speeds(np.array([i]), np.array([size]))
                return float(first[0]), float(each[0])

            self._speeds[i] = speed
        orders = int(np.clip(_REQUESTS // len(self.questions), 1, 8))
        self._orders: dict[int, list[list[int]]] = {
            i: [
                np.random.default_rng([7, i, k]).permutation(len(data.pools[i].samples)).tolist() for k in range(orders)
            ]
            for i in self.questions
        }

    def fixed(self, limits: Limits) -> World:
        """Every strategy run to its end, as far as the limits allow."""
        return self._world([[self._run(i, spec, limits) for spec in self._menu] for i in self.questions])

    def stopped(self, limits: Limits, prices: Prices, offered: Mapping[int, Sequence[Prediction]]) -> World:
        """The same with checkpoints. offered: of each question, the menu as run."""
        found: list[list[Spent]] = []
        for i in self.questions:
            stopper = self._stoppers[int(self._stops.fold[i])]
            place = stopper.clusters.place(self._data.features[i])
            found.append(
                [
                    self._run(
                        i, row.spec, limits,
                        wave=row.wave if isinstance(row, Waved) else None,
                        stopping=checkpoints(row.spec, row, prices, stopper, place),
                    )
                    for row in offered[i]
                ]
            )  # fmt: skip
        return self._world(found)

    def fitting(self, limits: Limits) -> Sequence[int]:
        """Strategies of the menu that keep the limits, uncut, in so many cases as the upper bounds promise."""
        kept = np.zeros(len(self._menu))
        for i in self.questions:
            for j, spec in enumerate(self._menu):
                label = self._data.labels[i][spec]
                runs = self._data.pools[i].runs_of(spec)
                first, each = self._speeds[i](spec.draws)
                seconds = np.array([run.seconds for run in runs]) if runs else first + label.longest * each
                kept[j] += ((label.tokens <= limits.tokens) & (seconds <= limits.seconds)).mean()
        return np.flatnonzero(kept / len(self.questions) >= self._level).tolist()

    def _run(
        self, i: int, spec: StrategySpec, limits: Limits, *, wave: int | None = None, stopping: Stopping | None = None
    ) -> Spent:
        pool = self._data.pools[i]
        if runs := pool.runs_of(spec):
            return searched(runs, limits)
        rule, number = rule_of(spec) or BY_VOTES, numbers_of(pool)
        results: list[Spent] = []
        for order in self._orders[i]:
            samples = [pool.samples[k] for k in order[: spec.n]]
            results.append(
                sampled(
                    samples,
                    [vote_of(sample, number, rule) for sample in samples],
                    spec,
                    limits,
                    max_tokens=pool.question.max_tokens,
                    speed=self._speeds[i],
                    wave=wave,
                    stopping=stopping,
                    borda_power=self._power,
                )
            )
        return Spent(
            accuracy=float(np.mean([one.accuracy for one in results])),
            tokens=float(np.mean([one.tokens for one in results])),
            seconds=float(np.mean([one.seconds for one in results])),
        )

    def _world(self, found: Sequence[Sequence[Spent]]) -> World:
        return World(
            menu=self._menu,
            accuracy=np.array([[one.accuracy for one in row] for row in found]),
            tokens=np.array([[one.tokens for one in row] for row in found]),
            seconds=np.array([[one.seconds for one in row] for row in found]),
        )


def at_budgets(
    stops: Stops,
    data: Examples,
    beliefs: Sequence[float],
    blocks: Sequence[str],
    *,
    level: float,
    borda_power: float = 1.0,
) -> tuple[AtBudget, ...]:
    """beliefs: by fold, see `Stops.beliefs`. blocks: a name for every question, resampled as a whole."""
    requests = Requests(stops, data, level=level, borda_power=borda_power)
    one = float(np.mean([sample.tokens for pool in data.pools for sample in pool.samples]))
    quickest = float(stops.world.seconds.mean(axis=0).min())
    limits = [
        *(Limits(tokens=max(1, round(one * times))) for times in TOKENS),
        *(Limits(seconds=round(quickest * times, 3)) for times in SECONDS),
    ]
    named = [blocks[i] for i in requests.questions]
    return tuple(at for each in limits for at in _under(stops, requests, beliefs, named, each))


def _under(
    stops: Stops, requests: Requests, beliefs: Sequence[float], blocks: Sequence[str], limits: Limits
) -> list[AtBudget]:
    asked, menu = requests.questions, stops.world.menu
    fixed = requests.fixed(limits)
    fitting = requests.fitting(limits) or [int(fixed.tokens.mean(axis=0).argmin())]
    believed = stops.believed(np.array(beliefs)[stops.fold])
    found: list[AtBudget] = []
    for token_price, latency_price in PRICES:
        prices = Prices(token_price=token_price, latency_price=latency_price)
        offered = {
            i: stops.as_run(i, stops.offered(i, believed[i]), prices, seconds_left=limits.seconds) for i in asked
        }
        # where nothing has a price everything is drawn at once, and there is nothing to decide at a checkpoint
        learned = requests.stopped(limits, prices, offered) if token_price or latency_price else fixed
        both = [_allocated(offered[i], prices, limits) for i in asked]
        plain = [_allocated(stops.offered(i, stops.predicted.accuracy[i]), prices, limits) for i in asked]
        adaptive, before = (np.array([menu.index(one.spec) for one in each], dtype=np.intp) for each in (both, plain))
        utility = fixed.utility(prices)
        best = max(fitting, key=lambda j: float(utility[:, j].mean()))
        cut = int(utility.mean(axis=0).argmax())
        ways = {
            "adaptive": learned.taken(adaptive),
            "before sampling alone": fixed.taken(before),
            "while sampling alone": learned.taken(stops.best_elsewhere(learned.utility(prices), questions=asked)),
            f"{FITS}: {menu[best]}": fixed.taken(np.full(len(asked), best)),
            f"{CUT}: {menu[cut]}": fixed.taken(np.full(len(asked), cut)),
        }
        pair = (token_price, latency_price)
        found.append(
            AtBudget(
                max_total_tokens=limits.tokens if limits.tokens < NO_LIMIT else None,
                deadline=limits.seconds if limits.seconds < inf else None,
                token_price=token_price,
                latency_price=latency_price,
                questions=len(asked),
                rows=tuple(row_of(name, taken, pair, utility[:, best], blocks) for name, taken in ways.items()),
                mix={str(spec): float((adaptive == j).mean()) for j, spec in enumerate(menu) if (adaptive == j).any()},
                feasible=float(np.mean([one.fits for one in both])),
            )
        )
    return found


def _allocated(rows: Sequence[Prediction], prices: Prices, limits: Limits) -> Allocation:
    """As a request with these limits is."""
    query = Query(
        id="",
        model="",
        messages=(),
        sampling={},
        budget=Budget(max_total_tokens=limits.tokens, deadline=limits.seconds),
        prices=prices,
    )
    return choose(query, rows, now=0.0, decided_by="model")
