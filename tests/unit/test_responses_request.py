"""A request of the Responses API as the chat that is run, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming

from server.api.fields import reference
from server.api.responses.fields import FIELDS, INTRODUCTION
from server.api.responses.request import ResponsesRequest, as_chat, read
from server.errors import InvalidRequest
from tests.conftest import ROOT

FUNCTION: dict[str, Any] = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": True}
REFUSED = [name for name, field in FIELDS.items() if field.does == "refused"]
CLOCK: dict[str, Any] = {
    "type": "function",
    "name": "clock",
    "description": "The time.",
    "parameters": None,
    "defer_loading": False,
    "allowed_callers": ["direct"],
    "output_schema": {"type": "string"},
}
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"answer": {"type": "integer"}}}


def chat(**fields: Any) -> dict[str, Any]:
    """What is asked of the engine, as a chat with the fields that were given."""
    return as_chat(read({"input": "hi", **fields})).model_dump(exclude_none=True)


def refused(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        as_chat(read({"input": "hi", **fields}))
    return caught.value


def messages(*items: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    return as_chat(read({"input": list(items), **fields})).messages


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


# Input


def test_a_string_is_the_users_message_and_instructions_are_the_systems() -> None:
    assert chat(input="How much?", instructions="Be brief.")["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "How much?"},
    ]


@pytest.mark.parametrize("typed", [{}, {"type": "message"}], ids=["easy", "typed"])
@pytest.mark.parametrize("role", ["user", "system", "developer", "assistant"])
def test_a_message_keeps_its_role_and_one_text_stays_a_text(role: str, typed: dict[str, str]) -> None:
    kind = "output_text" if role == "assistant" else "input_text"
    bare = {**typed, "role": role, "content": "hello"}
    in_parts = {**typed, "role": role, "content": [{"type": kind, "text": "hello"}]}

    assert messages(bare) == messages(in_parts) == [{"role": role, "content": "hello"}]


def test_the_parts_of_a_users_message_are_a_chats_parts() -> None:
    image = "data:image/png;base64,AA=="
    said = user(
        [
            {"type": "input_text", "text": "What is it?"},
            {"type": "input_image", "image_url": image, "detail": "low", "file_id": None},
            {"type": "input_file", "file_data": "data:application/pdf;base64,AA==", "filename": "a.pdf"},
            {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
        ]
    )

    assert messages(said) == [
        user(
            [
                {"type": "text", "text": "What is it?"},
                {"type": "image_url", "image_url": {"url": image, "detail": "low"}},
                {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA==", "filename": "a.pdf"}},
                {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
            ]
        )
    ]


def test_the_parts_of_the_assistants_message_are_one_text() -> None:
    """As `output_text` of the SDKs joins them. What the API adds to its items stays behind."""
    item = {
        "id": "msg_1",
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "phase": "final_answer",
        "content": [
            {"type": "output_text", "text": "a", "annotations": [], "logprobs": None},
            {"type": "refusal", "refusal": "b"},
        ],
    }

    assert messages(user("x"), item)[1:] == [{"role": "assistant", "content": "ab"}]


def test_reasoning_text_and_calls_of_one_turn_are_one_message() -> None:
    turn = [
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I'll look."}]},
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "weather", "arguments": '{"city": "Paris"}'},
        {"type": "function_call", "id": "fc_2", "call_id": "c2", "name": "clock", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "noon"}]},
        {"type": "reasoning", "id": "rs_2", "summary": [{"type": "summary_text", "text": "Now I know."}]},
        {"type": "message", "role": "assistant", "content": "Sunny at noon."},
    ]

    assert messages(user("How is it?"), *turn)[1:] == [
        {
            "role": "assistant",
            "content": "I'll look.",
            "reasoning": "Hm.",
            "reasoning_content": "Hm.",
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city": "Paris"}'},
                },
                {"id": "c2", "type": "function", "function": {"name": "clock", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        {"role": "tool", "tool_call_id": "c2", "content": "noon"},
        {
            "role": "assistant",
            "reasoning": "Now I know.",
            "reasoning_content": "Now I know.",
            "content": "Sunny at noon.",
        },
    ]


def test_a_second_text_or_a_thought_after_a_call_begins_a_new_message() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    said = {"role": "assistant", "content": "a"}
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}

    assert messages(said, said) == [said, said]
    first, second = messages(call, thought, call)
    assert "reasoning" not in first
    assert second["reasoning"] == "Hm."
    assert [len(message["tool_calls"]) for message in (first, second)] == [1, 1]
    assert [message["content"] for message in (first, second)] == [None, None]


def test_reasoning_of_which_nothing_is_left_says_nothing() -> None:
    assert messages(user("x"), {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": None}) == [
        user("x")
    ]


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"type": "item_reference", "id": "msg_1"}, "input[0].type"),
        ({"type": "web_search_call", "id": "ws_1"}, "input[0].type"),
        ({"type": 7}, "input[0].type"),
        ({}, "input[0].type"),
        ({"role": "critic", "content": "a"}, "input[0].role"),
        ({"role": "user"}, "input[0].content"),
        ({"role": "user", "content": ["a"]}, "input[0].content"),
        ({"role": "user", "content": [{"type": "video"}]}, "input[0].content[0].type"),
        ({"role": "user", "content": [{"type": "input_text"}]}, "input[0].content[0].text"),
        ({"role": "user", "content": [{"type": "input_image", "file_id": "file_1"}]}, "input[0].content[0].file_id"),
        ({"role": "user", "content": [{"type": "input_image"}]}, "input[0].content[0].image_url"),
        ({"role": "user", "content": [{"type": "input_file", "file_url": "http://a"}]}, "input[0].content[0].file_url"),
        ({"role": "assistant", "content": [{"type": "input_image", "image_url": "u"}]}, "input[0].content"),
        ({"type": "function_call", "name": "f", "arguments": "{}"}, "input[0].call_id"),
        ({"type": "function_call", "call_id": "c", "name": "f", "arguments": {}}, "input[0].arguments"),
        (
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "namespace": "n"},
            "input[0].namespace",
        ),
        ({"type": "function_call_output", "call_id": "c"}, "input[0].output"),
        ({"type": "function_call_output", "output": "a"}, "input[0].call_id"),
        ({"type": "reasoning", "summary": [], "encrypted_content": "gAAA"}, "input[0].encrypted_content"),
        ({"type": "reasoning", "summary": [], "encrypted_content": "apportion:%"}, "input[0].encrypted_content"),
        ({"type": "reasoning", "summary": [], "encrypted_content": "apportion:/w=="}, "input[0].encrypted_content"),
        ({"type": "reasoning", "summary": [], "encrypted_content": [7]}, "input[0].encrypted_content"),
        ({"type": "reasoning", "summary": [{"text": 1}]}, "input[0].summary[0].text"),
    ],
)
def test_an_item_that_a_chat_has_no_place_for_is_refused_by_name(item: dict[str, Any], param: str) -> None:
    assert refused(input=[item]).param == param


@pytest.mark.parametrize("value", [None, "", [], 7, {"role": "user"}, ["a"], [None]])
def test_an_input_that_is_none_is_refused(value: Any) -> None:
    assert refused(input=value).param == "input"


# Fields


def test_fields_of_the_same_meaning_go_into_the_chat_under_its_names() -> None:
    asked = chat(
        model="tiny",
        max_output_tokens=50,
        temperature=0.5,
        top_p=0.9,
        reasoning={"effort": "low", "summary": "auto"},
        text={"format": {"type": "text"}, "verbosity": "low"},
        metadata={"a": "b"},
        user="u",
        prompt_cache_key="k",
        safety_identifier="s",
        service_tier="auto",
        stream=True,
        seed=3,
        top_k=20,
        apportion={"strategy": "single"},
    )

    assert asked.pop("apportion")["strategy"] == "single"
    assert asked == {
        "model": "tiny",
        "messages": [user("hi")],
        "max_completion_tokens": 50,
        "temperature": 0.5,
        "top_p": 0.9,
        "reasoning_effort": "low",
        "verbosity": "low",
        "metadata": {"a": "b"},
        "user": "u",
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "service_tier": "auto",
        "stream": True,
        "seed": 3,
        "top_k": 20,
    }


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "json_object"}),
        (
            {"type": "json_schema", "name": "sum", "schema": SCHEMA, "strict": True, "description": None},
            {"type": "json_schema", "json_schema": {"name": "sum", "schema": SCHEMA, "strict": True}},
        ),
    ],
)
def test_the_format_of_the_text_is_the_chats_response_format(given: Any, wanted: Any) -> None:
    assert chat(text={"format": given}).get("response_format") == wanted


def test_logprobs_are_asked_for_by_include() -> None:
    included = {"include": ["message.output_text.logprobs"]}

    assert (chat(**included)["logprobs"], chat(**included)["top_logprobs"]) == (True, 0)
    assert chat(**included, top_logprobs=3)["top_logprobs"] == 3
    assert "logprobs" not in chat(include=["reasoning.encrypted_content"])


def test_functions_are_a_chats_tools() -> None:
    asked = chat(tools=[FUNCTION, CLOCK], tool_choice="required", parallel_tool_calls=False)

    assert asked["tools"] == [
        {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}, "strict": True}},
        {
            "type": "function",
            "function": {"name": "clock", "description": "The time.", "output_schema": {"type": "string"}},
        },
    ]
    assert (asked["tool_choice"], asked["parallel_tool_calls"]) == ("required", False)


def test_a_function_can_be_chosen() -> None:
    asked = chat(tools=[FUNCTION, CLOCK], tool_choice={"type": "function", "name": "clock"})

    assert asked["tool_choice"] == {"type": "function", "function": {"name": "clock"}}


def test_allowed_tools_leave_the_others_out() -> None:
    """Engines know no such choice, so they see only what may be called."""
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "clock"}]}
    asked = chat(tools=[FUNCTION, CLOCK], tool_choice=choice)

    assert [tool["function"]["name"] for tool in asked["tools"]] == ["clock"]
    assert asked["tool_choice"] == "required"


@pytest.mark.parametrize("name", REFUSED)
def test_what_this_server_has_not_is_refused_by_name(name: str) -> None:
    error = refused(**{name: {"id": "x"}})

    assert error.param == name
    assert error.message == f"{name} is not supported: {FIELDS[name].why}"


@pytest.mark.parametrize("name", REFUSED)
def test_what_asks_for_nothing_is_not_refused(name: str) -> None:
    for value in (None, *FIELDS[name].harmless):
        assert name not in set(chat(**{name: value})) - {"messages"}


def test_the_table_has_every_field_of_the_sdk_and_of_the_request() -> None:
    """A field that a new version of the API brings has to be decided on."""
    assert set(ResponseCreateParamsNonStreaming.__annotations__) <= set(FIELDS)
    assert {name for name, field in FIELDS.items() if field.does != "refused"} == set(ResponsesRequest.model_fields)


def test_the_page_of_the_fields_is_the_tables() -> None:
    assert (ROOT / "docs" / "responses-fields.md").read_text() == reference(FIELDS, INTRODUCTION)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"include": ["everything"]}, "include"),
        ({"truncation": "auto"}, "truncation"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options"),
        ({"stream_options": {"include_usage": True}}, "stream_options.include_usage"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        ({"reasoning": {"budget": 1}}, "reasoning.budget"),
        ({"text": {"verbosity": "loud"}}, "text.verbosity"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [FUNCTION, {"type": "mcp"}]}, "tools[1].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [FUNCTION, FUNCTION]}, "tools"),
        ({"tools": [{**FUNCTION, "defer_loading": True}]}, "tools[0].defer_loading"),
        ({"tools": [{**FUNCTION, "allowed_callers": ["programmatic"]}]}, "tools[0].allowed_callers"),
        ({"tools": [{**FUNCTION, "allowed_callers": 7}]}, "tools[0].allowed_callers"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tool_choice": 7}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "clock"}}, "tool_choice"),
        ({"tools": [FUNCTION], "tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"tools": [FUNCTION], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}}, "tool_choice"),
        (
            {"tools": [FUNCTION], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [1]}},
            "tool_choice.tools",
        ),
        ({"apportion": {"speed": 1}}, "apportion.speed"),
    ],
)
def test_what_can_not_be_is_refused_by_the_name_it_has_here(fields: dict[str, Any], param: str) -> None:
    assert refused(**fields).param == param


def test_what_is_nested_too_deeply_to_be_written_again_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(250):
        schema = {"items": schema}
    error = refused(text={"format": {"type": "json_schema", "name": "deep", "schema": schema}})

    assert "nested too deeply" in error.message


@pytest.mark.parametrize("body", [None, [], "hi", 7])
def test_a_body_that_is_no_object_is_refused(body: Any) -> None:
    with pytest.raises(InvalidRequest):
        read(body)
