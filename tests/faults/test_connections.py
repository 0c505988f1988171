"""What a client can do with a connection before, between and after its requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from tests.fake_engine import running, within
from tests.serving import Served, serving

pytestmark = pytest.mark.anyio

GET = b"GET /health HTTP/1.1\r\nhost: x\r\n"
ANSWER = b'{"status":"ok"}'


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The loop the gateway runs on in production."""
    return "asyncio", {"use_uvloop": True}


@asynccontextmanager
async def connected(
    seconds: float = 60,
) -> AsyncGenerator[tuple[Served, asyncio.StreamReader, asyncio.StreamWriter], None]:
    """seconds: that a head may take."""
    async with running() as engine, serving(engine.url, server={"body_timeout_seconds": seconds}) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        try:
            yield served, reader, writer
        finally:
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)  # closed from the other side


@pytest.mark.parametrize("sent", [b"", GET, GET + b"x: y", b"\r\n\r\n", b"POST /health HTTP/1.1\r\nx-y: "])
async def test_a_head_that_does_not_come_ends_the_connection(sent: bytes) -> None:
    async with connected(0.2) as (_, reader, writer):
        writer.write(sent)
        assert await within(reader.read()) == b""


@pytest.mark.parametrize("sent", [GET, b"\r\n", b"x"])
async def test_nor_does_the_next_one_keep_it(sent: bytes) -> None:
    """uvicorn's own limit for a connection at rest ends with the first byte."""
    async with connected(0.2) as (_, reader, writer):
        writer.write(GET + b"\r\n")
        await within(reader.readuntil(ANSWER))
        writer.write(sent)
        assert ANSWER not in await within(reader.read())


async def test_a_body_that_goes_on_after_its_answer_does_not_keep_it() -> None:
    async with connected(0.2) as (_, reader, writer):
        writer.write(b"POST /health HTTP/1.1\r\nhost: x\r\ncontent-length: 9000000\r\n\r\n")
        assert b" 405 " in await within(reader.readuntil(b"\r\n\r\n"))
        writer.write(b"x")
        await within(reader.read())


@pytest.mark.parametrize(
    "part", [b"x: " + b"y" * 1000 + b"\r\n", b"y" * 1000], ids=["many headers", "one endless header"]
)
async def test_a_head_without_end_is_a_431(part: bytes) -> None:
    async with connected() as (_, reader, writer):
        writer.write(GET + b"x: ")
        for _ in range(1000):
            writer.write(part)
            try:
                await writer.drain()
            except ConnectionError:
                break
            await asyncio.sleep(0)  # in many reads, as from a network
        try:
            head, _, content = (await within(reader.read())).partition(b"\r\n\r\n")
        except ConnectionResetError:  # what is not read any more may take the answer with it
            return
        assert head.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
        assert json.loads(content)["error"]["code"] == "headers_too_large"


async def test_what_is_no_http_gets_an_error_of_openais_shape() -> None:
    async with connected() as (_, reader, writer):
        writer.write(b"HELO x\r\n\r\n")
        head, _, content = (await within(reader.read())).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n")
        assert json.loads(content) == {
            "error": {
                "message": "the request is not valid HTTP",
                "type": "invalid_request_error",
                "param": None,
                "code": "invalid_http",
            }
        }


async def test_a_head_in_parts_and_one_of_40_kb_are_left_alone() -> None:
    async with connected() as (served, reader, writer):
        for _ in range(3):
            for part in (GET[:5], GET[5:], b"a: b\r\n", b"\r\n"):
                writer.write(part)
                await asyncio.sleep(0)
            await within(reader.readuntil(ANSWER))
        large = {"x-large": "y" * 40_000}
        assert (await served.client.get("/health", headers=large)).status_code == 200


async def test_the_next_requests_head_does_not_end_the_answer_before_it() -> None:
    """Pipelined: the engine answers after the next head would have had to be there."""
    async with running() as engine, serving(engine.url, server={"body_timeout_seconds": 0.1}) as served:
        arrived, go_on = asyncio.Event(), asyncio.Event()

        async def late(exchange: object) -> None:
            arrived.set()
            await go_on.wait()
            await answer(exchange)  # type: ignore[arg-type]

        answer, engine.act = engine.act, late
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        asked = json.dumps({"messages": [{"role": "user", "content": "x"}], "apportion": {"strategy": "single"}})
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(asked)}\r\n\r\n"
        writer.write(head.encode() + asked.encode())
        await within(arrived.wait())
        writer.write(GET)
        asyncio.get_running_loop().call_later(0.3, go_on.set)
        assert (await within(reader.readuntil(b"\r\n"))) == b"HTTP/1.1 200 OK\r\n"
        await within(reader.read())  # then the head that never ended
        writer.close()
        await writer.wait_closed()
