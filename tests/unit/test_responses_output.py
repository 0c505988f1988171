"""The items of a response and the events that tell of them, piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from openai.types.responses import ResponseOutputItem, ResponseStreamEvent
from pydantic import TypeAdapter

from server.api.responses.items import messages
from server.api.responses.output import Event, Output, Status, delta_of
from strategies.types import Candidate, Delta

ITEM: TypeAdapter[Any] = TypeAdapter(ResponseOutputItem)
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
ENTRY = {"token": "a", "logprob": -0.5, "top_logprobs": [{"token": t, "logprob": -1.0, "bytes": [98]} for t in "bcd"]}


def text(*parts: str) -> list[Delta]:
    return [Delta(index=0, text=part) for part in parts]


def thought_of(*parts: str) -> list[Delta]:
    return [Delta(index=0, reasoning=part) for part in parts]


def call(number: int, name: str, *arguments: str) -> list[Delta]:
    """As vLLM sends one: its name first, then its arguments bit by bit."""
    head = {"index": number, "id": f"c{number}", "type": "function", "function": {"name": name, "arguments": ""}}
    tail = [{"index": number, "function": {"arguments": part}} for part in arguments]
    return [Delta(index=0, tool_calls=[piece]) for piece in (head, *tail)]


def played(
    deltas: Sequence[Delta], *, status: Status = "completed", **options: Any
) -> tuple[list[dict[str, Any]], list[Event]]:
    """The items and the events, both checked against the SDK's own types."""
    output = Output(**options)
    events = [event for delta in deltas for event in output.add(delta)] + output.end(status)
    items = [dict(item) for item in output.items]
    for item in items:
        ITEM.validate_python(item, strict=True)
    for number, event in enumerate(events):
        EVENT.validate_python({**event, "sequence_number": number}, strict=True)
    return items, events


def kinds(events: Sequence[Event]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def test_a_text_is_a_message_with_one_part() -> None:
    items, events = played(text("He", "llo"))

    assert kinds(events) == [
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
    ]
    assert events[0]["item"]["status"] == "in_progress"
    assert events[0]["item"]["content"] == []
    assert events[4]["text"] == "Hello"
    assert events[-1]["item"] == items[0]
    assert items[0]["content"] == [{"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}]
    assert {event.get("item_id", items[0]["id"]) for event in events} == {items[0]["id"]}


def test_reasoning_is_an_item_of_its_own_before_the_text() -> None:
    items, events = played([*thought_of("H", "m"), *text("7")])

    assert [item["type"] for item in items] == ["reasoning", "message"]
    assert items[0]["content"] == [{"type": "reasoning_text", "text": "Hm"}]
    assert items[0]["summary"] == []
    assert kinds(events)[:7] == [
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
    ]
    assert [event["output_index"] for event in events] == [0] * 7 + [1] * 6


def test_a_summary_is_where_the_reasoning_goes_when_one_was_asked_for() -> None:
    items, events = played([*thought_of("H", "m"), *text("7")], summary=True)

    assert items[0]["summary"] == [{"type": "summary_text", "text": "Hm"}]
    assert "content" not in items[0]
    assert kinds(events)[:7] == [
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
    ]


def test_a_refusal_is_a_part_of_its_own() -> None:
    items, events = played([*text("Sorry."), Delta(index=0, refusal="I ca"), Delta(index=0, refusal="n't.")])

    assert items[0]["content"] == [
        {"type": "output_text", "text": "Sorry.", "annotations": [], "logprobs": []},
        {"type": "refusal", "refusal": "I can't."},
    ]
    assert kinds(events)[3:] == [
        "output_text.done",
        "content_part.done",
        "content_part.added",
        "refusal.delta",
        "refusal.delta",
        "refusal.done",
        "content_part.done",
        "output_item.done",
    ]
    assert [event["content_index"] for event in events[1:-1]] == [0] * 4 + [1] * 5


@pytest.mark.parametrize("summary", [False, True])
def test_encrypted_reasoning_is_understood_when_it_alone_comes_back(summary: bool) -> None:
    (thought, _), events = played([*thought_of("Hm, ü"), *text("7")], encrypted=True, summary=summary)
    bare = {"type": "reasoning", "summary": [], "encrypted_content": thought["encrypted_content"]}

    assert messages(None, [bare, {"role": "assistant", "content": "7"}])[0]["reasoning"] == "Hm, ü"
    assert events[0]["item"]["encrypted_content"] is None


def test_calls_have_their_pieces_whatever_their_order() -> None:
    first, second = call(0, "weather", '{"city": ', '"Paris"}'), call(1, "clock", "{}")
    mixed = [*first[:2], *second[:1], *first[2:], *second[1:]]
    items, events = played(mixed)

    assert [(item["call_id"], item["name"], item["arguments"]) for item in items] == [
        ("c0", "weather", '{"city": "Paris"}'),
        ("c1", "clock", "{}"),
    ]
    assert [event["item"]["name"] for event in events if event["type"].endswith("item.added")] == ["weather", "clock"]
    assert [event["delta"] for event in events if event["type"].endswith("delta")] == ['{"city": ', '"Paris"}', "{}"]
    assert [event["item"] for event in events if event["type"].endswith("item.done")] == items


def test_a_call_without_an_id_gets_one() -> None:
    items, _ = played([Delta(index=0, tool_calls=[{"function": {"name": "f", "arguments": "{}"}}])])

    assert items[0]["call_id"].startswith("call_")


def test_a_text_before_a_call_is_ended_by_it() -> None:
    items, events = played([*text("I'll look."), *call(0, "clock", "{}")])

    assert [item["type"] for item in items] == ["message", "function_call"]
    assert kinds(events).index("output_item.done") < kinds(events).index("function_call_arguments.delta")


def test_nothing_said_is_an_empty_message() -> None:
    """`output_text` and what clients do with it need one; also after nothing but reasoning."""
    assert [item["type"] for item in played([])[0]] == ["message"]
    assert [item["type"] for item in played(thought_of("Hm"))[0]] == ["reasoning", "message"]
    assert played([])[0][0]["content"][0]["text"] == ""


@pytest.mark.parametrize(
    ("deltas", "types"),
    [
        (text("Hel"), ["message"]),
        (thought_of("H"), ["reasoning"]),
        (call(0, "clock", '{"a'), ["function_call"]),
        ([], []),
    ],
)
def test_what_was_cut_is_incomplete_and_nothing_is_made_up(deltas: list[Delta], types: list[str]) -> None:
    items, _ = played(deltas, status="incomplete")

    assert [item["type"] for item in items] == types
    assert [item["status"] for item in items] == ["incomplete"] * len(items)


def test_logprobs_come_only_when_asked_for_and_as_many_as_asked_for() -> None:
    piece = Delta(index=0, text="a", logprob_content=[ENTRY])
    without, _ = played([piece])
    with_two, events = played([piece, piece], top_logprobs=2)

    assert without[0]["content"][0]["logprobs"] == []
    logprobs = with_two[0]["content"][0]["logprobs"]
    assert [(entry["token"], entry["bytes"], len(entry["top_logprobs"])) for entry in logprobs] == [("a", [], 2)] * 2
    assert [event["logprobs"] for event in events if event["type"].endswith("output_text.delta")] == [logprobs[:1]] * 2


def test_a_whole_answer_has_the_items_of_a_streamed_one() -> None:
    calls = [
        {"id": "c0", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}},
        {"id": "c1", "type": "function", "function": {"name": "clock", "arguments": "{}"}},
    ]
    whole = Candidate(index=3, text="I'll look.", reasoning="Hm", tool_calls=calls, tokens=9, finish_reason="stop")
    pieces = [
        *thought_of("Hm"),
        *text("I'll ", "look."),
        *call(0, "weather", '{"city": "Paris"}'),
        *call(1, "clock", "{}"),
    ]
    no_ids = [
        [{name: value for name, value in item.items() if name != "id"} for item in played(deltas)[0]]
        for deltas in ([delta_of(whole)], pieces)
    ]

    assert no_ids[0] == no_ids[1]
