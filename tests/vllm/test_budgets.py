"""Budgets are promises, on the real vLLM too: by its own count of tokens, and with nothing asked of it in vain."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from tests.serving import error_of
from tests.vllm.conftest import Vllm
from tests.vllm.front import Front, front

pytestmark = pytest.mark.anyio
STRATEGIES = ("single", "majority_vote@4", "best_of_n@4:weighted", "beam_search@2x2")


@pytest.fixture
async def gateway(vllm: Vllm) -> AsyncGenerator[Front]:
    async with front(vllm) as gateway:
        await gateway.running(0)
        yield gateway


@pytest.mark.parametrize("budget", [10, 47, 96])
@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_no_answer_takes_more_tokens_than_it_may(gateway: Front, strategy: str, budget: int) -> None:
    before = await gateway.vllm.total("vllm:generation_tokens_total")
    response = await gateway.chat(
        strategy, "Tell me a story about five cats.", max_tokens=200, ignore_eos=True,
        apportion={"max_total_tokens": budget},
    )  # fmt: skip
    await gateway.running(0)
    generated = await gateway.vllm.total("vllm:generation_tokens_total") - before
    assert response.status_code == 200, response.text
    assert response.json()["usage"]["completion_tokens"] <= budget
    assert 0 < generated <= budget


async def test_what_can_not_fit_is_refused_before_anything_is_asked(gateway: Front) -> None:
    before = await gateway.vllm.total("vllm:prompt_tokens_total")
    response = await gateway.chat("best_of_n@16", max_tokens=400, apportion={"max_total_tokens": 20, "strict": True})
    assert response.status_code == 400
    assert error_of(response)["code"] == "budget_infeasible"
    assert await gateway.vllm.total("vllm:prompt_tokens_total") == before


async def test_without_a_strategy_named_the_budget_decides(gateway: Front) -> None:
    """Of the menu what fits is run: for eight tokens nothing but one sample does."""
    seen: dict[int, str] = {}
    for budget in (8, 4000):
        body = {
            "model": gateway.vllm.model, "messages": [{"role": "user", "content": "How much is 12 + 30?"}],
            "max_tokens": 24, "apportion": {"max_total_tokens": budget, "profile": "quality"},
        }  # fmt: skip
        response = await gateway.served.client.post("/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        assert response.json()["usage"]["completion_tokens"] <= budget
        seen[budget] = response.json()["apportion"]["strategy"]
    assert seen[8] == "single"
    assert seen[4000] != "single"
