"""Fields of older APIs mean what their successors mean."""

from __future__ import annotations

from typing import Any

import pytest

from server.api.request import parse
from server.api.rewriting import answered_by_old_names, rewritten
from server.errors import InvalidRequest

MESSAGES = [{"role": "user", "content": "?"}]
F = {"name": "f", "parameters": {"type": "object"}}


def test_a_body_of_today_is_left_as_it_is() -> None:
    body = {"messages": MESSAGES, "tools": [{"type": "function", "function": F}]}
    assert rewritten(body) is body


@pytest.mark.parametrize(
    ("call", "choice"),
    [
        (None, {}),
        ("auto", {"tool_choice": "auto"}),
        ("none", {"tool_choice": "none"}),
        ({"name": "f"}, {"tool_choice": {"type": "function", "function": {"name": "f"}}}),
    ],
)
def test_functions_are_tools_one_at_a_time(call: Any, choice: dict[str, Any]) -> None:
    asked = {"messages": MESSAGES, "functions": [F], **({} if call is None else {"function_call": call})}
    assert rewritten(asked) == {
        "messages": MESSAGES,
        "tools": [{"type": "function", "function": F}],
        "parallel_tool_calls": False,
        **choice,
    }


def test_calls_and_results_so_far_belong_together() -> None:
    call = {"name": "f", "arguments": "{}"}
    messages = [
        *MESSAGES,
        {"role": "assistant", "content": None, "function_call": call},
        {"role": "function", "name": "f", "content": "4"},
        {"role": "assistant", "content": None, "function_call": call},
        {"role": "function", "name": "f", "content": "5"},
        {"role": "assistant", "content": "9", "function_call": None},
    ]
    user, one, four, two, five, end = rewritten({"messages": messages})["messages"]
    assert user == MESSAGES[0]
    assert one == {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call_1", "type": "function", "function": call}],
    }
    assert four == {"role": "tool", "name": "f", "content": "4", "tool_call_id": "call_1"}
    assert two["tool_calls"][0]["id"] == five["tool_call_id"] == "call_3"
    assert end == messages[-1]


@pytest.mark.parametrize("message", [None, 7, [], {}, {"function_call": 3}, {"role": ["function"]}])
def test_odd_messages_are_the_engines_to_judge(message: Any) -> None:
    body = {"messages": [message, {"role": "function", "content": "4"}]}
    assert rewritten(body)["messages"][0] == message


def test_guides_are_structured_outputs() -> None:
    asked = {"messages": MESSAGES, "guided_regex": "a+", "guided_whitespace_pattern": " ?", "guided_json": None}
    assert rewritten(asked)["structured_outputs"] == {"regex": "a+", "whitespace_pattern": " ?"}
    assert "guided_regex" not in rewritten(asked)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"functions": [F], "tools": []}, "functions"),
        ({"functions": [F], "tool_choice": "auto"}, "functions"),
        ({"functions": {"f": F}}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"guided_json": {}, "structured_outputs": {"json": {}}}, "guided_json"),
    ],
)
def test_an_old_and_a_new_name_together_are_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        rewritten({"messages": MESSAGES, **fields})
    assert refused.value.param == param


def test_who_asks_by_old_names_is_answered_by_them() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    choice = {"index": 0, "message": {"role": "assistant", "tool_calls": [call]}, "finish_reason": "tool_calls"}
    assert answered_by_old_names(choice, "message") == {
        "index": 0,
        "message": {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
        "finish_reason": "function_call",
    }


@pytest.mark.parametrize("field", ["tools", "functions"])
def test_more_functions_than_anybody_has_are_refused(field: str) -> None:
    """Each is looked at for every candidate: a body full of them would hold up every other request."""
    one = {"type": "function", "function": F} if field == "tools" else F
    with pytest.raises(InvalidRequest, match=f"{field}: .*1024"):
        parse({"messages": MESSAGES, field: [one] * 1025})
    assert parse({"messages": MESSAGES, field: [one] * 1024}).tools
