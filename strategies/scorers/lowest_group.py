"""Lowest group confidence: an answer is as good as the passage in which the model was least sure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from strategies.confidence import CERTAINTY_TOP, confidences, window
from strategies.types import Candidate, Pace, Query


class LowestGroup:
    """The least mean confidence of any group of consecutive tokens, from the top logprobs.

    "Deep Think with Confidence" (Fu et al. 2025, arXiv 2508.15260). Its average trace confidence is `self_certainty`.
    """

    needs_top_logprobs: int | None = CERTAINTY_TOP
    pace: Pace = "at_once"

    async def score(self, query: Query, candidates: Sequence[Candidate]) -> Sequence[float]:
        return [_lowest(confidences(candidate.logprob_content)) for candidate in candidates]


def _lowest(values: Sequence[float]) -> float:
    if not values:
        return 0.0
    size = window(len(values))
    sums = list(accumulate(values, initial=0.0))
    return min(after - before for before, after in zip(sums, sums[size:], strict=False)) / size
