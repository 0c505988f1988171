"""LlamaIndex's OpenAILike: as a chat model, and as the completion model that it is by default."""

import openai
import pytest
from gateway import ANSWER, LIVE, SCRIPTED
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai import OpenAI
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel


class Sum(BaseModel):
    """The result of an addition."""

    answer: int


def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


def like(gateway, **options):
    return OpenAILike(
        model=options.pop("model", gateway.model),
        api_base=gateway.api,
        api_key=options.pop("api_key", gateway.key),
        is_chat_model=True,
        is_function_calling_model=True,
        **options,
    )


def says(text):
    return [ChatMessage(role="user", content=text)]


def test_plain():
    response = like(LIVE, max_tokens=16).chat(says("How much is 3 + 4?"))

    assert response.message.content
    assert response.additional_kwargs["completion_tokens"] == response.raw.apportion["actual"]["tokens"] > 0


def test_complete_is_a_chat_too():
    assert like(SCRIPTED).complete("How much is 3 + 4?").text == ANSWER


def test_stream():
    llm = like(
        LIVE,
        max_tokens=16,
        additional_kwargs={
            "stream_options": {"include_usage": True},
            "extra_body": {"apportion": {"strategy": "single"}},
        },
    )
    parts = list(llm.stream_chat(says("How much is 3 + 4?")))

    assert len([part for part in parts if part.delta]) > 1
    assert "".join(part.delta for part in parts) == parts[-1].message.content
    assert parts[-1].additional_kwargs["completion_tokens"] == parts[-1].raw.apportion["actual"]["tokens"]


@pytest.mark.anyio
async def test_async():
    llm = like(SCRIPTED)
    response = await llm.achat(says("How much is 3 + 4?"))
    parts = [part.delta async for part in await llm.astream_chat(says("How much is 3 + 4?"))]

    assert response.message.content == "".join(parts) == ANSWER


@pytest.mark.parametrize("strategy", ["single", "majority_vote@3"])
def test_tools(strategy):
    llm = like(SCRIPTED, additional_kwargs={"extra_body": {"apportion": {"strategy": strategy}}})
    tool = FunctionTool.from_defaults(weather)
    response = llm.chat_with_tools([tool], user_msg="How is the weather in Paris?")

    [call] = llm.get_tool_calls_from_response(response)
    assert (call.tool_name, call.tool_kwargs) == ("weather", {"city": "Paris"})
    assert llm.predict_and_call([tool], "How is the weather in Paris?").response == "sunny in Paris"


@pytest.mark.parametrize("by_response_format", [False, True])
def test_structured_output(by_response_format):
    """By a tool call, as LlamaIndex does by itself, and by `response_format`."""
    llm = like(SCRIPTED, should_use_structured_outputs=by_response_format).as_structured_llm(Sum)

    assert llm.complete("How much is 3 + 4?").raw == Sum(answer=7)


def test_an_error_is_openais():
    llm = like(SCRIPTED, additional_kwargs={"extra_body": {"apportion": {"strategy": "best_guess"}}})
    with pytest.raises(openai.BadRequestError) as caught:
        llm.chat(says("How much is 3 + 4?"))

    assert caught.value.param == "apportion.strategy"


def test_a_wrong_key_is_refused():
    with pytest.raises(openai.AuthenticationError):
        like(SCRIPTED, api_key="sk-wrong").complete("How much is 3 + 4?")


def test_an_overloaded_engine_is_asked_again():
    before = SCRIPTED.asked()

    assert like(SCRIPTED).chat(says("busy at first llama-index")).message.content == ANSWER
    assert SCRIPTED.asked() - before == 2


@pytest.mark.parametrize(("retries", "asked"), [(0, 1), (1, 1), (2, 2)])
def test_its_own_retries_do_not_look_at_x_should_retry(retries, asked):
    """LlamaIndex makes `max_retries` attempts around the openai package's own, whatever the response says."""
    llm = like(
        SCRIPTED,
        max_retries=retries,
        additional_kwargs={"extra_body": {"apportion": {"strategy": "single", "deadline_ms": 100}}},
    )
    before = SCRIPTED.asked()
    with pytest.raises(openai.InternalServerError) as caught:
        llm.chat(says("say nothing"))

    assert caught.value.code == "deadline_exceeded"
    assert SCRIPTED.asked() - before == asked


def test_options_go_in_extra_body_headers_or_the_base_url():
    body = like(SCRIPTED, additional_kwargs={"extra_body": {"apportion": {"strategy": "majority_vote@3"}}})
    header = like(SCRIPTED, default_headers={"x-apportion-strategy": "best_of_n@2"})

    path = OpenAILike(
        model=SCRIPTED.model, api_base=f"{SCRIPTED.url}/best_of_n@3/v1", api_key=SCRIPTED.key, is_chat_model=True
    )

    assert body.chat(says("How much is 3 + 4?")).raw.apportion["strategy"] == "majority_vote@3"
    assert path.chat(says("How much is 3 + 4?")).raw.apportion["strategy"] == "best_of_n@3"
    assert header.chat(says("How much is 3 + 4?")).raw.apportion["strategy"] == "best_of_n@2"


def test_the_profile_behind_the_models_name():
    response = like(SCRIPTED, model=f"{SCRIPTED.model}:quality").chat(says("How much is 3 + 4?"))

    assert response.raw.apportion["profile"] == "quality"


def test_by_default_it_is_a_completion_model():
    """Whose requests go on to the engine, which says nothing of strategies."""
    llm = OpenAILike(model=LIVE.model, api_base=LIVE.api, api_key=LIVE.key, max_tokens=8)
    parts = list(llm.stream_complete("7 + 5 ="))
    response = llm.chat(says("How much is 3 + 4?"))

    assert parts[-1].text
    assert response.message.content
    assert not hasattr(response.raw, "apportion")


def test_a_temperature_is_always_sent():
    """0.1 by default, at which candidates hardly differ: set your own."""
    assert '"temperature": 0.1' in like(SCRIPTED).complete("echo").text
    assert '"temperature": 0.8' in like(SCRIPTED, temperature=0.8).complete("echo").text


def test_the_openai_class_knows_openais_models_only():
    with pytest.raises(ValueError, match="Unknown model"):
        OpenAI(model=SCRIPTED.model, api_base=SCRIPTED.api, api_key=SCRIPTED.key).complete("How much is 3 + 4?")
