"""Self-certainty: how far the model's next-token distributions are from uniform."""

from __future__ import annotations

from collections.abc import Sequence

from strategies.types import Candidate, Query

CERTAINTY_TOP = 5  # top tokens looked at, whatever else was asked of the engine


class SelfCertainty:
    """Mean over tokens of the mean of -log p over the reported top tokens.

    Kang et al., "Scalable Best-of-N Selection for LLMs via Self-Certainty" (2025), with the vocabulary cut to the
    engine's top logprobs: a peaked distribution leaves little for the runners-up, so their -log p is large.
    Scores are comparable only at the same number of top tokens.
    """

    needs_top_logprobs: int | None = CERTAINTY_TOP

    async def score(self, query: Query, candidates: Sequence[Candidate]) -> Sequence[float]:
        return [
            c.logprobs.certainty / c.logprobs.certain_tokens
            if c.logprobs is not None and c.logprobs.certain_tokens
            else 0.0
            for c in candidates
        ]
