"""Candidates that break what a request demands never win while one keeps to it."""

from __future__ import annotations

from typing import Any

import pytest

from strategies.answers import Demands, demands_of
from strategies.selection import select
from strategies.spec import Rule
from strategies.types import Answer, Candidate
from strategies.voting import Ballot
from tests.fakes import ask

AGE = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}  # fmt: skip
TIME = {"type": "function", "function": {"name": "time"}}
TOOLS = {"tools": [WEATHER, TIME]}


def call(name: Any, arguments: Any = "{}") -> dict[str, Any]:
    return {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}


PARIS = call("weather", '{"city": "Paris"}')


def drawn(index: int, *said: Any, score: float | None = None, finish: str = "stop") -> Candidate:
    """said: a text, or calls."""
    text = said[0] if said and isinstance(said[0], str) else ""
    calls = () if text or not said else said
    return Candidate(index=index, text=text, tool_calls=calls, tokens=1, finish_reason=finish, score=score)


def demands(**fields: Any) -> Demands:
    """fields: of a query; `sampling` fields by name."""
    own = {"tools": fields.pop("tools", [])}
    return demands_of(ask(**own, sampling=fields))


def schema(wanted: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": wanted}}}


JSON = {"response_format": {"type": "json_object"}}
NAMED = {"tool_choice": {"type": "function", "function": {"name": "weather"}}}

BROKEN: list[tuple[dict[str, Any], tuple[Any, ...], str]] = [
    (JSON, ("not JSON",), "the text is not JSON"),
    (JSON, ("```json\n{}\n```",), "the text is not JSON"),
    (JSON, ("<think>hm</think>{}",), "the text is not JSON"),
    (JSON, ('{"a": NaN}',), "the text is not JSON"),
    (JSON, ("[" * 100_000,), "the text is not JSON"),
    (JSON, ("[1]",), "the text is not a JSON object"),
    (schema(AGE), ("{}",), "the JSON breaks the schema"),
    (schema(AGE), ('{"age": "seven"}',), "the JSON breaks the schema"),
    (schema(AGE), ("seven",), "the text is not JSON"),
    ({"structured_outputs": {"json": AGE}}, ("{}",), "the JSON breaks the schema"),
    ({"structured_outputs": {"json": '{"type": "array"}'}}, ("{}",), "the JSON breaks the schema"),
    ({"structured_outputs": {"json_object": True}}, ("[1]",), "the text is not a JSON object"),
    ({"structured_outputs": {"choice": ["yes", "no"]}}, ("perhaps",), "the text is none of the choices"),
    ({}, (call("f", "{"),), "a tool's arguments are not a JSON object"),
    ({}, (call("f", "[]"),), "a tool's arguments are not a JSON object"),
    ({}, (call(None),), "a tool is called that may not be"),
    (TOOLS, (call("weather", "{}"),), "a tool's arguments break its schema"),
    (TOOLS, (PARIS, call("nobody")), "a tool is called that may not be"),
    ({**TOOLS, "tool_choice": "none"}, (PARIS,), "a tool is called"),
    ({**TOOLS, "tool_choice": "required"}, ("It rains.",), "no tool is called"),
    ({**TOOLS, **NAMED}, ("It rains.",), "no tool is called"),
    ({**TOOLS, **NAMED}, (call("time"),), "a tool is called that may not be"),
    ({**TOOLS, "parallel_tool_calls": False}, (PARIS, call("time")), "several tools are called"),
]
KEPT: list[tuple[dict[str, Any], tuple[Any, ...]]] = [
    (JSON, (' {"a": 1e999} ',)),
    (JSON, (PARIS,)),
    (schema(AGE), ('{"age": 7.0}',)),
    (schema({"type": "string"}), ('"seven"',)),
    (schema(None), ("7",)),
    (schema({"type": 5}), ("7",)),
    ({"response_format": {"type": "json_schema"}}, ("7",)),
    ({"response_format": {"type": "text"}}, ("not JSON",)),
    ({"structured_outputs": {"choice": ["yes", "no"]}}, ("yes ",)),
    ({"structured_outputs": {"json": AGE}}, ('{"age": 7}',)),
    ({"structured_outputs": {"regex": "a+"}}, ("b",)),
    ({}, (call("f", ""),)),
    ({}, (call("f", {"a": 1}),)),
    (TOOLS, ("It rains.",)),
    (TOOLS, (PARIS, call("time", '{"anything": 1}'))),
    ({**TOOLS, "tool_choice": "auto", "parallel_tool_calls": True}, (PARIS, PARIS)),
    ({**TOOLS, "tool_choice": "required"}, (call("time"),)),
    ({**TOOLS, "tool_choice": {"type": "allowed_tools"}}, ("It rains.",)),
    ({**TOOLS, **NAMED}, (PARIS,)),
    ({"tool_choice": "required"}, ("It rains.",)),
    ({"tools": [WEATHER, {"type": "custom", "custom": {"name": "c"}}]}, (call("c"),)),
]


@pytest.mark.parametrize(("fields", "said", "why"), BROKEN, ids=[why for *_, why in BROKEN])
def test_what_breaks_a_demand(fields: dict[str, Any], said: tuple[Any, ...], why: str) -> None:
    assert demands(**fields).broken(drawn(0, *said)) == why


@pytest.mark.parametrize(("fields", "said"), KEPT)
def test_what_keeps_to_all_of_them(fields: dict[str, Any], said: tuple[Any, ...]) -> None:
    assert demands(**fields).broken(drawn(0, *said)) is None


def elected(fields: dict[str, Any], *candidates: Candidate, rule: Rule | None = None, answers: int = 1) -> Answer:
    query = ask(tools=fields.get("tools", []), sampling={k: v for k, v in fields.items() if k != "tools"})
    ballot = Ballot.to(query).filled(candidates)
    return ballot.vote(answers=answers) if rule is None else select(ballot, rule=rule, answers=answers)


@pytest.mark.parametrize("rule", [None, "naive", "weighted", "borda"])
@pytest.mark.parametrize(
    ("fields", "broken", "kept"),
    [
        (schema(AGE), ("{}",), ('{"age": 7}',)),
        (JSON, ("[1]",), ('{"a": 1}',)),
        (TOOLS, (call("weather", "{"),), (PARIS,)),
        ({**TOOLS, "tool_choice": "required"}, ("It rains.",), (PARIS,)),
        ({**TOOLS, "tool_choice": "none"}, (PARIS,), ("It rains.",)),
    ],
)
def test_one_that_keeps_to_it_wins_over_seven_that_break_it(
    fields: dict[str, Any], broken: tuple[Any, ...], kept: tuple[Any, ...], rule: Rule | None
) -> None:
    """Whatever their number and their scores; and they have no vote against it."""
    many = [drawn(i, *broken, score=9.0) for i in range(7)]
    answer = elected(fields, *many, drawn(7, *kept, score=0.1), rule=rule, answers=3)
    assert [c.index for c in answer.winners] == [7, 0, 1]
    assert (answer.agreement, sum(answer.votes.values())) == (1.0, 1)
    assert not answer.note


def test_where_all_break_it_they_vote_and_the_note_says_so() -> None:
    answer = elected(schema(AGE), drawn(0, '{"age": "8"}'), drawn(1, '{"age": "7"}'), drawn(2, '{"age": "7"}'))
    assert answer.winners[0].index == 1
    assert answer.agreement == pytest.approx(2 / 3)
    assert answer.note == "no candidate keeps to what was asked for: the JSON breaks the schema"


def test_a_cut_candidate_keeps_to_nothing_either() -> None:
    """It comes behind one that breaks a demand and is at least whole."""
    cut, broken, kept = drawn(0, '{"age": 7', finish="length"), drawn(1, "no JSON"), drawn(2, '{"age": 7}')
    assert [c.index for c in elected(schema(AGE), cut, broken, kept, answers=3).winners] == [2, 1, 0]
    assert elected(schema(AGE), cut, broken).winners[0].index == 1


def test_open_texts_that_break_it_are_not_compared() -> None:
    fields = {**TOOLS, "tool_choice": "required"}
    texts = [drawn(i, f"It rains in {i} of the many cities that we looked at") for i in range(4)]
    assert elected(fields, *texts, drawn(4, call("time"))).winners[0].index == 4


def test_nothing_stops_at_candidates_that_break_it() -> None:
    """Five that agree on what was not asked for settle nothing: one that keeps to it may still come."""
    ballot = Ballot.to(ask(sampling=schema(AGE))).filled(drawn(i, "{}") for i in range(5))
    poll = ballot.poll(ballot.vote(), cap=8)
    assert (poll.leader, poll.counts()) == (None, (0, 0))
    ballot.cast(drawn(5, '{"age": 7}'))
    poll = ballot.poll(ballot.vote(), cap=8)
    assert (poll.leader, poll.counts()) == (0, (1, 0))
