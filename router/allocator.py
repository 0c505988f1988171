"""From a query to an allocation: features, what the menu offers, predictions, the choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from router.features import Features, extract
from router.menu import SINGLE, not_offered
from router.policy import choose
from router.predictors import Predictor
from router.speed import Load
from strategies.types import Allocation, Prediction, Query, StrategySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocator:
    """Decides for one menu with one predictor."""

    predictor: Predictor
    fallback: Predictor  # the prior: for strategies that the predictor knows nothing about
    max_candidates: int
    default_max_tokens: int

    def allocate(self, query: Query, menu: Sequence[StrategySpec], load: Load, *, now: float) -> Allocation:
        """Raises BudgetInfeasible for a strict budget that nothing fits."""
        return self.explain(query, menu, load, now=now)[1]

    def explain(
        self, query: Query, menu: Sequence[StrategySpec], load: Load, *, now: float
    ) -> tuple[Features, Allocation]:
        """The same, with the features it was decided on."""
        features = extract(query)
        requested = query.requested
        specs = list(menu) if requested is None or requested in menu else [*menu, requested]
        allocation = choose(
            query,
            self._predictions(query, features, specs, load),
            now=now,
            decided_by=self.predictor.name,
            model_version=self.predictor.version,
        )
        return features, self._runnable(query, allocation)

    def _predictions(
        self, query: Query, features: Features, specs: Sequence[StrategySpec], load: Load
    ) -> list[Prediction]:
        # n answers need at least n draws of `single` too, and no strategy spends more than the budget lets it
        limit = min(query.max_tokens or self.default_max_tokens, query.budget.max_total_tokens)
        rows = list(self.predictor.predict(features, specs, load, max_tokens=limit))
        asked = query.requested
        if (
            asked is not None
            and (at := next((i for i, row in enumerate(rows) if row.spec == asked and row.reason), None)) is not None
        ):
            rows[at] = self.fallback.predict(features, [asked], load, max_tokens=limit)[0]
        return [self._offered(query, row) for row in rows]

    def _offered(self, query: Query, row: Prediction) -> Prediction:
        if row.spec == SINGLE and query.answers > 1:
            row = replace(row, tokens=row.tokens * query.answers, tokens_upper=row.tokens_upper * query.answers)
        refused = not_offered(row.spec, query, max_candidates=self.max_candidates)
        return replace(row, reason=refused) if refused else row

    def _runnable(self, query: Query, allocation: Allocation) -> Allocation:
        """A strategy asked for by name that can't work on this query becomes `single`, and the reason says so."""
        why = not_offered(allocation.spec, query, max_candidates=self.max_candidates)
        if not why:
            return allocation
        return replace(allocation, spec=SINGLE, reason=f"single instead of {allocation.spec}: {why}")
