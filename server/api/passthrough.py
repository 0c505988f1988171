"""Every request that the gateway does not answer itself: it goes on to the engine as it came, where it may.

The bytes of the body and of the response are the client's and the engine's; what changes are headers, and the shape of
errors.
"""

from __future__ import annotations

import asyncio
import logging
import re
import string
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, ExitStack, aclosing, nullcontext
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote

import httpx
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketClose

from server.access.caller import Caller, account
from server.api.body import ClientGone, read_body, unread, while_connected
from server.api.cost import Cost, cost, limited
from server.api.upload import Upload
from server.backends.wire import BROKEN, refusal
from server.errors import (
    SERVER_ERROR,
    ApiError,
    DeadlineExceeded,
    EngineFailed,
    MethodNotAllowed,
    UnknownUrl,
    error_body,
    from_engine,
    new_id,
)
from server.gateway import Gateway
from server.passthrough import rules
from server.passthrough.usage import Tail
from strategies.types import EngineError

logger = logging.getLogger("apportion")
_QUERY = string.punctuation.replace("#", "")  # stands in a query as it is; letters and digits always do
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# Who has no such endpoint says so in words of its own: FastAPI's, llama.cpp's, none
_NO_ENDPOINT = frozenset({"not found", "file not found", "the engine answered 404"})
_MAX_REWRITTEN_BYTES = 64 * 1024 * 1024  # of an answer that has to be read whole


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """What a path that no route has goes to."""
    if scope["type"] == "websocket":
        await WebSocketClose()(scope, receive, send)
        return
    response = await pass_through(Request(scope, receive))
    await response(scope, receive, send)


@dataclass(frozen=True, slots=True)
class Change:
    """What is sent instead of a body, and what is made of the answer to it."""

    content: bytes
    rewrite: Callable[[bytes], bytes] | None = None  # of an answer that is read whole; raises ApiError


async def pass_through(
    request: Request, *, body: bytes | None = None, change: Callable[[bytes], Change] = Change
) -> Response:
    """The engine's response to this request. body: where it has been read already. Raises ApiError."""
    arrived = time.monotonic()
    gateway = cast("Gateway", request.app.state.gateway)
    path: str = request.scope["path"]  # not request.url, which the Host header has a say in
    if not rules.passes(path, gateway.config.passthrough):
        raise UnknownUrl(request.method, path)
    if request.method not in rules.METHODS:
        raise MethodNotAllowed(request.method, path)
    given = request.headers.get("x-request-id", "")
    request.state.id = given if _REQUEST_ID.fullmatch(given) else new_id()
    with ExitStack() as place:
        try:
            place.enter_context(gateway.admit())
            content = await _content(request, gateway) if body is None else body
            passed = _passed(request, gateway, content, change, arrived)
        except ApiError as error:
            gateway.metrics.passed(path, f"{error.status // 100}xx", time.monotonic() - arrived)
            raise
        except ClientGone:
            gateway.metrics.passed(path, "cancelled", time.monotonic() - arrived)
            return unread()
        passed.place = place.pop_all()
        return passed


async def _content(request: Request, gateway: Gateway) -> bytes | Upload:
    """JSON is read whole, because its tokens count; everything else goes on while it comes in.

    Where text is written it is JSON, whatever the header calls it: llama.cpp does not look at that.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json") or rules.generates(request.scope["path"]):
        return await read_body(request, gateway.config.server)
    if request.headers.get("content-length", "0") == "0" and "transfer-encoding" not in request.headers:
        return b""
    return Upload(
        request,
        limit=gateway.config.passthrough.max_upload_bytes,
        patience=gateway.config.server.body_timeout_seconds,
    )


def _passed(
    request: Request, gateway: Gateway, content: bytes | Upload, change: Callable[[bytes], Change], arrived: float
) -> Passed:
    """Raises ApiError."""
    caller = cast("Caller", request.state.caller)
    deadline_ms = caller.capped_deadline(gateway.config.budgets.cap_deadline_ms)
    if isinstance(content, Upload):
        return Passed(request, content, Cost(), arrived=arrived, deadline_ms=deadline_ms)
    changed = change(content)
    cap = caller.capped_tokens(gateway.config.budgets.cap_total_tokens)
    expected = cost(changed.content, generates=rules.generates(request.scope["path"]), cap=cap)
    body = changed.content
    if body and not expected.bounded and gateway.engine.profile.open_ended:
        body = limited(body, expected, cap=cap)
    return Passed(request, body, expected, rewrite=changed.rewrite, arrived=arrived, deadline_ms=deadline_ms)


class Passed(Response):
    """Asks the engine and sends what it says, piece by piece, until it ends, the client goes or the time is up."""

    def __init__(
        self,
        request: Request,
        content: bytes | Upload,
        expected: Cost,
        *,
        rewrite: Callable[[bytes], bytes] | None = None,
        arrived: float,
        deadline_ms: int,
    ) -> None:
        """arrived: monotonic seconds; deadline_ms: from then on."""
        super().__init__()
        self.place: AbstractContextManager[Any] = nullcontext()  # left when the response has ended, however it ends
        self._request = request
        self._content = content
        self._expected = expected
        self._rewrite = rewrite
        self._gateway = cast("Gateway", request.app.state.gateway)
        self._path: str = request.scope["path"]
        self._arrived = arrived
        self._deadline_ms = deadline_ms
        self._tail = Tail()
        self._begun = False
        self._streams = False
        self._late = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        outcome = "cut"
        watched = self._content.receive if isinstance(self._content, Upload) else receive
        with self.place:
            timer = asyncio.timeout(self._arrived + self._deadline_ms / 1000 - time.monotonic())
            try:
                async with timer:
                    outcome = await while_connected(watched, self._relay(send))
            except ClientGone:
                outcome = "cancelled"
            except TimeoutError:
                if not timer.expired():
                    raise
                if not self._begun:
                    outcome, self._late = "5xx", True
                    raise DeadlineExceeded(self._deadline_ms) from None
                logger.warning("a passed-on response took longer than %d ms", self._deadline_ms)
            except ApiError as error:
                outcome, self._late = f"{error.status // 100}xx", error.status == 504
                raise
            finally:
                self._count(outcome)

    async def _relay(self, send: Send) -> str:
        """How it ended. Raises ApiError, before the response has begun; ClientGone."""
        await account().reserve(self._expected.total)
        response = await self._asked()
        try:
            if response.status_code >= 300 and response.status_code != 304:
                raise await _refused(response, self._request.method, self._path)
            if self._rewrite is not None:
                return await self._send_rewritten(self._rewrite, response, send)
            return await self._send(response, send)
        finally:
            await response.aclose()

    async def _asked(self) -> httpx.Response:
        """Raises ApiError, ClientGone."""
        upload = self._content if isinstance(self._content, Upload) else None
        query = self._request.scope["query_string"]
        try:
            return await self._gateway.engine.relay(
                self._request.method,
                f"{self._path}?{quote(query, safe=_QUERY)}" if query else self._path,
                headers=rules.to_engine(self._request.headers, self._request.state.id),
                content=upload.pieces() if upload is not None else cast("bytes", self._content) or None,
                seconds=self._deadline_ms / 1000,
                again=upload is None and rules.computes(self._path),
            )
        except EngineError as error:
            if upload is not None and upload.failure is not None:
                raise upload.failure from None
            raise from_engine(error) from error

    async def _send(self, response: httpx.Response, send: Send) -> str:
        headers = rules.to_client(response.headers.multi_items())
        self._streams = headers.get("content-type", "").startswith("text/event-stream")
        await self._start(response.status_code, headers, send)
        try:
            async with aclosing(self._pieces(response)) as pieces:
                async for piece in pieces:
                    self._tail.see(piece)
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        except EngineError as error:
            if self._streams and self._tail.between_events:
                event = _error_event(self._path, from_engine(error))
                await send({"type": "http.response.body", "body": event, "more_body": False})
            return "cut"  # otherwise left unfinished: the server closes the connection, so that the client notices
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return f"{response.status_code // 100}xx"

    async def _send_rewritten(self, rewrite: Callable[[bytes], bytes], response: httpx.Response, send: Send) -> str:
        raw = bytearray()
        try:
            async with aclosing(self._pieces(response)) as pieces:
                async for piece in pieces:
                    raw += piece
                    if len(raw) > _MAX_REWRITTEN_BYTES:
                        raise EngineError("the engine's answer is past any sensible size", status=502)
        except EngineError as error:
            raise from_engine(error) from error
        content = rewrite(bytes(raw))
        self._tail.see(content)
        headers = rules.to_client(response.headers.multi_items()) | {"content-length": str(len(content))}
        await self._start(response.status_code, headers, send)
        await send({"type": "http.response.body", "body": content, "more_body": False})
        return f"{response.status_code // 100}xx"

    async def _start(self, status: int, headers: dict[str, str], send: Send) -> None:
        told = {**headers, "x-request-id": self._request.state.id}
        pairs = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in told.items()]
        self._begun = True
        await send({"type": "http.response.start", "status": status, "headers": pairs})

    async def _pieces(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        """The body's bytes as they come. Raises EngineError when it breaks off or pauses for too long."""
        engine = self._gateway.config.engine
        patience = engine.first_token_timeout_seconds
        pieces = response.aiter_raw()
        while True:
            try:
                async with asyncio.timeout(patience):
                    piece = await anext(pieces, None)
            except (TimeoutError, httpx.ReadTimeout) as error:
                raise EngineError(f"the engine sent nothing for {patience:g} s", status=504) from error
            except BROKEN as error:
                raise EngineError(f"the engine broke off its answer: {type(error).__name__}", status=502) from error
            if piece is None:
                return
            patience = engine.idle_timeout_seconds
            yield piece

    def _count(self, outcome: str) -> None:
        metrics, usage, expected = self._gateway.metrics, self._tail.usage(), self._expected
        metrics.passed(self._path, outcome, time.monotonic() - self._arrived)
        if usage is not None:
            of_one = self._gateway.engine.profile.usage_per_choice and self._rewrite is None
            completion = usage.completion * (expected.choices if of_one else 1)
            metrics.passed_tokens(expected.model, prompt=usage.prompt, completion=completion)
            account().spend(usage.prompt + completion)
        elif rules.generates(self._path) and (self._late or outcome in ("2xx", "cut", "cancelled")):
            # an event is at least a token; of what was not streamed nobody can tell what has been done
            streamed = expected.prompt + self._tail.events * expected.an_event
            account().spend(streamed if self._streams else expected.total)


async def _refused(response: httpx.Response, method: str, path: str) -> ApiError:
    """The engine's refusal in OpenAI's shape, with its status and its words."""
    if response.status_code < 400:  # its address is none of the client's business
        return EngineFailed("The engine redirected the request.", status=502, type=SERVER_ERROR, code="engine_redirect")
    error = await refusal(response)
    if error.status == 404 and str(error).strip().lower().rstrip(".") in _NO_ENDPOINT:
        return UnknownUrl(method, path)
    if error.status == 405:
        return MethodNotAllowed(method, path, allow=response.headers.get("allow"))
    return from_engine(error)


def _error_event(path: str, error: ApiError) -> bytes:
    """A failure in the middle of a stream, as the endpoint's clients understand it."""
    if rules.family(path) == "messages":  # Anthropic's events are named
        return b'event: error\ndata: {"type":"error",' + error_body(error)[1:] + b"\n\n"
    return b"data: " + error_body(error) + b"\n\n"
