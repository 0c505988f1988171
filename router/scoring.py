"""What scoring adds to a strategy: the words of a judge, and the wait for whoever is asked. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from strategies.types import Prediction


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringCost:
    """One call of a scorer, by its settings and by how long its calls have lately taken."""

    seconds: float
    seconds_upper: float
    tokens: float = 0.0  # completion tokens that the request's budget pays for: a judge's verdict
    tokens_upper: float = 0.0
    knockout: bool = False  # two candidates a call, in rounds; else one call a candidate, beside each other

    def calls(self, candidates: int) -> int:
        return candidates - 1 if self.knockout else candidates

    def waits(self, candidates: int) -> int:
        """Calls after one another, from the last candidate to the last score."""
        return (candidates - 1).bit_length() if self.knockout else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """The scorers that cost something, by name: those built in don't."""

    costs: Mapping[str, ScoringCost]
    step_tokens: int  # of one step of beam search

    def added_to(self, row: Prediction) -> Prediction:
        """The row, which was predicted for drawing alone, with the scores that the strategy will ask for.

        A judge gets half of a budget at most, so a budget holds its verdicts only if it is twice as large as they are.
        """
        cost = self.costs.get(row.spec.scorer or "")
        if cost is None:
            return row
        calls, waits = cost.calls(row.spec.draws), cost.waits(row.spec.draws)
        times, times_upper = self._times(row, row.tokens), self._times(row, row.tokens_upper)
        verdicts_upper = times_upper * calls * cost.tokens_upper
        return replace(
            row,
            tokens=row.tokens + times * calls * cost.tokens,
            tokens_upper=max(row.tokens_upper, verdicts_upper) + verdicts_upper,
            seconds=row.seconds + times * waits * cost.seconds,
            seconds_upper=row.seconds_upper + times_upper * waits * cost.seconds_upper,
        )

    def _times(self, row: Prediction, tokens: float) -> float:
        """How often all draws are scored: in beam search after every step."""
        if row.spec.method != "beam_search":
            return 1.0
        return max(1.0, tokens / row.spec.draws / self.step_tokens)
