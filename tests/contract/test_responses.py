"""/v1/responses as the `openai` package sees it: over HTTP, in front of the scripted engine.

What the engine says is written down here, so that every event and field can be compared with it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
import stamina
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from openai.types.responses import Response, ResponseFunctionToolCall, ResponseReasoningItem
from pydantic import BaseModel

from tests.conftest import Live
from tests.fake_engine import (
    LLAMA_CPP,
    VLLM,
    Act,
    Dialect,
    FakeEngine,
    Piece,
    Reply,
    drops,
    endless,
    hangs,
    refuses,
    running,
    script_of,
    streams,
    within,
    words,
)
from tests.serving import NO_TLS, Served, error_of, serving

pytestmark = pytest.mark.anyio

MODEL = "smollm2-135m-instruct"
STREAMED = pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
STRATEGIES = pytest.mark.parametrize("strategy", ["single", "majority_vote@3", "best_of_n@3", "beam_search@2x2"])
SEVEN = words("The answer is \\boxed{7}")
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
CALLS = Reply(
    pieces=[
        Piece(reasoning="Hm."),
        Piece(
            tool_calls=[{"index": 0, "id": "c1", "type": "function", "function": {"name": "weather", "arguments": ""}}]
        ),
        *(Piece(tool_calls=[{"index": 0, "function": {"arguments": part}}]) for part in ('{"city": ', '"Paris"}')),
    ],
    finish_reason="tool_calls",
)


class Sum(BaseModel):
    answer: int


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    with stamina.set_testing(True, attempts=100, cap=True):
        yield


@asynccontextmanager
async def client_of(served: Served, **options: Any) -> AsyncGenerator[AsyncOpenAI, None]:
    http = DefaultAsyncHttpxClient(trust_env=False, verify=NO_TLS)
    url = f"http://127.0.0.1:{served.port}/v1"
    async with AsyncOpenAI(base_url=url, api_key="none", http_client=http, max_retries=0, **options) as client:
        yield client


@asynccontextmanager
async def asking(
    *replies: Reply, dialect: Dialect = VLLM, act: Act | None = None
) -> AsyncGenerator[tuple[AsyncOpenAI, FakeEngine], None]:
    """A client of a gateway of an engine that says the replies."""
    script = script_of(*(replies or (SEVEN,)))
    async with (
        running(dialect, script, act=act) as engine,
        serving(engine.url) as served,
        client_of(served) as client,
    ):
        yield client, engine


def asks(strategy: str = "single", **options: Any) -> dict[str, Any]:
    return {"apportion": {"strategy": strategy, **options}}


def told(response: Response) -> dict[str, Any]:
    assert response.model_extra is not None
    extra: dict[str, Any] = response.model_extra["apportion"]
    return extra


async def streamed_of(client: AsyncOpenAI, **fields: Any) -> list[Any]:
    stream = await client.responses.create(model="tiny", stream=True, **{"input": "3 + 4 = ?", **fields})
    async with stream:
        events = [event async for event in stream]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    return events


async def answered(client: AsyncOpenAI, *, streamed: bool, **fields: Any) -> Response:
    """The response, or the one at the end of the stream."""
    if streamed:
        last: Response = (await streamed_of(client, **fields))[-1].response
        return last
    return await client.responses.create(model="tiny", **{"input": "3 + 4 = ?", **fields})


def types_of(events: Sequence[Any]) -> list[str]:
    return [event.type.removeprefix("response.") for event in events]


# Answers


@STREAMED
@STRATEGIES
async def test_an_answer_parses_and_says_what_was_decided_and_spent(strategy: str, streamed: bool) -> None:
    async with asking() as (client, engine):
        response = await answered(client, streamed=streamed, extra_body=asks(strategy))

        assert response.id.startswith("resp_")
        assert (response.object, response.status, response.model) == ("response", "completed", "tiny")
        assert response.output_text == "The answer is \\boxed{7}"
        assert response.error is None
        assert response.incomplete_details is None
        assert told(response)["strategy"] == strategy
        assert response.usage is not None
        assert response.usage.output_tokens == engine.tokens == told(response)["actual"]["tokens"]
        assert response.usage.input_tokens == 7 * len(engine.requests)
        assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
        drawn, spent = told(response)["candidates"]["drawn"], response.usage.output_tokens_details.reasoning_tokens
        assert (spent > 0) == (drawn > 1)


async def test_the_headers_are_those_of_a_chat() -> None:
    async with asking() as (client, _):
        raw = await client.responses.with_raw_response.create(
            model="tiny", input="3 + 4 = ?", extra_headers={"x-apportion-strategy": "majority_vote@3"}
        )

    response = raw.parse()
    assert raw.headers["x-request-id"] == response.id
    assert raw.headers["x-apportion-strategy"] == told(response)["strategy"] == "majority_vote@3"
    assert raw.headers["x-apportion-tokens"] == str(told(response)["actual"]["tokens"])
    assert "total;dur=" in raw.headers["server-timing"]


@STREAMED
async def test_what_was_asked_for_stands_in_the_response(streamed: bool) -> None:
    """`store` is false whatever was asked: nothing is kept."""
    asked: dict[str, Any] = {
        "instructions": "Be brief.",
        "max_output_tokens": 50,
        "metadata": {"team": "a"},
        "parallel_tool_calls": False,
        "reasoning": {"effort": "low", "summary": "auto"},
        "temperature": 0.5,
        "text": {"format": {"type": "json_schema", "name": "sum", "schema": Sum.model_json_schema()}},
        "tool_choice": {"type": "function", "name": "weather"},
        "tools": [WEATHER],
        "top_p": 0.9,
        "user": "u",
    }
    async with asking(words('{"answer": 7}')) as (client, _):
        response = await answered(client, streamed=streamed, store=True, extra_body=asks(), **asked)

    shown = response.to_dict()
    for name, value in asked.items():
        assert shown[name] == value, name
    assert shown["store"] is False
    assert shown["background"] is False
    assert shown["truncation"] == "disabled"


@STREAMED
async def test_the_engine_is_asked_the_same_as_for_a_chat(streamed: bool) -> None:
    async with asking() as (client, engine):
        await answered(
            client,
            streamed=streamed,
            instructions="Be brief.",
            max_output_tokens=50,
            temperature=0.5,
            text={"format": {"type": "json_object"}},
            tools=[WEATHER],
            extra_body={**asks(), "seed": 3, "min_p": 0.1},
        )
        (request,) = engine.requests

    body = request.body
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert (body["max_tokens"], body["temperature"], body["seed"], body["min_p"]) == (50, 0.5, 3, 0.1)
    assert body["response_format"] == {"type": "json_object"}
    assert body["tools"][0]["function"]["name"] == "weather"
    assert not {"input", "instructions", "max_output_tokens", "text", "include", "store"} & set(body)


@pytest.mark.parametrize("choice", ["auto", "none"])
async def test_without_tools_there_is_nothing_to_choose(choice: Any) -> None:
    """Clients send such fields by default, which engines refuse."""
    async with asking() as (client, engine):
        await answered(client, streamed=False, tools=[], tool_choice=choice, parallel_tool_calls=True)
        (request,) = engine.requests

    assert not {"tools", "tool_choice", "parallel_tool_calls"} & set(request.body)


@STREAMED
@pytest.mark.parametrize("dialect", [VLLM, LLAMA_CPP], ids=["vllm", "llama.cpp"])
async def test_an_answer_cut_by_its_length_is_incomplete(dialect: Dialect, streamed: bool) -> None:
    async with asking(dialect=dialect) as (client, _):
        response = await answered(client, streamed=streamed, max_output_tokens=2, extra_body=asks())

    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output_text == "The answer"
    assert response.output[0].to_dict()["status"] == "incomplete"


@STREAMED
async def test_logprobs_come_when_they_are_included(streamed: bool) -> None:
    async with asking() as (client, _):
        response = await answered(
            client, streamed=streamed, include=["message.output_text.logprobs"], top_logprobs=2, extra_body=asks()
        )

    (item,) = response.output
    assert item.type == "message"
    (part,) = item.content
    assert part.type == "output_text"
    assert part.logprobs is not None
    assert "".join(entry.token for entry in part.logprobs) == response.output_text
    assert [len(entry.top_logprobs) for entry in part.logprobs] == [2] * 4


# Structured output, tools, reasoning


@STRATEGIES
async def test_parse_gives_the_callers_own_type(strategy: str) -> None:
    async with asking(words('{"answer": 7}')) as (client, _):
        response = await client.responses.parse(
            model="tiny", input="3 + 4 = ?", text_format=Sum, extra_body=asks(strategy)
        )

    assert response.output_parsed == Sum(answer=7)


@STREAMED
@pytest.mark.parametrize("strategy", ["single", "majority_vote@3"])
async def test_a_tool_is_called_and_its_result_answered(strategy: str, streamed: bool) -> None:
    """The output goes back as input, as every client without stored state does it."""
    given: list[Any] = [{"role": "user", "content": "How is it in Paris?"}]
    async with asking(CALLS) as (client, engine):
        first = await answered(client, streamed=streamed, input=given, tools=[WEATHER], extra_body=asks(strategy))
        thought, call = first.output
        assert isinstance(thought, ResponseReasoningItem)
        assert isinstance(call, ResponseFunctionToolCall)
        assert (call.call_id, call.name, json.loads(call.arguments)) == ("c1", "weather", {"city": "Paris"})
        assert call.status == "completed"
        assert first.output_text == ""

        engine.script = script_of(words("Sunny."))
        given += [item.to_dict() for item in first.output]
        given += [{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}]
        asked_before = len(engine.requests)
        second = await answered(client, streamed=streamed, input=given, tools=[WEATHER], extra_body=asks())
        body = engine.requests[asked_before].body

    assert second.output_text == "Sunny."
    _, turn, result = body["messages"]
    assert turn["reasoning"] == "Hm."
    assert turn["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city": "Paris"}'}
    assert result == {"role": "tool", "tool_call_id": "c1", "content": "sunny"}


@STREAMED
@pytest.mark.parametrize("summary", [None, "auto"])
async def test_reasoning_is_kept_apart(summary: Any, streamed: bool) -> None:
    reply = Reply(pieces=[Piece(reasoning="Three"), Piece(reasoning=" and four."), *words("It is 7").pieces])
    async with asking(reply) as (client, _):
        reasoning = {"reasoning": {"summary": summary}} if summary else {}
        response = await answered(client, streamed=streamed, extra_body=asks(), **reasoning)

    thought, said = response.output
    assert isinstance(thought, ResponseReasoningItem)
    parts = thought.summary if summary else thought.content
    assert [part.text for part in parts or ()] == ["Three and four."]
    assert said.type == "message"
    assert response.output_text == "It is 7"


# Streams


async def test_single_streams_token_by_token() -> None:
    """The first words are here while the engine still holds back the last one."""
    go_on = asyncio.Event()
    async with asking(words("The answer is 7", after=go_on)) as (client, _):
        stream = await client.responses.create(model="tiny", input="?", stream=True, extra_body=asks())
        seen: list[Any] = []
        async with stream:
            while "".join(e.delta for e in seen if e.type == "response.output_text.delta") != "The answer is":
                seen.append(await within(anext(stream)))
            go_on.set()
            seen += [event async for event in stream]

    assert types_of(seen) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        *["output_text.delta"] * 4,
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert seen[0].response.status == "in_progress"
    assert seen[0].response.output == []
    assert len({event.response.id for event in seen if hasattr(event, "response")}) == 1


@pytest.mark.parametrize("strategy", ["majority_vote@3", "best_of_n@3", "beam_search@2x2"])
async def test_other_strategies_stream_their_answer_when_it_is_chosen(strategy: str) -> None:
    async with asking() as (client, _):
        events = await streamed_of(client, extra_body=asks(strategy))

    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert deltas == ["The answer is \\boxed{7}"]
    assert types_of(events)[-1] == "completed"


async def test_progress_is_reasoning_when_asked_for() -> None:
    async with asking() as (client, _):
        events = await streamed_of(client, extra_body=asks("majority_vote@3", progress=True))

    thought = [event.delta for event in events if event.type == "response.reasoning_text.delta"]
    assert any("of 3 candidates" in line for line in thought)
    assert events[-1].response.output_text == "The answer is \\boxed{7}"


@pytest.mark.parametrize("strategy", ["single", "majority_vote@3"])
async def test_the_sdks_own_stream_helper_understands_it(strategy: str) -> None:
    async with (
        asking(words('{"answer": 7}')) as (client, _),
        client.responses.stream(model="tiny", input="?", text_format=Sum, extra_body=asks(strategy)) as stream,
    ):
        snapshots = [event.snapshot async for event in stream if event.type == "response.output_text.delta"]
        response = await stream.get_final_response()

    assert snapshots[-1] == '{"answer": 7}'
    assert response.output_parsed == Sum(answer=7)


async def test_the_stream_helper_understands_calls() -> None:
    async with (
        asking(CALLS) as (client, _),
        client.responses.stream(model="tiny", input="?", tools=[WEATHER], extra_body=asks()) as stream,
    ):
        deltas = [e.delta async for e in stream if e.type == "response.function_call_arguments.delta"]
        response = await stream.get_final_response()

    assert "".join(deltas) == '{"city": "Paris"}'
    assert [item.type for item in response.output] == ["reasoning", "function_call"]


async def test_every_event_has_its_name_and_there_is_no_done() -> None:
    """As OpenAI sends them: `event:` repeats the type, and the last event ends the stream."""
    async with running(VLLM, script_of(SEVEN)) as engine, serving(engine.url) as served:
        body = {"model": "tiny", "input": "?", "stream": True, **asks()}
        text = (await served.client.post("/v1/responses", json=body)).text

    assert text.endswith("\n\n")
    for block in text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        assert name == f"event: {json.loads(data.removeprefix('data: '))['type']}"
    assert text.split("\n\n")[-2].startswith("event: response.completed")


async def test_deltas_are_obfuscated_when_asked_for() -> None:
    async with asking() as (client, _):
        events = await streamed_of(client, stream_options={"include_obfuscation": True}, extra_body=asks())

    sizes = {len(event.to_json(indent=None)) % 64 for event in events if event.type == "response.output_text.delta"}
    assert all("obfuscation" in event.to_dict() for event in events if event.type.endswith(".delta"))
    assert len(sizes) == 1
    assert not any("obfuscation" in event.to_dict() for event in events if not event.type.endswith(".delta"))


async def test_a_quiet_line_is_kept_alive() -> None:
    """The events that begin a response come with the first sign of life, and comments after them."""
    go_on = asyncio.Event()
    async with running(VLLM, script_of(words("7", after=go_on))) as engine, serving(engine.url) as served:
        body = {"model": "tiny", "input": "?", "stream": True, **asks("majority_vote@3")}
        headers = {"x-stainless-read-timeout": "0.05"}
        async with served.client.stream("POST", "/v1/responses", json=body, headers=headers) as response:
            lines = response.aiter_lines()
            seen: list[str] = []
            while seen.count(": waiting") < 2:
                seen.append(await within(anext(lines)))
            go_on.set()
            seen += [line async for line in lines]

    names = [line for line in seen if line.startswith(("event:", ":"))]
    assert names[:3] == ["event: response.created", "event: response.in_progress", ": waiting"]
    assert names[-1] == "event: response.completed"


async def test_the_sdks_helper_takes_what_was_cut_for_an_error() -> None:
    """As it does with OpenAI's own: it waits for `response.completed`."""
    async with (
        asking() as (client, _),
        client.responses.stream(model="tiny", input="?", max_output_tokens=2, extra_body=asks()) as stream,
    ):
        with pytest.raises(RuntimeError, match=r"response\.completed"):
            await stream.get_final_response()


# Failures


@STREAMED
@pytest.mark.parametrize("status", [400, 404, 422, 500])
async def test_the_engines_refusal_is_the_clients(status: int, streamed: bool) -> None:
    async with asking(act=refuses(status)) as (client, _):
        with pytest.raises(openai.APIStatusError) as caught:
            await answered(client, streamed=streamed, extra_body=asks())

    assert caught.value.status_code == status
    assert "scripted" in caught.value.message


@STREAMED
async def test_nothing_until_the_deadline_is_a_504_that_is_not_to_be_retried(streamed: bool) -> None:
    async with asking(act=hangs) as (client, _):
        with pytest.raises(openai.InternalServerError) as caught:
            await answered(client, streamed=streamed, extra_body=asks(deadline_ms=200))

    assert (caught.value.status_code, caught.value.code) == (504, "deadline_exceeded")
    assert caught.value.response.headers["x-should-retry"] == "false"


@STREAMED
async def test_at_the_deadline_the_half_answer_is_incomplete(streamed: bool) -> None:
    never = asyncio.Event()
    async with asking(endless("So far so good", after=never)) as (client, engine):
        response = await answered(client, streamed=streamed, extra_body=asks(deadline_ms=500))
        await within(engine.requests[0].gone.wait())

    assert response.status == "incomplete"
    assert response.output_text == "So far so good"
    assert told(response)["cut_short"] == "deadline"


async def test_a_failure_after_a_stream_began_is_an_error_the_sdk_raises() -> None:
    """Also told in the words of the reference, and with a `response.failed` after it, for other clients."""
    never = asyncio.Event()
    async with running(VLLM, script_of(words("7", after=never))) as engine, serving(engine.url) as served:
        body = {"model": "tiny", "input": "?", "stream": True, **asks("majority_vote@3", deadline_ms=700)}
        headers = {"x-stainless-read-timeout": "0.2"}
        async with served.client.stream("POST", "/v1/responses", json=body, headers=headers) as response:
            assert response.status_code == 200
            text = (await response.aread()).decode()
        events = [json.loads(line.removeprefix("data: ")) for line in text.split("\n") if line.startswith("data: ")]
        async with client_of(served) as client:
            with pytest.raises(openai.APIError, match="There was no answer within") as caught:
                await streamed_of(client, extra_headers=headers, extra_body=asks("majority_vote@3", deadline_ms=700))

    assert caught.value.code == "deadline_exceeded"
    error, failed = events[-2:]
    assert (error["type"], error["code"]) == ("error", "deadline_exceeded")
    assert error["error"]["message"] == error["message"]
    assert (failed["type"], failed["response"]["status"]) == ("response.failed", "failed")
    assert failed["response"]["error"]["code"] == "server_error"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


@STREAMED
async def test_an_answer_that_broke_off_is_returned_as_far_as_it_came(streamed: bool) -> None:
    async with asking(act=streams(SEVEN, events=3, then=drops)) as (client, _):
        response = await answered(client, streamed=streamed, extra_body=asks())

    assert response.status == "incomplete"
    assert response.output_text == "The answer"
    assert told(response)["cut_short"] == "engine_error"


@STREAMED
async def test_a_client_that_leaves_takes_its_work_off_the_engine(streamed: bool) -> None:
    never = asyncio.Event()
    async with asking(endless("So far", after=never)) as (client, engine):
        task = asyncio.create_task(answered(client, streamed=streamed, extra_body=asks()))
        request = await engine.asked(1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await within(request.gone.wait())


async def test_a_client_that_reads_a_while_and_leaves_takes_its_work_off_the_engine() -> None:
    never = asyncio.Event()
    async with asking(endless("So far", after=never)) as (client, engine):
        stream = await client.responses.create(model="tiny", input="?", stream=True, extra_body=asks())
        while (await within(anext(stream))).type != "response.output_text.delta":
            pass
        await stream.close()
        await within(engine.requests[0].gone.wait())


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
    ],
)
async def test_what_needs_stored_state_or_built_in_tools_is_refused_by_name(fields: Any, param: str) -> None:
    async with asking() as (client, engine):
        with pytest.raises(openai.BadRequestError) as caught:
            await answered(client, streamed=False, **fields)

        assert caught.value.param == param
        assert engine.requests == []


async def test_an_error_has_openais_shape_and_a_request_id() -> None:
    async with running() as engine, serving(engine.url) as served:
        response = await served.client.post("/v1/responses", json={"input": 7})

        assert response.status_code == 400
        assert error_of(response)["param"] == "input"
        assert response.headers["x-request-id"].startswith("resp_")


# With the real model


@pytest.mark.engine
@STREAMED
@STRATEGIES
async def test_the_real_model_answers(gateway: Live, strategy: str, streamed: bool) -> None:
    """Nothing here depends on what it says, only on what was promised about it."""
    http = DefaultAsyncHttpxClient(trust_env=False, verify=NO_TLS)
    before = gateway.load().generated
    async with AsyncOpenAI(base_url=gateway.api, api_key="none", http_client=http) as client:
        fields: Any = {"instructions": "Be brief.", "max_output_tokens": 16, "extra_body": asks(strategy)}
        if streamed:
            stream = await client.responses.create(model=MODEL, input="How much is 7 + 5?", stream=True, **fields)
            events = [event async for event in stream]
            response: Any = events[-1].response
            deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
            assert "".join(deltas) == response.output_text
        else:
            response = await client.responses.create(model=MODEL, input="How much is 7 + 5?", **fields)

    assert response.output_text
    assert response.status in ("completed", "incomplete")
    assert told(response)["strategy"] == strategy
    assert response.usage.output_tokens > 0
    if strategy != "majority_vote@3":  # the engine does not count what was cut when the vote was settled
        assert response.usage.output_tokens == gateway.load().generated - before
