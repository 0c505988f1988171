"""A request's body that goes on to the engine while it comes in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from server.api.body import ClientGone
from server.errors import ApiError, PayloadTooLarge, RequestTimeout


class Upload:
    """Never more than one piece of it is here. Read once."""

    def __init__(self, request: Request, *, limit: int, patience: float) -> None:
        """limit: bytes. patience: seconds between two pieces."""
        self._request = request
        self._limit = limit
        self._patience = patience
        self._read = asyncio.Event()
        self.failure: ApiError | ClientGone | None = None  # why it broke off, when the engine's client only knows that

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Raises what `failure` says."""
        size = 0
        stream = self._request.stream()
        try:
            while True:
                async with asyncio.timeout(self._patience):
                    piece = await anext(stream, None)
                if piece is None:
                    break
                size += len(piece)
                if size > self._limit:
                    raise PayloadTooLarge(self._limit)
                if piece:
                    yield piece
        except TimeoutError:
            self.failure = RequestTimeout(self._patience)
            raise self.failure from None
        except ClientDisconnect:
            self.failure = ClientGone()
            raise self.failure from None
        except ApiError as error:
            self.failure = error
            raise
        self._read.set()

    async def receive(self) -> Message:
        """For what waits for the client's leaving: the request's own messages, once the body has been read."""
        await self._read.wait()
        return await self._request.receive()
