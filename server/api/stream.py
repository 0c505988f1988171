"""Server-sent events in OpenAI's shape.

`single` is passed on token by token. Strategies with several candidates keep the line alive with comments until their
answer is chosen, and then send it. An error after the start is a `data: {"error": ...}` line.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from router.features import Features
from server.api.body import ClientGone, while_connected
from server.api.response import apportion, finish_reason, message, trimmed, usage
from server.errors import ApiError, DeadlineExceeded, InternalError, error_body, from_engine
from server.pipeline import Pipeline
from strategies.anytime import NothingYet
from strategies.types import Allocation, Candidate, Delta, EngineError, Outcome, Query

logger = logging.getLogger("apportion")
SENDING_GRACE = 5.0  # seconds past the deadline that a client may take to read what has been sent
_AHEAD = 64  # pieces read ahead of a slow client; then the engine has to wait
Chunk = Mapping[str, Any]


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


def _data(chunk: Chunk) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


class Chunks:
    """Builds the chunks of one response."""

    def __init__(self, query: Query, *, created: int) -> None:
        self._head: Chunk = {
            "id": query.id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": query.model,
        }
        self._logprobs = query.logprobs
        self._top = query.top_logprobs

    def piece(self, index: int, delta: Chunk, *, finish: str | None = None, logprobs: Any = None) -> dict[str, Any]:
        content = {"content": trimmed(logprobs, self._top), "refusal": None} if self._logprobs and logprobs else None
        choice = {"index": index, "delta": delta, "finish_reason": finish, "logprobs": content}
        return {**self._head, "choices": [choice]}

    def passed_on(self, delta: Delta) -> dict[str, Any]:
        """One piece of `single`, as the engine sent it."""
        content: dict[str, Any] = {}
        if delta.text:
            content["content"] = delta.text
        if delta.reasoning:
            content["reasoning"] = delta.reasoning
        if delta.tool_calls:
            content["tool_calls"] = list(delta.tool_calls)
        return self.piece(delta.index, content, logprobs=delta.logprob_content)

    def whole(self, place: int, candidate: Candidate) -> list[dict[str, Any]]:
        """A chosen answer: its role and its content."""
        body = message(candidate)
        if calls := body.get("tool_calls"):
            body["tool_calls"] = [{"index": i, **call} for i, call in enumerate(calls)]
        first = self.piece(place, {"role": body.pop("role"), "content": ""})
        return [first, self.piece(place, body, logprobs=candidate.logprob_content)]

    def last(self, outcome: Outcome, query: Query, *, include_usage: bool, extra: Chunk) -> list[dict[str, Any]]:
        """The finish of every choice, then the usage when it was asked for. `apportion` rides on the last of them."""
        winners = list(enumerate(outcome.answer.winners)) if outcome.answer else []
        if outcome.allocation.spec.method == "single":  # its choices were streamed under their numbers in the drawing
            winners = sorted((candidate.index, candidate) for _, candidate in winners)
        chunks = [self.piece(place, {}, finish=finish_reason(candidate)) for place, candidate in winners]
        if include_usage:
            for chunk in chunks:
                chunk["usage"] = None
            chunks.append({**self._head, "choices": [], "usage": usage(outcome)})
        if chunks:
            chunks[-1]["apportion"] = extra
        return chunks


async def events(
    pipeline: Pipeline,
    query: Query,
    allocation: Allocation,
    *,
    created: int,
    include_usage: bool,
    include: Sequence[str] = (),
    features: Features | None = None,
    keep_alive: float,
) -> AsyncGenerator[bytes, None]:
    """The events of one request, up to [DONE]. Closing the generator cancels the work.

    Raises ApiError for a failure before the first event; after it, the failure is an event.
    """
    chunks = Chunks(query, created=created)
    live = allocation.spec.method == "single"
    queue: asyncio.Queue[Delta] = asyncio.Queue(_AHEAD)
    begun: set[int] = set()
    started = False

    async def listen(event: Delta | Candidate) -> None:
        if live and isinstance(event, Delta) and event.index >= 0:
            await queue.put(event)

    work = asyncio.create_task(pipeline.execute(query, allocation, listen))
    try:
        while not work.done() or not queue.empty():
            piece = await _next(queue, work, keep_alive)
            if piece is None:
                if not work.done():
                    started = True
                    yield b": waiting\n\n"
                continue
            started = True
            if piece.index not in begun:
                begun.add(piece.index)
                yield _data(chunks.piece(piece.index, {"role": "assistant", "content": ""}))
            if piece.text or piece.reasoning or piece.tool_calls:
                yield _data(chunks.passed_on(piece))
        outcome = work.result()
        started = True
        answer = outcome.answer
        for place, candidate in enumerate(answer.winners if answer is not None and not live else ()):
            for chunk in chunks.whole(place, candidate):
                yield _data(chunk)
        extra = apportion(outcome, query, include, features)
        for chunk in chunks.last(outcome, query, include_usage=include_usage, extra=extra):
            yield _data(chunk)
    except Exception as error:
        if not started:
            raise translated(error, query) from error
        yield b"data: " + error_body(translated(error, query)) + b"\n\n"
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
    yield b"data: [DONE]\n\n"


async def _next(queue: asyncio.Queue[Delta], work: asyncio.Task[Outcome], keep_alive: float) -> Delta | None:
    """The next piece; None when the work has ended or the line has been quiet for too long."""
    if not queue.empty():
        return queue.get_nowait()
    getting = asyncio.create_task(queue.get())
    try:
        await asyncio.wait((getting, work), timeout=keep_alive, return_when=asyncio.FIRST_COMPLETED)
        return getting.result() if getting.done() else None
    finally:
        getting.cancel()


def translated(error: Exception, query: Query) -> ApiError:
    """Any failure of a request, as the client sees it."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, EngineError):
        return from_engine(error)
    if isinstance(error, NothingYet):
        return DeadlineExceeded(round((query.budget.deadline - query.arrived) * 1000))
    logger.error("request %s failed", query.id, exc_info=error)
    return InternalError()
