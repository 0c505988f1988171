"""Server-sent events: how they are written, and the response that sends them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractContextManager, aclosing
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.api.body import ClientGone, while_connected

logger = logging.getLogger("apportion")
SENDING_GRACE = 5.0  # seconds past the deadline that a client may take to read what has been sent
DONE = b"data: [DONE]\n\n"


class EventStream(Response):
    """Sends what a generator of events yields, and closes it when the client goes or stops reading."""

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        headers: Mapping[str, str],
        *,
        place: AbstractContextManager[Any],
        deadline: float,
    ) -> None:
        """`place`: left when the stream has ended, however it ends. deadline: monotonic seconds."""
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-cache", **headers})
        del self.headers["content-length"]
        self._events = events
        self._place = place
        self._deadline = deadline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._place:
            timer = asyncio.timeout(self._deadline + SENDING_GRACE - time.monotonic())
            try:
                async with timer:
                    await while_connected(receive, self._send(send))
            except ClientGone:
                logger.debug("client left a stream")
            except TimeoutError:
                if not timer.expired():
                    raise
                # left unfinished, the server closes the connection: a stalled reader must not keep a place for ever
                logger.warning("a client stopped reading its stream")

    async def _send(self, send: Send) -> None:
        async with aclosing(self._events):
            # the start waits for the first event: a failure before it raises here, and gets a status of its own
            event = await anext(self._events)
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": event, "more_body": True})
            async for event in self._events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def data(content: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(content) + b"\n\n"


def comment(text: str) -> bytes:
    """A line that clients skip: a sign of life."""
    return f": {text}\n\n".encode()
