"""What is found out about a real vLLM, and that what follows from it holds there."""

from __future__ import annotations

import httpx
import pytest

from tests.serving import Served, body, serving
from tests.vllm.conftest import Vllm

pytestmark = pytest.mark.anyio
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]


async def asked(served: Served, strategy: str, **fields: object) -> httpx.Response:
    """Longer than a scripted engine may take."""
    content = body(strategy, **fields)
    return await served.client.post("/v1/chat/completions", json=content, timeout=120)


async def test_what_it_can_do_is_found_out(vllm: Vllm) -> None:
    async with serving(vllm.url, engine={"probe_timeout_seconds": 60}) as served:
        ready = (await served.client.get("/ready")).json()
    assert ready["engine"]["name"] == "vllm"
    assert ready["engine"]["version"]
    found = ready["engine"]["capabilities"]
    for name in ("context", "tokenize", "pooling", "classify", "score", "metrics"):
        assert found[name]["known_from"] == "told", name
    assert not found["pooling"]["value"]
    assert found["metrics"]["value"]
    seen = {"continuation": True, "logprobs": True, "structured_output": True, "names_stop": True}
    for name, value in seen.items():
        assert found[name] == {"value": value, "known_from": "seen"}, name
    assert ready["off"] == []


async def test_a_reward_model_says_what_it_is_for_and_that_it_writes_nothing_shows_nothing(reward: Vllm) -> None:
    """It refuses every chat, which tells nothing of what another could do in one."""
    async with serving(reward.url) as served:
        found = (await served.client.get("/ready")).json()["engine"]["capabilities"]
    for name in ("pooling", "classify"):
        assert found[name] == {"value": True, "known_from": "told"}
    assert found["logprobs"]["known_from"] == found["continuation"]["known_from"] == "assumed"


async def test_all_metrics_that_tell_its_load_are_there(vllm: Vllm) -> None:
    async with serving(vllm.url, engine={"probe_calls": "never"}) as served:
        assert len(served.gateway.engine.profile.signals.names) == 5


async def test_it_takes_no_more_stop_strings_than_it_is_sent(vllm: Vllm) -> None:
    """It refuses a fifth, and a beam search has the ends of its steps to name beside the client's own."""
    stops = ["Q1", "Q2", "Q3", "Q4"]
    async with httpx.AsyncClient(base_url=vllm.url, timeout=120, trust_env=False) as client:
        own = {**body(), "model": vllm.model, "stop": [*stops, "\n\n"], "max_tokens": 1}
        assert (await client.post("/v1/chat/completions", json=own)).status_code == 400
    async with serving(vllm.url) as served:
        response = await asked(served, "beam_search@1x2", stop=stops, max_tokens=16)
        assert response.status_code == 200, response.text
        assert response.json()["apportion"]["strategy"] == "beam_search@1x2"


async def test_it_can_be_asked_for_all_that_the_menu_needs(vllm: Vllm) -> None:
    async with serving(vllm.url) as served:
        for strategy in ("best_of_n@2:self_certainty", "beam_search@1x2:self_certainty"):
            response = await asked(served, strategy, max_tokens=16)
            assert response.status_code == 200, response.text
            assert response.json()["apportion"]["strategy"] == strategy


async def test_what_the_operator_says_is_off_is_off(vllm: Vllm) -> None:
    said = {"capabilities": {"continuation": False, "logprobs": False}}
    async with serving(vllm.url, engine=said) as served:
        ready = (await served.client.get("/ready")).json()
        assert ready["engine"]["capabilities"]["logprobs"] == {"value": False, "known_from": "configured"}
        response = await asked(served, "beam_search@2x2", max_tokens=8)
        assert response.json()["apportion"]["strategy"] == "single"
        assert "needs the assistant's text continued" in response.json()["apportion"]["reason"]


@pytest.mark.parametrize("strategy", ["majority_vote@2", "beam_search@1x2"])
async def test_it_takes_a_profiles_priority(vllm: Vllm, strategy: str) -> None:
    """Its queue is by priority, which it tells in its development mode only. Else it refuses any but 0."""
    profiles = {"urgent": {"priority": -5}}
    async with serving(vllm.url, engine={"capabilities": {"priority": True}}, profiles=profiles) as served:
        response = await asked(served, strategy, apportion={"profile": "urgent"}, max_tokens=8)
        assert response.status_code == 200, response.text
