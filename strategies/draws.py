"""Several draws under way at once, their candidates in one queue as they come."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from dataclasses import dataclass

from strategies.types import Candidate, EngineError, Query, Tools


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A candidate, and the number of the wave it was asked for in."""

    wave: int
    candidate: Candidate


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended:
    """One draw has come to its end."""

    wave: int
    missing: int  # candidates that were asked of it and did not come
    error: Exception | None  # why; None: the token budget allowed no more


class Draws:
    """Draws of one request. Candidates that a failing call has lost are drawn again, once a request.

    That holds for an engine that fails (status 500 and up): what it refuses, it would refuse again. A replacement is
    within the token budget like everything else, and where it does not come either, the failure stands.
    """

    def __init__(self, query: Query, tools: Tools, *, top_logprobs: int | None = None) -> None:
        self._query = query
        self._sampler = tools.sampler
        self._top_logprobs = top_logprobs
        self._tasks: list[asyncio.Task[None]] = []
        self._queue: asyncio.Queue[Drawn | _Ended] = asyncio.Queue()  # bounded by what was asked for
        self._waves = 0
        self._open = 0  # draws whose end has not been read yet
        self._replaced = False
        self.short = False  # fewer have come than were asked for, so that it is no use to ask for more
        self.failure: Exception | None = None  # why, if it was not the token budget

    def start(self, n: int) -> int:
        """Ask for n candidates. Returns the number of their wave."""
        self._waves += 1
        self._begin(self._waves, n)
        return self._waves

    async def next(self, *, until: float | None = None) -> Drawn | None:
        """The candidate that comes next. None: all have come, or none has by `until`, in monotonic seconds.

        Once the draws are `short` there is nothing to go on to, and `until` is not looked at.
        """
        while self._open:
            try:
                async with asyncio.timeout(None if until is None or self.short else until - time.monotonic()):
                    event = await self._queue.get()
            except TimeoutError:
                return None
            if isinstance(event, Drawn):
                return event
            self._end(event)
        return None

    async def aclose(self) -> None:
        """Stop what is still under way on the engine."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, wave: int, n: int, *, instead_of: EngineError | None = None) -> None:
        self._open += 1
        self._tasks.append(asyncio.create_task(self._draw(wave, n, instead_of)))

    def _end(self, ended: _Ended) -> None:
        self._open -= 1
        if not ended.missing and not ended.error:
            return
        if isinstance(ended.error, EngineError) and ended.error.status >= 500 and not self._replaced:
            self._replaced = True
            self._begin(ended.wave, ended.missing, instead_of=ended.error)
        else:
            self.short = True
            self.failure = self.failure or ended.error

    async def _draw(self, wave: int, n: int, instead_of: EngineError | None) -> None:
        missing = n
        error: Exception | None = None
        try:
            async with aclosing(self._sampler.draw(self._query, n=n, top_logprobs=self._top_logprobs)) as stream:
                async for candidate in stream:
                    missing -= 1
                    self._queue.put_nowait(Drawn(wave=wave, candidate=candidate))
        except EngineError as failure:
            error = failure if missing else None  # a connection that breaks after the last of them has lost nothing
        except Exception as fault:  # noqa: BLE001 - handed over to the reader, who raises it
            error = fault
        self._queue.put_nowait(_Ended(wave=wave, missing=missing, error=error or (instead_of if missing else None)))
