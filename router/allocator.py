"""From a query to an allocation: features, what the menu offers, predictions, the choice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from router.clusters import Place
from router.courses import Courses, as_stopped
from router.coverage import most_tokens, widened
from router.features import Features, extract
from router.menu import CAN_ALL, SINGLE, Abilities, not_offered
from router.policy import choose
from router.predictors import Predictor
from router.scoring import Scoring
from router.sharing import Speeds, shared
from router.speed import Load, Speed
from router.stopper import Stopper
from router.stopping import ByPrice, Spending, threshold_at
from router.verified import until_right
from router.waves import Waved, in_waves
from strategies.spec import StrategySpec
from strategies.stopping import SETTLED, ByPosterior, Stopping
from strategies.types import Allocation, Prediction, Prices, Query


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocator:
    """Decides for one menu with one predictor.

    Predictors tell of drawing all candidates at once; that a vote is drawn in waves and that scores cost tokens and
    seconds too is added here, whoever predicts.
    """

    predictor: Predictor
    fallback: Predictor  # the prior: for strategies that the predictor knows nothing about
    max_candidates: int
    default_max_tokens: int
    abilities: Callable[[], Abilities] = lambda: CAN_ALL  # the engine's, as far as they are known by now
    give_up_below: float = 0.0  # see `router.stopper.Learned`

    def explain(
        self,
        query: Query,
        menu: Sequence[StrategySpec],
        load: Load,
        *,
        now: float,
        scoring: Scoring,
        stop_threshold: float | None = None,
    ) -> tuple[Features, Allocation]:
        """The features of the query, and the decision made on them.

        now: monotonic seconds. stop_threshold: at which a vote counts as settled, where the operator has set it; else
        the price decides when to stop, but for a strategy that the client asked for by name. Where neither the menu nor
        that strategy can be offered, it is `single`, and the reason says so. Raises BudgetInfeasible for a strict
        budget that nothing fits.
        """
        features = extract(query)
        asked = query.requested
        specs = list(menu) if asked is None or asked in menu else [*menu, asked]
        rows = self._predictions(query, features, specs, load)
        instead = ""
        if asked is None:
            if rows and all(row.reason for row in rows):
                instead = f"single, because nothing on the menu can be offered ({rows[0].spec}: {rows[0].reason})"
        elif refused := self._refused(asked, query):
            instead = f"single instead of {asked}: {refused}"
            query = replace(query, requested=SINGLE)
        if instead and not any(row.spec == SINGLE and not row.reason for row in rows):
            rows = [row for row in rows if row.spec != SINGLE] + [self._by_the_prior(query, features, SINGLE, load)]
        limit = self._limit(query)
        rows = [
            widened(row, load.widths, most_tokens=most_tokens(row.spec, limit=limit, answers=query.answers))
            for row in rows
        ]
        left = query.budget.deadline - now
        if asked is None:  # who asks for a strategy gets it
            rows = shared(rows, load, self._speeds(features, load), seconds_left=left)
        stopper = self.predictor.stopper
        place = stopper.place(features) if stopper is not None else None
        threshold = stop_threshold if asked is None else stop_threshold or SETTLED
        courses = None
        if stopper is not None and place is not None and place.familiar and threshold is None:
            courses = stopper.courses
        one = next((row.accuracy for row in rows if row.spec == SINGLE), None)
        rows = [scoring.added_to(row) if not row.reason else row for row in rows]
        allocation = choose(
            query,
            [
                row if row.reason else as_run(row, query.prices, courses, threshold, one, seconds_left=left)
                for row in rows
            ],
            now=now,
            decided_by=self.predictor.name if place is None or place.familiar else "averages",
            model_version=self.predictor.version,
        )
        if instead:
            chosen = allocation.chosen
            cut = "" if chosen is None or chosen.feasible else f"; it may not fit ({chosen.reason})"
            allocation = replace(allocation, reason=instead + cut)
        return features, self._with_checkpoints(allocation, query.prices, place, threshold)

    def _with_checkpoints(
        self, allocation: Allocation, prices: Prices, place: Place | None, threshold: float | None
    ) -> Allocation:
        """The allocation with what decides while sampling: a threshold, else the model, else the price. A model that
        knows the query tells how sure the answer is in any case."""
        row = allocation.chosen
        return replace(
            allocation,
            wave=row.wave if isinstance(row, Waved) else None,
            stopping=checkpoints(
                allocation.spec, row, prices, self.predictor.stopper, place,
                threshold=threshold, give_up_below=self.give_up_below,
            ),
            familiar=place.familiar if place is not None else None,
        )  # fmt: skip

    def _speeds(self, features: Features, load: Load) -> Speeds:
        prompt = features.values["prompt_tokens"]

        def speeds(calls: Sequence[tuple[int, int]]) -> Sequence[Speed]:
            found = self.predictor.speeds([(prompt, running, added) for running, added in calls])
            return [speed.slowed(load.correction) for speed in found]

        return speeds

    def _predictions(
        self, query: Query, features: Features, specs: Sequence[StrategySpec], load: Load
    ) -> list[Prediction]:
        rows = self.predictor.predict(features, specs, load, max_tokens=self._limit(query))
        return [
            self._by_the_prior(query, features, row.spec, load)
            if row.spec == query.requested and row.reason
            else self._offered(query, row)
            for row in rows
        ]

    def _by_the_prior(self, query: Query, features: Features, spec: StrategySpec, load: Load) -> Prediction:
        (row,) = self.fallback.predict(features, [spec], load, max_tokens=self._limit(query))
        return self._offered(query, row)

    def _limit(self, query: Query) -> int:
        """Tokens of one candidate at most. The budget is not in it: what it can't hold does not fit, and is said to."""
        return query.max_tokens or self.default_max_tokens

    def _offered(self, query: Query, row: Prediction) -> Prediction:
        if row.spec == SINGLE and query.answers > 1:  # n answers need n draws of `single` too
            row = replace(row, tokens=row.tokens * query.answers, tokens_upper=row.tokens_upper * query.answers)
        refused = self._refused(row.spec, query)
        return replace(row, reason=refused) if refused else row

    def _refused(self, spec: StrategySpec, query: Query) -> str:
        return not_offered(spec, query, max_candidates=self.max_candidates, abilities=self.abilities())


def as_run(
    row: Prediction,
    prices: Prices,
    courses: Courses | None,
    threshold: float | None,
    one: float | None,
    *,
    seconds_left: float,
) -> Prediction:
    """The row of drawing everything at once, with what waves and stopping make of it. one: accuracy of one sample."""
    if courses is not None:
        stopped = as_stopped(row, courses, prices=prices, seconds_left=seconds_left)
        if stopped is not None:
            return stopped
    if row.spec.verified:
        return until_right(row, one=one, prices=prices, seconds_left=seconds_left)
    if row.spec.method != "majority_vote":
        return row
    if threshold is not None:
        return in_waves(row, prices=prices, threshold=threshold, seconds_left=seconds_left)
    spending = Spending.of(prices, seconds=row.seconds)
    # rounded, so that what is reckoned of a threshold is found again
    by_price = round(threshold_at(spending.candidate(row.tokens / row.spec.n) + spending.wait / row.spec.n), 2)
    return in_waves(row, prices=prices, threshold=by_price, seconds_left=seconds_left, one=one)


def checkpoints(
    spec: StrategySpec,
    row: Prediction | None,
    prices: Prices,
    stopper: Stopper | None,
    place: Place | None,
    *,
    threshold: float | None = None,
    give_up_below: float = 0.0,
) -> Stopping:
    """What decides while a strategy is sampled. row: its own prediction, as run; None: there is none."""
    seconds = row.wave_seconds if isinstance(row, Waved) else (row.seconds if row is not None else 0.0)
    spending = Spending.of(prices, seconds=seconds)
    stopping: Stopping | None = None
    if stopper is not None and place is not None:
        stopping = stopper.for_request(spec, place, spending, threshold=threshold, give_up_below=give_up_below)
    if stopping is None:
        stopping = ByPrice(spending=spending) if threshold is None else ByPosterior(threshold=threshold)
    return stopping
