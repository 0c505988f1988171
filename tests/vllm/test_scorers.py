"""Reward models on the real vLLM, asked by best-of-N and beam search. Their weights are random: scores mean nothing."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.vllm.conftest import Vllm
from tests.vllm.front import front

pytestmark = pytest.mark.anyio
# no examples: candidates that differ are what a scorer is asked about
QUESTION: Any = [
    {"role": "user", "content": "Name a colour."},
    {"role": "assistant", "content": "Red"},
    {"role": "user", "content": "Name a number below a hundred."},
]


async def test_an_outcome_reward_model_scores_every_answer(vllm: Vllm, reward: Vllm) -> None:
    """The scores are those that vLLM gives when it is asked about the same texts, and the highest wins."""
    orm = {"kind": "outcome_reward", "url": reward.url, "model": reward.model}
    async with front(vllm, scorers={"orm": orm}) as gateway:
        fields: dict[str, Any] = {"temperature": 1.3, "max_tokens": 24, "apportion": {"include": ["candidates"]}}
        body = (await gateway.chat("best_of_n@4:orm", messages=QUESTION, **fields)).json()
    scored = [each for each in body["apportion"]["candidates"]["list"] if each["score"] is not None]
    assert body["apportion"].get("note") is None, body["apportion"]
    assert len(scored) >= 2
    async with httpx.AsyncClient(base_url=reward.url, trust_env=False, timeout=60) as client:
        for each in scored:
            messages = [*QUESTION, {"role": "assistant", "content": each["text"]}]
            reply = await client.post("/classify", json={"model": reward.model, "messages": messages})
            assert each["score"] == pytest.approx(reply.json()["data"][0]["probs"][1], abs=0.01)
    best = max(scored, key=lambda each: each["score"])
    assert body["choices"][0]["message"]["content"] == best["text"]


@pytest.mark.parametrize("strategy", ["best_of_n@4:prm", "best_of_n@4:prm:weighted", "beam_search@2x2:prm"])
async def test_a_process_reward_model_scores_every_step(vllm: Vllm, steps: Vllm, strategy: str) -> None:
    prm = {"kind": "process_reward", "url": steps.url, "model": steps.model, "aggregation": "min"}
    asked = await steps.total("vllm:request_success_total")
    sections = {"scorers": {"prm": prm}, "strategies": {"beam_step_tokens": 12}}
    async with front(vllm, **sections) as gateway:
        fields: dict[str, Any] = {"temperature": 1.3, "max_tokens": 24, "apportion": {"include": ["candidates"]}}
        response = await gateway.chat(strategy, messages=QUESTION, **fields)
    body = response.json()
    assert response.status_code == 200, response.text
    assert body["apportion"]["strategy"] == strategy
    assert body["apportion"].get("note") is None, body["apportion"]
    assert await steps.total("vllm:request_success_total") > asked
    if strategy.startswith("best_of_n"):
        scores = [each["score"] for each in body["apportion"]["candidates"]["list"] if each["score"] is not None]
        assert len(scores) >= 2
        assert all(0 <= score <= 1 for score in scores)


async def test_two_steps_get_two_scores(steps: Vllm) -> None:
    """What the scorer's adding of marks rests on."""
    messages = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "One.<extra_0>Two.<extra_0>"}]
    body = {"model": steps.model, "task": "token_classify", "messages": messages}
    async with httpx.AsyncClient(base_url=steps.url, trust_env=False, timeout=60) as client:
        reply = await client.post("/pooling", json=body)
    rows = reply.json()["data"][0]["data"]
    assert [len(row) for row in rows] == [2, 2]


async def test_a_reward_model_that_is_none_leaves_the_vote(vllm: Vllm) -> None:
    """The generator itself has no /classify."""
    orm = {"kind": "outcome_reward", "url": vllm.url, "model": vllm.model}
    async with front(vllm, scorers={"orm": orm}) as gateway:
        body = (await gateway.chat("best_of_n@4:orm", messages=QUESTION, temperature=1.3, max_tokens=24)).json()
    assert body["choices"][0]["message"]["content"]
    assert "orm" in body["apportion"].get("note", ""), body["apportion"]
