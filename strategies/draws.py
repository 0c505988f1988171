"""Several draws under way at once, their candidates in one queue as they come."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from dataclasses import dataclass

from strategies.types import Candidate, Query, Tools


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """One draw has come to its end."""

    missing: int  # candidates that were asked of it and did not come
    error: Exception | None = None  # why; None: the token budget allowed no more


class Draws:
    """Draws of one request. `close` stops what is still under way on the engine."""

    def __init__(self, query: Query, tools: Tools) -> None:
        self._query = query
        self._tools = tools
        self._tasks: list[asyncio.Task[None]] = []
        self._queue: asyncio.Queue[Candidate | Ended] = asyncio.Queue()  # bounded by what was asked for
        self._open = 0

    @property
    def open(self) -> int:
        """Draws whose end has not been read yet."""
        return self._open

    def start(self, n: int) -> None:
        self._open += 1
        self._tasks.append(asyncio.create_task(self._draw(n)))

    async def next(self, *, until: float | None = None) -> Candidate | Ended | None:
        """What comes next; None when nothing has by `until`, in monotonic seconds."""
        try:
            async with asyncio.timeout(None if until is None else until - time.monotonic()):
                event = await self._queue.get()
        except TimeoutError:
            return None
        if isinstance(event, Ended):
            self._open -= 1
        return event

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _draw(self, n: int) -> None:
        came = 0
        error: Exception | None = None
        try:
            async with aclosing(self._tools.sampler.draw(self._query, n=n)) as stream:
                async for candidate in stream:
                    came += 1
                    self._queue.put_nowait(candidate)
        except Exception as failure:  # noqa: BLE001 - handed over to the reader, who raises it
            error = failure
        self._queue.put_nowait(Ended(missing=n - came, error=error))
