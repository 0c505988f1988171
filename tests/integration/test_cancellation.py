"""A client that leaves takes its work along: the engine stops, seen by the engine's own metrics.

Every request asks for far more steps of generation than the engine may still make before it stops. Steps are what is
counted, not seconds: how fast they go depends on the machine, how many of them pass until an abort is noticed does not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

import httpx
import pytest
from anyio import sleep, to_thread
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from tests.conftest import EngineLoad, Live

pytestmark = [pytest.mark.anyio, pytest.mark.engine]

STORY: Any = [{"role": "user", "content": "Tell me a story about five cats."}]
MAX_TOKENS = 1500  # of one sequence, so at least as many steps
STOPS_WITHIN_STEPS = 150
PATIENCE = 60.0  # seconds; only a stuck engine or a stuck gateway takes so long
QUIET_FOR = 0.4  # between the rounds of a beam search the engine has nothing to do for a moment
# the first has one sequence, the others many; beam_search asks again and again, so it has to be stopped, too
STRATEGIES = ("single", "majority_vote@4", "best_of_n@12", "beam_search@4x4")


@pytest.fixture
async def client(gateway: Live) -> AsyncGenerator[AsyncOpenAI, None]:
    http = DefaultAsyncHttpxClient(trust_env=False)
    async with AsyncOpenAI(base_url=gateway.api, api_key="none", http_client=http, max_retries=0) as client:
        yield client


def long(strategy: str) -> dict[str, Any]:
    """Fields of a request that goes on and on. llama.cpp's ignore_eos passes through as an unknown field does."""
    extra = {"ignore_eos": True, "apportion": {"strategy": strategy, "max_total_tokens": 32_000}}
    return {"model": "", "messages": STORY, "max_tokens": MAX_TOKENS, "extra_body": extra}


async def at_work(gateway: Live) -> None:
    """Wait until the engine generates for the request: it is in work and some steps have been made."""
    begun = (await gateway.until(lambda load: load.processing > 0, within=PATIENCE)).decodes
    await gateway.until(lambda load: load.decodes >= begun + 5, within=PATIENCE)
    assert await to_thread.run_sync(gateway.total, "apportion_requests_in_flight") == 1


async def assert_stops(gateway: Live, cancelled_before: float) -> None:
    """The gateway lets go of the request, the engine has nothing in work and makes no further step."""
    load = await assert_nothing_goes_on(gateway)
    await sleep(QUIET_FOR)  # not for something to happen, but to see that nothing does
    assert await to_thread.run_sync(gateway.load) == load
    assert await to_thread.run_sync(gateway.total, "apportion_engine_running_sequences") == 0
    assert await cancelled(gateway) == cancelled_before + 1


async def assert_nothing_goes_on(gateway: Live) -> EngineLoad:
    last = (await to_thread.run_sync(gateway.load)).decodes + STOPS_WITHIN_STEPS

    def at_an_end(load: EngineLoad) -> bool:
        return load.decodes > last or (load.idle and not gateway.total("apportion_requests_in_flight"))

    load = await gateway.until(at_an_end, within=PATIENCE)
    assert load.decodes <= last, f"the engine goes on: {load}"
    return load


async def cancelled(gateway: Live) -> float:
    return await to_thread.run_sync(lambda: gateway.total("apportion_requests_total", outcome="cancelled"))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("stream", [False, True])
async def test_leaving_before_the_answer_stops_the_engine(
    gateway: Live, client: AsyncOpenAI, strategy: str, stream: bool
) -> None:
    """The client hangs up while it waits, or, where a stream has begun, when it has read something of it."""
    before = await cancelled(gateway)

    async def ask() -> None:
        reply = await client.chat.completions.create(**long(strategy), stream=stream)
        if stream:
            async for _ in reply:
                pass

    asking = asyncio.create_task(ask())
    await at_work(gateway)
    assert not asking.done()
    asking.cancel()
    with suppress(asyncio.CancelledError):
        await asking

    await assert_stops(gateway, before)


async def test_closing_a_stream_of_tokens_stops_the_engine(gateway: Live, client: AsyncOpenAI) -> None:
    """As an application does that has seen enough: it leaves the loop and closes the stream."""
    before = await cancelled(gateway)
    stream = await client.chat.completions.create(**long("single"), stream=True)
    async with stream:
        seen = 0
        async for _ in stream:
            seen += 1
            if seen == 5:
                break

    await assert_stops(gateway, before)


async def test_closing_a_stream_that_was_only_kept_alive_stops_the_engine(gateway: Live) -> None:
    """Several candidates: nothing but comments has come when the client leaves."""
    before = await cancelled(gateway)
    fields = long("majority_vote@4")
    body = {**fields, **fields.pop("extra_body"), "stream": True}
    async with (
        httpx.AsyncClient(base_url=gateway.api, timeout=60, trust_env=False) as client,
        client.stream("POST", "/chat/completions", json=body) as reply,
    ):
        assert await anext(reply.aiter_lines()) == ": waiting"

    await assert_stops(gateway, before)


async def test_one_client_leaving_does_not_stop_another(gateway: Live, client: AsyncOpenAI) -> None:
    """Their sequences share the engine's steps, but only the one who left is cancelled."""
    leaving = asyncio.create_task(client.chat.completions.create(**long("majority_vote@4")))
    await at_work(gateway)
    staying = asyncio.create_task(
        client.chat.completions.create(
            model="",
            messages=STORY,
            max_tokens=60,
            extra_body={"ignore_eos": True, "apportion": {"strategy": "single"}},
        )
    )
    await gateway.until(lambda load: load.processing == 5, within=PATIENCE)
    leaving.cancel()
    with suppress(asyncio.CancelledError):
        await leaving

    completion = await staying
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 60
    await assert_nothing_goes_on(gateway)
