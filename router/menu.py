"""The menu: the strategies the allocator chooses from, and which of them a query can be offered."""

from __future__ import annotations

from strategies.scorers import SCORERS
from strategies.spec import StrategySpec
from strategies.types import Query

SINGLE = StrategySpec(method="single")


def not_offered(spec: StrategySpec, query: Query, *, max_candidates: int, logprobs: bool = True) -> str:
    """Why a query can't have this entry; empty when it can. logprobs: whether the engine returns any."""
    if spec.method == "single":
        return ""
    if query.greedy:
        return "temperature 0 makes every candidate the same"
    if spec.draws > max_candidates:
        return f"{spec.draws} sequences are over the operator's limit of {max_candidates}"
    scorer = SCORERS.get(spec.scorer or "")
    if not logprobs and scorer is not None and scorer.needs_top_logprobs is not None:
        return f"{spec.scorer} needs logprobs, which the engine does not return"
    if spec.n < query.answers:
        return f"{query.answers} answers were asked for"
    if spec.method == "beam_search" and query.tools:
        return "tool calls can't be continued step by step"
    if spec.method == "beam_search" and query.sampling.get("response_format"):
        return "structured output can't be continued step by step"
    return ""
