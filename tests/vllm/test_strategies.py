"""Every strategy on the real vLLM: what it draws, what it picks, and what it makes of vLLM's caches."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from strategies.beam_search import Steps
from strategies.registry import strategies
from tests.serving import events_of
from tests.vllm.conftest import Vllm
from tests.vllm.front import Front, front

pytestmark = pytest.mark.anyio
# worked examples, so that candidates are short and can agree
SUM: Any = [
    {"role": "user", "content": "2 + 2 = ?"},
    {"role": "assistant", "content": "2 + 2 = 4"},
    {"role": "user", "content": "5 + 3 = ?"},
    {"role": "assistant", "content": "5 + 3 = 8"},
    {"role": "user", "content": "7 + 5 = ?"},
]
STRATEGIES = (
    "single", "majority_vote@4", "best_of_n@4", "best_of_n@4:weighted", "best_of_n@4:borda",
    "best_of_n@4:self_certainty", "best_of_n@4:self_certainty:weighted", "best_of_n@4:lowest_group_confidence",
    "best_of_n@4:tail_confidence", "beam_search@2x2", "beam_search@4x2:self_certainty",
)  # fmt: skip


@pytest.fixture
async def gateway(vllm: Vllm) -> AsyncGenerator[Front]:
    async with front(vllm, strategies={"beam_step_tokens": 12, "beam_step_stop": "\n"}) as gateway:
        yield gateway


def test_all_of_them_are_here() -> None:
    methods = {strategy.partition("@")[0] for strategy in STRATEGIES}
    assert methods == set(strategies(Steps(stop=("\n",), tokens=8, max_steps=4)))


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_it_answers_and_counts_everything(gateway: Front, strategy: str) -> None:
    before = await gateway.vllm.total("vllm:generation_tokens_total")
    response = await gateway.chat(strategy, messages=SUM, max_tokens=32, apportion={"include": ["candidates"]})
    assert response.status_code == 200, response.text
    body = response.json()
    made = body["apportion"]
    assert made["strategy"] == strategy
    assert body["choices"][0]["message"]["content"]
    assert body["choices"][0]["finish_reason"] in ("stop", "length")
    await gateway.running(0)
    generated = await gateway.vllm.total("vllm:generation_tokens_total") - before
    spent = body["usage"]["completion_tokens"]
    # what is cut has been counted as far as it was seen; vLLM may have made a few tokens more by then
    slack = 0 if made["cut_short"] is None else 4 * made["candidates"]["drawn"]
    assert generated - slack <= spent <= generated + 1
    drawn = made["candidates"]["list"]
    if not strategy.startswith("beam_search"):
        answer = body["choices"][0]["message"]["content"].strip()
        assert answer in [candidate["text"].strip() for candidate in drawn]
    if strategy.startswith("best_of_n"):
        scores = [candidate["score"] for candidate in drawn if candidate["score"] is not None]
        assert scores
        assert all(math.isfinite(score) for score in scores)


@pytest.mark.parametrize("strategy", ["single", "majority_vote@3", "best_of_n@3", "beam_search@2x2"])
async def test_streamed_it_says_what_it_says_at_once(gateway: Front, strategy: str) -> None:
    fields: dict[str, Any] = {"temperature": 0.8, "max_tokens": 24}
    whole = (await gateway.chat(strategy, messages=SUM, **fields)).json()
    streamed = await gateway.chat(strategy, messages=SUM, stream=True, stream_options={"include_usage": True}, **fields)
    *chunks, done = events_of(streamed.text)
    assert done == "[DONE]"
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    assert text
    last = chunks[-1]
    assert last["usage"]["completion_tokens"] > 0
    assert last["apportion"]["strategy"] == strategy
    if strategy == "single":
        assert text == whole["choices"][0]["message"]["content"], "the same seed"


async def test_a_vote_of_many_is_one_call(gateway: Front) -> None:
    """vLLM batches the candidates of a call, and reads the prompt once for all."""
    before = await gateway.vllm.total("vllm:request_success_total")
    calls = await _calls(gateway)
    response = await gateway.chat(
        "best_of_n@16", messages=SUM, max_tokens=8, ignore_eos=True, apportion={"max_total_tokens": 400}
    )
    assert response.json()["apportion"]["candidates"]["drawn"] == 16
    assert await _calls(gateway) - calls == 1
    assert await gateway.vllm.total("vllm:request_success_total") - before == 16


async def test_the_text_of_a_beam_search_is_of_one_piece(gateway: Front) -> None:
    """With the likeliest token always, its steps joined are what one call says: nothing is lost or doubled between."""
    story = "Write two sentences about a cat."
    fields: dict[str, Any] = {"temperature": 0.8, "top_k": 1, "max_tokens": 48}
    at_once = (await gateway.chat("single", story, **fields)).json()["choices"][0]["message"]["content"]
    calls = await _calls(gateway)
    in_steps = (await gateway.chat("beam_search@2x2", story, **fields)).json()
    assert await _calls(gateway) - calls >= 2, "it went step by step"
    assert in_steps["choices"][0]["message"]["content"] == at_once


async def test_a_clients_stop_string_ends_a_beam_search(gateway: Front) -> None:
    story = "Write two sentences about a cat."
    fields: dict[str, Any] = {"temperature": 0.8, "top_k": 1, "max_tokens": 48}
    text = (await gateway.chat("single", story, **fields)).json()["choices"][0]["message"]["content"]
    word = text.split()[10]
    stopped = (await gateway.chat("beam_search@2x2", story, stop=word, **fields)).json()
    assert stopped["choices"][0]["message"]["content"] == text[: text.index(word)]
    assert stopped["choices"][0]["finish_reason"] == "stop"


async def test_at_temperature_0_there_is_nothing_to_choose_from(gateway: Front) -> None:
    """vLLM would refuse several candidates."""
    body = (await gateway.chat("majority_vote@3", "2 + 2 = ?", temperature=0)).json()
    assert body["apportion"]["strategy"] == "single"
    assert "temperature 0" in body["apportion"]["reason"]


async def test_the_steps_of_a_beam_search_find_their_prefix_in_the_cache(gateway: Front) -> None:
    """A prompt of some hundred tokens is computed once, and read from the cache by every later step."""
    text = " ".join(f"Fact {i}: the number {i} comes before the number {i + 1}." for i in range(40))
    tokens = (await gateway.served.client.post("/tokenize", json={"model": gateway.vllm.model, "prompt": text})).json()
    asked, hit = "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total"
    before = [await gateway.vllm.total(name) for name in (asked, hit)]
    calls = await _calls(gateway)
    response = await gateway.chat("beam_search@2x2", f"{text} Go on.", temperature=0.8, max_tokens=60, ignore_eos=True)
    assert response.status_code == 200, response.text
    calls = await _calls(gateway) - calls
    queries, hits = [await gateway.vllm.total(n) - b for n, b in zip((asked, hit), before, strict=True)]
    assert calls >= 3
    assert queries >= calls * tokens["count"], "every step reads the whole prompt"
    whole_blocks = tokens["count"] // 128 * 128
    assert hits >= (calls - 1) * whole_blocks, "but the first finds it in the cache"


async def _calls(gateway: Front) -> float:
    """Calls of the gateway to its engine."""
    text = (await gateway.served.client.get("/metrics")).text
    return sum(
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith("apportion_engine_requests_total{")
    )
