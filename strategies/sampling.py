"""Draw candidates from an engine, metered against the request's token ledger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from strategies.ledger import Lease, Ledger
from strategies.types import Candidate, Delta, Engine, EngineError, LogprobSummary, Query

Listener = Callable[[Delta | Candidate], Awaitable[None]]

# Pieces read ahead of a slow consumer when several calls are merged: bounded, so that pressure reaches the engine.
_READ_AHEAD = 64


class _Draft:
    """One choice while it is being written."""

    __slots__ = (
        "_content", "_logprobs", "_reasoning", "_reasoning_name", "_refusal", "_text", "_tools",
        "candidate", "index", "lease",
    )  # fmt: skip

    def __init__(self, index: int, lease: Lease) -> None:
        self.index = index
        self.lease = lease
        self.candidate: Candidate | None = None
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._reasoning_name = "reasoning"
        self._refusal: list[str] = []
        self._content: list[Any] = []
        self._tools: dict[int, dict[str, Any]] = {}
        self._logprobs: LogprobSummary | None = None

    @property
    def started(self) -> bool:
        return self.lease.seen > 0 or bool(self._text)

    def add(self, delta: Delta) -> None:
        self.lease.count(delta.tokens)
        if delta.text:
            self._text.append(delta.text)
        if delta.reasoning:
            self._reasoning.append(delta.reasoning)
            self._reasoning_name = delta.reasoning_name
        if delta.refusal:
            self._refusal.append(delta.refusal)
        if delta.logprobs is not None:
            self._logprobs = delta.logprobs if self._logprobs is None else self._logprobs + delta.logprobs
        self._content.extend(delta.logprob_content)
        for piece in delta.tool_calls:
            call = self._tools.setdefault(
                int(piece.get("index") or 0), {"id": None, "type": "function", "function": {}}
            )
            function: dict[str, Any] = piece.get("function") or {}
            call["id"] = call["id"] or piece.get("id")
            call["function"]["name"] = call["function"].get("name") or function.get("name")
            call["function"]["arguments"] = call["function"].get("arguments", "") + (function.get("arguments") or "")
        if delta.total_tokens is not None:
            self.lease.correct(delta.total_tokens)

    def close(self, finish_reason: str | None, stop_reason: str | int | None = None) -> Candidate:
        """The candidate as it stands. finish_reason None: it was cut before the engine finished it."""
        self.lease.close(cancelled=finish_reason is None)
        self.candidate = Candidate(
            index=self.index,
            text="".join(self._text),
            reasoning="".join(self._reasoning),
            reasoning_name=self._reasoning_name,
            refusal="".join(self._refusal),
            tool_calls=tuple(self._tools[key] for key in sorted(self._tools)),
            tokens=self.lease.seen,
            finish_reason=finish_reason,
            stop_reason=stop_reason,
            logprobs=self._logprobs,
            logprob_content=tuple(self._content),
        )
        return self.candidate


class MeteredSampler:
    """The strategies' only way to the engine.

    Reserves tokens before every call, counts them as they come, keeps every candidate (also the cut ones, so that the
    runner has something to return at the deadline) and tells a listener of every piece, for streaming and for show.
    """

    def __init__(
        self, engine: Engine, ledger: Ledger, *, default_max_tokens: int, listener: Listener | None = None
    ) -> None:
        self._engine = engine
        self._ledger = ledger
        self._default_max_tokens = default_max_tokens
        self._listener = listener
        self._drafts: list[_Draft] = []
        self.prompt_tokens = 0
        self.drew_fewer = False  # the token budget allowed fewer candidates than were asked for
        self.drew_shorter = False  # or shorter ones

    @property
    def remaining(self) -> int:
        return self._ledger.remaining

    @property
    def candidates(self) -> list[Candidate]:
        """Every candidate of which something came, in order of drawing, as far as it got."""
        return [d.candidate if d.candidate is not None else d.close(None) for d in self._drafts if d.started]

    async def draw(
        self,
        query: Query,
        *,
        n: int,
        prefix: str = "",
        stop: Sequence[str] = (),
        max_tokens: int | None = None,
        top_logprobs: int | None = None,
    ) -> AsyncGenerator[Candidate, None]:
        """Yield up to n candidates as they end. Close the generator to stop the rest on the engine."""
        wanted = max_tokens or query.max_tokens or self._default_max_tokens
        allowed, limit = self._ledger.plan(n, wanted)
        self.drew_fewer = self.drew_fewer or allowed < n
        self.drew_shorter = self.drew_shorter or (limit < wanted and max_tokens is None)
        if not allowed:
            return
        first = len(self._drafts)
        drafts = [_Draft(first + i, self._ledger.reserve(limit)) for i in range(allowed)]
        self._drafts.extend(drafts)
        size = max(1, self._engine.max_n)
        batches = [drafts[i : i + size] for i in range(0, allowed, size)]
        if query.logprobs:
            top_logprobs = max(top_logprobs or 0, query.top_logprobs)
        calls = [
            self._call(query, batch, limit=limit, prefix=prefix, stop=stop, top_logprobs=top_logprobs)
            for batch in batches
        ]
        try:
            async with aclosing(calls[0] if len(calls) == 1 else _merge(calls)) as merged:
                async for candidate in merged:
                    if self._listener is not None:
                        await self._listener(candidate)
                    yield candidate
        finally:
            for draft in drafts:
                if draft.candidate is None:
                    draft.close(None)

    async def _call(
        self,
        query: Query,
        batch: Sequence[_Draft],
        *,
        limit: int,
        prefix: str,
        stop: Sequence[str],
        top_logprobs: int | None,
    ) -> AsyncGenerator[Candidate, None]:
        open_drafts = dict(enumerate(batch))
        overran = False
        stream = self._engine.sample(
            query,
            n=len(batch),
            max_tokens=limit,
            prefix=prefix,
            stop=stop,
            top_logprobs=top_logprobs,
            seed_offset=batch[0].index,
        )
        async with aclosing(stream):
            async for delta in stream:
                if delta.prompt_tokens is not None:
                    self.prompt_tokens += delta.prompt_tokens
                draft = open_drafts.get(delta.index)
                if draft is None:
                    continue
                if delta.tokens > draft.lease.limit - draft.lease.seen:  # an engine that ignores max_tokens
                    overran = True
                    del open_drafts[delta.index]
                    yield draft.close("length")
                    if not open_drafts:
                        return
                    continue
                draft.add(delta)
                if self._listener is not None:
                    own = delta if delta.index == draft.index else replace(delta, index=draft.index)
                    await self._listener(own)  # numbered within the request, not within the call
                if delta.finish_reason is not None:
                    del open_drafts[delta.index]
                    yield draft.close(delta.finish_reason, delta.stop_reason)
                    if overran and not open_drafts:
                        return  # what still comes are tokens that were never asked for
        if any(draft.started for draft in open_drafts.values()) or len(open_drafts) == len(batch):
            raise EngineError("the engine ended its stream in the middle of an answer")


async def _merge(streams: Sequence[AsyncGenerator[Candidate, None]]) -> AsyncGenerator[Candidate, None]:
    """Interleave streams as their items come; closing closes all of them.

    One that fails takes none of the others with it: the first failure is raised once all have ended.
    """
    queue: asyncio.Queue[Candidate | Exception | None] = asyncio.Queue(_READ_AHEAD)

    async def pump(stream: AsyncGenerator[Candidate, None]) -> None:
        try:
            async with aclosing(stream):
                async for item in stream:
                    await queue.put(item)
            await queue.put(None)
        except Exception as error:  # noqa: BLE001 - handed over to the consumer, who raises it
            await queue.put(error)

    tasks = [asyncio.create_task(pump(stream)) for stream in streams]
    try:
        open_streams = len(tasks)
        failure: Exception | None = None
        while open_streams:
            item = await queue.get()
            if item is None:
                open_streams -= 1
            elif isinstance(item, Exception):
                failure = failure or item
                open_streams -= 1
            else:
                yield item
        if failure is not None:
            raise failure
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
