"""LiteLLM with the `openai/` prefix."""

import json

import litellm
import pytest
from gateway import ANSWER, LIVE, SCRIPTED
from pydantic import BaseModel

SUM = [{"role": "user", "content": "How much is 3 + 4?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Sum(BaseModel):
    answer: int


def target(gateway):
    return {"model": f"openai/{gateway.model}", "api_base": gateway.api, "api_key": gateway.key}


def says(text):
    return [{"role": "user", "content": text}]


def test_plain():
    response = litellm.completion(**target(LIVE), messages=SUM, max_tokens=16)

    assert response.choices[0].message.content
    assert response.usage.completion_tokens == response.apportion["actual"]["tokens"] > 0


def test_stream():
    chunks = list(
        litellm.completion(
            **target(LIVE),
            messages=SUM,
            max_tokens=16,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"apportion": {"strategy": "single"}},
        )
    )

    assert len([chunk for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]) > 1
    assert chunks[-1].usage.completion_tokens > 0


@pytest.mark.anyio
async def test_async():
    response = await litellm.acompletion(**target(SCRIPTED), messages=SUM)
    stream = await litellm.acompletion(**target(SCRIPTED), messages=SUM, stream=True)
    texts = [chunk.choices[0].delta.content or "" async for chunk in stream]

    assert response.choices[0].message.content == "".join(texts) == ANSWER


@pytest.mark.parametrize("strategy", ["single", "majority_vote@3"])
def test_tools_round_trip(strategy):
    options = {**target(SCRIPTED), "tools": [WEATHER], "extra_body": {"apportion": {"strategy": strategy}}}
    message = litellm.completion(messages=SUM, **options).choices[0].message

    [call] = message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Paris"})
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    assert litellm.completion(messages=[*SUM, message, result], **options).choices[0].message.content == ANSWER


def test_tool_calls_in_a_stream():
    chunks = list(litellm.completion(**target(SCRIPTED), messages=SUM, tools=[WEATHER], stream=True))

    [call] = litellm.stream_chunk_builder(chunks).choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Paris"})


def test_structured_output():
    response = litellm.completion(**target(SCRIPTED), messages=SUM, response_format=Sum)

    assert Sum.model_validate_json(response.choices[0].message.content) == Sum(answer=7)


def test_fields_go_through_to_the_engine():
    response = litellm.completion(
        **target(SCRIPTED),
        messages=says("echo"),
        seed=11,
        top_p=0.9,
        extra_body={"min_p": 0.1, "apportion": {"strategy": "single"}},
    )

    engine_got = json.loads(response.choices[0].message.content)
    assert (engine_got["seed"], engine_got["top_p"], engine_got["min_p"]) == (11, 0.9, 0.1)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, litellm.BadRequestError), (404, litellm.NotFoundError), (500, litellm.InternalServerError)],
)
def test_errors_are_litellms(status, kind):
    with pytest.raises(kind) as caught:
        litellm.completion(**target(SCRIPTED), messages=says(f"refuse with {status}"), max_retries=0)

    assert f"scripted {status}" in caught.value.message


def test_a_wrong_key_is_refused():
    with pytest.raises(litellm.AuthenticationError):
        litellm.completion(**{**target(SCRIPTED), "api_key": "sk-wrong"}, messages=SUM)


def test_a_refused_field_is_named():
    with pytest.raises(litellm.BadRequestError) as caught:
        litellm.completion(**target(SCRIPTED), messages=SUM, temperature=7)

    assert "temperature" in caught.value.message


def test_an_overloaded_engine_is_asked_again():
    before = SCRIPTED.asked()
    response = litellm.completion(**target(SCRIPTED), messages=says("busy at first litellm"), max_retries=2)

    assert response.choices[0].message.content == ANSWER
    assert SCRIPTED.asked() - before == 2


def test_what_would_only_spend_again_is_asked_once():
    """By the openai package beneath, which follows `x-should-retry`. LiteLLM's word for a 504 is Timeout."""
    before = SCRIPTED.asked()
    with pytest.raises(litellm.Timeout) as caught:
        litellm.completion(
            **target(SCRIPTED),
            messages=says("say nothing"),
            max_retries=2,
            extra_body={"apportion": {"strategy": "single", "deadline_ms": 200}},
        )

    assert caught.value.status_code == 504
    assert SCRIPTED.asked() - before == 1


def test_num_retries_do_not_look_at_x_should_retry():
    before = SCRIPTED.asked()
    with pytest.raises(litellm.Timeout):
        litellm.completion(
            **target(SCRIPTED),
            messages=says("say nothing"),
            num_retries=1,
            extra_body={"apportion": {"strategy": "single", "deadline_ms": 100}},
        )

    assert SCRIPTED.asked() - before == 2


def test_a_stream_tells_once():
    stream = litellm.completion(**target(SCRIPTED), messages=SUM, stream=True)
    [told] = [chunk.apportion for chunk in stream if hasattr(chunk, "apportion")]

    headers = stream._hidden_params["additional_headers"]
    assert told["strategy"] == headers["llm_provider-x-apportion-strategy"]


def test_options_in_extra_body_headers_and_the_base_url():
    body = litellm.completion(
        **target(SCRIPTED), messages=SUM, extra_body={"apportion": {"strategy": "majority_vote@3"}}
    )
    header = litellm.completion(**target(SCRIPTED), messages=SUM, extra_headers={"x-apportion-strategy": "best_of_n@2"})

    path = litellm.completion(**{**target(SCRIPTED), "api_base": f"{SCRIPTED.url}/best_of_n@3/v1"}, messages=SUM)

    assert body.apportion["strategy"] == "majority_vote@3"
    assert path.apportion["strategy"] == "best_of_n@3"
    assert header.apportion["strategy"] == "best_of_n@2"


def test_the_profile_behind_the_models_name():
    options = {**target(SCRIPTED), "model": f"openai/{SCRIPTED.model}:quality"}

    assert litellm.completion(**options, messages=SUM).apportion["profile"] == "quality"


def test_the_gateways_headers_are_kept():
    response = litellm.completion(**target(SCRIPTED), messages=SUM)

    assert response._hidden_params["additional_headers"]["llm_provider-x-apportion-strategy"]


def test_the_responses_api():
    response = litellm.responses(**target(SCRIPTED), input="How much is 3 + 4?")

    assert response.output_text == ANSWER
    assert response.usage.output_tokens > 0
