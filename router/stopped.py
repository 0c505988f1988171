"""Strategies that are stopped, on held-out questions: what is expected of them, what becomes of them, and the choice.

Everything about a question comes from other questions: the gate of the stopping model, the courses of the strategies,
and whether what the text of a query says about it is worth believing.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import numpy as np
from numpy.typing import NDArray

from router.allocator import as_run
from router.blocks import some
from router.courses import Courses
from router.menu import SINGLE
from router.odds import between
from router.predictors import averages, can_agree, named
from router.replay import Played, Replay, Speeds
from router.stopper import Stopper
from router.stopping_training import HeldOut, courses, gate, played
from router.vote_state import rule_of
from router.world import Predicted, World
from strategies.spec import StrategySpec
from strategies.types import Prediction, Prices

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
BELIEFS = (0.0, 0.5, 1.0)
_GATED = 2500  # questions at most that the gate asks
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
        predicted: Predicted,
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
        self.fold = np.zeros(len(world.accuracy), dtype=np.intp)
        for k, part in enumerate(parts):
            self.fold[list(part)] = k
        self._weights = np.zeros((len(parts), len(found)))
        self.courses: list[Courses] = []
        for k in range(len(parts)):
            seen = [one.take(one.data.rows_of(self.fold != k)) for one in found]
            self._weights[k] = [gate(one, len(world.accuracy)) for one in seen]
            weights = {one.data.rule: w for one, w in zip(seen, self._weights[k].tolist(), strict=True)}
            self.courses.append(courses(seen, world.menu, weights))

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
        weight = self._weights[self.fold[question], list(self._found).index(rule)] * one.familiar * float(learned)
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

    def expected(self, prices: Prices, beliefs: Floats, questions: Ints | None = None) -> World:
        """What the allocator predicts of the same, before sampling. beliefs: (questions,), see
        `router.boosted.Calibration`. questions: of those alone."""
        asked: Ints = np.arange(len(self.fold)) if questions is None else questions
        believed = self.believed(beliefs)
        runs = [self.as_run(i, self.offered(i, believed[i]), prices) for i in asked.tolist()]
        return World(
            menu=self.predicted.menu,
            accuracy=np.array([[run.accuracy for run in row] for row in runs]),
            tokens=np.array([[run.tokens for run in row] for row in runs]),
            seconds=np.array([[run.seconds for run in row] for row in runs]),
        )

    def offered(self, question: int, accuracy: Floats) -> list[Prediction]:
        """The menu as predicted for one question, all drawn at once. accuracy: as believed, (strategies,)."""
        predicted = self.predicted
        columns = (
            accuracy,
            *(
                array[question]
                for array in (predicted.tokens, predicted.tokens_upper, predicted.seconds, predicted.seconds_upper)
            ),
        )
        return [
            Prediction(
                spec=spec, accuracy=right, tokens=tokens, tokens_upper=tokens_upper, seconds=seconds,
                seconds_upper=seconds_upper,
            )
            for spec, right, tokens, tokens_upper, seconds, seconds_upper in zip(
                predicted.menu, *(column.tolist() for column in columns), strict=True
            )
        ]  # fmt: skip

    def as_run(
        self, question: int, rows: Sequence[Prediction], prices: Prices, *, seconds_left: float = inf
    ) -> list[Prediction]:
        """The same as the allocator predicts it in waves, and stopped."""
        table = self.courses[int(self.fold[question])] if self.familiar[question] else None
        alone = next((row.accuracy for row in rows if row.spec == SINGLE), None)
        return [as_run(row, prices, table, None, alone, seconds_left=seconds_left) for row in rows]

    def believed(self, beliefs: Floats) -> Floats:
        """Accuracies as the allocator takes them: of unfamiliar queries the averages, see `Boosted`."""
        usual = np.array([self.world.accuracy[self.fold != k].mean(axis=0) for k in range(len(self.courses))])
        believed = between(usual[self.fold], self.predicted.accuracy, beliefs[:, None])
        for i in np.flatnonzero(~self.familiar):
            believed[i] = averages(usual[self.fold[i]], self.world.menu, agree=bool(self._agree[i]))
        return believed

    def beliefs(self) -> list[float]:
        """By fold, how far to believe what the text says, as found on the others; see `belief`."""
        earned, asked = self._earned()
        return [_best(earned[:, self.fold[asked] != k]) for k in range(len(self.courses))]

    def belief(self) -> float:
        """The same from all the questions: the belief of the highest utility over the prices of the gate, where that is
        higher than without any by more than its standard error; else 0, which is the lookup table's choice."""
        return _best(self._earned()[0])

    def chosen(self, prices: Prices, beliefs: Sequence[float]) -> Ints:
        """The allocator's choice on every question, its column in the menu. beliefs: by fold."""
        return self.expected(prices, np.array(beliefs)[self.fold]).utility(prices).argmax(axis=1)

    def best_elsewhere(
        self, utility: Floats, among: Sequence[int] | None = None, questions: Sequence[int] | None = None
    ) -> Ints:
        """The strategy with the highest mean utility on the other folds' questions: a lookup table. questions: whose
        utilities these are; None: all."""
        fold = self.fold if questions is None else self.fold[questions]
        columns: Ints = np.array(range(utility.shape[1]) if among is None else among, dtype=np.intp)
        choice = np.zeros(len(utility), dtype=np.intp)
        for k in range(len(self.courses)):
            choice[fold == k] = columns[utility[fold != k][:, columns].mean(axis=0).argmax()]
        return choice

    def stopper(self, fold: int) -> Stopper:
        """What decides at the checkpoints of a fold's questions. Its confidences are not calibrated."""
        one = next(iter(self._found.values()))
        model = one.models[fold]
        return Stopper(
            gain=model.boosters.gain,
            right=model.boosters.right,
            right_x=(0.0, 1.0),
            right_y=(0.0, 1.0),
            weights=dict(zip(self._found, self._weights[fold].tolist(), strict=True)),
            clusters=model.clusters,
            temperatures=(-inf, inf),
            courses=self.courses[fold],
        )

    def _earned(self) -> tuple[Floats, Ints]:
        """Utility by belief and question, over the prices of the gate; and which questions: of very many, some."""
        asked = some(len(self.fold), _GATED)
        earned = np.zeros((len(BELIEFS), len(asked)))
        for token_price, latency_price in GATE:
            prices = Prices(token_price=token_price, latency_price=latency_price)
            utility = self.outcomes(prices, learned=True).utility(prices)
            for i, belief in enumerate(BELIEFS):
                expected = self.expected(prices, np.full(len(self.fold), belief), asked)
                earned[i] += utility[asked, expected.utility(prices).argmax(axis=1)]
        return earned / len(GATE), asked


def _best(earned: Floats) -> float:
    best = int(earned.mean(axis=1).argmax())
    ahead = earned[best] - earned[0]
    return BELIEFS[best] if ahead.mean() > ahead.std() / np.sqrt(len(ahead)) else 0.0
