"""What a query can be offered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from router.menu import Abilities, not_offered
from strategies.spec import StrategySpec
from strategies.types import Json
from tests.fakes import ask

TOOLS = [{"type": "function", "function": {"name": "f"}}]


@pytest.mark.parametrize(
    ("spec", "fields", "why"),
    [
        ("majority_vote@4", {}, ""),
        ("beam_search@4x4", {}, ""),
        ("majority_vote@4", {"sampling": {"temperature": 0}}, "temperature 0"),
        ("single", {"sampling": {"temperature": 0}}, ""),
        ("majority_vote@17", {}, "limit of 16"),
        ("beam_search@5x4", {}, "limit of 16"),
        ("best_of_n@2", {"answers": 3}, "3 answers"),
        ("best_of_n@3", {"answers": 3}, ""),
        ("single", {"answers": 3}, ""),
        ("beam_search@2x2", {"tools": TOOLS}, "tool calls"),
        ("best_of_n@2", {"tools": TOOLS}, ""),
        ("beam_search@2x2", {"sampling": {"response_format": {"type": "json_object"}}}, "structured output"),
    ],
)
def test_what_can_not_work_on_a_query_is_not_offered(spec: str, fields: dict[str, Any], why: str) -> None:
    told = not_offered(StrategySpec.parse(spec), ask(**fields), max_candidates=16)
    assert why in told
    assert bool(told) == bool(why)


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("best_of_n@4", "mean_logprob needs logprobs, which the engine does not return"),
        ("beam_search@2x2:self_certainty", "self_certainty needs logprobs, which the engine does not return"),
        ("best_of_n@4:mine", ""),  # a configured one needs none
        ("majority_vote@4", ""),
    ],
)
def test_without_logprobs_scorers_that_need_them_are_not_offered(spec: str, why: str) -> None:
    assert not_offered(StrategySpec.parse(spec), ask(), max_candidates=16, abilities=Abilities(logprobs=False)) == why


@pytest.mark.parametrize(
    ("spec", "abilities", "tools", "why"),
    [
        ("beam_search@2x2", Abilities(continuation=False), (), "which the engine does not"),
        ("best_of_n@4", Abilities(continuation=False), (), ""),
        ("best_of_n@4:self_certainty", Abilities(top_logprobs=3), (), "needs logprobs of 5 alternatives"),
        ("best_of_n@4:self_certainty", Abilities(top_logprobs=5), (), ""),
        ("best_of_n@4:mean_logprob", Abilities(top_logprobs=0), (), ""),  # it looks at the chosen tokens only
        ("best_of_n@4", Abilities(logprobs_with_tools=False), TOOLS, "does not return with tools"),
        ("best_of_n@4", Abilities(logprobs_with_tools=False), (), ""),
        ("majority_vote@4", Abilities(logprobs_with_tools=False), TOOLS, ""),
        ("single", Abilities(continuation=False, logprobs=False, top_logprobs=0), TOOLS, ""),
    ],
)
def test_what_the_engine_lacks_for_an_entry_is_named(
    spec: str, abilities: Abilities, tools: Sequence[Json], why: str
) -> None:
    told = not_offered(StrategySpec.parse(spec), ask(tools=tools), max_candidates=16, abilities=abilities)
    assert why in told
    assert bool(told) == bool(why)
