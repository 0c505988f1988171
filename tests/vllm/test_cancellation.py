"""Work that nobody waits for any more ends on the real vLLM, as its own metrics say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

import httpx
import pytest

from tests.vllm.conftest import Vllm
from tests.vllm.front import PATIENCE, Front, front

pytestmark = pytest.mark.anyio
STRATEGIES = ("single", "majority_vote@4", "best_of_n@4", "beam_search@2x2")
LONG: dict[str, Any] = {"ignore_eos": True, "max_tokens": 1500}  # a minute and more
BUDGET = {"max_total_tokens": 16_000, "deadline_ms": 300_000}


@pytest.fixture
async def gateway(vllm: Vllm) -> AsyncGenerator[Front]:
    budgets = {"cap_total_tokens": 32_000, "cap_deadline_ms": 600_000}
    patient = {"first_token_timeout_seconds": PATIENCE, "idle_timeout_seconds": PATIENCE}
    async with front(vllm, budgets=budgets, engine=patient) as gateway:
        await gateway.running(0)
        yield gateway


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_a_client_that_leaves_takes_its_work_along(gateway: Front, strategy: str, stream: bool) -> None:
    asking = asyncio.create_task(gateway.chat(strategy, stream=stream, apportion=BUDGET, **LONG))
    await gateway.running(1, asking)
    asking.cancel()
    with suppress(asyncio.CancelledError):
        await asking
    await gateway.running(0)


async def test_closing_a_stream_of_tokens_stops_it(gateway: Front) -> None:
    stream = await gateway.client.chat.completions.create(
        model=gateway.vllm.model,
        messages=[{"role": "user", "content": "Tell me a story."}],
        max_tokens=1500,
        stream=True,
        extra_body={"ignore_eos": True, "apportion": {"strategy": "single", **BUDGET}},
    )
    seen = 0
    async for _ in stream:
        seen += 1
        if seen == 5:
            break
    await stream.close()
    await gateway.running(0)


async def test_a_decided_vote_stops_the_rest(gateway: Front) -> None:
    """All can only agree, so it is decided before all have ended."""
    completion = await gateway.chat(
        "majority_vote@8",
        response_format={
            "type": "json_schema",
            "json_schema": {
                "name": "sum",
                "schema": {
                    "type": "object",
                    "properties": {"sum": {"enum": [4]}},
                    "required": ["sum"],
                    "additionalProperties": False,
                },
            },
        },
        max_tokens=40,
    )
    body = completion.json()
    assert completion.status_code == 200, completion.text
    assert body["apportion"]["candidates"]["finished"] < 8
    await gateway.running(0)


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_at_the_deadline_it_has_nothing_left_to_do(gateway: Front, strategy: str) -> None:
    """Whether the client got what there was, or an error as there was nothing."""
    response = await gateway.chat(strategy, apportion={"max_total_tokens": 16_000, "deadline_ms": 1500}, **LONG)
    assert response.status_code in (200, 504), response.text
    if response.status_code == 200:
        assert response.json()["apportion"]["cut_short"] == "deadline"
    await gateway.running(0)


async def test_passed_on_requests_are_let_go_too(gateway: Front) -> None:
    body = {"model": gateway.vllm.model, "prompt": "Once", "max_tokens": 1500, "ignore_eos": True}
    async with httpx.AsyncClient(base_url=gateway.served.client.base_url, trust_env=False, timeout=PATIENCE) as client:
        asking = asyncio.create_task(client.post("/v1/completions", json=body))
        await gateway.running(1, asking)
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking
    await gateway.running(0)
