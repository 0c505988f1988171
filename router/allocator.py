"""From a query to an allocation: features, what the menu offers, predictions, the choice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from router.features import Features, extract
from router.menu import SINGLE, not_offered
from router.policy import choose
from router.predictors import Predictor
from router.scoring import Scoring
from router.speed import Load
from router.waves import in_waves
from strategies.types import Allocation, Prediction, Query, StrategySpec


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
    logprobs: Callable[[], bool] = lambda: True  # whether the engine returns them, as far as is known by now

    def explain(
        self,
        query: Query,
        menu: Sequence[StrategySpec],
        load: Load,
        *,
        now: float,
        stop_threshold: float,
        scoring: Scoring,
    ) -> tuple[Features, Allocation]:
        """The features of the query, and the decision made on them.

        now: monotonic seconds. stop_threshold: at which the query's vote counts as settled. Where neither the menu nor
        the strategy asked for can be offered, it is `single`, and the reason says so. Raises BudgetInfeasible for a
        strict budget that nothing fits.
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
        left = query.budget.deadline - now
        allocation = choose(
            query,
            [_as_run(row, query, scoring, stop_threshold=stop_threshold, seconds_left=left) for row in rows],
            now=now,
            decided_by=self.predictor.name,
            model_version=self.predictor.version,
        )
        if instead:
            chosen = allocation.chosen
            cut = "" if chosen is None or chosen.feasible else f"; it may not fit ({chosen.reason})"
            allocation = replace(allocation, reason=instead + cut)
        return features, allocation

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
        return not_offered(spec, query, max_candidates=self.max_candidates, logprobs=self.logprobs())


def _as_run(
    row: Prediction, query: Query, scoring: Scoring, *, stop_threshold: float, seconds_left: float
) -> Prediction:
    if row.reason:
        return row
    if row.spec.method == "majority_vote":
        return in_waves(row, prices=query.prices, threshold=stop_threshold, seconds_left=seconds_left)
    return scoring.added_to(row)
