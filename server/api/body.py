"""Reading a request's body, and noticing when its client has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive

from server.config import Server
from server.errors import InvalidRequest, PayloadTooLarge, RequestTimeout

T = TypeVar("T")


class ClientGone(Exception):
    """The client closed the connection before its answer."""


def unread() -> Response:
    """For a client that has gone; 499 is what proxies log for it."""
    return Response(status_code=499)


async def read_json(request: Request, limits: Server) -> Any:
    """The parsed body. Raises ApiError: too large, too slow, not JSON; ClientGone."""
    return parsed(await read_body(request, limits))


def parsed(raw: bytes) -> Any:
    """Raises ApiError: not JSON."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error.msg}", code="invalid_json") from None


async def read_body(request: Request, limits: Server) -> bytes:
    """The body as it came. Raises ApiError: too large, too slow; ClientGone."""
    raw = bytearray()
    try:
        async with asyncio.timeout(limits.body_timeout_seconds):
            async for chunk in request.stream():
                raw += chunk
                if len(raw) > limits.max_body_bytes:
                    raise PayloadTooLarge(limits.max_body_bytes)
    except TimeoutError:
        raise RequestTimeout(limits.body_timeout_seconds) from None
    except ClientDisconnect:
        raise ClientGone from None
    return bytes(raw)


async def disconnected(receive: Receive) -> None:
    """Return when the client has gone. Only after the whole body has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Run the work, and cancel it, and with it all it does on the engine, when the client goes. Raises ClientGone."""
    task = asyncio.create_task(work)
    watcher = asyncio.create_task(disconnected(receive))
    try:
        await asyncio.wait((task, watcher), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        for pending in (task, watcher):
            pending.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)
