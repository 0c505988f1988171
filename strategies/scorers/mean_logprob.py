"""Mean log probability of the sampled tokens."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp

from strategies.types import Candidate, Pace, Query


class MeanLogprob:
    """exp(mean log p): the geometric mean probability of a candidate's tokens, in (0, 1].

    The inverse of its length-normalised perplexity, which would rank in just the same order; and positive, so that it
    can be summed over equal answers.
    """

    needs_top_logprobs: int | None = 0
    pace: Pace = "at_once"

    async def score(self, query: Query, candidates: Sequence[Candidate]) -> Sequence[float]:
        return [exp(c.logprobs.mean) if c.logprobs is not None and c.logprobs.tokens else 0.0 for c in candidates]

    def bound(self, candidate: Candidate, *, tokens_left: int) -> float:
        """The score if every token that may still come were certain."""
        known = candidate.logprobs
        if known is None or not known.tokens:
            return 1.0
        return exp(min(known.total, 0.0) / (known.tokens + max(tokens_left, 0)))
