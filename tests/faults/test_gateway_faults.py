"""The whole gateway over real sockets, in front of a scripted engine that fails in every way we could think of.

The engine is a simulator for faults (tests/fake_engine.py): what is proven here is how the gateway behaves when an
engine, a network or a client misbehaves, not how good its answers are. The gateway is the real application, served by
uvicorn with the settings and the event loop it has in production.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from server.api.chat import Chat
from server.api.endpoint import Shape
from server.api.responses import request as responses_request
from server.api.responses.route import Responses
from server.api.work import decide
from tests.fake_engine import (
    LLAMA_CPP,
    VLLM,
    Act,
    Dialect,
    Exchange,
    FakeEngine,
    Piece,
    Reply,
    drops,
    endless,
    ends,
    hangs,
    refuses,
    running,
    says,
    script_of,
    streams,
    until,
    vllm_error,
    within,
    words,
)
from tests.serving import Served, body, error_of, events_of, serving

pytestmark = pytest.mark.anyio

DIALECTS = pytest.mark.parametrize("dialect", [VLLM, LLAMA_CPP], ids=["vllm", "llama.cpp"])
STREAMED = pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
SEVEN = words("\\boxed{7}")
EIGHT = words("\\boxed{8}")
NEVER = 5.0  # seconds: far more than a cut at 0.5 s takes, far less than the engine's time-outs


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """The loop the gateway runs on in production."""
    return "asyncio", {"use_uvloop": True}


def answer_of(response: httpx.Response) -> str | None:
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]


def cut_of(response: httpx.Response) -> str | None:
    return response.json()["apportion"]["cut_short"]


def streamed_text(events: Sequence[Any]) -> str:
    chunks = [event for event in events if isinstance(event, dict) and event.get("choices")]
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


# --- the engine fails before any answer


@STREAMED
@pytest.mark.parametrize("strategy", ["single", "majority_vote@4", "best_of_n@4"])
@pytest.mark.parametrize("status", [400, 404, 413, 422, 500, 501])
async def test_the_engines_refusal_is_the_clients_with_its_own_words(
    status: int, strategy: str, streamed: bool
) -> None:
    """Status, message, type and param, streamed requests too: their response has not begun.

    Asked once; only what the engine failed at, and did not refuse, several candidates are asked for a second time.
    """
    refused = refuses(status, vllm_error(status, "not like that", "SomeError", "messages"))
    async with running(act=refused) as engine, serving(engine.url) as served:
        response = await served.chat(strategy, stream=streamed)
        assert response.status_code == status
        assert error_of(response) == {
            "message": "not like that",
            "type": "SomeError",
            "param": "messages",
            "code": None,
        }
        assert len(engine.requests) == (2 if status >= 500 and strategy != "single" else 1)


@STREAMED
@pytest.mark.parametrize(("status", "code"), [(503, "engine_unavailable"), (429, "rate_limit_exceeded")])
@pytest.mark.parametrize(("told", "passed_on"), [(None, "1"), ("17", "17"), ("soon", "1")])
async def test_an_overloaded_engine_is_asked_again_and_then_the_client_is_told_when(
    status: int, code: str, told: str | None, passed_on: str, streamed: bool
) -> None:
    """vLLM's 503 has no Retry-After: one is added. The SDKs may retry this one."""
    headers = {} if told is None else {"retry-after": told}
    async with running(act=refuses(status, headers=headers)) as engine, serving(engine.url) as served:
        response = await served.chat(stream=streamed)
        assert (response.status_code, error_of(response)["code"]) == (status, code)
        assert response.headers["retry-after"] == passed_on
        assert "x-should-retry" not in response.headers
        assert len(engine.requests) == 3


async def test_a_passing_overload_is_never_seen_by_the_client() -> None:
    async with running() as engine, serving(engine.url) as served:
        engine.acts.extend([refuses(503), refuses(429)])
        assert answer_of(await served.chat()) == "The answer is \\boxed{7}"


@STREAMED
@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_operators_key_is_a_502_without_a_word_about_it(status: int, streamed: bool) -> None:
    """The client's own key is not to blame, and a retry would not help."""
    act = refuses(status, {"error": "bad key sk-of-the-operator"})
    async with running(act=act) as engine, serving(engine.url) as served:
        response = await served.chat(stream=streamed)
        assert (response.status_code, error_of(response)["code"]) == (502, "engine_credentials")
        assert response.headers["x-should-retry"] == "false"
        assert "sk-of" not in response.text


@STREAMED
@pytest.mark.parametrize(
    ("act", "status"),
    [
        pytest.param(drops, 502, id="dropped before the head"),
        pytest.param(streams(events=0, then=drops), 502, id="dropped before the first event"),
        pytest.param(streams(events=0, then=ends), 502, id="an empty stream"),
        pytest.param(streams(events=0, then=says(b"data: {nonsense\n\n")), 502, id="garbage"),
        pytest.param(streams(events=0, then=says(b'data: {"choices": [7]}\n\n')), 502, id="an unknown shape"),
        pytest.param(streams(events=0, then=says(b"data: " + b"x" * 5_000_000)), 502, id="an event without end"),
        pytest.param(streams(events=0, then=says(b'data: {"error": {"code": 507}}\n\n')), 507, id="an error event"),
        pytest.param(refuses(302, b"", headers={"location": "http://127.0.0.1:1/"}), 502, id="a redirect"),
        pytest.param(refuses(204, b""), 502, id="no content"),
        pytest.param(refuses(500, b"<h1>oops</h1>", kind="text/html"), 500, id="HTML"),
    ],
)  # fmt: skip
async def test_a_broken_engine_is_an_error_in_openais_shape(act: Act, status: int, streamed: bool) -> None:
    async with running(act=act) as engine, serving(engine.url) as served:
        response = await served.chat(stream=streamed)
        assert response.status_code == status
        assert error_of(response)["type"] == "server_error"
        await until(lambda: engine.busy == 0)


@STREAMED
@pytest.mark.parametrize("act", [hangs, streams(events=0, then=hangs)], ids=["before the head", "after the head"])
async def test_an_engine_that_never_begins_is_a_504_after_its_time(act: Act, streamed: bool) -> None:
    short = {"first_token_timeout_seconds": 0.3}
    async with running(act=act) as engine, serving(engine.url, engine=short) as served:
        response = await served.chat(stream=streamed)
        assert response.status_code == 504
        assert error_of(response)["type"] == "server_error"
        await within(engine.requests[0].gone.wait())


# --- the engine fails after something has come


@DIALECTS
@pytest.mark.parametrize("strategy", ["majority_vote@4", "best_of_n@4", "best_of_n@4:weighted"])
async def test_a_failure_after_the_first_answer_returns_that_answer(dialect: Dialect, strategy: str) -> None:
    """One of four has ended when the connection breaks: 200, that one, and `engine_error` says why no more.

    The lost ones are asked for once more, and that call fails too.
    """
    never = asyncio.Event()
    rest = [endless("Once upon", after=never)] * 3
    first = 4 + 4 + (2 if dialect is LLAMA_CPP else 1)  # roles, a word each, the first one's end (and its usage)
    async with running(dialect) as engine, serving(engine.url) as served:
        engine.acts.extend([streams(SEVEN, *rest, events=first, then=drops), refuses(500)])
        response = await served.chat(strategy)
        assert answer_of(response) == "\\boxed{7}"
        assert cut_of(response) == "engine_error"
        assert response.json()["choices"][0]["finish_reason"] == "stop"
        assert response.json()["apportion"]["candidates"] == {"drawn": 4, "finished": 1}
        assert len(engine.requests) == 2


@DIALECTS
@pytest.mark.parametrize("strategy", ["majority_vote@4", "best_of_n@4:weighted"])
async def test_candidates_that_a_broken_connection_lost_are_drawn_again(dialect: Dialect, strategy: str) -> None:
    never = asyncio.Event()
    rest = [endless("Once upon", after=never)] * 3
    first = 4 + 4 + (2 if dialect is LLAMA_CPP else 1)
    async with running(dialect, script_of(EIGHT)) as engine, serving(engine.url) as served:
        engine.acts.append(streams(SEVEN, *rest, events=first, then=drops))
        response = await served.chat(strategy, apportion={"include": ["candidates"]})
        assert (answer_of(response), cut_of(response)) == ("\\boxed{8}", None)
        assert response.json()["apportion"]["votes"] == {"8": 3, "7": 1}
        assert [request.body.get("n") for request in engine.requests] == [4, 3]


@pytest.mark.parametrize(
    "then",
    [drops, ends, says(b"data: {nonsense\n\n"), says(b'data: {"error": {"message": "out of memory"}}\n\n')],
    ids=["drop", "end", "garbage", "error"],
)
async def test_a_failure_in_the_middle_of_the_only_answer_returns_what_there_is(then: Act) -> None:
    """A client that asked without a stream gets the half answer, marked by finish_reason and `cut_short`."""
    async with running() as engine, serving(engine.url) as served:
        engine.acts.append(streams(events=3, then=then))
        response = await served.chat()
        assert answer_of(response) == "The answer"
        assert (response.json()["choices"][0]["finish_reason"], cut_of(response)) == ("length", "engine_error")
        assert response.json()["apportion"]["note"]


@pytest.mark.parametrize("strategy", ["majority_vote@4", "best_of_n@4"])
@pytest.mark.parametrize(
    "fault", [refuses(500), streams(events=0, then=drops), streams(words("x"), events=2, then=drops)],
    ids=["refused", "dropped at once", "dropped in the middle"],
)  # fmt: skip
async def test_one_failed_call_of_several_takes_none_of_the_others_with_it(fault: Act, strategy: str) -> None:
    """Also when it fails before the others have said a word: they answer, and `engine_error` says one is missing."""
    go = asyncio.Event()
    slow = streams(words("It is \\boxed{7}"), words("I say \\boxed{7}", after=go))
    async with running(LLAMA_CPP) as engine, serving(engine.url, engine={"max_n": 2}) as served:
        engine.acts.extend([fault, slow, fault])  # the lost ones are asked for once more
        asking = asyncio.create_task(served.chat(strategy))
        await engine.asked(2)
        await until(lambda: engine.busy == 1, "the end of the failing call")
        go.set()
        response = await asking
        assert cut_of(response) == "engine_error"
        assert answer_of(response) in ("It is \\boxed{7}", "I say \\boxed{7}")
        assert response.json()["apportion"]["candidates"]["finished"] == 2
        assert response.json()["apportion"]["agreement"] == 1.0


async def test_when_every_call_fails_the_request_fails_with_the_engines_status() -> None:
    """Two calls for four candidates, and two more for what they lost."""
    async with running(LLAMA_CPP, act=refuses(500)) as engine, serving(engine.url, engine={"max_n": 2}) as served:
        response = await served.chat("majority_vote@4")
        assert response.status_code == 500
        assert error_of(response)["message"] == "scripted 500"
        assert len(engine.requests) == 4


async def test_a_failed_step_of_a_beam_search_leaves_the_other_beams() -> None:
    """Two beams; the continuation of one is refused, the other's comes to its end, and is the answer."""
    first = streams(
        Reply(pieces=[Piece(text="One way"), Piece(text="\n\n")]),
        Reply(pieces=[Piece(text="Another"), Piece(text="\n\n")]),
    )
    async with running(VLLM) as engine, serving(engine.url) as served:
        engine.acts.extend([first, refuses(500), streams(words("so \\boxed{7}"))])
        response = await served.chat("beam_search@2x1")
        assert answer_of(response) in ("One way\n\nso \\boxed{7}", "Another\n\nso \\boxed{7}")


async def test_a_beam_search_goes_on_from_its_own_words_in_vllms_dialect() -> None:
    """Every step is continued, not answered: vLLM's fields for it, the whole text, the step's stop string."""
    async with running(VLLM) as engine, serving(engine.url) as served:
        step = Reply(pieces=[Piece(text="3 and 4"), Piece(text="\n\n")])
        engine.script = lambda request: [words("make \\boxed{7}") if engine.continued(request) else step]
        response = await served.chat("beam_search@1x1")
        assert answer_of(response) == "3 and 4\n\nmake \\boxed{7}"
        assert cut_of(response) is None
        second = engine.requests[1].body
        assert second["messages"][-1] == {"role": "assistant", "content": "3 and 4\n\n"}
        assert second["stop"] == ["\n\n"]
        assert response.json()["usage"]["completion_tokens"] == engine.tokens


# --- the engine hangs


@STREAMED
@pytest.mark.parametrize("act", [hangs, streams(events=0, then=hangs), streams(events=1, then=hangs)])
async def test_nothing_until_the_deadline_is_a_504_that_is_not_to_be_retried(act: Act, streamed: bool) -> None:
    """A retry would spend the same and get as far. A role without a token is nothing."""
    async with running(act=act) as engine, serving(engine.url) as served:
        started = time.monotonic()
        response = await served.chat(stream=streamed, apportion={"deadline_ms": 500})
        assert time.monotonic() - started < NEVER
        if streamed and response.status_code == 200:  # the role had been passed on: the error is an event
            *_, error, done = events_of(response.text)
            assert (error["error"]["code"], done) == ("deadline_exceeded", "[DONE]")
        else:
            assert (response.status_code, error_of(response)["code"]) == (504, "deadline_exceeded")
            assert response.headers["x-should-retry"] == "false"
        await within(engine.requests[0].gone.wait())


@pytest.mark.parametrize("given", ["body", "header", "SDK"])
async def test_at_the_deadline_the_half_answer_is_returned_and_the_engine_let_go(given: str) -> None:
    """However the deadline was given: in the body, in a header, or as the SDK's own read time-out."""
    headers = {"header": {"x-apportion-deadline-ms": "500"}, "SDK": {"x-stainless-read-timeout": "0.5"}}.get(given)
    own = {"deadline_ms": 500} if given == "body" else {}
    async with running(act=streams(events=3, then=hangs)) as engine, serving(engine.url) as served:
        started = time.monotonic()
        response = await served.chat(apportion=own, headers=headers)
        assert time.monotonic() - started < NEVER
        assert answer_of(response) == "The answer"
        assert (response.json()["choices"][0]["finish_reason"], cut_of(response)) == ("length", "deadline")
        await within(engine.requests[0].gone.wait())


async def test_at_the_deadline_a_stream_ends_with_what_was_streamed() -> None:
    async with running(act=streams(events=3, then=hangs)) as engine, serving(engine.url) as served:
        started = time.monotonic()
        response = await served.chat(stream=True, apportion={"deadline_ms": 500})
        assert time.monotonic() - started < NEVER
        events = events_of(response.text)
        assert (streamed_text(events), events[-1]) == ("The answer", "[DONE]")
        assert events[-2]["choices"][0]["finish_reason"] == "length"
        assert events[-2]["apportion"]["cut_short"] == "deadline"
        await within(engine.requests[0].gone.wait())


@DIALECTS
@pytest.mark.parametrize("strategy", ["majority_vote@4", "best_of_n@4"])
async def test_at_the_deadline_the_best_so_far_wins_over_what_was_not_finished(dialect: Dialect, strategy: str) -> None:
    never = asyncio.Event()
    script = script_of(
        endless("Once", after=never), SEVEN, endless("upon a time", after=never), endless("x", after=never)
    )
    async with running(dialect, script) as engine, serving(engine.url) as served:
        response = await served.chat(strategy, apportion={"deadline_ms": 700})
        assert answer_of(response) == "\\boxed{7}"
        assert cut_of(response) == "deadline"
        await within(engine.requests[0].gone.wait())


async def test_a_settled_vote_lets_the_rest_go() -> None:
    """Three of four agree: the fourth can change nothing, and its connection is closed instead of waited for."""
    script = script_of(SEVEN, SEVEN, SEVEN, endless("Once", after=asyncio.Event()))
    async with running(VLLM, script) as engine, serving(engine.url) as served:
        response = await served.chat("majority_vote@4")
        assert (answer_of(response), cut_of(response)) == ("\\boxed{7}", "consensus")
        await within(engine.requests[0].gone.wait())


async def test_a_straggler_is_not_waited_for_when_seven_of_eight_agree() -> None:
    """Its tokens are counted as cancelled, in the response and in the metrics."""
    never = asyncio.Event()
    script = script_of(endless("Once upon a time", after=never), *[SEVEN] * 7)
    at_once = {"strategy": "majority_vote@8", "token_price": 0, "latency_price": 1}
    async with running(VLLM, script) as engine, serving(engine.url) as served:
        response = await served.chat(apportion=at_once)
        assert (answer_of(response), cut_of(response)) == ("\\boxed{7}", "consensus")
        await within(engine.requests[0].gone.wait())
        cancelled = response.json()["apportion"]["actual"]["cancelled_tokens"]
        assert cancelled > 0
        page = (await served.client.get("/metrics")).text
        counted = [line for line in page.splitlines() if 'kind="completion_cancelled"' in line and "_total" in line]
        assert [float(line.split()[-1]) for line in counted] == [cancelled]


async def test_the_prices_decide_how_many_of_a_vote_are_asked_for_at_once() -> None:
    for prices, sizes in (
        ({"token_price": 0, "latency_price": 1}, [8]),
        ({"token_price": 1, "latency_price": 0}, [1, 1, 1, 1]),
    ):
        async with running(VLLM, script_of(SEVEN)) as engine, serving(engine.url) as served:
            response = await served.chat("majority_vote@8", apportion=prices)
            assert cut_of(response) == "consensus"
            assert [request.body.get("n", 1) for request in engine.requests] == sizes


async def test_a_profile_can_stop_its_votes_sooner() -> None:
    """Two equal answers have a posterior of .875."""
    sooner = {"hasty": {"stop_threshold": 0.8, "latency_price": 0}}
    async with running(VLLM, script_of(SEVEN)) as engine, serving(engine.url, profiles=sooner) as served:
        for profile, calls in (("hasty", 2), ("balanced", 4)):
            engine.requests.clear()
            response = await served.chat("majority_vote@8", apportion={"profile": profile, "latency_price": 0})
            assert cut_of(response) == "consensus"
            assert len(engine.requests) == calls


# --- streams that break after they began


async def test_a_failure_after_a_stream_began_is_a_data_line_and_then_the_end() -> None:
    """vLLM's role chunk came, and no token after it: there is no half answer to end with."""
    async with running(act=streams(events=1, then=drops)) as engine, serving(engine.url) as served:
        response = await served.chat(stream=True)
        assert response.status_code == 200
        role, error, done = events_of(response.text)
        assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert set(error) == {"error"}
        assert set(error["error"]) == {"message", "type", "param", "code"}
        assert done == "[DONE]"


async def test_a_failure_after_waiting_comments_is_a_data_line_too() -> None:
    """Strategies with several candidates keep the line alive, in time for an SDK that waits no longer than it says;
    the response has begun when the engine fails."""
    patience = {"x-stainless-read-timeout": "0.1"}
    go = asyncio.Event()

    async def fails_late(exchange: Exchange) -> None:
        await exchange.wait_for(go)
        await refuses(400, vllm_error(400, "too late", param="x"))(exchange)

    async with running(act=fails_late) as engine, serving(engine.url) as served:
        request = body("majority_vote@4", stream=True)
        async with served.client.stream("POST", "/v1/chat/completions", json=request, headers=patience) as response:
            lines = response.aiter_lines()
            assert await within(anext(lines)) == ": waiting"
            go.set()
            rest = [line async for line in lines if line.startswith("data: ")]
        assert response.status_code == 200
        error, done = (line.removeprefix("data: ") for line in rest)
        assert json.loads(error)["error"] == {
            "message": "too late", "type": "BadRequestError", "param": "x", "code": None,
        }  # fmt: skip
        assert done == "[DONE]"


@DIALECTS
async def test_a_stream_that_breaks_in_the_middle_ends_properly_and_says_so(dialect: Dialect) -> None:
    """What was streamed stands; the last chunk has the finish, the usage, and why."""
    async with running(dialect) as engine, serving(engine.url) as served:
        engine.acts.append(streams(events=3, then=drops))
        response = await served.chat(stream=True, stream_options={"include_usage": True})
        events = events_of(response.text)
        assert (streamed_text(events), events[-1]) == ("The answer", "[DONE]")
        assert events[-3]["choices"][0]["finish_reason"] == "length"
        assert events[-2]["apportion"]["cut_short"] == "engine_error"
        assert events[-2]["usage"]["completion_tokens"] == 2


@DIALECTS
@pytest.mark.parametrize("split", [1, 5])
async def test_a_stream_of_split_characters_arrives_whole(dialect: Dialect, split: int) -> None:
    spoken = "Zażółć 🐌 日本語 \\boxed{7}"
    async with running(dialect, act=streams(words(spoken), split=split)) as engine, serving(engine.url) as served:
        assert streamed_text(events_of((await served.chat(stream=True)).text)) == spoken
        assert answer_of(await served.chat()) == spoken


# --- an engine that comes late, or goes


async def test_an_engine_that_is_not_up_yet_makes_503s_until_it_is() -> None:
    """The gateway starts all the same, lives (/health), says why it is not ready, and recovers by itself."""
    engine = FakeEngine()
    port = free_port()
    async with serving(f"http://127.0.0.1:{port}", ready=False) as served:
        assert (await served.client.get("/health")).status_code == 200
        ready = await served.client.get("/ready")
        assert (ready.status_code, ready.json()["problem"]) == (503, "the engine has not answered yet")
        for response in (await served.chat(), await served.chat(stream=True), await served.client.get("/v1/models")):
            assert (response.status_code, error_of(response)["code"]) == (503, "engine_unavailable")
            assert int(response.headers["retry-after"]) >= 1
        try:
            await engine.start(port)
            await until(lambda: served.gateway.ready, "the recovery")
            assert (await served.client.get("/ready")).status_code == 200
            assert [model["id"] for model in (await served.client.get("/v1/models")).json()["data"]] == ["tiny"]
            assert answer_of(await served.chat()) == "The answer is \\boxed{7}"
        finally:
            await engine.stop()


async def test_something_else_at_the_engines_address_is_asked_again_until_it_is_one(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A web page with status 200 must not end the asking, and a day without an engine not fill the log."""
    monkeypatch.setattr("server.gateway._PROBE_AGAIN", 0.01)
    engine = FakeEngine()
    engine.models_act = refuses(200, ["not", "a", "list", "of", "models"])
    await engine.start()
    try:
        async with serving(engine.url, ready=False) as served:
            await until(lambda: len(engine.others) > 2, "three probes")
            assert (await served.chat()).status_code == 503
            assert sum("asking again" in record.message for record in caplog.records) == 1
            engine.models_act = None
            await until(lambda: served.gateway.ready, "the recovery")
            assert (await served.chat()).status_code == 200
    finally:
        await engine.stop()


async def test_an_engine_that_goes_and_comes_back_is_noticed_both_times() -> None:
    async with running() as engine, serving(engine.url) as served:
        port = engine.port
        assert (await served.chat()).status_code == 200
        await engine.stop()
        assert (await served.client.get("/ready")).status_code == 503
        for streamed in (False, True):
            response = await served.chat(stream=streamed)
            assert (response.status_code, error_of(response)["code"]) == (503, "engine_unavailable")
            assert "retry-after" in response.headers
        await engine.start(port)
        assert (await served.client.get("/ready")).status_code == 200
        assert (await served.chat()).status_code == 200
        engine.healthy = False
        assert (await served.client.get("/ready")).status_code == 503


# --- bodies


@pytest.mark.parametrize("announced", [True, False], ids=["content-length", "chunked"])
async def test_a_body_over_the_limit_is_a_413(announced: bool) -> None:
    async with running() as engine, serving(engine.url, server={"max_body_bytes": 2048}) as served:
        big = json.dumps(body(content="x" * 4000)).encode()

        async def parts() -> AsyncGenerator[bytes, None]:
            for start in range(0, len(big), 500):
                yield big[start : start + 500]

        response = await served.client.post("/v1/chat/completions", content=big if announced else parts())
        assert (response.status_code, error_of(response)["code"]) == (413, "payload_too_large")
        assert not engine.requests


@asynccontextmanager
async def half_sent(served: Served) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter], None]:
    """A request whose body stops after its first half."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    raw = json.dumps(body()).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(raw)}\r\n\r\n"
    writer.write(head.encode() + raw[: len(raw) // 2])
    await writer.drain()
    await until(lambda: served.gateway.in_flight == 1, "the request's arrival")
    try:
        yield reader, writer
    finally:
        writer.close()
        await writer.wait_closed()


async def test_a_body_that_does_not_arrive_is_a_408_and_gives_its_place_back() -> None:
    """Not to be retried: the client would be as slow again."""
    async with (
        running() as engine,
        serving(engine.url, server={"body_timeout_seconds": 0.3}) as served,
        half_sent(served) as (reader, _),
    ):
        head = (await within(reader.readuntil(b"\r\n\r\n"))).decode().lower()
        assert head.startswith("http/1.1 408")
        assert "x-should-retry: false" in head
        assert b"request_timeout" in await within(reader.readuntil(b"}"))
        await until(lambda: served.gateway.in_flight == 0, "the place given back")


async def test_a_client_that_leaves_in_the_middle_of_its_body_gives_its_place_back() -> None:
    async with running() as engine, serving(engine.url) as served:
        async with half_sent(served):
            pass
        await served.idle()
        assert not engine.requests


def with_number(name: str, number: str) -> bytes:
    return f'{{"messages": [{{"role": "user", "content": "x"}}], "{name}": {number}}}'.encode()


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="half"),
        pytest.param(b'{"messages": [{"role": "user", "content": "\xff"}]}', id="not UTF-8"),
        pytest.param(b'{"messages": [{"role": "user", "content": "\\ud800"}]}', id="half a character"),
        pytest.param(b"[" * 100_000, id="deep"),
        *(
            pytest.param(with_number(name, number), id=f"{name} {number}")
            for name in ("temperature", "unknown_field")
            for number in ("NaN", "Infinity", "-Infinity", "1e999", "-1e999")
        ),
    ],
)  # fmt: skip
async def test_what_is_not_json_is_a_400_and_never_reaches_the_engine(raw: bytes) -> None:
    """NaN and infinities included: JSON has none, and an engine that takes them gives nonsense for them."""
    async with running() as engine, serving(engine.url) as served:
        response = await served.client.post("/v1/chat/completions", content=raw)
        assert (response.status_code, error_of(response)["code"]) == (400, "invalid_json")
        assert not engine.requests
        assert len(response.content) < 1000


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [7]}, "messages.0"),
        ({"messages": None}, "messages"),
        ({"n": 0}, "n"),
        ({"n": 1000}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"seed": "lucky"}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 2**70}, "seed"),
        ({"stop": 7}, "stop"),
        ({"stop": ["a", 7]}, "stop"),
        ({"stop": {"a": "b"}}, "stop"),
        ({"tools": {}}, "tools"),
        ({"apportion": {"strategy": "magic"}}, "apportion.strategy"),
        ({"apportion": {"strategy": "best_of_n@999"}}, "apportion.strategy"),
        ({"apportion": {"max_total_tokens": 0}}, "apportion.max_total_tokens"),
        ({"apportion": {"profile": "no such"}}, "apportion.profile"),
        ({"apportion": {"max_tokens": 5}}, "apportion.max_tokens"),
        ({"apportion": 5}, "apportion"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
async def test_what_can_not_be_is_a_400_that_names_the_field(fields: dict[str, Any], param: str) -> None:
    """Never a 500, never dropped, never left to the engine where the gateway reads the field itself."""
    async with running() as engine, serving(engine.url) as served:
        asked = {"messages": [{"role": "user", "content": "x"}], **fields}
        response = await served.client.post("/v1/chat/completions", json=asked)
        error = error_of(response)
        assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
        assert not engine.requests


@pytest.mark.parametrize(
    "message",
    [
        {"role": 5, "content": 7},
        {"role": "user", "content": {"a": 1}},
        {"role": "user", "content": [1, None, {"type": "text", "text": None}, {"type": "image_url"}]},
        {"role": "user", "content": None, "tool_calls": 7},
        {},
    ],
    ids=json.dumps,
)
@pytest.mark.parametrize("strategy", ["auto", "majority_vote@3", "beam_search@2x2"])
async def test_odd_messages_are_the_engines_to_judge(message: dict[str, Any], strategy: str) -> None:
    """The gateway reads them for its decision, and must not fall over them."""
    async with running() as engine, serving(engine.url) as served:
        response = await served.chat(strategy, messages=[message])
        assert response.status_code == 200
        assert engine.requests[0].body["messages"] == [message]


async def test_unknown_urls_and_methods_have_openais_shape() -> None:
    async with running() as engine, serving(engine.url) as served:
        missing = await served.client.get("/v1/nothing")
        assert (missing.status_code, error_of(missing)["code"]) == (404, "unknown_url")
        wrong = await served.client.get("/v1/chat/completions")
        assert (wrong.status_code, error_of(wrong)["code"]) == (405, "method_not_allowed")


# --- too many


@STREAMED
async def test_more_than_may_be_in_flight_is_a_429_and_the_places_come_back(streamed: bool) -> None:
    go = asyncio.Event()
    script = script_of(words("at last", after=go))
    async with running(VLLM, script) as engine, serving(engine.url, server={"max_in_flight": 2}) as served:
        asking = [asyncio.create_task(served.chat(stream=streamed)) for _ in range(2)]
        await engine.asked(2)
        refused = await served.chat()
        assert (refused.status_code, error_of(refused)["code"]) == (429, "rate_limit_exceeded")
        assert int(refused.headers["retry-after"]) >= 1
        assert (await served.client.get("/health")).status_code == 200
        assert "apportion_requests_in_flight 2.0" in (await served.client.get("/metrics")).text
        go.set()
        assert [response.status_code for response in await asyncio.gather(*asking)] == [200, 200]
        await served.idle()
        assert (await served.chat()).status_code == 200
        assert len(engine.requests) == 3


@pytest.mark.parametrize(
    ("act", "fields"),
    [
        (refuses(500), {}),
        (refuses(500), {"stream": True}),
        (streams(events=1, then=drops), {"stream": True}),
        (streams(events=3, then=drops), {"stream": True}),
        (hangs, {"apportion": {"deadline_ms": 200}}),
        (hangs, {"apportion": {"deadline_ms": 200}, "stream": True}),
        (streams(), {"n": 999}),
    ],
)
async def test_a_failed_request_gives_its_place_back(act: Act, fields: dict[str, Any]) -> None:
    """With one place there is, a second request shows it."""
    async with running(act=act) as engine, serving(engine.url, server={"max_in_flight": 1}) as served:
        await served.chat(**fields)
        await served.idle()
        engine.act = streams()
        assert (await served.chat()).status_code == 200


# --- clients that leave


@STREAMED
@pytest.mark.parametrize(
    "act",
    [hangs, streams(events=0, then=hangs), streams(events=3, then=hangs)],
    ids=["before the head", "before a token", "in the middle"],
)
async def test_a_client_that_leaves_takes_its_work_off_the_engine(act: Act, streamed: bool) -> None:
    """Wherever the engine is with it; the engine's time-outs are far away."""
    async with running(act=act) as engine, serving(engine.url) as served:
        _, writer = await asyncio.open_connection("127.0.0.1", served.port)
        raw = json.dumps(body(stream=streamed)).encode()
        writer.write(
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(raw)}\r\n\r\n".encode() + raw
        )
        request = await engine.asked(1)
        await until(lambda: served.gateway.engine.running == 1, "the call")
        writer.close()
        await writer.wait_closed()
        await within(request.gone.wait(), NEVER)
        assert not request.answered
        await served.idle()
        assert 'outcome="cancelled"' in (await served.client.get("/metrics")).text


async def test_a_client_that_reads_a_while_and_leaves_takes_its_work_off_the_engine() -> None:
    script = script_of(endless("Once upon a", after=asyncio.Event()))
    async with running(VLLM, script) as engine, serving(engine.url) as served:
        asked = body(stream=True)
        async with served.client.stream("POST", "/v1/chat/completions", json=asked) as response:
            async for line in response.aiter_lines():
                if " upon" in line:
                    break
        await within(engine.requests[0].gone.wait(), NEVER)
        await served.idle()


def responses(asked: Mapping[str, Any]) -> Shape:
    request = responses_request.read(asked)
    return Responses(asked=request, request=responses_request.as_chat(request))


@pytest.mark.parametrize(
    "shape",
    [Chat.read(body(stream=True)), responses({"input": "Hello", "stream": True, "apportion": {"strategy": "single"}})],
    ids=["chat", "responses"],
)
async def test_a_stream_closed_between_two_pieces_has_ended_its_work(shape: Shape) -> None:
    """At once, not when its memory is collected: what was made is charged to a key before its request is over."""
    script = script_of(endless("Once upon a", after=asyncio.Event()))
    async with running(VLLM, script) as engine, serving(engine.url) as served:
        work = decide(served.gateway, shape.request, {}, id="chatcmpl-1", arrived=time.monotonic())
        stream = shape.events(work)
        await anext(stream)
        assert served.gateway.engine.running == 1
        await stream.aclose()
        assert served.gateway.engine.running == 0


@STREAMED
async def test_a_client_that_leaves_a_strategy_of_several_calls_closes_all_of_them(streamed: bool) -> None:
    script = script_of(endless("Once", after=asyncio.Event()))
    async with running(LLAMA_CPP, script) as engine, serving(engine.url, engine={"max_n": 1}) as served:
        asking = asyncio.create_task(served.chat("majority_vote@5", stream=streamed))
        await engine.asked(5)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        for request in engine.requests:
            await within(request.gone.wait(), NEVER)
        await served.idle()


# --- budgets


@DIALECTS
@pytest.mark.parametrize("strategy", ["single", "majority_vote@4", "best_of_n@4", "beam_search@2x2"])
async def test_an_engine_that_ignores_max_tokens_never_spends_more_than_the_budget(
    dialect: Dialect, strategy: str
) -> None:
    """The response's own count stays within max_total_tokens, and the engine is cut off: it would never end."""
    never = asyncio.Event()
    pieces = [Piece(text=f"word{i} ") for i in range(200)]
    endless_one = Reply(pieces=[*pieces, Piece(text="on", after=never)])

    async def as_many_as_asked(exchange: Exchange) -> None:
        n = int(exchange.request.body.get("n") or 1)
        await streams(*[endless_one] * n, ignores_max_tokens=True)(exchange)

    async with running(dialect, act=as_many_as_asked) as engine, serving(engine.url) as served:
        response = await served.chat(strategy, apportion={"max_total_tokens": 40})
        assert response.status_code == 200, response.text
        assert 0 < response.json()["usage"]["completion_tokens"] <= 40
        assert response.json()["choices"][0]["finish_reason"] == "length"
        for request in engine.requests:
            await within(request.gone.wait())


@DIALECTS
async def test_a_choice_that_ignores_max_tokens_is_not_waited_for_by_the_others(dialect: Dialect) -> None:
    """Cut at its own limit; once the other has ended by itself, the call is over."""
    go = asyncio.Event()
    pieces = [Piece(text=f"word{i} ") for i in range(100)]
    unending = Reply(pieces=[*pieces, Piece(text="on", after=asyncio.Event())])
    act = streams(unending, words("\\boxed{7}", after=go), ignores_max_tokens=True)
    async with running(dialect, act=act) as engine, serving(engine.url) as served:
        asking = asyncio.create_task(served.chat("majority_vote@2", max_tokens=5))
        request = await engine.asked(1)
        await until(lambda: request.tokens >= 100)
        go.set()
        response = await within(asking)
        assert answer_of(response) == "\\boxed{7}"
        assert response.json()["usage"]["completion_tokens"] <= 10
        await within(request.gone.wait())


@DIALECTS
@STREAMED
async def test_a_budget_for_all_candidates_is_never_asked_for_twice(dialect: Dialect, streamed: bool) -> None:
    """The sum of n x max_tokens over all calls at once stays within max_total_tokens."""
    async with running(dialect, script_of(words(" ".join(["w"] * 200)))) as engine, serving(engine.url) as served:
        await served.chat("majority_vote@4", stream=streamed, apportion={"max_total_tokens": 100})
        asked = sum(int(r.body.get("n") or 1) * r.body["max_tokens"] for r in engine.requests)
        assert asked <= 100
        assert engine.tokens <= 100


@pytest.mark.parametrize("strategy", ["auto", "majority_vote@8"])
@pytest.mark.parametrize("own", [{"max_total_tokens": 1}, {"deadline_ms": 1}], ids=json.dumps)
@STREAMED
async def test_a_strict_budget_that_nothing_fits_is_refused_before_anything_is_spent(
    strategy: str, own: dict[str, int], streamed: bool
) -> None:
    async with running() as engine, serving(engine.url) as served:
        response = await served.chat(strategy, stream=streamed, apportion={**own, "strict": True})
        error = error_of(response)
        assert (response.status_code, error["code"]) == (400, "budget_infeasible")
        (limit,) = own
        assert error["param"] == f"apportion.{limit}"
        assert f"smallest that would do: {limit}" in error["message"]
        assert response.headers["x-should-retry"] == "false"
        assert not engine.requests


async def test_the_budget_a_strict_refusal_names_is_enough() -> None:
    async with running() as engine, serving(engine.url) as served:
        strict = {"strict": True, "max_total_tokens": 1, "deadline_ms": 1}
        message = error_of(await served.chat("auto", apportion=strict))["message"]
        named = {
            name: int(message.partition(f"{name} ")[2].split(" ")[0].rstrip("."))
            for name in ("max_total_tokens", "deadline_ms")
        }
        # some time passes between arrival and decision
        enough = {**named, "deadline_ms": named["deadline_ms"] + 2000, "strict": True}
        assert (await served.chat("auto", apportion=enough)).status_code == 200


async def test_a_budget_that_is_not_strict_is_cut_to_size() -> None:
    async with running(VLLM, script_of(words(" ".join(["w"] * 50)))) as engine, serving(engine.url) as served:
        response = await served.chat("auto", apportion={"max_total_tokens": 3})
        assert answer_of(response) == "w w w"
        assert (cut_of(response), response.json()["apportion"]["budget"]["fits"]) == ("tokens", False)
        assert engine.tokens == 3


async def test_room_is_left_in_the_engines_context_for_the_prompt() -> None:
    """vLLM refuses a prompt and a max_tokens that together pass its max_model_len, here 2048 tokens.

    What a client sets itself goes on as it is: to shorten it would change its question.
    """
    async with running(VLLM) as engine, serving(engine.url) as served:
        for strategy in ("single", "majority_vote@4", "beam_search@2x2"):
            engine.requests.clear()
            assert (await served.chat(strategy, content="word " * 1000)).status_code == 200
            assert all(0 < request.body["max_tokens"] < 2048 - 1000 for request in engine.requests)
        engine.requests.clear()
        await served.chat(content="word " * 1000, max_tokens=2000)
        assert engine.requests[0].body["max_tokens"] == 2000


# --- what goes through


NULLS = (
    "model", "n", "stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature", "top_p", "stop",
    "seed", "logprobs", "top_logprobs", "tools", "tool_choice", "response_format", "logit_bias", "user", "metadata",
    "presence_penalty", "frequency_penalty", "parallel_tool_calls", "service_tier", "store", "reasoning_effort",
)  # fmt: skip


async def test_explicit_nulls_mean_not_given() -> None:
    """SDKs in other languages send them; vLLM would take some of them for values."""
    async with running() as engine, serving(engine.url) as served:
        asked = {
            "messages": [{"role": "user", "content": "x"}],
            **dict.fromkeys(NULLS),
            "apportion": {"strategy": "single"},
        }
        assert answer_of(await served.client.post("/v1/chat/completions", json=asked)) == "The answer is \\boxed{7}"
        assert set(engine.requests[0].body) == {"model", "messages", "stream", "stream_options", "max_tokens"}
        nothing = {**asked, "apportion": None}
        assert (await served.client.post("/v1/chat/completions", json=nothing)).status_code == 200
        inner = {
            **asked,
            "apportion": dict.fromkeys(("strategy", "max_total_tokens", "deadline_ms", "strict", "include")),
        }
        assert (await served.client.post("/v1/chat/completions", json=inner)).status_code == 200


KNOWN: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "x:"}}]},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "default": None}}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "parallel_tool_calls": False,
    "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"default": None}}},
    "logit_bias": {"50256": -100},
    "user": "u-1",
    "metadata": {"a": "b", "nothing": None},
    "temperature": 0.25,
    "top_p": 0.5,
    "top_k": 7,
    "min_p": 0.1,
    "stop": ["END"],
    "seed": 12,
    "presence_penalty": -0.5,
    "frequency_penalty": 2,
    "reasoning_effort": "low",
    "chat_template_kwargs": {"enable_thinking": False},
    "structured_outputs": {"choice": ["a"]},
    "some_future_field": [{"deep": [1, 2.5, None, True, "é"]}, 2**60],
}  # fmt: skip


@STREAMED
async def test_fields_go_on_to_the_engine_as_they_came(streamed: bool) -> None:
    """Known and unknown ones, nested nulls included."""
    async with running() as engine, serving(engine.url) as served:
        response = await served.chat(stream=streamed, max_tokens=9, **KNOWN)
        assert response.status_code == 200
        sent = engine.requests[0].body
        assert {name: sent.get(name) for name in KNOWN} == KNOWN
        assert set(sent) - set(KNOWN) == {"model", "stream", "stream_options", "max_tokens"}
        assert (sent["model"], sent["max_tokens"]) == ("tiny", 9)


async def test_what_a_client_says_about_streams_and_n_is_the_gateways() -> None:
    """The engine is always streamed, with the gateway's own options; `n` is what the strategy draws."""
    async with running() as engine, serving(engine.url) as served:
        asked = {"stream": True, "stream_options": {"include_usage": False, "continuous_usage_stats": False}, "n": 2}
        assert (await served.chat("majority_vote@3", **asked)).status_code == 200
        sent = engine.requests[0].body
        assert (sent["stream"], sent["n"]) == (True, 3)
        assert sent["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
        assert sent["temperature"] == 0.8


async def test_no_header_of_a_client_reaches_the_engine() -> None:
    """Neither its key nor what vLLM would obey."""
    told = {
        "authorization": "Bearer sk-client", "cookie": "a=b", "x-api-key": "k", "x-vllm-priority": "-9",
        "x-request-id": "mine",
        "x-session-id": "s", "x-data-parallel-rank": "1", "forwarded": "for=1.2.3.4", "x-forwarded-for": "1.2.3.4",
        "openai-organization": "o", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }  # fmt: skip
    key = {"api_key": "sk-engine"}
    async with running(**key) as engine, serving(engine.url, engine=key) as served:
        assert (await served.chat(headers=told)).status_code == 200
        sent = engine.requests[0].headers
        assert sent["authorization"] == "Bearer sk-engine"
        assert not (set(told) - {"authorization", "x-request-id"}) & set(sent)
        assert not set(told.values()) & set(sent.values())


# --- vLLM's peculiarities


async def test_an_empty_list_of_tools_is_tidied_away() -> None:
    """vLLM answers 400 to it; clients that build the list in code send it."""
    async with running(VLLM) as engine, serving(engine.url) as served:
        assert (await served.chat(tools=[])).status_code == 200


async def test_temperature_0_is_never_sent_with_several_choices() -> None:
    """vLLM answers 400 to it: what asked for several candidates gets `single`."""
    async with running(VLLM) as engine, serving(engine.url) as served:
        response = await served.chat("majority_vote@5", temperature=0)
        assert answer_of(response) == "The answer is \\boxed{7}"
        assert response.json()["apportion"]["strategy"] == "single"
        assert "n" not in engine.requests[0].body


async def test_an_unknown_model_is_vllms_own_404() -> None:
    async with running(VLLM) as engine, serving(engine.url) as served:
        response = await served.chat(model="gpt-5")
        assert response.status_code == 404
        assert error_of(response) == {
            "message": "The model `gpt-5` does not exist.", "type": "NotFoundError", "param": "model", "code": None,
        }  # fmt: skip


@STREAMED
@pytest.mark.parametrize("odd", ["abort", "repetition", "length"])
async def test_ends_that_openai_does_not_know_become_length(odd: str, streamed: bool) -> None:
    """And such a candidate has no vote: two that were broken off lose against one that came to its end."""
    script = script_of(words("\\boxed{8}", finish_reason=odd), words("\\boxed{8}", finish_reason=odd), SEVEN)
    async with running(VLLM, script) as engine, serving(engine.url) as served:
        single = await served.chat(stream=streamed)
        finish = events_of(single.text)[-2]["choices"][0] if streamed else single.json()["choices"][0]
        assert finish["finish_reason"] == "length"
        voted = await served.chat("majority_vote@3")
        assert answer_of(voted) == "\\boxed{7}"
        assert len(engine.requests) == 2


@STREAMED
async def test_reasoning_and_tool_calls_come_through(streamed: bool) -> None:
    """vLLM sends a call in pieces: a name, then its arguments bit by bit."""
    start = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}
    more = [{"index": 0, "function": {"arguments": part}} for part in ('{"a"', ": 1}")]
    reply = Reply(
        pieces=[Piece(reasoning="hm"), Piece(tool_calls=[start]), *(Piece(tool_calls=[part]) for part in more)],
        finish_reason="tool_calls",
    )
    tools = [{"type": "function", "function": {"name": "f"}}]
    async with running(VLLM, script_of(reply)) as engine, serving(engine.url) as served:
        response = await served.chat(stream=streamed, tools=tools)
        if not streamed:
            (choice,) = response.json()["choices"]
            assert choice["finish_reason"] == "tool_calls"
            assert choice["message"]["reasoning"] == "hm"
            (call,) = choice["message"]["tool_calls"]
            assert (call["id"], call["function"]) == ("c1", {"name": "f", "arguments": '{"a": 1}'})
            return
        deltas = [event["choices"][0]["delta"] for event in events_of(response.text)[:-1]]
        assert [delta["reasoning"] for delta in deltas if "reasoning" in delta] == ["hm"]
        calls = [call for delta in deltas for call in delta.get("tool_calls", [])]
        assert "".join(call["function"]["arguments"] for call in calls) == '{"a": 1}'
        assert events_of(response.text)[-2]["choices"][0]["finish_reason"] == "tool_calls"


@DIALECTS
@pytest.mark.parametrize("strategy", ["single", "majority_vote@4", "best_of_n@4", "beam_search@2x2"])
@STREAMED
async def test_usage_is_everything_the_engine_made(dialect: Dialect, strategy: str, streamed: bool) -> None:
    """To the token, in both dialects, and the prompt as the engine counts it."""
    script = script_of(words("a b \\boxed{7}"), words("c \\boxed{8}"), words("d e f g \\boxed{9}"), words("h"))
    async with running(dialect, script) as engine, serving(engine.url) as served:
        options = {"stream": True, "stream_options": {"include_usage": True}} if streamed else {}
        response = await served.chat(strategy, **options)
        usage = events_of(response.text)[-2]["usage"] if streamed else response.json()["usage"]
        assert usage["completion_tokens"] == engine.tokens
        assert usage["prompt_tokens"] == 7 * len(engine.requests)


# --- secrets


class _Kept(logging.Handler):
    """Every line that would be logged, as the command formats it, tracebacks included."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.startswith(("httpx", "httpcore")):  # this test's own client
            self.lines.append(self.format(record))


async def test_keys_prompts_and_answers_are_in_no_log_and_no_metric() -> None:
    """Everything at debug level, over successes, refusals that quote the prompt, cuts, and clients that leave."""
    kept = _Kept()
    loggers = [logging.getLogger(), logging.getLogger("apportion")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    loggers[0].addHandler(kept)
    secrets = ("sk-client-1", "sk-engine-2", "PROMPT-3", "ANSWER-4", "USER-5", "TOOL-6")
    try:
        script, key = script_of(words("It is ANSWER-4")), {"api_key": "sk-engine-2"}
        async with running(VLLM, script, **key) as engine, serving(engine.url, engine=key) as served:
            common: dict[str, Any] = {
                "headers": {"authorization": "Bearer sk-client-1"},
                "content": "PROMPT-3",
                "user": "USER-5",
                "tools": [{"type": "function", "function": {"name": "TOOL-6"}}],
            }
            quoting = vllm_error(400, "can't read PROMPT-3 of USER-5")
            for strategy in ("single", "majority_vote@4", "best_of_n@4", "beam_search@2x2", "auto"):
                for streamed in (False, True):
                    assert (await served.chat(strategy, stream=streamed, **common)).status_code == 200
                    for status in (400, 401, 500, 503):
                        engine.acts.extend([refuses(status, quoting)] * (3 if status == 503 else 1))
                        await served.chat(strategy, stream=streamed, **common)
                        engine.acts.clear()
                    engine.acts.append(streams(events=2, then=says(b"data: PROMPT-3 {nonsense\n\n")))
                    await served.chat(strategy, stream=streamed, **common)
                    engine.acts.append(hangs)
                    await served.chat(strategy, stream=streamed, apportion={"deadline_ms": 50}, **common)
                    engine.acts.clear()  # on a busy machine the deadline can come before the engine is asked
            engine.act = hangs
            asking = asyncio.create_task(served.chat(stream=True, model="PROMPT-3", **common))
            await engine.asked(len(engine.requests) + 1)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            raw = b'{"messages": "PROMPT-3", "apportion": "sk-client-1", "PROMPT-3": '
            await served.client.post("/v1/chat/completions", content=raw)
            await served.idle()
            metrics = (await served.client.get("/metrics")).text
    finally:
        loggers[0].removeHandler(kept)
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
    assert any(" apportion " in line for line in kept.lines), "nothing was captured"
    for secret in secrets:
        assert not [line for line in kept.lines if secret in line]
        assert secret not in metrics
    assert "chatcmpl-" not in metrics
