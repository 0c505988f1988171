"""One client's connection: uvicorn's, with bounds on a request's head, which uvicorn leaves open."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from server.errors import ApiError, HeadTooLarge, InvalidRequest, error_body

_MOST_BYTES = 64 * 1024  # of a head, beside what one read brings


class Connection(HttpToolsProtocol):
    """Without a key anyone can send a head: one without end would fill the memory, one that stalls keep a socket."""

    def __init__(self, *args: Any, patience: float, **options: Any) -> None:
        """patience: seconds in which a head has to be there, from the connection or from its first byte on."""
        super().__init__(*args, **options)
        self._patience = patience
        self._overdue: asyncio.TimerHandle | None = None  # while a head is waited for
        self._size = 0  # of the head so far

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._wait()

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        waited = self._overdue
        super().data_received(data)
        if self._overdue is None:
            cycle = self._current
            if cycle is not None and cycle.response_complete and self.timeout_keep_alive_task is None:
                self._wait()  # what comes after an answer, such as the rest of its request, is no reason to stay
        elif self._overdue is waited:
            self._size += len(data)
            if self._size > _MOST_BYTES:
                self._refuse(HeadTooLarge(_MOST_BYTES))

    def send_400_response(self, msg: str) -> None:
        self._refuse(InvalidRequest("the request is not valid HTTP", code="invalid_http"))

    @property
    def _current(self) -> RequestResponseCycle | None:
        """The request that is or was answered last."""
        return cast("RequestResponseCycle | None", self.cycle)

    def _wait(self) -> None:
        if self._overdue is None:
            self._size = 0
            self._overdue = self.loop.call_later(self._patience, self._give_up)

    def _stop_waiting(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None

    def _give_up(self) -> None:
        self._overdue = None
        if (cycle := self._current) is None or cycle.response_complete:
            self.transport.close()
        else:  # the next request has begun while this one is being answered
            self._wait()

    def _refuse(self, error: ApiError) -> None:
        self._stop_waiting()
        body = error_body(error)
        head = (
            f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
