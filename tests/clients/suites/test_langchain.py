"""LangChain's ChatOpenAI."""

import openai
import pytest
from gateway import ANSWER, LIVE, SCRIPTED
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class Sum(BaseModel):
    """The result of an addition."""

    answer: int


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


def chat(gateway, **options):
    return ChatOpenAI(model=gateway.model, base_url=gateway.api, api_key=gateway.key, **options)


def test_plain():
    message = chat(LIVE, max_tokens=16).invoke("How much is 3 + 4?")

    assert message.content
    assert message.usage_metadata["output_tokens"] > 0
    assert message.response_metadata["finish_reason"] in ("stop", "length")


def test_stream():
    """`stream_usage` has to be asked for: LangChain leaves it off where the base URL is not OpenAI's."""
    model = chat(LIVE, max_tokens=16, stream_usage=True, extra_body={"apportion": {"strategy": "single"}})
    chunks = list(model.stream("How much is 3 + 4?"))

    assert len([chunk for chunk in chunks if chunk.content]) > 1
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.usage_metadata["output_tokens"] > 0


@pytest.mark.anyio
async def test_async():
    model = chat(SCRIPTED)
    message = await model.ainvoke("How much is 3 + 4?")
    streamed = [chunk.content async for chunk in model.astream("How much is 3 + 4?")]

    assert message.content == "".join(streamed) == ANSWER


def test_batch():
    messages = chat(SCRIPTED).batch(["How much is 3 + 4?"] * 4)

    assert [message.content for message in messages] == [ANSWER] * 4


@pytest.mark.parametrize("strategy", ["single", "majority_vote@3"])
def test_tools_round_trip(strategy):
    model = chat(SCRIPTED, extra_body={"apportion": {"strategy": strategy}}).bind_tools([weather])
    question = HumanMessage("How is the weather in Paris?")
    asked = model.invoke([question])

    [call] = asked.tool_calls
    assert (call["name"], call["args"]) == ("weather", {"city": "Paris"})
    result = weather.invoke(call)
    assert isinstance(result, ToolMessage)
    assert model.invoke([question, asked, result]).content == ANSWER


def test_tool_calls_in_a_stream():
    model = chat(SCRIPTED).bind_tools([weather])
    chunks = list(model.stream("How is the weather in Paris?"))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk

    assert [(call["name"], call["args"]) for call in whole.tool_calls] == [("weather", {"city": "Paris"})]


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_structured_output(method):
    model = chat(SCRIPTED).with_structured_output(Sum, method=method)

    assert model.invoke("How much is 3 + 4? As JSON.") == Sum(answer=7)


def test_structured_output_of_the_real_model():
    assert isinstance(chat(LIVE, max_tokens=60).with_structured_output(Sum).invoke("How much is 3 + 4?"), Sum)


def test_logprobs():
    message = chat(SCRIPTED, logprobs=True, top_logprobs=1).invoke("How much is 3 + 4?")

    assert "".join(entry["token"] for entry in message.response_metadata["logprobs"]["content"]) == ANSWER


def test_n_answers():
    result = chat(SCRIPTED, n=2).generate([[HumanMessage("How much is 3 + 4?")]])

    assert [generation.text for generation in result.generations[0]] == [ANSWER] * 2


def test_an_error_is_openais():
    with pytest.raises(openai.BadRequestError) as caught:
        chat(SCRIPTED, temperature=1.0, extra_body={"apportion": {"strategy": "best_guess"}}).invoke("How much?")

    assert caught.value.param == "apportion.strategy"


def test_a_wrong_key_is_refused():
    with pytest.raises(openai.AuthenticationError):
        ChatOpenAI(model=SCRIPTED.model, base_url=SCRIPTED.api, api_key="sk-wrong").invoke("How much is 3 + 4?")


def test_an_overloaded_engine_is_asked_again():
    before = SCRIPTED.asked()

    assert chat(SCRIPTED).invoke("busy at first langchain").content == ANSWER
    assert SCRIPTED.asked() - before == 2


def test_what_would_only_spend_again_is_asked_once():
    before = SCRIPTED.asked()
    with pytest.raises(openai.InternalServerError) as caught:
        chat(SCRIPTED, extra_body={"apportion": {"strategy": "single", "deadline_ms": 200}}).invoke("say nothing")

    assert caught.value.code == "deadline_exceeded"
    assert SCRIPTED.asked() - before == 1


def test_options_go_in_extra_body_headers_or_the_base_url():
    """The answer itself is not told what LangChain has no field for; the headers say which strategy it was."""
    body = chat(SCRIPTED, extra_body={"apportion": {"strategy": "best_of_n@2"}}, include_response_headers=True)
    header = chat(SCRIPTED, default_headers={"x-apportion-strategy": "best_of_n@3"}, include_response_headers=True)

    path = ChatOpenAI(
        model=SCRIPTED.model,
        base_url=f"{SCRIPTED.url}/best_of_n@4/v1",
        api_key=SCRIPTED.key,
        include_response_headers=True,
    )

    for model, strategy in ((body, "best_of_n@2"), (header, "best_of_n@3"), (path, "best_of_n@4")):
        metadata = model.invoke("How much is 3 + 4?").response_metadata
        assert metadata["headers"]["x-apportion-strategy"] == strategy
        assert "apportion" not in metadata


def test_the_profile_behind_the_models_name():
    model = ChatOpenAI(model=f"{SCRIPTED.model}:quality", base_url=SCRIPTED.api, api_key=SCRIPTED.key)

    assert model.invoke("How much is 3 + 4?").response_metadata["model_name"] == SCRIPTED.model


def test_the_whole_apportion_object_through_the_openai_client():
    """The client beneath, with the same connection and settings, gives the response as it came."""
    model = chat(SCRIPTED)
    completion = model.root_client.chat.completions.create(
        model=SCRIPTED.model, messages=[{"role": "user", "content": "How much is 3 + 4?"}]
    )

    assert completion.apportion["actual"]["tokens"] == completion.usage.completion_tokens


def test_the_responses_api():
    """What `use_responses_api`, or any option that only that API has, makes it call."""
    model = chat(SCRIPTED, use_responses_api=True)
    question = HumanMessage("How is the weather in Paris?")
    with_tools = model.bind_tools([weather])
    asked = with_tools.invoke([question])

    assert model.invoke("How much is 3 + 4?").text == ANSWER
    assert "".join(chunk.text for chunk in model.stream("How much is 3 + 4?")) == ANSWER
    assert model.with_structured_output(Sum).invoke("How much is 3 + 4?") == Sum(answer=7)
    [call] = asked.tool_calls
    assert (call["name"], call["args"]) == ("weather", {"city": "Paris"})
    answer = with_tools.invoke([question, asked, weather.invoke(call)])
    assert answer.text == ANSWER
    assert model.invoke([question, answer, HumanMessage("And tomorrow?")]).text == ANSWER
