"""The OpenAI Agents SDK: over the Responses API, which it takes by default, and over chat completions."""

import openai
import pytest
from agents import (
    Agent,
    ModelBehaviorError,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    UserError,
    function_tool,
)
from gateway import ANSWER, LIVE, SCRIPTED
from openai import AsyncOpenAI
from pydantic import BaseModel

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("api", [OpenAIResponsesModel, OpenAIChatCompletionsModel], ids=["responses", "chat"]),
]

# of the real model: an answer that ends by itself
SENTENCE = ModelSettings(temperature=0, include_usage=True, extra_body={"stop": ["."]})


class Sum(BaseModel):
    answer: int


@function_tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


@pytest.fixture
async def agent(api):
    """Makes agents, and closes their clients. options: Apportion's, in the body."""
    clients = []

    def make(gateway, *, path="", key=None, options=None, settings=None, **fields):
        clients.append(AsyncOpenAI(base_url=f"{gateway.url}{path}/v1", api_key=key or gateway.key))
        settings = settings or ModelSettings(extra_body={"apportion": options} if options else None)
        model = api(model=gateway.model, openai_client=clients[-1])
        return Agent(name="helper", model=model, model_settings=settings, **fields)

    yield make
    for client in clients:
        await client.close()


async def test_plain(agent):
    result = await Runner.run(agent(LIVE, settings=SENTENCE), "How much is 3 + 4?")

    assert result.final_output
    assert result.context_wrapper.usage.output_tokens > 0


async def test_stream(agent):
    """The usage of a stream has to be asked for."""
    run = Runner.run_streamed(agent(LIVE, settings=SENTENCE), "How much is 3 + 4?")
    deltas = [
        event.data.delta
        async for event in run.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]

    assert len(deltas) > 1
    assert "".join(deltas) == run.final_output
    assert run.context_wrapper.usage.output_tokens > 0


@pytest.mark.parametrize("strategy", ["single", "majority_vote@3"])
async def test_a_tool_is_called_and_its_result_answered(agent, strategy):
    result = await Runner.run(agent(SCRIPTED, tools=[weather], options={"strategy": strategy}), "How is the weather?")

    outputs = [item.output for item in result.new_items if item.type == "tool_call_output_item"]
    assert outputs == ["sunny in Paris"]
    assert result.final_output == ANSWER


async def test_a_tool_is_called_in_a_stream(agent):
    run = Runner.run_streamed(agent(SCRIPTED, tools=[weather]), "How is the weather?")
    async for _ in run.stream_events():
        pass

    outputs = [item.output for item in run.new_items if item.type == "tool_call_output_item"]
    assert outputs == ["sunny in Paris"]
    assert run.final_output == ANSWER


async def test_a_handoff(agent):
    """To another agent, which is a tool call on the wire."""
    second = agent(SCRIPTED)
    second.name = "second"
    result = await Runner.run(agent(SCRIPTED, handoffs=[second]), "How much is 3 + 4?")

    assert result.last_agent is second
    assert result.final_output == ANSWER


async def test_a_second_turn(agent):
    """With the first one's items, as the SDK gives them."""
    first = await Runner.run(agent(SCRIPTED, tools=[weather]), "How is the weather?")
    turns = [*first.to_input_list(), {"role": "user", "content": "And tomorrow?"}]
    second = await Runner.run(agent(SCRIPTED), turns)

    assert second.final_output == ANSWER


async def test_structured_output(agent):
    result = await Runner.run(agent(SCRIPTED, output_type=Sum), "How much is 3 + 4?")

    assert result.final_output == Sum(answer=7)


async def test_an_answer_that_was_cut_fails_the_run_over_responses(agent, api):
    """As it does with OpenAI's server. Over chat completions it is an answer."""
    cut = agent(SCRIPTED, settings=ModelSettings(max_tokens=2))
    if api is OpenAIResponsesModel:
        with pytest.raises(ModelBehaviorError, match="max_output_tokens"):
            await Runner.run(cut, "How much is 3 + 4?")
    else:
        assert (await Runner.run(cut, "How much is 3 + 4?")).final_output == "The answer"


async def test_an_error_is_openais(agent):
    with pytest.raises(openai.BadRequestError) as caught:
        await Runner.run(agent(SCRIPTED, options={"strategy": "best_guess"}), "How much is 3 + 4?")

    assert caught.value.param == "apportion.strategy"


async def test_a_wrong_key_is_refused(agent):
    with pytest.raises(openai.AuthenticationError):
        await Runner.run(agent(SCRIPTED, key="sk-wrong"), "How much is 3 + 4?")


async def test_an_overloaded_engine_is_asked_again(agent, api):
    before = SCRIPTED.asked()
    result = await Runner.run(agent(SCRIPTED), f"busy at first agents-{api.__name__}")

    assert result.final_output == ANSWER
    assert SCRIPTED.asked() - before == 2


async def test_what_would_only_spend_again_is_asked_once(agent):
    before = SCRIPTED.asked()
    with pytest.raises(openai.InternalServerError) as caught:
        await Runner.run(agent(SCRIPTED, options={"strategy": "single", "deadline_ms": 200}), "say nothing")

    assert caught.value.code == "deadline_exceeded"
    assert SCRIPTED.asked() - before == 1


async def test_options_in_the_base_url(agent):
    """Two answers are drawn, so twice the tokens are used."""
    usual = await Runner.run(agent(SCRIPTED, path="/single"), "How much is 3 + 4?")
    twice = await Runner.run(agent(SCRIPTED, path="/best_of_n@2"), "How much is 3 + 4?")

    assert twice.context_wrapper.usage.output_tokens == 2 * usual.context_wrapper.usage.output_tokens


async def test_a_name_with_a_slash_is_taken_for_a_provider(api):
    """Such as most of vLLM's are: an agent has to be given a model, as everywhere in this suite."""
    with pytest.raises(UserError, match="Unknown prefix: Qwen"):
        await Runner.run(Agent(name="helper", model="Qwen/Qwen3-8B"), "How much is 3 + 4?")
