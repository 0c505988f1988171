"""What the gateway passes on to the real vLLM is what vLLM itself answers."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from tests.serving import error_of, events_of
from tests.vllm.conftest import Vllm
from tests.vllm.front import Front, front

pytestmark = pytest.mark.anyio
CHANGING = {"id", "created"}  # of a response, from one to the next
HI: Any = [{"role": "user", "content": "Hi"}]
LONG = "word " * 3000  # more than the context


@pytest.fixture(scope="module")
async def gateway(vllm: Vllm) -> AsyncGenerator[Front]:
    async with front(vllm) as gateway:
        yield gateway


@pytest.fixture(scope="module")
async def rewarding(reward: Vllm) -> AsyncGenerator[Front]:
    """A gateway whose engine is the reward model."""
    async with front(reward) as gateway:
        yield gateway


async def both(gateway: Front, path: str, fields: dict[str, Any]) -> tuple[httpx.Response, httpx.Response]:
    """Through the gateway, and past it."""
    body = {"model": gateway.vllm.model, **fields}
    async with httpx.AsyncClient(base_url=gateway.vllm.url, trust_env=False, timeout=60) as client:
        direct = await client.post(path, json=body)
    return await gateway.served.client.post(path, json=body), direct


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/completions", {"prompt": "One, two,", "max_tokens": 6, "temperature": 0}),
        ("/v1/completions", {"prompt": ["One,", "Two,"], "max_tokens": 4, "temperature": 0, "logprobs": 2}),
        ("/v1/messages", {"messages": HI, "max_tokens": 5, "temperature": 0}),
        ("/v1/messages/count_tokens", {"messages": HI}),
        ("/v1/chat/completions/batch", {"messages": [HI, HI], "max_tokens": 4, "temperature": 0}),
        ("/tokenize", {"prompt": "Überall, 7 €"}),
        ("/tokenize", {"messages": HI}),
        ("/detokenize", {"tokens": [19556, 905]}),
    ],
)
async def test_it_is_what_vllm_answers(gateway: Front, path: str, fields: dict[str, Any]) -> None:
    passed, direct = await both(gateway, path, fields)
    assert passed.status_code == direct.status_code == 200, passed.text
    assert _settled(passed) == _settled(direct)
    assert passed.headers["content-type"] == direct.headers["content-type"]


async def test_a_completion_streams(gateway: Front) -> None:
    """The same events, with the client's id of the request in vLLM's."""
    fields: dict[str, Any] = {"prompt": "One, two,", "max_tokens": 6, "temperature": 0, "stream": True}
    passed, direct = await both(gateway, "/v1/completions", fields)
    assert passed.headers["content-type"] == direct.headers["content-type"]
    *chunks, done = events_of(passed.text)
    *expected, _ = events_of(direct.text)
    assert done == "[DONE]"
    assert len(chunks) >= 6
    assert [chunk["choices"] for chunk in chunks] == [chunk["choices"] for chunk in expected]
    assert passed.headers["x-request-id"] in chunks[0]["id"]


async def test_best_of_returns_the_likeliest_of_what_vllm_draws(gateway: Front) -> None:
    """vLLM itself has none any more. The same seed gives the same draws."""
    asked: dict[str, Any] = {"prompt": "My favourite", "max_tokens": 6, "seed": 7, "temperature": 1.2}
    passed, _ = await both(gateway, "/v1/completions", {**asked, "best_of": 4, "n": 2})
    _, direct = await both(gateway, "/v1/completions", {**asked, "n": 4, "logprobs": 1})
    assert passed.status_code == 200, passed.text
    drawn = sorted(direct.json()["choices"], key=_mean_logprob, reverse=True)
    assert len({choice["text"] for choice in drawn}) == 4, "there is something to choose from"
    assert [choice["text"] for choice in passed.json()["choices"]] == [choice["text"] for choice in drawn[:2]]
    assert [choice["index"] for choice in passed.json()["choices"]] == [0, 1]
    assert all(choice["logprobs"] is None for choice in passed.json()["choices"]), "nobody asked for them"
    assert passed.json()["usage"]["completion_tokens"] == direct.json()["usage"]["completion_tokens"]


def _mean_logprob(choice: dict[str, Any]) -> float:
    logprobs: list[float] = choice["logprobs"]["token_logprobs"]
    return sum(logprobs) / len(logprobs)


async def test_a_batch_of_chats_costs_what_all_of_them_may(vllm: Vllm) -> None:
    async with front(vllm, budgets={"default_max_total_tokens": 64, "cap_total_tokens": 64}) as gateway:
        before = await vllm.total("vllm:generation_tokens_total")
        passed, _ = await _asked(gateway, "/v1/chat/completions/batch", {"messages": [HI] * 3, "max_tokens": 40})
        assert passed.status_code == 400
        assert error_of(passed)["message"] == "max_tokens for 3 choices comes to 120 tokens: the most is 64"
        assert await vllm.total("vllm:generation_tokens_total") == before
        passed, counted = await _asked(gateway, "/v1/chat/completions/batch", {"messages": [HI] * 3, "max_tokens": 4})
        assert len(passed.json()["choices"]) == 3
        assert counted == passed.json()["usage"]["completion_tokens"] > 0


async def _asked(gateway: Front, path: str, fields: dict[str, Any]) -> tuple[httpx.Response, float]:
    """The response, and the completion tokens that the gateway has counted for it."""
    before = await _counted(gateway)
    response = await gateway.served.client.post(path, json={"model": gateway.vllm.model, **fields})
    return response, await _counted(gateway) - before


async def _counted(gateway: Front) -> float:
    text = (await gateway.served.client.get("/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith("apportion_tokens_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines if '"passed_completion"' in line)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/classify", {"input": "It is so."}),
        ("/classify", {"input": ["It is so.", "It is not so."]}),
        ("/classify", {"messages": [*HI, {"role": "assistant", "content": "Hello."}]}),
        ("/pooling", {"input": "It is so."}),
        ("/pooling", {"input": ["a", "b"], "encoding_format": "base64"}),
        ("/tokenize", {"prompt": "It is so."}),
    ],
)
async def test_a_reward_models_answers_pass(rewarding: Front, path: str, fields: dict[str, Any]) -> None:
    passed, direct = await both(rewarding, path, fields)
    assert passed.status_code == direct.status_code == 200, passed.text
    assert _settled(passed) == _settled(direct)
    assert passed.json().get("data") or path == "/tokenize"


async def test_scores_of_steps_pass(steps: Vllm) -> None:
    async with front(steps) as gateway:
        fields = {"task": "token_classify", "input": "First.<extra_0>Second.<extra_0>"}
        passed, direct = await both(gateway, "/pooling", fields)
        assert passed.status_code == 200, passed.text
        assert _settled(passed) == _settled(direct)
        assert len(passed.json()["data"][0]["data"]) == 2
        passed, direct = await both(gateway, "/classify", {"input": "It is so."})
        assert passed.status_code == direct.status_code
        assert error_of(passed)["message"] == direct.json()["error"]["message"], "this one has /pooling alone"


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/completions", {"prompt": "a", "max_tokens": 2, "temperature": -3}),
        ("/v1/completions", {"prompt": "a", "model": "no-such-model"}),
        ("/v1/completions", {"prompt": LONG, "max_tokens": 2}),
        ("/tokenize", {}),
        ("/v1/messages", {"messages": HI, "model": "no-such-model", "max_tokens": 2}),
    ],
)
async def test_what_it_refuses_is_told_in_its_words(gateway: Front, path: str, fields: dict[str, Any]) -> None:
    await _same_refusal(*await both(gateway, path, fields))


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/classify", {"input": LONG}),
        ("/classify", {"input": "a", "model": "no-such-model"}),
        ("/pooling", {"input": "a", "task": "token_classify"}),
    ],
)
async def test_what_a_reward_model_refuses_too(rewarding: Front, path: str, fields: dict[str, Any]) -> None:
    await _same_refusal(*await both(rewarding, path, fields))


async def _same_refusal(passed: httpx.Response, direct: httpx.Response) -> None:
    assert passed.status_code == direct.status_code
    assert 400 <= passed.status_code < 500
    said, told = direct.json()["error"], error_of(passed)
    assert told["message"] == said["message"]
    assert (told["type"], told["param"]) == (said["type"], said.get("param"))


@pytest.mark.parametrize("path", ["/v1/embeddings", "/classify", "/pooling", "/score", "/v1/score", "/rerank"])
async def test_what_it_has_not_is_openais_404(gateway: Front, path: str) -> None:
    passed, direct = await both(gateway, path, {"input": "a", "text_1": "a", "text_2": "b"})
    assert passed.status_code == direct.status_code == 404
    assert error_of(passed)["code"] == "unknown_url"


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/completions", "/score"])
async def test_a_reward_model_has_no_more_than_it_has(rewarding: Front, path: str) -> None:
    passed, direct = await both(rewarding, path, {"input": "a", "prompt": "a", "text_1": "a", "text_2": "b"})
    assert passed.status_code == direct.status_code == 404
    assert error_of(passed)["code"] == "unknown_url"


@pytest.mark.parametrize("path", ["/sleep", "/reset_prefix_cache", "/server_info", "/v1/load_lora_adapter"])
async def test_what_steers_vllm_is_not_passed(gateway: Front, path: str) -> None:
    assert (await gateway.served.client.post(path, json={})).status_code == 404


@pytest.mark.parametrize("path", ["/version", "/load", "/ping"])
async def test_what_speaks_of_its_inside_passes_where_the_operator_says_so(
    gateway: Front, vllm: Vllm, path: str
) -> None:
    refused = await gateway.served.client.get(path)
    assert (refused.status_code, error_of(refused)["code"]) == (404, "unknown_url")
    async with httpx.AsyncClient(base_url=vllm.url, trust_env=False, timeout=60) as client:
        direct = await client.get(path)
    async with front(vllm, passthrough={"paths": [path]}) as open_one:
        passed = await open_one.served.client.get(path)
        assert passed.status_code == direct.status_code == 200
        assert set(json.loads(passed.content or "{}")) == set(json.loads(direct.content or "{}"))
        assert (await open_one.served.client.post("/tokenize", json={"prompt": "a"})).status_code == 404


async def test_a_response_is_made_here(gateway: Front) -> None:
    """vLLM has a /v1/responses of its own, which knows nothing of those that were made here."""
    body = {"input": "2 + 2 = ?", "max_output_tokens": 12, "apportion": {"strategy": "majority_vote@3"}}
    response = await gateway.served.client.post("/v1/responses", json=body)
    assert response.status_code == 200, response.text
    assert response.json()["apportion"]["strategy"] == "majority_vote@3"
    assert response.json()["output"][0]["content"][0]["text"]
    found = await gateway.served.client.get(f"/v1/responses/{response.json()['id']}")
    assert found.status_code == 404
    assert response.json()["id"] in error_of(found)["message"]


async def test_the_metrics_are_the_gateways(gateway: Front) -> None:
    text = (await gateway.served.client.get("/metrics")).text
    assert "apportion_" in text
    assert "vllm:" not in text


def _settled(response: httpx.Response) -> dict[str, Any]:
    return {name: value for name, value in response.json().items() if name not in CHANGING}
