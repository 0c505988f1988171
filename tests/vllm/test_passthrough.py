"""What the gateway passes on to the real vLLM is what vLLM itself answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from tests.serving import error_of
from tests.vllm.conftest import Vllm
from tests.vllm.front import Front, front

pytestmark = pytest.mark.anyio
CHANGING = {"id", "created"}  # of a response, from one to the next


@pytest.fixture
async def gateway(vllm: Vllm) -> AsyncGenerator[Front]:
    async with front(vllm) as gateway:
        yield gateway


async def both(url: str, gateway: Front, path: str, body: dict[str, Any]) -> tuple[httpx.Response, httpx.Response]:
    """Through the gateway, and past it."""
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as client:
        direct = await client.post(path, json=body)
    return await gateway.served.client.post(path, json=body), direct


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/completions", {"prompt": "One, two,", "max_tokens": 6, "temperature": 0}),
        ("/v1/completions", {"prompt": ["One,", "Two,"], "max_tokens": 4, "temperature": 0, "logprobs": 2}),
        ("/tokenize", {"prompt": "Überall, 7 €"}),
        ("/tokenize", {"messages": [{"role": "user", "content": "Hi"}]}),
        ("/detokenize", {"tokens": [19556, 905]}),
    ],
)
async def test_it_is_what_vllm_answers(gateway: Front, path: str, fields: dict[str, Any]) -> None:
    passed, direct = await both(gateway.vllm.url, gateway, path, {"model": gateway.vllm.model, **fields})
    assert passed.status_code == direct.status_code == 200, passed.text
    assert _settled(passed) == _settled(direct)


async def test_a_completion_streams(gateway: Front) -> None:
    body = {"model": gateway.vllm.model, "prompt": "One, two,", "max_tokens": 6, "temperature": 0, "stream": True}
    passed, direct = await both(gateway.vllm.url, gateway, "/v1/completions", body)
    assert passed.text.count("data: ") == direct.text.count("data: ") >= 6
    assert passed.text.endswith("data: [DONE]\n\n")


async def test_best_of_is_openais_where_vllm_has_none(gateway: Front) -> None:
    body = {"model": gateway.vllm.model, "prompt": "One, two,", "max_tokens": 6, "best_of": 3, "temperature": 1.0}
    response = await gateway.served.client.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    assert len(response.json()["choices"]) == 1


async def test_pooling_and_classify_pass(reward: Vllm, steps: Vllm) -> None:
    async with front(reward) as gateway:
        passed, direct = await both(reward.url, gateway, "/classify", {"model": "reward", "input": "It is so."})
        assert passed.status_code == 200, passed.text
        assert _settled(passed) == _settled(direct)
    async with front(steps) as gateway:
        text = "First.<extra_0>Second.<extra_0>"
        body = {"model": "steps", "task": "token_classify", "input": text}
        passed, direct = await both(steps.url, gateway, "/pooling", body)
        assert passed.status_code == 200, passed.text
        assert _settled(passed) == _settled(direct)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/embeddings", {"input": "a"}),
        ("/classify", {"input": "a"}),
        ("/score", {"text_1": "a", "text_2": "b"}),
        ("/v1/completions", {"prompt": "a", "max_tokens": 2, "temperature": -3}),
        ("/v1/completions", {"prompt": "a", "model": "no-such-model"}),
    ],
)
async def test_what_it_has_not_or_refuses_is_an_error_of_openais_shape(
    gateway: Front, path: str, fields: dict[str, Any]
) -> None:
    passed, direct = await both(gateway.vllm.url, gateway, path, {"model": gateway.vllm.model, **fields})
    assert passed.status_code == direct.status_code
    assert 400 <= passed.status_code < 500
    assert error_of(passed)["message"]


@pytest.mark.parametrize("path", ["/sleep", "/reset_prefix_cache", "/server_info", "/v1/load_lora_adapter"])
async def test_what_steers_vllm_is_not_passed(gateway: Front, path: str) -> None:
    assert (await gateway.served.client.post(path, json={})).status_code == 404


async def test_the_metrics_are_the_gateways(gateway: Front) -> None:
    text = (await gateway.served.client.get("/metrics")).text
    assert "apportion_" in text
    assert "vllm:" not in text


def _settled(response: httpx.Response) -> dict[str, Any]:
    return {name: value for name, value in response.json().items() if name not in CHANGING}
