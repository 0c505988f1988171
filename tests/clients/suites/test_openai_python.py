"""The `openai` package: what a program that uses it sees when only its base URL has changed."""

import json

import openai
import pytest
from gateway import ANSWER, LIVE, SCRIPTED
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

SUM = [{"role": "user", "content": "How much is 3 + 4?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Step(BaseModel):
    explanation: str
    result: int


class Solution(BaseModel):
    steps: list[Step]
    answer: int


@pytest.fixture
def live():
    with OpenAI(base_url=LIVE.api, api_key=LIVE.key) as client:
        yield client


@pytest.fixture
def scripted():
    with OpenAI(base_url=SCRIPTED.api, api_key=SCRIPTED.key) as client:
        yield client


def says(text):
    return [{"role": "user", "content": text}]


def test_plain(live):
    completion = live.chat.completions.create(model=LIVE.model, messages=SUM, max_tokens=16)

    assert completion.choices[0].message.content
    assert completion.usage.completion_tokens == completion.apportion["actual"]["tokens"] > 0


def test_stream(live):
    """Chunks as they come; the usage and `apportion` on the last one."""
    chunks = list(
        live.chat.completions.create(
            model=LIVE.model,
            messages=SUM,
            max_tokens=16,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"apportion": {"strategy": "single"}},
        )
    )

    assert len([chunk for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]) > 1
    assert chunks[-1].usage.completion_tokens == chunks[-1].apportion["actual"]["tokens"]


def test_the_stream_helper_puts_the_answer_together(scripted):
    """`chat.completions.stream` checks every chunk against the one before it."""
    with scripted.chat.completions.stream(model=SCRIPTED.model, messages=SUM) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()

    assert "".join(deltas) == final.choices[0].message.content == ANSWER
    assert final.choices[0].finish_reason == "stop"


@pytest.mark.anyio
async def test_async():
    async with AsyncOpenAI(base_url=LIVE.api, api_key=LIVE.key) as client:
        completion = await client.chat.completions.create(model=LIVE.model, messages=SUM, max_tokens=8)
        stream = await client.chat.completions.create(model=LIVE.model, messages=SUM, max_tokens=8, stream=True)
        texts = [chunk.choices[0].delta.content async for chunk in stream if chunk.choices]

    assert completion.choices[0].message.content
    assert any(texts)


@pytest.mark.parametrize("strategy", ["single", "majority_vote@3"])
def test_tools_round_trip(scripted, strategy):
    """A call, its result, and the answer to it."""
    options = {"model": SCRIPTED.model, "tools": [WEATHER], "extra_body": {"apportion": {"strategy": strategy}}}
    first = scripted.chat.completions.create(messages=SUM, **options)

    assert first.choices[0].finish_reason == "tool_calls"
    call = first.choices[0].message.tool_calls[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Paris"})
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    second = scripted.chat.completions.create(messages=[*SUM, first.choices[0].message, result], **options)
    assert second.choices[0].message.content == ANSWER


@pytest.mark.parametrize("strategy", ["single", "majority_vote@3"])
def test_tool_calls_in_a_stream(scripted, strategy):
    """The deltas of a call add up, by the SDK's own reckoning."""
    with scripted.chat.completions.stream(
        model=SCRIPTED.model,
        messages=SUM,
        tools=[WEATHER],
        extra_body={"apportion": {"strategy": strategy}},
    ) as stream:
        message = stream.get_final_completion().choices[0].message

    assert [(call.function.name, call.function.arguments) for call in message.tool_calls] == [
        ("weather", '{"city": "Paris"}')
    ]


def test_a_named_tool_is_called(scripted):
    other = {"type": "function", "function": {"name": "other", "parameters": {"type": "object", "properties": {}}}}
    completion = scripted.chat.completions.create(
        model=SCRIPTED.model,
        messages=SUM,
        tools=[WEATHER, other],
        tool_choice={"type": "function", "function": {"name": "other"}},
        parallel_tool_calls=False,
    )

    assert completion.choices[0].message.tool_calls[0].function.name == "other"


@pytest.mark.parametrize("strategy", ["single", "best_of_n@3"])
def test_structured_output_is_parsed(scripted, strategy):
    completion = scripted.chat.completions.parse(
        model=SCRIPTED.model,
        messages=SUM,
        response_format=Solution,
        extra_body={"apportion": {"strategy": strategy}},
    )

    assert completion.choices[0].message.parsed == Solution(steps=[Step(explanation="Paris", result=7)], answer=7)


def test_structured_output_of_the_real_model(live):
    completion = live.chat.completions.parse(
        model=LIVE.model, messages=SUM, response_format=Step, max_tokens=120, temperature=0
    )

    assert isinstance(completion.choices[0].message.parsed, Step)


def test_n_answers(scripted):
    completion = scripted.chat.completions.create(model=SCRIPTED.model, messages=SUM, n=3)

    assert [choice.message.content for choice in completion.choices] == [ANSWER] * 3


def test_logprobs(scripted):
    """The entries of the answer that came back, with as many alternatives as were asked for."""
    completion = scripted.chat.completions.create(model=SCRIPTED.model, messages=SUM, logprobs=True, top_logprobs=2)

    entries = completion.choices[0].logprobs.content
    assert "".join(entry.token for entry in entries) == ANSWER
    assert {len(entry.top_logprobs) for entry in entries} == {2}


def test_raw_responses(live):
    raw = live.chat.completions.with_raw_response.create(model=LIVE.model, messages=SUM, max_tokens=4)

    completion = raw.parse()
    assert raw.headers["x-request-id"] == completion.id
    assert raw.headers["x-apportion-strategy"] == completion.apportion["strategy"]


def test_streamed_responses(live):
    with live.chat.completions.with_streaming_response.create(model=LIVE.model, messages=SUM, max_tokens=4) as response:
        assert response.headers["x-apportion-strategy"]
        assert response.parse().choices[0].message.content


def test_models(live):
    assert LIVE.model in [model.id for model in live.models.list()]


def test_completions_are_the_engines(live):
    """What the gateway does not answer itself goes on to the engine, streams too."""
    completion = live.completions.create(model=LIVE.model, prompt="7 + 5 =", max_tokens=4)
    chunks = list(live.completions.create(model=LIVE.model, prompt="7 + 5 =", max_tokens=4, stream=True))

    assert completion.choices[0].text
    assert len(chunks) > 1


def test_what_the_engine_has_not_is_not_found(scripted):
    with pytest.raises(openai.NotFoundError) as caught:
        scripted.embeddings.create(model=SCRIPTED.model, input="cat")

    assert caught.value.code == "unknown_url"


def test_fields_go_through_to_the_engine(scripted):
    """The SDK's own, and what only the engine knows."""
    completion = scripted.chat.completions.create(
        model=SCRIPTED.model,
        messages=says("echo"),
        seed=11,
        top_p=0.9,
        frequency_penalty=0.5,
        logit_bias={"5": -100},
        extra_body={"min_p": 0.1, "apportion": {"strategy": "single"}},
    )

    engine_got = json.loads(completion.choices[0].message.content)
    assert engine_got["seed"] == 11
    assert engine_got["top_p"] == 0.9
    assert engine_got["frequency_penalty"] == 0.5
    assert engine_got["logit_bias"] == {"5": -100}
    assert engine_got["min_p"] == 0.1
    assert "apportion" not in engine_got


# Errors, each as the SDK's own exception


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, openai.BadRequestError),
        (403, openai.InternalServerError),  # the engine refuses the gateway, not the client: 502
        (404, openai.NotFoundError),
        (422, openai.UnprocessableEntityError),
        (500, openai.InternalServerError),
    ],
)
def test_the_engines_errors_are_the_sdks(scripted, status, kind):
    with pytest.raises(kind) as caught:
        scripted.with_options(max_retries=0).chat.completions.create(
            model=SCRIPTED.model, messages=says(f"refuse with {status}")
        )

    assert caught.value.message
    assert caught.value.request_id


def test_a_wrong_key_is_refused():
    with (
        OpenAI(base_url=SCRIPTED.api, api_key="sk-wrong") as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        client.chat.completions.create(model=SCRIPTED.model, messages=SUM)

    assert caught.value.code == "invalid_api_key"


def test_a_refused_field_is_named(scripted):
    with pytest.raises(openai.BadRequestError) as caught:
        scripted.chat.completions.create(model=SCRIPTED.model, messages=SUM, temperature=7)

    assert (caught.value.param, caught.value.type) == ("temperature", "invalid_request_error")


def test_an_unknown_model_is_not_found(scripted):
    with pytest.raises(openai.NotFoundError):
        scripted.chat.completions.create(model="gpt-99", messages=SUM)


def test_an_engine_that_breaks_off_is_told(scripted):
    """What had come until then stays, and ends as a cut answer does."""
    stream = scripted.chat.completions.create(
        model=SCRIPTED.model,
        messages=says("break off"),
        stream=True,
        extra_body={"apportion": {"strategy": "single"}},
    )
    chunks = list(stream)

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "The answer"
    assert chunks[-1].choices[0].finish_reason == "length"
    assert chunks[-1].apportion["cut_short"] == "engine_error"


# Retries and timeouts


def test_an_overloaded_engine_is_asked_again(scripted):
    before = SCRIPTED.asked()
    completion = scripted.chat.completions.create(
        model=SCRIPTED.model, messages=says(f"busy at first openai-{openai.__version__}")
    )

    assert completion.choices[0].message.content == ANSWER
    assert SCRIPTED.asked() - before == 2


def test_what_would_only_spend_again_is_asked_once(scripted):
    """A deadline with nothing to return: `x-should-retry: false`, which the SDK follows."""
    before = SCRIPTED.asked()
    with pytest.raises(openai.InternalServerError) as caught:
        scripted.chat.completions.create(
            model=SCRIPTED.model,
            messages=says("say nothing"),
            extra_body={"apportion": {"strategy": "single", "deadline_ms": 200}},
        )

    assert (caught.value.status_code, caught.value.code) == (504, "deadline_exceeded")
    assert SCRIPTED.asked() - before == 1


def test_the_sdks_timeout_is_the_deadline(scripted):
    """Nothing is worked on after the SDK has hung up, since it says how long it waits."""
    completion = scripted.with_options(timeout=7.0).chat.completions.create(model=SCRIPTED.model, messages=SUM)

    assert completion.apportion["budget"]["deadline_ms"] == 7_000


def test_a_stream_may_take_longer_than_the_sdks_timeout(scripted):
    """There the timeout is the longest silence, and signs of life come before it: no APITimeoutError, no retry."""
    before = SCRIPTED.asked()
    with pytest.raises(openai.APIError) as caught:
        list(
            scripted.with_options(timeout=2.0).chat.completions.create(
                model=SCRIPTED.model,
                messages=says("say nothing"),
                stream=True,
                extra_body={"apportion": {"strategy": "majority_vote@3", "deadline_ms": 3000}},
            )
        )

    assert caught.value.code == "deadline_exceeded"
    assert SCRIPTED.asked() - before == 1


# Apportion's options


def test_options_in_the_body(scripted):
    completion = scripted.chat.completions.create(
        model=SCRIPTED.model,
        messages=SUM,
        extra_body={"apportion": {"strategy": "majority_vote@3", "include": ["candidates"]}},
    )

    assert completion.apportion["strategy"] == "majority_vote@3"
    assert completion.model_extra["apportion"]["votes"] == {"7": completion.apportion["candidates"]["drawn"]}


def test_options_in_headers():
    with OpenAI(
        base_url=SCRIPTED.api, api_key=SCRIPTED.key, default_headers={"x-apportion-strategy": "best_of_n@2"}
    ) as client:
        completion = client.chat.completions.create(model=SCRIPTED.model, messages=SUM)

    assert completion.apportion["strategy"] == "best_of_n@2"


@pytest.mark.parametrize(
    ("path", "profile", "strategy"), [("quality", "quality", None), ("best_of_n@2", None, "best_of_n@2")]
)
def test_options_in_the_base_url(path, profile, strategy):
    """For programs where nothing else can be set."""
    with OpenAI(base_url=f"{SCRIPTED.url}/{path}/v1", api_key=SCRIPTED.key) as client:
        told = client.chat.completions.create(model=SCRIPTED.model, messages=SUM).apportion

    assert profile is None or told["profile"] == profile
    assert strategy is None or (told["strategy"], told["decided_by"]) == (strategy, "client")


def test_the_profile_behind_the_models_name(scripted):
    completion = scripted.chat.completions.create(model=f"{SCRIPTED.model}:quality", messages=SUM)

    assert completion.apportion["profile"] == "quality"
    assert completion.model == SCRIPTED.model


# The Responses API


@pytest.mark.parametrize("strategy", ["single", "majority_vote@3"])
def test_a_response(scripted, strategy):
    response = scripted.responses.create(
        model=SCRIPTED.model,
        input="How much is 3 + 4?",
        store=False,
        extra_body={"apportion": {"strategy": strategy}},
    )

    assert response.output_text == ANSWER
    assert response.usage.output_tokens == response.apportion["actual"]["tokens"] > 0
    assert response.apportion["strategy"] == strategy


def test_a_response_of_the_real_model(live):
    response = live.responses.create(model=LIVE.model, input="How much is 3 + 4?", max_output_tokens=16)

    assert response.output_text


@pytest.mark.parametrize("strategy", ["single", "majority_vote@3"])
def test_a_streamed_response(scripted, strategy):
    """The helper checks every event against the ones before it."""
    with scripted.responses.stream(
        model=SCRIPTED.model, input="How much is 3 + 4?", extra_body={"apportion": {"strategy": strategy}}
    ) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()

    assert "".join(deltas) == final.output_text == ANSWER
    assert final.apportion["strategy"] == strategy


def test_tools_round_trip_of_responses(scripted):
    tools = [{"type": "function", **WEATHER["function"]}]
    question = {"role": "user", "content": "How is the weather in Paris?"}
    first = scripted.responses.create(model=SCRIPTED.model, input=[question], tools=tools)

    [call] = [item for item in first.output if item.type == "function_call"]
    assert (call.name, json.loads(call.arguments)) == ("weather", {"city": "Paris"})
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    second = scripted.responses.create(model=SCRIPTED.model, input=[question, *first.output, result], tools=tools)
    assert second.output_text == ANSWER


def test_a_structured_response_is_parsed(scripted):
    response = scripted.responses.parse(model=SCRIPTED.model, input="How much is 3 + 4?", text_format=Solution)

    assert response.output_parsed == Solution(steps=[Step(explanation="Paris", result=7)], answer=7)


def test_stored_state_is_refused_by_name(scripted):
    with pytest.raises(openai.BadRequestError) as caught:
        scripted.responses.create(model=SCRIPTED.model, input="And twice that?", previous_response_id="resp_1")

    assert caught.value.param == "previous_response_id"
