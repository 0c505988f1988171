"""Budgets are promises, kept with the real engine: what a request spends, and when its answer is there.

The deadline's tests assert a time, which no other test does, because that time is what is promised. The engine is made
slow for real, by long generations that other clients have it do.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from anyio import create_task_group

from tests.conftest import Live

pytestmark = [pytest.mark.anyio, pytest.mark.engine]

STORY = [{"role": "user", "content": "Tell me a story about five cats."}]
LONG = {"max_tokens": 1500, "ignore_eos": True}  # minutes of work beside others; llama.cpp does not stop at an end
STREAMED = {"stream": True, "stream_options": {"include_usage": True}}
LATE_MS = 250.0  # an answer may be this much later than its deadline
STOPS_WITHIN = 30.0  # seconds for the engine to notice, itself in the middle of a step; a fraction of what LONG takes
SLOTS = 8


@pytest.fixture
async def client(gateway: Live) -> AsyncGenerator[httpx.AsyncClient, None]:
    async with httpx.AsyncClient(base_url=gateway.api, timeout=120, trust_env=False) as client:
        await client.get("/models")  # the first use of a client costs it some time
        yield client


def asks(strategy: str, *, include: tuple[str, ...] = (), **options: int) -> dict[str, Any]:
    return {"apportion": {"strategy": strategy, "include": include, **options}}


# Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    strategy: str
    budget: int
    fields: dict[str, Any]


async def spend(client: httpx.AsyncClient, ask: Ask, spent: list[int]) -> None:
    body = {"messages": STORY, **ask.fields}
    body |= asks(ask.strategy, include=("candidates",), max_total_tokens=ask.budget)
    reply = await client.post("/chat/completions", json=body)

    assert reply.status_code == 200, (ask, reply.text)
    if ask.fields.get("stream"):
        events = [line.removeprefix("data: ") for line in reply.text.splitlines() if line.startswith("data: {")]
        last = json.loads(events[-1])
    else:
        last = reply.json()
        assert int(reply.headers["x-apportion-tokens"]) == last["usage"]["completion_tokens"]
    told = last["apportion"]
    assert told["budget"]["max_total_tokens"] == ask.budget
    assert 0 < last["usage"]["completion_tokens"] <= ask.budget, (ask, told)
    assert sum(candidate["tokens"] for candidate in told["candidates"]["list"]) <= ask.budget, (ask, told)
    spent.append(last["usage"]["completion_tokens"])


@pytest.mark.parametrize("budget", [1, 8, 20, 64])
async def test_no_response_spends_more_than_its_tokens(gateway: Live, client: httpx.AsyncClient, budget: int) -> None:
    """Whatever the strategy, eight requests at a time, streamed or not, and never mind where the answer would end.

    Neither by what the responses say nor by the engine's own count.
    """
    strategies = ("auto", "single", "majority_vote@8", "majority_vote@16", "best_of_n@4", "beam_search@2x2")
    asked = [Ask(strategy=strategy, budget=budget, fields={}) for strategy in strategies]
    asked.append(Ask(strategy="single", budget=budget, fields={**LONG, **STREAMED}))
    asked.append(Ask(strategy="best_of_n@8", budget=budget, fields=LONG))
    assert len(asked) == SLOTS
    before = gateway.load().generated
    spent: list[int] = []

    async with create_task_group() as together:
        for ask in asked:
            together.start_soon(spend, client, ask, spent)

    load = await gateway.until(lambda load: load.idle, within=STOPS_WITHIN)
    made = load.generated - before
    assert 0 < made <= sum(spent) <= len(asked) * budget


@pytest.mark.parametrize("strategy", ["single", "majority_vote@4", "best_of_n@4", "beam_search@2x2"])
@pytest.mark.parametrize("budget", [1, 7, 30])
async def test_several_answers_share_one_budget(
    gateway: Live, client: httpx.AsyncClient, strategy: str, budget: int
) -> None:
    """n answers are n generations, and still no more than max_total_tokens in all."""
    before = gateway.load().generated
    spent: list[int] = []
    await spend(client, Ask(strategy=strategy, budget=budget, fields={**LONG, "n": 2}), spent)

    load = await gateway.until(lambda load: load.idle, within=STOPS_WITHIN)
    assert load.generated - before <= spent[0] <= budget


async def test_an_answer_the_budget_cut_says_so(client: httpx.AsyncClient) -> None:
    body = {"messages": STORY, **LONG, **asks("single", max_total_tokens=8)}
    reply = (await client.post("/chat/completions", json=body)).json()

    assert reply["apportion"]["cut_short"] == "tokens"
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"]["completion_tokens"] == 8


# Time


class Background:
    """Long generations that somebody else has the engine do. Their streams are not read: that costs no processor."""

    def __init__(self, gateway: Live, streams: int) -> None:
        self.streams = streams
        at = urlsplit(gateway.engine_url)
        body = json.dumps({"messages": STORY, "max_tokens": 2000, "ignore_eos": True, "stream": True}).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: engine\r\ncontent-type: application/json\r\n"
        request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
        self._sockets = [socket.create_connection((at.hostname, at.port)) for _ in range(streams)]
        for connection in self._sockets:
            connection.sendall(request)

    def close(self) -> None:
        for connection in self._sockets:
            connection.close()


@asynccontextmanager
async def busy(gateway: Live, streams: int) -> AsyncGenerator[Background, None]:
    """The engine at work for others, on so many of its eight slots."""
    with closing(Background(gateway, streams)) as background:
        await gateway.until(lambda load: load.processing == streams, within=STOPS_WITHIN)
        yield background
    await gateway.until(lambda load: load.idle, within=STOPS_WITHIN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    status: int
    headers: httpx.Headers
    text: str
    late_ms: float  # after the deadline; negative: before


async def timed(client: httpx.AsyncClient, strategy: str, deadline_ms: int, **fields: Any) -> Timed:
    """From before the request is sent until the last byte is there."""
    body = {"messages": STORY, **LONG, **fields}
    body |= asks(strategy, deadline_ms=deadline_ms, max_total_tokens=20_000)
    content = json.dumps(body).encode()
    started = time.monotonic()
    reply = await client.post("/chat/completions", content=content)
    seconds = time.monotonic() - started
    return Timed(
        status=reply.status_code,
        headers=reply.headers,
        text=reply.text,
        late_ms=seconds * 1000 - deadline_ms,
    )


def check(reply: Timed) -> None:
    """A best answer so far that says so, or an error that is not to be retried; either of them in time."""
    if reply.status == 200:
        assert json.loads(reply.text)["apportion"]["cut_short"] == "deadline", reply
        assert json.loads(reply.text)["choices"][0]["message"]["content"], reply
    else:
        assert reply.status == 504, reply
        assert json.loads(reply.text)["error"]["code"] == "deadline_exceeded", reply
        assert reply.headers["x-should-retry"] == "false", reply
    assert reply.late_ms <= LATE_MS, reply


@pytest.mark.parametrize("strategy", ["single", "majority_vote@4", "best_of_n@4", "beam_search@2x2"])
async def test_no_response_is_late_from_a_slow_engine(gateway: Live, client: httpx.AsyncClient, strategy: str) -> None:
    """In time at three deadlines, and after each of them the engine goes on with the others' work only."""
    async with busy(gateway, SLOTS // 2) as others:
        for deadline_ms in (300, 700, 1500):
            check(await timed(client, strategy, deadline_ms))
            load = await gateway.until(lambda load: load.processing <= others.streams, within=STOPS_WITHIN)
            assert load.processing == others.streams, "the others' work was to outlast the test"


async def test_no_response_is_late_when_all_ask_at_once(gateway: Live, client: httpx.AsyncClient) -> None:
    """More sequences than the engine has slots, some of them waiting in its queue, with deadlines of their own."""
    replies: list[Timed] = []

    async def ask(strategy: str, deadline_ms: int) -> None:
        replies.append(await timed(client, strategy, deadline_ms))

    async with busy(gateway, 2) as others:
        async with create_task_group() as together:
            for strategy in ("single", "majority_vote@3", "best_of_n@8:weighted", "beam_search@2x2"):
                together.start_soon(ask, strategy, 500)
                together.start_soon(ask, strategy, 1000)
        await gateway.until(lambda load: load.processing <= others.streams, within=STOPS_WITHIN)

    assert len(replies) == 8
    for reply in replies:
        check(reply)


async def test_a_request_that_never_got_a_slot_is_in_time_too(gateway: Live, client: httpx.AsyncClient) -> None:
    """The engine is full: nothing has come at the deadline, which is a 504 that is not to be retried."""
    async with busy(gateway, SLOTS) as others:
        for strategy in ("single", "majority_vote@4", "beam_search@2x2"):
            reply = await timed(client, strategy, 300)
            assert reply.status == 504, reply
            check(reply)
            load = await gateway.until(lambda load: load.processing <= others.streams, within=STOPS_WITHIN)
            assert load.processing == others.streams, "the others' work was to outlast the test"


@pytest.mark.parametrize("strategy", ["single", "majority_vote@4", "beam_search@2x2"])
async def test_a_streams_last_byte_is_in_time(gateway: Live, client: httpx.AsyncClient, strategy: str) -> None:
    """The stream ends as a stream does, with what there is; or it never began and has the error's status."""
    async with busy(gateway, SLOTS // 2) as others:
        for deadline_ms in (300, 1500):
            reply = await timed(client, strategy, deadline_ms, stream=True)
            if reply.status == 504:
                check(reply)
            else:
                assert reply.status == 200, reply
                events = [line.removeprefix("data: ") for line in reply.text.splitlines() if line.startswith("data:")]
                assert events[-1] == "[DONE]", reply
                assert json.loads(events[-2])["apportion"]["cut_short"] == "deadline", reply
                assert reply.late_ms <= LATE_MS, reply
            await gateway.until(lambda load: load.processing <= others.streams, within=STOPS_WITHIN)


async def test_a_deadline_that_is_far_off_cuts_nothing(client: httpx.AsyncClient) -> None:
    reply = await timed(client, "single", 60_000, max_tokens=8)

    assert reply.status == 200
    assert json.loads(reply.text)["apportion"]["cut_short"] is None
    assert reply.late_ms < 0
