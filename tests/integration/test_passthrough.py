"""What goes on to a real engine as it came: the openai and anthropic shapes of llama.cpp, seen through the gateway."""

from __future__ import annotations

import httpx
import pytest
from openai import DefaultHttpxClient, NotFoundError, OpenAI

from tests.conftest import Live

pytestmark = [pytest.mark.anyio, pytest.mark.engine]
MODEL = "smollm2-135m-instruct"


@pytest.fixture
def client(gateway: Live) -> OpenAI:
    return OpenAI(base_url=gateway.api, api_key="none", http_client=DefaultHttpxClient(trust_env=False), max_retries=0)


def test_completions_are_passed_on_and_counted(client: OpenAI, gateway: Live) -> None:
    before = gateway.total("apportion_tokens_total", kind="passed_completion")
    with client:
        made = client.completions.create(model=MODEL, prompt="One, two, three,", max_tokens=5)
    assert made.choices[0].text
    assert made.usage is not None
    assert gateway.total("apportion_tokens_total", kind="passed_completion") - before == made.usage.completion_tokens


def test_a_stream_of_completions_is_the_engines(client: OpenAI) -> None:
    with client:
        chunks = list(client.completions.create(model=MODEL, prompt="One, two,", max_tokens=4, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
    assert chunks[-1].choices[0].finish_reason in ("length", "stop")


def test_best_of_returns_one_of_what_was_drawn_and_tells_all_its_tokens(client: OpenAI) -> None:
    with client:
        made = client.completions.create(model=MODEL, prompt="The sky is", max_tokens=4, best_of=4, temperature=1)
    assert len(made.choices) == 1
    assert made.choices[0].logprobs is None
    assert made.usage is not None
    assert 4 < made.usage.completion_tokens <= 16


def test_other_shapes_of_the_engine_are_there_and_its_controls_are_not(client: OpenAI, gateway: Live) -> None:
    with httpx.Client(base_url=gateway.url, trust_env=False, timeout=60) as plain:
        asked = {"model": MODEL, "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
        message = plain.post("/v1/messages", json=asked, headers={"anthropic-version": "2023-06-01"})
        assert message.json()["type"] == "message"
        assert plain.post("/tokenize", json={"content": "hello world"}).json()["tokens"]
        for control in ("/slots", "/props", "/lora-adapters"):
            assert plain.post(control, json={}).status_code == 404
    with client, pytest.raises(NotFoundError, match="Unknown request URL"):
        client.fine_tuning.jobs.list()


async def test_a_client_that_leaves_takes_its_work_off_the_engine(gateway: Live) -> None:
    asked = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 1500, "stream": True}
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=60) as client:
        async with client.stream("POST", "/v1/completions", json=asked) as response:
            await anext(response.aiter_raw())
        await gateway.until(lambda load: load.idle, within=30)
