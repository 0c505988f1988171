"""What goes on to the engine as it came, and who may ask at all: over real sockets, with a scripted engine behind."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from tests.fake_engine import (
    LLAMA_CPP,
    VLLM,
    Act,
    Exchange,
    FakeEngine,
    answers,
    drops,
    hangs,
    refuses,
    running,
    until,
    vllm_error,
    within,
)
from tests.serving import Served, error_of, serving

pytestmark = pytest.mark.anyio

KEY = "sk-test-0123456789abcdef"
OTHER_KEY = "sk-test-fedcba9876543210"
BEARER = {"authorization": f"Bearer {KEY}"}
COMPLETION = {"id": "cmpl-1", "object": "text_completion", "choices": [{"index": 0, "text": "hi"}]}
USAGE = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
STREAM = [b'data: {"choices":[{"text":"a"}]}\n\n', b'data: {"choices":[{"text":"b"}]}\n\n']
LAST = b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}\n\ndata: [DONE]\n\n'


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """The loop the gateway runs on in production."""
    return "asyncio", {"use_uvloop": True}


@asynccontextmanager
async def both(
    routes: Mapping[str, Act] | None = None, *, dialect: Any = VLLM, engine_key: str | None = None, **sections: Any
) -> AsyncGenerator[tuple[FakeEngine, Served], None]:
    async with running(dialect, api_key=engine_key) as engine:
        engine.routes.update(routes or {})
        if engine_key:
            sections["engine"] = {**sections.get("engine", {}), "api_key": engine_key}
        async with serving(engine.url, **sections) as served:
            yield engine, served


def pieces_of(*pieces: bytes, after: asyncio.Event | None = None, kind: str = "text/event-stream") -> Act:
    """A streamed response whose last piece waits for an event."""

    async def act(exchange: Exchange) -> None:
        await exchange.head(kind=kind)
        for piece in pieces[:-1]:
            await exchange.send(piece)
        if after is not None:
            await exchange.wait_for(after)
        await exchange.send(pieces[-1])
        await exchange.end()

    return act


def metric(page: str, name: str, **labels: str) -> float:
    wanted = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
    line = next((line for line in page.splitlines() if line.startswith(f"{name}{{{wanted}}} ")), None)
    return 0.0 if line is None else float(line.rpartition(" ")[2])


async def raw(served: Served, request: bytes) -> bytes:
    """What is answered to bytes that a proper client would not send."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(request)
    answer = await within(reader.read())
    writer.close()
    await writer.wait_closed()
    return answer


# --- as it came


@pytest.mark.parametrize(
    "path",
    ["/v1/completions", "/v1/embeddings", "/v1/messages", "/v1/score", "/tokenize", "/rerank", "/pooling", "/v1/new"],
)
async def test_bodies_and_queries_go_on_and_answers_come_back_byte_by_byte(path: str) -> None:
    """Whatever spacing, order and unknown fields there are."""
    sent = b'{ "model":"tiny",  "input": ["\xc3\xa4", 1e-7], "zzz": null }'
    answered = b'{"z": 1,   "usage": {"prompt_tokens": 3} }\n'
    async with both({path: answers(answered, headers={"x-engine": "secret"})}) as (engine, served):
        response = await served.client.post(
            f"{path}?a=1&b=%26%3D&c=x+y&d=%C3%A4", content=sent, headers={"content-type": "application/json"}
        )
        request = await engine.passed_on(1)
        assert response.status_code == 200
        assert response.content == answered
        assert (request.method, request.path) == ("POST", f"{path}?a=1&b=%26%3D&c=x+y&d=%C3%A4")
        assert request.body == json.loads(sent)
        assert request.headers["content-length"] == str(len(sent))
        assert "x-engine" not in response.headers


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "PATCH"])
async def test_methods_are_the_engines_to_judge(method: str) -> None:
    async with both({"/v1/responses/resp_1": answers({"deleted": True})}) as (engine, served):
        response = await served.client.request(method, "/v1/responses/resp_1")
        assert response.json() == {"deleted": True}
        assert (await engine.passed_on(1)).method == method


async def test_the_base_urls_word_stays_here() -> None:
    """A client whose base URL names a profile finds every endpoint below it."""
    async with both({"/v1/embeddings": answers({"data": []})}) as (engine, served):
        response = await served.client.post("/quality/v1/embeddings?a=b", json={"input": "x"})
        assert response.status_code == 200, response.text
        assert (await engine.passed_on(1)).path == "/v1/embeddings?a=b"


async def test_an_upload_goes_on_while_it_comes_in() -> None:
    """Nothing waits for its end, and no more than a piece of it is here."""
    second = asyncio.Event()
    boundary = b"--b\r\ncontent-disposition: form-data; name=f\r\n\r\n" + bytes(range(256)) * 300

    async def form() -> AsyncGenerator[bytes, None]:
        yield boundary
        await second.wait()
        yield b"\r\n--b--\r\n"

    async with both({"/v1/audio/transcriptions": answers({"text": "hello"})}) as (engine, served):
        kind = {"content-type": "multipart/form-data; boundary=b"}
        post = asyncio.create_task(served.client.post("/v1/audio/transcriptions", content=form(), headers=kind))
        await until(lambda: engine.bytes_in > 70_000, "the engine's getting the beginning")
        assert not engine.passed
        second.set()
        assert (await within(post)).json() == {"text": "hello"}
        request = await engine.passed_on(1)
        assert request.body == boundary + b"\r\n--b--\r\n"
        assert request.headers["content-type"] == "multipart/form-data; boundary=b"


@pytest.mark.parametrize("announced", [True, False])
async def test_an_upload_over_the_limit_is_a_413(announced: bool) -> None:
    async def form() -> AsyncGenerator[bytes, None]:
        for _ in range(40):
            yield b"x" * 1000

    content = b"x" * 40_000 if announced else form()
    passthrough = {"max_upload_bytes": 20_000}
    async with both({"/v1/audio/transcriptions": answers({})}, passthrough=passthrough) as (engine, served):
        kind = {"content-type": "audio/wav"}
        response = await served.client.post("/v1/audio/transcriptions", content=content, headers=kind)
        assert response.status_code == 413
        assert error_of(response)["code"] == "payload_too_large"
        assert not engine.passed


async def test_an_upload_that_stalls_is_a_408() -> None:
    async with both({"/v1/audio/speech": answers({})}, server={"body_timeout_seconds": 0.2}) as (engine, served):
        answer = await raw(
            served,
            b"POST /v1/audio/speech HTTP/1.1\r\nhost: x\r\ncontent-type: audio/wav\r\nconnection: close\r\n"
            b"content-length: 100\r\n\r\nhalf",
        )
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"request_timeout" in answer
        assert not engine.passed


async def test_a_client_that_leaves_its_upload_leaves_nothing_behind() -> None:
    async with both({"/v1/audio/speech": answers({})}) as (engine, served):
        before = engine.bytes_in
        _, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(
            b"POST /v1/audio/speech HTTP/1.1\r\nhost: x\r\ncontent-type: a/b\r\ncontent-length: 99\r\n\r\nhalf"
        )
        await until(lambda: engine.bytes_in > before, "the beginning of the upload")
        writer.close()
        await served.idle()
        assert not engine.passed


# --- streams


async def test_a_stream_comes_piece_by_piece_as_the_engine_sends_it() -> None:
    last = asyncio.Event()
    async with (
        both({"/v1/completions": pieces_of(*STREAM, LAST, after=last)}) as (_, served),
        served.client.stream("POST", "/v1/completions", json={"prompt": "x", "stream": True}) as response,
    ):
        assert response.headers["content-type"] == "text/event-stream"
        got = b""
        async for piece in response.aiter_raw():
            got += piece
            if got == b"".join(STREAM):
                last.set()  # they were here before the end
        assert got == b"".join(STREAM) + LAST


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_client_that_leaves_takes_its_work_off_the_engine(streamed: bool) -> None:
    act = pieces_of(STREAM[0], LAST, after=asyncio.Event()) if streamed else hangs
    async with both({"/v1/completions": act}) as (engine, served):
        asking = {"prompt": "x", "stream": streamed}
        async with httpx.AsyncClient(base_url=str(served.client.base_url), trust_env=False) as client:
            if streamed:
                async with client.stream("POST", "/v1/completions", json=asking) as response:
                    await within(anext(response.aiter_raw()))
            else:
                post = asyncio.create_task(client.post("/v1/completions", json=asking))
                await engine.passed_on(1)
                post.cancel()
                await asyncio.gather(post, return_exceptions=True)
        await within(engine.passed[0].gone.wait())
        await served.idle()
        page = (await served.client.get("/metrics")).text
        assert metric(page, "apportion_passed_requests_total", endpoint="completions", outcome="cancelled") == 1


async def test_a_client_that_does_not_read_holds_up_the_engine() -> None:
    """Nothing piles up here: the engine can send no more than a few buffers hold."""
    sent = 0

    async def floods(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.head()
        for _ in range(4000):
            await exchange.send(b"x" * 16_384)
            sent += 16_384

    async with both({"/v1/completions": floods}) as (engine, served):
        async with served.client.stream("POST", "/v1/completions", json={"stream": True}) as response:
            await anext(response.aiter_raw())
            before = -1
            while sent != before:  # until it stands still
                before = sent
                await asyncio.sleep(0.2)
            assert sent < 30 * 1024 * 1024, "half of it at most"
        await within(engine.passed[0].gone.wait())


@pytest.mark.parametrize(
    ("path", "event"),
    [("/v1/completions", b"\n\ndata: {"), ("/v1/messages", b"\n\nevent: error\ndata: {")],
)
@pytest.mark.parametrize("fault", [drops, hangs])
async def test_a_stream_that_breaks_between_events_ends_with_an_error(fault: Act, path: str, event: bytes) -> None:
    async def breaks(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.send(STREAM[0])
        await fault(exchange)

    async with both({path: breaks}, engine={"idle_timeout_seconds": 0.3}) as (_, served):
        response = await served.client.post(path, json={"stream": True})
        assert response.status_code == 200
        assert response.content.startswith(STREAM[0])
        told = json.loads(response.content.partition(event)[2].join([b"{", b""]))
        assert set(told["error"]) == {"message", "type", "param", "code"}
        assert told.get("type") == ("error" if path == "/v1/messages" else None)


@pytest.mark.parametrize("begun", [b'data: {"half', b""])
async def test_what_breaks_elsewhere_is_seen_to_be_broken(begun: bytes) -> None:
    """The connection closes in the middle, so no client takes it for the whole."""

    async def breaks(exchange: Exchange) -> None:
        await exchange.head(kind="text/event-stream" if begun else "application/json")
        await exchange.send(begun or b'{"half')
        await exchange.drop()

    async with both({"/v1/embeddings": breaks}) as (_, served):
        with pytest.raises(httpx.RemoteProtocolError):
            await served.client.post("/v1/embeddings", json={})
        page = (await served.client.get("/metrics")).text
        assert metric(page, "apportion_passed_requests_total", endpoint="embeddings", outcome="cut") == 1


@pytest.mark.parametrize("begun", [False, True])
async def test_the_operators_longest_deadline_holds(begun: bool) -> None:
    act = pieces_of(STREAM[0], LAST, after=asyncio.Event()) if begun else hangs
    budgets = {"default_deadline_ms": 300, "cap_deadline_ms": 300}
    async with both({"/v1/completions": act}, budgets=budgets) as (engine, served):
        if begun:
            with pytest.raises(httpx.RemoteProtocolError):
                await served.client.post("/v1/completions", json={})
        else:
            response = await served.client.post("/v1/completions", json={})
            assert response.status_code == 504
            assert error_of(response)["code"] == "deadline_exceeded"
            assert response.headers["x-should-retry"] == "false"
        await within(engine.passed[0].gone.wait())


# --- what is not passed on


@pytest.mark.parametrize("path", ["/sleep", "/reset_prefix_cache", "/v1/load_lora_adapter", "/v1/files", "/props"])
async def test_what_is_not_for_clients_is_openais_404(path: str) -> None:
    async with both({path: answers({"did": "it"})}, dialect=LLAMA_CPP) as (engine, served):
        engine.passed.clear()  # the gateway itself asks for some
        for method in ("GET", "POST"):
            response = await served.client.request(method, path)
            assert response.status_code == 404
            assert error_of(response)["code"] == "unknown_url"
        assert not engine.passed


@pytest.mark.parametrize(
    "target",
    [
        "/v1/../sleep", "/v1/%2e%2e/sleep", "/v1/%2E%2E%2Fsleep", "/v1/..%2fsleep", "/v1/x/../../sleep", "//sleep",
        "/v1//sleep", "/v1/.%2e/sleep", "/v1/%252e%252e/sleep", "/v1/..;/sleep", "/v1/%5c..%5csleep",
        "/v1/load_lora_adapter/", "/v1/%6coad_lora_adapter", "/v1/load%5Flora_adapter", "/v1/LOAD_LORA_ADAPTER",
        "/quality/v1/../sleep", "/quality/v1/load_lora_adapter", "http://127.0.0.1:1/sleep", "*",
    ],
)  # fmt: skip
async def test_no_spelling_of_a_path_is_a_way_around(target: str) -> None:
    trap = answers({"did": "it"})
    routes = {"/sleep": trap, "/v1/sleep": trap, "/v1/load_lora_adapter": trap, "/v1/LOAD_LORA_ADAPTER": trap}
    async with both(routes) as (engine, served):
        answer = await raw(served, f"POST {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        assert answer.startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 400 ", b"HTTP/1.1 405 ")), answer[:200]
        assert not [request.path for request in engine.passed if request.path != "/v1/sleep"]


@pytest.mark.parametrize("path", ["/v1/chat/completions/", "/quality/v1/responses/", "/v1/models/", "/health/"])
async def test_a_slash_at_the_end_is_no_redirect_to_a_host_that_the_client_named(path: str) -> None:
    async with both() as (_, served):
        for method in ("GET", "POST"):
            answer = await served.client.request(method, path, headers={"host": "elsewhere.example"})
            assert answer.status_code in (404, 405)
            assert "location" not in answer.headers


async def test_a_header_that_can_not_go_on_is_a_400() -> None:
    async with both({"/v1/embeddings": answers({})}) as (engine, served):
        refused = await served.client.post("/v1/embeddings", content=b"{}", headers={b"accept": "text/ä".encode()})
        assert (refused.status_code, error_of(refused)["param"]) == (400, "accept")
        assert not engine.passed


async def test_the_host_of_an_absolute_target_decides_nothing() -> None:
    async with both({"/v1/embeddings": answers({"from": "the engine"})}) as (engine, served):
        answer = await raw(
            served,
            b"POST http://127.0.0.1:1/v1/embeddings HTTP/1.1\r\nhost: elsewhere\r\nconnection: close\r\n\r\n",
        )
        assert b"the engine" in answer
        request = await engine.passed_on(1)
        assert request.headers["host"] == engine.url.removeprefix("http://")


async def test_passing_on_can_be_turned_off() -> None:
    async with both({"/v1/embeddings": answers({})}, passthrough={"enabled": False}) as (engine, served):
        assert error_of(await served.client.post("/v1/embeddings", json={}))["code"] == "unknown_url"
        assert not engine.passed


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE"])
async def test_other_methods_are_a_405(method: str) -> None:
    async with both({"/v1/embeddings": answers({})}) as (engine, served):
        for path in ("/v1/embeddings", "/v1/chat/completions"):
            response = await served.client.request(method, path)
            assert response.status_code == 405
            assert error_of(response)["code"] == "method_not_allowed"
        assert not engine.passed


async def test_a_websocket_is_refused() -> None:
    """As plain HTTP where the server can't speak it, and no engine sees it."""
    async with both({"/v1/realtime": refuses(404, {"detail": "Not Found"})}) as (_, served):
        answer = await raw(
            served,
            b"GET /v1/realtime HTTP/1.1\r\nhost: x\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        assert answer.split(b" ")[1] in (b"403", b"404")


# --- errors


@pytest.mark.parametrize(
    "body", [{"detail": "Not Found"}, vllm_error(404, "Not Found", "NotFoundError"), b"", b"<html>nginx</html>"]
)
async def test_an_endpoint_that_the_engine_has_not_is_openais_404(body: Any) -> None:
    async with both({"/v1/embeddings": refuses(404, body)}) as (_, served):
        response = await served.client.post("/v1/embeddings", json={})
        assert response.status_code == 404
        error = error_of(response)
        assert (error["code"], error["message"]) == ("unknown_url", "Unknown request URL: POST /v1/embeddings")


async def test_a_model_that_the_engine_has_not_keeps_the_engines_words() -> None:
    body = vllm_error(404, "The model `x` does not exist.", "NotFoundError", "model")
    async with both({"/v1/embeddings": refuses(404, body)}) as (_, served):
        error = error_of(await served.client.post("/v1/embeddings", json={"model": "x"}))
        assert (error["message"], error["param"]) == ("The model `x` does not exist.", "model")


@pytest.mark.parametrize("status", [400, 409, 413, 422, 500, 501])
async def test_the_engines_status_and_words_are_kept_and_bounded(status: int) -> None:
    body = vllm_error(status, "no " * 100_000)
    async with both({"/v1/embeddings": refuses(status, body)}) as (_, served):
        response = await served.client.post("/v1/embeddings", json={})
        assert response.status_code == status
        assert len(response.content) <= 8192
        assert error_of(response)["message"].startswith("no no") or len(response.content) < 300
        assert response.headers.get("x-should-retry") == ("false" if status == 501 else None)


@pytest.mark.parametrize("status", [429, 503])
async def test_an_overloaded_engine_says_when_to_come_back(status: int) -> None:
    async with both({"/v1/embeddings": refuses(status)}) as (_, served):
        response = await served.client.post("/v1/embeddings", json={})
        assert response.status_code == status
        assert response.headers["retry-after"] == "1"


async def test_the_engines_405_is_ours() -> None:
    async with both({"/v1/embeddings": refuses(405, {"detail": "no"}, headers={"allow": "POST"})}) as (_, served):
        response = await served.client.get("/v1/embeddings")
        assert response.status_code == 405
        assert response.headers["allow"] == "POST"


async def test_a_redirect_of_the_engine_is_not_followed_and_not_shown() -> None:
    there = {"location": "http://10.0.0.7/secret"}
    async with both({"/v1/embeddings": refuses(307, b"", headers=there)}) as (_, served):
        response = await served.client.post("/v1/embeddings", json={})
        assert (response.status_code, error_of(response)["code"]) == (502, "engine_redirect")
        assert "10.0.0.7" not in f"{response.text} {response.headers}"


async def test_an_engine_that_is_not_there_is_a_503() -> None:
    async with both() as (engine, served):
        await engine.stop()
        response = await served.client.post("/v1/embeddings", json={})
        assert response.status_code == 503
        assert response.headers["retry-after"]


async def test_a_connection_that_broke_is_tried_again_where_nothing_is_left_behind() -> None:
    calls: list[str] = []

    async def fails_once(exchange: Exchange) -> None:
        calls.append(exchange.request.path)
        if len(calls) == 1:
            await exchange.drop()
        await answers({"data": []})(exchange)

    async with both({"/v1/embeddings": fails_once, "/v1/other": drops}) as (engine, served):
        assert (await served.client.post("/v1/embeddings", json={})).json() == {"data": []}
        assert len(calls) == 2
        assert (await served.client.post("/v1/other", json={})).status_code == 502
        assert [request.path for request in engine.passed].count("/v1/other") == 1


async def test_places_are_shared_with_the_chats_and_given_back() -> None:
    async with both({"/v1/embeddings": hangs}, server={"max_in_flight": 1}) as (engine, served):
        post = asyncio.create_task(served.client.post("/v1/embeddings", json={}))
        await engine.passed_on(1)
        assert (await served.client.post("/v1/embeddings", json={})).status_code == 429
        assert (await served.chat()).status_code == 429
        post.cancel()
        await asyncio.gather(post, return_exceptions=True)
        await served.idle()
        assert (await served.chat()).status_code == 200


# --- what is counted


@pytest.mark.parametrize("streamed", [False, True])
async def test_requests_and_tokens_are_counted_by_endpoint_and_model(streamed: bool) -> None:
    act = pieces_of(*STREAM, LAST) if streamed else answers({**COMPLETION, "usage": USAGE})
    async with both({"/v1/completions": act}) as (_, served):
        await served.client.post("/v1/completions", json={"model": "tiny", "stream": streamed})
        page = (await served.client.get("/metrics")).text
        assert metric(page, "apportion_passed_requests_total", endpoint="completions", outcome="2xx") == 1
        assert metric(page, "apportion_passed_duration_seconds_count", endpoint="completions") == 1
        assert metric(page, "apportion_tokens_total", model="tiny", kind="passed_prompt") == 5
        assert metric(page, "apportion_tokens_total", model="tiny", kind="passed_completion") == (2 if streamed else 7)


async def test_no_path_and_no_model_of_a_client_becomes_a_label() -> None:
    async with both({"/v1/made-up-name": answers({"usage": USAGE})}) as (_, served):
        await served.client.post("/v1/made-up-name", json={"model": "made-up-model"})
        page = (await served.client.get("/metrics")).text
        assert "made-up" not in page
        assert metric(page, "apportion_passed_requests_total", endpoint="other", outcome="2xx") == 1
        assert metric(page, "apportion_tokens_total", model="other", kind="passed_prompt") == 5


# --- best_of


async def test_best_of_draws_so_many_and_returns_the_best() -> None:
    choices = [{"index": i, "text": str(i), "logprobs": {"token_logprobs": [-abs(i - 2)]}} for i in range(4)]
    answer = {**COMPLETION, "choices": choices, "usage": USAGE}
    async with both({"/v1/completions": answers(answer)}) as (engine, served):
        response = await served.client.post("/v1/completions", json={"model": "tiny", "prompt": "x", "best_of": 4})
        assert response.json() == {
            **COMPLETION,
            "choices": [{"index": 0, "text": "2", "logprobs": None}],
            "usage": USAGE,
        }
        assert int(response.headers["content-length"]) == len(response.content)
        assert (await engine.passed_on(1)).body == {"model": "tiny", "prompt": "x", "n": 4, "logprobs": 1}
        for asked in ({"best_of": 4, "stream": True}, {"best_of": 65}, {"best_of": 64, "max_tokens": 10**5}):
            assert (await served.client.post("/v1/completions", json=asked)).status_code == 400
        assert len(engine.passed) == 1


# --- keys


async def test_without_a_key_nothing_is_answered_and_nothing_reaches_the_engine() -> None:
    keys = {"team": {"key": KEY}}
    async with both({"/v1/embeddings": answers({})}, keys=keys) as (engine, served):
        client = served.client
        for path in ("/v1/embeddings", "/v1/chat/completions", "/nothing", "/quality/v1/embeddings", "/openapi.json"):
            response = await client.post(path, json={})
            assert response.status_code == 401, path
            assert error_of(response)["message"].startswith("You didn't provide an API key.")
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.headers["x-request-id"]
        wrong = await client.get("/v1/models", headers={"authorization": f"Bearer {KEY}x"})
        assert (wrong.status_code, error_of(wrong)["code"]) == (401, "invalid_api_key")
        assert KEY not in wrong.text
        for path in ("/health", "/ready", "/metrics"):
            assert (await client.get(path)).status_code == 200
        assert not engine.passed
        assert not engine.requests
        page = (await client.get("/metrics")).text
        assert metric(page, "apportion_access_refused_total", reason="key") == 6
        assert (await client.get("/v1/models", headers=BEARER)).status_code == 200


async def test_the_engine_gets_its_own_key_and_the_client_never_sees_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    routes = {
        "/v1/embeddings": answers({}, headers={"set-cookie": "session=1", "server": "x"}),
        "/v1/messages": refuses(401, {"error": "Unauthorized"}),
    }
    async with both(routes, engine_key="engine-secret", keys={"team": {"key": KEY}}) as (engine, served):
        headers = {**BEARER, "cookie": "a=b", "x-vllm-priority": "-9", "x-request-id": "mine-1"}
        response = await served.client.post("/v1/embeddings", json={}, headers=headers)
        again = await served.client.post("/v1/embeddings", json={}, headers=BEARER)
        request, second = await engine.passed_on(1), await engine.passed_on(2)
        assert request.headers["authorization"] == "Bearer engine-secret"
        assert request.headers["x-request-id"] == response.headers["x-request-id"] == "mine-1"
        assert second.headers["x-request-id"] == again.headers["x-request-id"]
        assert again.headers["x-request-id"].startswith("req_")
        assert not {"cookie", "x-vllm-priority", "x-api-key"} & (set(request.headers) | set(second.headers))
        assert "set-cookie" not in response.headers
        refused = await served.client.post("/v1/messages", json={}, headers=BEARER)
        assert (refused.status_code, error_of(refused)["code"]) == (502, "engine_credentials")
        seen = f"{response.headers} {refused.headers} {refused.text} {(await served.client.get('/metrics')).text}"
    logged = " ".join(f"{record.getMessage()} {record.exc_info}" for record in caplog.records)
    for secret in (KEY, "engine-secret"):
        assert secret not in seen
        assert secret not in logged


async def test_limits_of_requests_are_told_and_held() -> None:
    keys = {"team": {"key": KEY, "requests_per_minute": 2}, "other": {"key": OTHER_KEY}}
    async with both({"/v1/embeddings": answers({})}, keys=keys) as (engine, served):
        first = await served.client.post("/v1/embeddings", json={}, headers=BEARER)
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert first.headers["x-ratelimit-remaining-requests"] == "1"
        assert first.headers["x-ratelimit-reset-requests"].endswith("s")
        assert "x-ratelimit-limit-tokens" not in first.headers
        assert (await served.client.get("/v1/models", headers=BEARER)).status_code == 200
        over = await served.client.post("/v1/embeddings", json={}, headers=BEARER)
        assert (over.status_code, error_of(over)["code"], error_of(over)["type"]) == (
            429, "rate_limit_exceeded", "requests",
        )  # fmt: skip
        assert 1 <= int(over.headers["retry-after"]) <= 60
        assert over.headers["x-ratelimit-remaining-requests"] == "0"
        other = await served.client.post("/v1/embeddings", json={}, headers={"x-api-key": OTHER_KEY})
        assert other.status_code == 200
        assert not [name for name in other.headers if name.startswith("x-ratelimit")]
        assert len(engine.passed) == 2
        page = (await served.client.get("/metrics")).text
        assert metric(page, "apportion_access_refused_total", reason="requests") == 1
        assert "team" not in page


@pytest.mark.parametrize("kind", ["text/plain", "", "multipart/form-data; boundary=x"])
async def test_no_content_type_is_a_way_around_a_budget(kind: str) -> None:
    """llama.cpp takes JSON under any name."""
    async with both({"/v1/completions": answers({})}, budgets={"cap_total_tokens": 8192}) as (engine, served):
        asked = json.dumps({"prompt": "x", "max_tokens": 9000})
        refused = await served.client.post("/v1/completions", content=asked, headers={"content-type": kind})
        assert (refused.status_code, error_of(refused)["param"]) == (400, "max_tokens")
        deep = asked[:-1] + ', "zzz": ' + "[" * 5000 + "]" * 5000 + "}"
        refused = await served.client.post("/v1/completions", content=deep, headers={"content-type": kind})
        assert (refused.status_code, error_of(refused)["code"]) == (400, "invalid_json")
        assert not engine.passed


@pytest.mark.parametrize("streamed", [False, True])
async def test_tokens_of_a_chat_are_reserved_and_then_what_they_were(streamed: bool) -> None:
    keys = {"team": {"key": KEY, "tokens_per_minute": 1000}}
    async with both(keys=keys) as (engine, served):
        response = await served.chat(
            "majority_vote@4", max_tokens=100, stream=streamed, headers=BEARER, apportion={"max_total_tokens": 400}
        )
        assert response.status_code == 200
        assert response.headers["x-ratelimit-limit-tokens"] == "1000"
        assert int(response.headers["x-ratelimit-remaining-tokens"]) < 1000 - 400
        await served.idle()
        after = await served.client.get("/v1/models", headers=BEARER)
        assert int(after.headers["x-ratelimit-remaining-tokens"]) == 1000 - engine.tokens - engine.prompt_tokens


async def test_a_response_is_paid_for_like_a_chat_and_keeps_to_the_keys_profiles() -> None:
    keys = {"team": {"key": KEY, "tokens_per_minute": 1000, "profiles": ["fast"]}}
    async with both(keys=keys) as (engine, served):
        asked = {"input": "How much is 3 + 4?", "max_output_tokens": 100}
        response = await served.client.post("/v1/responses", json=asked, headers=BEARER)
        assert response.json()["apportion"]["profile"] == "fast"
        after = await served.client.get("/v1/models", headers=BEARER)
        assert int(after.headers["x-ratelimit-remaining-tokens"]) == 1000 - engine.tokens - engine.prompt_tokens
        other = await served.client.post("/quality/v1/responses", json=asked, headers=BEARER)
        assert (other.status_code, error_of(other)["code"]) == (403, "not_permitted")


async def test_tokens_that_are_not_there_are_a_429_before_anything_is_asked() -> None:
    keys = {"team": {"key": KEY, "tokens_per_minute": 500}}
    async with both({"/v1/completions": answers({"usage": USAGE})}, keys=keys) as (engine, served):
        headers = BEARER
        spent = {"usage": {"prompt_tokens": 0, "completion_tokens": 480}}
        engine.routes["/v1/completions"] = answers(spent)
        assert (await served.client.post("/v1/completions", json={}, headers=headers)).status_code == 200
        for stream in (False, True):
            refused = await served.chat(max_tokens=100, stream=stream, headers=headers)
            assert (refused.status_code, error_of(refused)["type"]) == (429, "tokens")
        asked = await served.client.post("/v1/completions", json={"max_tokens": 100}, headers=headers)
        assert asked.status_code == 429
        assert asked.headers["x-ratelimit-remaining-tokens"] == "20"
        assert not engine.requests
        assert len(engine.passed) == 1
        page = (await served.client.get("/metrics")).text
        assert metric(page, "apportion_access_refused_total", reason="tokens") == 3
        assert (await served.chat(max_tokens=3, headers=headers, content="x")).status_code == 200


async def test_a_client_that_bounds_nothing_may_ask_again_while_enough_is_left() -> None:
    keys = {"team": {"key": KEY, "tokens_per_minute": 2000}}
    async with both(keys=keys) as (engine, served):
        for _ in range(3):
            assert (await served.chat(headers=BEARER)).status_code == 200
        after = await served.client.get("/v1/models", headers=BEARER)
        assert int(after.headers["x-ratelimit-remaining-tokens"]) == 2000 - engine.tokens - 3 * engine.prompt_tokens


@pytest.mark.parametrize(
    ("act", "spent"),
    [
        (answers({**COMPLETION, "usage": USAGE}), 12),
        (pieces_of(*STREAM, LAST), 7),
        (pieces_of(*STREAM), 2),  # an event is a token where nobody tells
        (answers(COMPLETION), 50),  # what nobody can tell costs what it might have
        (refuses(400), 0),
        (refuses(500), 0),
    ],
)
async def test_a_passed_on_request_costs_what_the_engine_says(act: Act, spent: int) -> None:
    keys = {"team": {"key": KEY, "tokens_per_minute": 1000}}
    async with both({"/v1/completions": act}, keys=keys) as (_, served):
        asked = {"prompt": "x", "max_tokens": 50}
        await served.client.post("/v1/completions", json=asked, headers=BEARER)
        after = await served.client.get("/v1/models", headers=BEARER)
        prompt = 0 if spent in (0, 7, 12) else len(json.dumps(asked, separators=(",", ":"))) // 4
        assert int(after.headers["x-ratelimit-remaining-tokens"]) == 1000 - spent - prompt


@pytest.mark.parametrize(
    ("act", "asked", "spent"),
    [
        (answers({"usage": USAGE}), {"prompt": ["a", "b"], "n": 2}, 5 + 4 * 7),
        (answers({"usage": USAGE}), {"prompt": "a", "n_cmpl": 2}, 5 + 2 * 7),
        (pieces_of(*STREAM, LAST), {"prompt": "a", "n": 2}, 5 + 2 * 2),
    ],
)
async def test_every_choice_costs_where_the_engine_tells_of_one(act: Act, asked: dict[str, Any], spent: int) -> None:
    keys = {"team": {"key": KEY, "tokens_per_minute": 1000}}
    async with both({"/v1/completions": act}, dialect=LLAMA_CPP, keys=keys) as (_, served):
        await served.client.post("/v1/completions", json={"max_tokens": 50, **asked}, headers=BEARER)
        after = await served.client.get("/v1/models", headers=BEARER)
        assert int(after.headers["x-ratelimit-remaining-tokens"]) == 1000 - spent


async def test_larger_events_cost_as_many_tokens_as_were_asked_for() -> None:
    keys = {"team": {"key": KEY, "tokens_per_minute": 1000}}
    async with both({"/v1/completions": pieces_of(*STREAM)}, keys=keys) as (_, served):
        asked = b'{"stream_interval":20}'
        await served.client.post("/v1/completions", content=asked, headers=BEARER)
        after = await served.client.get("/v1/models", headers=BEARER)
        assert int(after.headers["x-ratelimit-remaining-tokens"]) == 1000 - len(asked) // 4 - 2 * 20


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ({"prompt": "x"}, {"prompt": "x", "max_tokens": 100}),
        ({"prompt": "x", "n": 2, "max_tokens": 5, "n_predict": -1}, {"prompt": "x", "n": 2, "max_tokens": 50}),
        ({"prompt": "x", "max_tokens": 5}, {"prompt": "x", "max_tokens": 5}),
    ],
)
async def test_an_engine_that_would_write_on_is_given_the_keys_limit(asked: Any, sent: Any) -> None:
    keys = {"team": {"key": KEY, "max_total_tokens": 100}}
    for dialect in (LLAMA_CPP, VLLM):
        async with both({"/v1/completions": answers({})}, dialect=dialect, keys=keys) as (engine, served):
            assert (await served.client.post("/v1/completions", json=asked, headers=BEARER)).status_code == 200
            assert engine.passed[0].body == (sent if dialect is LLAMA_CPP else asked)


async def test_a_keys_largest_budget_holds_for_what_is_passed_on() -> None:
    keys = {"team": {"key": KEY, "max_total_tokens": 100, "deadline_ms": 300, "tokens_per_minute": 1000}}
    async with both({"/v1/completions": hangs}, keys=keys) as (engine, served):
        refused = await served.client.post("/v1/completions", json={"max_tokens": 101}, headers=BEARER)
        assert (refused.status_code, error_of(refused)["param"]) == (400, "max_tokens")
        assert not engine.passed
        late = await served.client.post("/v1/completions", json={"max_tokens": 100}, headers=BEARER)
        assert (late.status_code, error_of(late)["code"]) == (504, "deadline_exceeded")
        after = await served.client.get("/v1/models", headers=BEARER)
        left = int(after.headers["x-ratelimit-remaining-tokens"])
        assert left == 1000 - 100 - len(b'{"max_tokens":100}') // 4, "nobody can tell how far it got"


async def test_a_keys_largest_budget_holds_for_chats() -> None:
    """Whatever the client asks for; in what it gets it sees what it had."""
    keys = {"team": {"key": KEY, "max_total_tokens": 500, "deadline_ms": 9_000}}
    async with both(keys=keys) as (_, served):
        asked = {"max_total_tokens": 5000, "deadline_ms": 60_000}
        for apportion in (asked, {}):
            response = await served.chat(headers=BEARER, apportion=apportion)
            budget = response.json()["apportion"]["budget"]
            assert (budget["max_total_tokens"], budget["deadline_ms"]) == (500, 9_000)


@pytest.mark.parametrize(
    "asked",
    [
        {"apportion": {"profile": "quality"}},
        {"headers": {"x-apportion-profile": "quality"}},
        {"model": "tiny:quality"},
    ],
)
async def test_a_profile_that_is_not_the_keys_is_a_403(asked: dict[str, Any]) -> None:
    fields: dict[str, Any] = {**asked, "headers": {**BEARER, **asked.get("headers", {})}}
    async with both(keys={"team": {"key": KEY, "profiles": ["fast"]}}) as (engine, served):
        refused = await served.chat(**fields)
        assert (refused.status_code, error_of(refused)["code"]) == (403, "not_permitted")
        assert "it may for fast" in error_of(refused)["message"]
        assert not engine.requests


@pytest.mark.parametrize("asked", [{}, {"apportion": {"profile": "fast"}}, {"reasoning_effort": "high"}])
async def test_who_asks_for_no_other_profile_gets_the_keys(asked: dict[str, Any]) -> None:
    """`reasoning_effort` is sent unasked by some clients: it is a wish."""
    async with both(keys={"team": {"key": KEY, "profiles": ["fast"]}}) as (_, served):
        body = {"messages": [{"role": "user", "content": "x"}], **asked}
        response = await served.client.post("/v1/chat/completions", json=body, headers=BEARER)
        assert response.json()["apportion"]["profile"] == "fast"


# --- browsers


async def test_without_configured_origins_no_page_may_call() -> None:
    async with both({"/v1/embeddings": answers({}, headers={"access-control-allow-origin": "*"})}) as (_, served):
        origin = {"origin": "https://app.example", "access-control-request-method": "POST"}
        preflight = await served.client.options("/v1/embeddings", headers=origin)
        response = await served.client.post("/v1/embeddings", json={}, headers=origin)
        for headers in (preflight.headers, response.headers):
            assert not [name for name in headers if name.startswith("access-control")]


async def test_a_configured_origin_may_call_with_a_key_and_read_the_limits() -> None:
    access, keys = {"cors_origins": ["https://app.example"]}, {"team": {"key": KEY, "requests_per_minute": 5}}
    async with both({"/v1/embeddings": answers({})}, access=access, keys=keys) as (_, served):
        asking = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        preflight = await served.client.options("/v1/embeddings", headers={"origin": "https://app.example", **asking})
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://app.example"
        response = await served.client.post(
            "/v1/embeddings", json={}, headers={"origin": "https://app.example", **BEARER}
        )
        assert response.headers["access-control-allow-origin"] == "https://app.example"
        assert "x-ratelimit-remaining-requests" in response.headers["access-control-expose-headers"]
        unknown = await served.client.options("/v1/embeddings", headers={"origin": "https://evil.example", **asking})
        assert "access-control-allow-origin" not in unknown.headers


# --- models


async def test_models_are_the_engines_with_profiles_when_listed() -> None:
    async with both(server={"list_profiles": True}, keys={"a": {"key": KEY, "profiles": ["fast"]}}) as (_, served):
        listed = (await served.client.get("/v1/models", headers=BEARER)).json()
        assert [model["id"] for model in listed["data"]] == ["tiny", "tiny:fast"]
        assert listed["data"][0] == {
            "id": "tiny", "object": "model", "created": 1, "owned_by": "vllm", "max_model_len": 2048,
        }  # fmt: skip


@pytest.mark.parametrize(("name", "status"), [("tiny", 200), ("tiny:quality", 200), ("tiny:none", 404), ("x", 404)])
async def test_a_model_may_be_asked_for_with_a_profile(name: str, status: int) -> None:
    async with both() as (_, served):
        response = await served.client.get(f"/v1/models/{name}")
        assert response.status_code == status
        assert [model["id"] for model in (await served.client.get("/v1/models")).json()["data"]] == ["tiny"]
