"""Mean log probability of the sampled tokens."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp

from strategies.types import Candidate, Query


class MeanLogprob:
    """exp(mean log p): the geometric mean probability of a candidate's tokens, in (0, 1].

    The inverse of its perplexity: length-normalised, and positive, so that it can be summed over equal answers.
    """

    needs_top_logprobs: int | None = 0

    async def score(self, query: Query, candidates: Sequence[Candidate]) -> Sequence[float]:
        return [exp(c.logprobs.mean) if c.logprobs is not None and c.logprobs.tokens else 0.0 for c in candidates]
