"""What the `openai` client gets of the real vLLM through the gateway: nothing of vLLM's is lost or bent on the way."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import openai
import pytest

from tests.serving import error_of
from tests.vllm.conftest import Vllm
from tests.vllm.front import Front, front, told

pytestmark = pytest.mark.anyio
SUM: Any = [{"role": "user", "content": "2 + 2 = ?"}]
SINGLE = {"apportion": {"strategy": "single"}}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Rome", "Oslo"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture
async def gateway(vllm: Vllm) -> AsyncGenerator[Front]:
    async with front(vllm) as gateway:
        yield gateway


def asks(gateway: Front, **fields: Any) -> Any:
    return {
        "model": gateway.vllm.model, "messages": SUM, "max_tokens": 12, "seed": 7, "extra_body": SINGLE, **fields,
    }  # fmt: skip


async def test_it_is_known_for_what_it_is(gateway: Front) -> None:
    ready = (await gateway.served.client.get("/ready")).json()
    assert ready["engine"]["name"] == "vllm"
    assert ready["engine"]["context"] == 2048
    models = [model.id async for model in gateway.client.models.list()]
    assert models == [gateway.vllm.model]


async def test_a_stream_and_a_whole_completion_say_the_same(gateway: Front) -> None:
    whole = await gateway.client.chat.completions.create(**asks(gateway, temperature=0))
    stream = await gateway.client.chat.completions.create(
        **asks(gateway, temperature=0, stream=True, stream_options={"include_usage": True})
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert text
    assert chunks[-1].usage == whole.usage


@pytest.mark.parametrize("strategy", ["single", "majority_vote@3"])
async def test_usage_is_what_vllm_itself_has_generated(gateway: Front, strategy: str) -> None:
    """Of a vote of which nothing is cut, every candidate."""
    before = await gateway.vllm.total("vllm:generation_tokens_total")
    completion = await gateway.client.chat.completions.create(
        **asks(gateway, temperature=1.0, extra_body={"ignore_eos": True, "apportion": {"strategy": strategy}})
    )
    generated = await gateway.vllm.total("vllm:generation_tokens_total") - before
    assert completion.usage is not None
    assert completion.usage.completion_tokens == generated
    assert generated == (12 if strategy == "single" else 36)


async def test_n_answers_are_different_draws(gateway: Front) -> None:
    completion = await gateway.client.chat.completions.create(**asks(gateway, n=3, temperature=1.5, max_tokens=24))
    assert [choice.index for choice in completion.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in completion.choices}) > 1


async def test_the_same_seed_gives_the_same_answer(gateway: Front) -> None:
    texts = [
        (await gateway.client.chat.completions.create(**asks(gateway, temperature=1.2, seed=seed, max_tokens=24)))
        .choices[0]
        .message.content
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


async def test_an_assistant_message_is_continued(gateway: Front) -> None:
    messages: Any = [*SUM, {"role": "assistant", "content": "The answer, as everybody knows, is the number"}]
    fields: dict[str, Any] = {"continue_final_message": True, "add_generation_prompt": False, **SINGLE}
    completion = await gateway.client.chat.completions.create(
        **asks(gateway, messages=messages, temperature=0, max_tokens=4, extra_body=fields)
    )
    anew = await gateway.client.chat.completions.create(**asks(gateway, messages=messages, temperature=0, max_tokens=4))
    assert completion.usage is not None
    assert anew.usage is not None
    assert completion.usage.prompt_tokens < anew.usage.prompt_tokens, "no new turn is begun"
    assert completion.choices[0].message.content != anew.choices[0].message.content


async def test_stop_strings_end_the_text_before_them(gateway: Front) -> None:
    whole = await gateway.client.chat.completions.create(
        **asks(gateway, messages=[{"role": "user", "content": "Count: one, two, three"}], temperature=0, max_tokens=32)
    )
    text = whole.choices[0].message.content or ""
    word = text.split()[3]
    for stop in (word, ["never said", word]):
        stopped = await gateway.client.chat.completions.create(
            **asks(
                gateway, messages=[{"role": "user", "content": "Count: one, two, three"}], temperature=0,
                max_tokens=32, stop=stop,
            )
        )  # fmt: skip
        assert stopped.choices[0].message.content == text[: text.index(word)]
        assert stopped.choices[0].finish_reason == "stop"


async def test_a_stop_string_can_be_kept(gateway: Front) -> None:
    fields = {"include_stop_str_in_output": True, **SINGLE}
    completion = await gateway.client.chat.completions.create(
        **asks(gateway, temperature=0, stop=["2"], max_tokens=32, extra_body=fields)
    )
    assert (completion.choices[0].message.content or "").endswith("2")


async def test_logprobs_have_openais_shape(gateway: Front) -> None:
    completion = await gateway.client.chat.completions.create(
        **asks(gateway, temperature=0, logprobs=True, top_logprobs=3)
    )
    logprobs = completion.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content
    assert completion.usage is not None
    assert len(logprobs.content) in (completion.usage.completion_tokens, completion.usage.completion_tokens - 1)
    for token in logprobs.content:
        assert token.logprob <= 0
        assert len(token.top_logprobs) >= 3
    assert "".join(token.token for token in logprobs.content).startswith(completion.choices[0].message.content or "-")


@pytest.mark.parametrize("stream", [False, True])
async def test_json_of_a_schema(gateway: Front, stream: bool) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    fields = asks(gateway, response_format=wanted, max_tokens=60, temperature=0.7)
    if stream:
        chunks = [chunk async for chunk in await gateway.client.chat.completions.create(**fields, stream=True)]
        text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    else:
        text = (await gateway.client.chat.completions.create(**fields)).choices[0].message.content or ""
    person = json.loads(text)
    assert set(person) == {"name", "age"}
    assert 0 <= person["age"] <= 99


async def test_json_of_a_schema_is_voted_on(gateway: Front) -> None:
    wanted = {
        "type": "json_schema",
        "json_schema": {
            "name": "sum", "schema": {"type": "object", "properties": {"sum": {"enum": [3, 4]}}, "required": ["sum"],
            "additionalProperties": False},
        },
    }  # fmt: skip
    completion = await gateway.client.chat.completions.create(
        **asks(gateway, response_format=wanted, extra_body={"apportion": {"strategy": "majority_vote@5"}})
    )
    assert json.loads(completion.choices[0].message.content or "")["sum"] in (3, 4)
    assert told(completion)["candidates"]["drawn"] >= 3
    assert told(completion)["agreement"] >= 0.6, "there are two answers to choose from"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
@pytest.mark.parametrize("strategy", ["single", "majority_vote@3"])
async def test_a_tool_that_has_to_be_called_is(gateway: Front, choice: Any, strategy: str) -> None:
    completion = await gateway.client.chat.completions.create(
        **asks(
            gateway, messages=[{"role": "user", "content": "What is the weather in Rome?"}], tools=[WEATHER],
            tool_choice=choice, max_tokens=60, extra_body={"apportion": {"strategy": strategy}},
        )
    )  # fmt: skip
    (call,) = completion.choices[0].message.tool_calls or ()
    assert call.type == "function"
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in ("Rome", "Oslo")


async def test_tools_may_be_left_alone(gateway: Front) -> None:
    completion = await gateway.client.chat.completions.create(
        **asks(gateway, tools=[WEATHER], tool_choice="none", temperature=0)
    )
    assert completion.choices[0].message.content
    assert not completion.choices[0].message.tool_calls


async def test_its_errors_come_as_openais(gateway: Front) -> None:
    with pytest.raises(openai.NotFoundError, match="no-such-model"):
        await gateway.client.chat.completions.create(**asks(gateway, model="no-such-model"))
    long: Any = [{"role": "user", "content": "word " * 3000}]
    with pytest.raises(openai.BadRequestError, match="2048"):
        await gateway.client.chat.completions.create(**asks(gateway, messages=long))
    with pytest.raises(openai.BadRequestError, match="temperature"):
        await gateway.client.chat.completions.create(**asks(gateway, temperature=-1))
    response = await gateway.chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": 7}})
    assert response.status_code == 400
    assert error_of(response)["type"]


async def test_the_request_id_is_the_clients_and_vllms(gateway: Front) -> None:
    """vLLM makes it part of its own id of a completion, which it tells on what is passed on as it is."""
    raw = await gateway.client.chat.completions.with_raw_response.create(
        **asks(gateway), extra_headers={"x-request-id": "mine-123"}
    )
    assert raw.headers["x-request-id"] == raw.parse().id
    passed = await gateway.served.client.post(
        "/v1/completions",
        json={"model": gateway.vllm.model, "prompt": "One, two,", "max_tokens": 2},
        headers={"x-request-id": "mine-123"},
    )
    assert "mine-123" in passed.json()["id"]
