"""Connections to an engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

T = TypeVar("T")
_KEEP_ALIVE = 5.0  # seconds that an unused connection is kept, as httpx itself does


def pooled(max_connections: int) -> httpx.AsyncBaseTransport:
    """One pool of so many connections, over aiohttp."""
    tls = httpx.create_ssl_context(trust_env=False)

    def session() -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(limit=max_connections, keepalive_timeout=_KEEP_ALIVE, ssl=tls)
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

    return AiohttpTransport(verify=tls, trust_env=False, client=session)


async def again_if_stale(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask a second time when the connection was one that the engine had closed meanwhile. Raises what `ask` raises."""
    try:
        return await ask()
    except httpx.HTTPError as error:
        if not was_connected(error):
            raise
    return await ask()


def was_connected(error: httpx.HTTPError) -> bool:
    """The aiohttp transport calls a connection that was lost a ConnectTimeout too; its cause tells."""
    cause = error.__cause__
    lost = isinstance(cause, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)
    return lost and not isinstance(cause, aiohttp.ClientConnectorError)
