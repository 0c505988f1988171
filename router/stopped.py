"""Strategies that are stopped, on held-out questions: what is expected of them, what becomes of them, and the choice.

Everything about a question comes from other questions: the gate of the stopping model, the courses of the strategies,
and whether what the text of a query says about it is worth believing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from router.allocator import as_run
from router.courses import Courses
from router.menu import SINGLE
from router.odds import between
from router.predictors import averages, can_agree, named
from router.replay import Played, Replay, Speeds
from router.stopping_training import HeldOut, courses, gate, played
from router.vote_state import rule_of
from router.world import World
from strategies.types import Prediction, Prices, StrategySpec

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
BELIEFS = (0.0, 0.5, 1.0)
# (utility per 1,000 tokens, per second): where the gate of what the text says looks
GATE = ((0.1, 0.01), (0.3, 0.0), (0.3, 0.03), (1.0, 0.0), (1.0, 0.1), (3.0, 0.0), (3.0, 0.1))


class Stops:
    """One menu on held-out questions, by fold."""

    def __init__(
        self,
        found: Sequence[HeldOut],
        *,
        parts: Sequence[Sequence[int]],
        world: World,
        predicted: World,
        speeds: Speeds,
        vectors: Floats,
    ) -> None:
        """found: held-out predictions of the stopping model by rule; predicted: of what each strategy comes to when all
        is drawn; world: what it came to. parts: the questions of each fold. vectors: the questions' features,
        (questions, features).
        """
        self.world, self.predicted = world, predicted
        self._found = {one.data.rule: one for one in found}
        self._speeds = speeds
        one = found[0]
        self.familiar = one.data.by_question(one.familiar.astype(float), len(world.accuracy)) > 0.5
        self._agree = np.array([can_agree(named(vector)) for vector in vectors])
        self._fold = np.zeros(len(world.accuracy), dtype=np.intp)
        for k, part in enumerate(parts):
            self._fold[list(part)] = k
        self._weights = np.zeros((len(parts), len(found)))
        self._courses: list[Courses] = []
        for k in range(len(parts)):
            seen = [one.take(one.data.rows_of(self._fold != k)) for one in found]
            self._weights[k] = [gate(one, len(world.accuracy)) for one in seen]
            weights = {one.data.rule: w for one, w in zip(seen, self._weights[k].tolist(), strict=True)}
            self._courses.append(courses(seen, world.menu, weights))

    def outcomes(self, prices: Prices, *, learned: bool) -> World:
        """Every strategy run with its stopping rule: by the model, or by the price alone. Those that can't be stopped
        are as they were."""
        world = self.world
        accuracy, tokens, seconds = world.accuracy.copy(), world.tokens.copy(), world.seconds.copy()
        for j, spec in enumerate(world.menu):
            run = self.run(spec, prices, learned=learned)
            if run is not None:
                data, result = run
                accuracy[:, j] = data.by_question(result.right, len(accuracy))
                tokens[:, j] = data.by_question(result.tokens, len(accuracy))
                seconds[:, j] = data.by_question(result.seconds, len(accuracy))
        return World(menu=world.menu, accuracy=accuracy, tokens=tokens, seconds=seconds)

    def run(self, spec: StrategySpec, prices: Prices, *, learned: bool) -> tuple[Replay, Played] | None:
        """One strategy played with its stopping rule. None: it can't be stopped."""
        rule = rule_of(spec)
        if spec.method == "single" or rule is None or rule not in self._found:
            return None
        one, column = self._found[rule], self.world.menu.index(spec)
        question = one.data.question
        weight = self._weights[self._fold[question], list(self._found).index(rule)] * one.familiar * float(learned)
        result = played(
            one,
            token=prices.token_price / 1000,
            wait=prices.latency_price * self.predicted.seconds[question, column],
            weight=weight,
            cap=spec.n,
            each=self.predicted.tokens[question, column] / spec.n,
            speeds=self._speeds,
        )
        return one.data, result

    def expected(self, prices: Prices, beliefs: Floats) -> World:
        """What the allocator predicts of the same, before sampling. beliefs: (questions,), see
        `router.boosted.Calibration`."""
        predicted, menu = self.predicted, self.predicted.menu
        accuracy, tokens, seconds = self._believed(beliefs), predicted.tokens.copy(), predicted.seconds.copy()
        one = next((j for j, spec in enumerate(menu) if spec == SINGLE), None)
        for i, fold in enumerate(self._fold.tolist()):
            table = self._courses[fold] if self.familiar[i] else None
            alone = None if one is None else float(accuracy[i, one])
            for j, spec in enumerate(menu):
                row = Prediction(
                    spec=spec,
                    accuracy=float(accuracy[i, j]),
                    tokens=float(tokens[i, j]),
                    tokens_upper=float(tokens[i, j]),
                    seconds=float(seconds[i, j]),
                    seconds_upper=float(seconds[i, j]),
                )
                run = as_run(row, prices, table, None, alone, seconds_left=float("inf"))
                accuracy[i, j], tokens[i, j], seconds[i, j] = run.accuracy, run.tokens, run.seconds
        return World(menu=menu, accuracy=accuracy, tokens=tokens, seconds=seconds)

    def _believed(self, beliefs: Floats) -> Floats:
        """Accuracies as the allocator takes them: of unfamiliar queries the averages, see `Boosted`."""
        usual = np.array([self.world.accuracy[self._fold != k].mean(axis=0) for k in range(len(self._courses))])
        believed = between(usual[self._fold], self.predicted.accuracy, beliefs[:, None])
        for i in np.flatnonzero(~self.familiar):
            believed[i] = averages(usual[self._fold[i]], self.world.menu, agree=bool(self._agree[i]))
        return believed

    def beliefs(self) -> list[float]:
        """By fold, how far to believe what the text says, as found on the others; see `belief`."""
        earned = self._earned()
        return [_best(earned[:, self._fold != k]) for k in range(len(self._courses))]

    def belief(self) -> float:
        """The same from all the questions: the belief of the highest utility over the prices of the gate, where that is
        higher than without any by more than its standard error; else 0, which is the lookup table's choice."""
        return _best(self._earned())

    def chosen(self, prices: Prices, beliefs: Sequence[float]) -> Ints:
        """The allocator's choice on every question, its column in the menu. beliefs: by fold."""
        return self.expected(prices, np.array(beliefs)[self._fold]).utility(prices).argmax(axis=1)

    def best_elsewhere(self, utility: Floats, among: Sequence[int] | None = None) -> Ints:
        """The strategy with the highest mean utility on the other folds' questions: a lookup table."""
        columns: Ints = np.array(range(utility.shape[1]) if among is None else among, dtype=np.intp)
        choice = np.zeros(len(utility), dtype=np.intp)
        for k in range(len(self._courses)):
            choice[self._fold == k] = columns[utility[self._fold != k][:, columns].mean(axis=0).argmax()]
        return choice

    def _earned(self) -> Floats:
        """Utility by belief and question, over the prices of the gate."""
        earned = np.zeros((len(BELIEFS), len(self._fold)))
        everyone = np.arange(len(self._fold))
        for token_price, latency_price in GATE:
            prices = Prices(token_price=token_price, latency_price=latency_price)
            utility = self.outcomes(prices, learned=True).utility(prices)
            for i, belief in enumerate(BELIEFS):
                beliefs = np.full(len(everyone), belief)
                earned[i] += utility[everyone, self.expected(prices, beliefs).utility(prices).argmax(axis=1)]
        return earned / len(GATE)


def _best(earned: Floats) -> float:
    best = int(earned.mean(axis=1).argmax())
    ahead = earned[best] - earned[0]
    return BELIEFS[best] if ahead.mean() > ahead.std() / np.sqrt(len(ahead)) else 0.0
