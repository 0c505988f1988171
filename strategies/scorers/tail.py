"""Tail confidence: how sure the model was at the end, where the answer stands."""

from __future__ import annotations

from collections.abc import Sequence

from strategies.confidence import CERTAINTY_TOP, confidences, window
from strategies.types import Candidate, Pace, Query


class Tail:
    """The mean confidence of the last tokens, from the top logprobs.

    "Deep Think with Confidence" (Fu et al. 2025, arXiv 2508.15260).
    """

    needs_top_logprobs: int | None = CERTAINTY_TOP
    pace: Pace = "at_once"

    async def score(self, query: Query, candidates: Sequence[Candidate]) -> Sequence[float]:
        return [_tail(confidences(candidate.logprob_content)) for candidate in candidates]


def _tail(values: Sequence[float]) -> float:
    end = values[-window(len(values)) :] if values else ()
    return sum(end) / len(end) if end else 0.0
