"""Self-certainty: how far the model's next-token distributions are from uniform."""

from __future__ import annotations

from collections.abc import Sequence

from strategies.confidence import CERTAINTY_TOP
from strategies.types import Candidate, Pace, Query


class SelfCertainty:
    """Mean over tokens of the mean of -log p over the reported top tokens.

    Kang et al., "Scalable Best-of-N Selection for LLMs via Self-Certainty" (2025), with the vocabulary cut to the
    engine's top logprobs: a peaked distribution leaves little for the runners-up, so their -log p is large.
    Scores are comparable only at the same number of top tokens.
    """

    needs_top_logprobs: int | None = CERTAINTY_TOP
    pace: Pace = "at_once"

    async def score(self, query: Query, candidates: Sequence[Candidate]) -> Sequence[float]:
        return [
            c.logprobs.certainty / c.logprobs.certain_tokens
            if c.logprobs is not None and c.logprobs.certain_tokens
            else 0.0
            for c in candidates
        ]
