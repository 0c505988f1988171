"""The menu: the strategies the allocator chooses from, and which of them a query can be offered."""

from __future__ import annotations

from dataclasses import dataclass

from strategies.scorers import SCORERS
from strategies.spec import StrategySpec
from strategies.types import Query

SINGLE = StrategySpec(method="single")


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """What entries of the menu may need of the engine, as far as is known."""

    continuation: bool = True  # it goes on with what the assistant has said
    logprobs: bool = True  # it returns them
    logprobs_with_tools: bool = True  # in a stream in which tools may be called too
    top_logprobs: int = 20  # alternatives that may be asked for at a token


CAN_ALL = Abilities()


def lacking(spec: StrategySpec, abilities: Abilities, *, tools: bool = False) -> str:
    """What the engine lacks for this entry; empty when it has it all. tools: whether the query has any."""
    if spec.method == "beam_search" and not abilities.continuation:
        return "beam_search needs the assistant's text continued, which the engine does not do"
    scorer = SCORERS.get(spec.scorer or "")
    needs = scorer.needs_top_logprobs if scorer is not None else None
    if needs is None:
        return ""
    if not abilities.logprobs:
        return f"{spec.scorer} needs logprobs, which the engine does not return"
    if needs > abilities.top_logprobs:
        return f"{spec.scorer} needs logprobs of {needs} alternatives, and the engine returns {abilities.top_logprobs}"
    if tools and not abilities.logprobs_with_tools:
        return f"{spec.scorer} needs logprobs, which the engine does not return with tools"
    return ""


def not_offered(spec: StrategySpec, query: Query, *, max_candidates: int, abilities: Abilities = CAN_ALL) -> str:
    """Why a query can't have this entry; empty when it can."""
    if spec.method == "single":
        return ""
    if query.greedy:
        return "temperature 0 makes every candidate the same"
    if spec.draws > max_candidates:
        return f"{spec.draws} sequences are over the operator's limit of {max_candidates}"
    if lacks := lacking(spec, abilities, tools=bool(query.tools)):
        return lacks
    if spec.n < query.answers:
        return f"{query.answers} answers were asked for"
    if spec.method == "beam_search" and query.tools:
        return "tool calls can't be continued step by step"
    if spec.method == "beam_search" and query.sampling.get("response_format"):
        return "structured output can't be continued step by step"
    return ""
