"""What every endpoint that generates does: take a place, read, decide, run, answer in its own shape."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import ExitStack
from typing import Any, Protocol, cast

import orjson
from starlette.requests import Request
from starlette.responses import Response

from server.api.base_url import PATH
from server.api.body import ClientGone, read_json, unread, while_connected
from server.api.request import ChatRequest
from server.api.stream import EventStream
from server.api.work import Work, decide
from server.errors import ApiError
from server.gateway import Gateway
from strategies.types import Outcome


class Shape(Protocol):
    """One request as an endpoint understands it, and how that endpoint answers."""

    @property
    def request(self) -> ChatRequest: ...

    def whole(self, work: Work, outcome: Outcome) -> Mapping[str, Any]:
        """The body of an unstreamed answer."""
        ...

    def events(self, work: Work) -> AsyncGenerator[bytes, None]:
        """The bytes of a streamed answer, of `work.events`. Closing the generator cancels the work.

        Raises ApiError for a failure before the first event; after it, the failure is an event.
        """
        ...


async def answered(request: Request, read: Callable[[object], Shape], *, prefix: str) -> Response:
    """The response to one request. read: of the parsed body, raises ApiError; prefix: of the answer's id."""
    arrived = time.monotonic()
    request.state.id = f"{prefix}{uuid.uuid4().hex}"
    gateway = cast("Gateway", request.app.state.gateway)
    with ExitStack() as place:
        try:
            place.enter_context(gateway.admit())
            shape = read(await read_json(request, gateway.config.server))
            work = decide(
                gateway,
                shape.request,
                request.headers,
                id=request.state.id,
                arrived=arrived,
                path=request.scope.get(PATH),
                caller=request.state.caller,
            )
        except ApiError as error:
            gateway.metrics.refused(error.status)
            raise
        except ClientGone:
            return unread()
        if shape.request.stream:
            # the place is given back after the last event, not when the response object has been made
            return EventStream(
                shape.events(work), work.headers, place=place.pop_all(), deadline=work.query.budget.deadline
            )
        try:
            outcome = await while_connected(request.receive, work.outcome())
        except ClientGone:
            return unread()
        content = orjson.dumps(shape.whole(work, outcome))
        return Response(content, media_type="application/json", headers=work.headers_after(outcome))
