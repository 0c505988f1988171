"""An in-memory engine that plays a script, and what goes with it.

A simulator for faults and timing, not a model: what it says, when it says it, where it fails and what it ignores is
written down beforehand. Nothing here tells how good any strategy is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from strategies.spec import StrategySpec
from strategies.types import Budget, Candidate, Delta, EngineError, Json, LogprobSummary, Pace, Prices, Query

FAR = 1e12  # a deadline that never comes, in monotonic seconds


def menu_of(*written: str) -> tuple[StrategySpec, ...]:
    return tuple(StrategySpec.parse(text) for text in written)


def ask(content: str = "How much is 3 + 4?", **fields: Any) -> Query:
    """A query with a budget that nothing in a test uses up, unless told otherwise."""
    return Query(
        **{
            "id": "q",
            "model": "m",
            "messages": [{"role": "user", "content": content}],
            "sampling": {},
            "budget": Budget(max_total_tokens=10_000, deadline=FAR),
            "prices": Prices(token_price=0.0, latency_price=0.0),
            **fields,
        }
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What a choice says next, and what it waits for before."""

    text: str = ""
    tokens: int = 1
    reasoning: str = ""
    tool_calls: Sequence[Json] = ()
    logprobs: LogprobSummary | None = None
    after: asyncio.Event | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One scripted choice. It fails after its pieces if `fails`; finish_reason None: its stream just ends."""

    pieces: Sequence[Piece]
    finish_reason: str | None = "stop"
    stop_reason: str | int | None = None
    total_tokens: int | None = None  # the engine's own count, told with the last piece
    fails: bool = False


def says(
    text: str,
    *,
    tokens: int = 1,
    mean: float | None = None,
    certainty: float = 0.0,
    finish_reason: str | None = "stop",
    after: asyncio.Event | None = None,
) -> Choice:
    """A choice of `tokens` one-token pieces, its text in the last. mean: the mean log probability of its tokens."""
    logprobs = None if mean is None else LogprobSummary(tokens=1, total=mean, certainty=certainty, certain_tokens=1)
    before = [Piece(logprobs=logprobs) for _ in range(tokens - 1)]
    return Choice(
        pieces=[*before, Piece(text=text, logprobs=logprobs, after=after)],
        finish_reason=finish_reason,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What one call asked for."""

    n: int
    max_tokens: int
    prefix: str
    stop: tuple[str, ...]
    top_logprobs: int | None
    seed_offset: int


Script = Callable[[Call, int], Choice]


class ScriptedEngine:
    """Implements `strategies.types.Engine`. The choices of a call advance together, a piece each a round.

    script: the choices in order of drawing within the request, or a function of the call and the choice's number in
    it. A piece that waits holds up only its own choice. Counts what was opened and closed, so that a test can tell
    whether work was cancelled, and what was made, whether or not anybody read it.
    """

    def __init__(
        self,
        script: Sequence[Choice] | Script,
        *,
        max_n: int = 64,
        honours_max_tokens: bool = True,
        prompt_tokens: int | None = None,
    ) -> None:
        self._script = script
        self._max_n = max_n
        self._honours_max_tokens = honours_max_tokens
        self._prompt_tokens = prompt_tokens
        self.calls: list[Call] = []
        self.opened = 0
        self.closed = 0
        self.finished = 0  # streams that came to their own end
        self.made = 0  # tokens

    @property
    def max_n(self) -> int:
        return self._max_n

    @property
    def context(self) -> int | None:
        return None

    @property
    def logprobs(self) -> bool:
        return True

    @property
    def logprobs_with_tools(self) -> bool:
        return self.logprobs

    async def sample(
        self,
        query: Query,
        *,
        n: int,
        max_tokens: int,
        prefix: str = "",
        stop: Sequence[str] = (),
        top_logprobs: int | None = None,
        seed_offset: int = 0,
    ) -> AsyncGenerator[Delta, None]:
        call = Call(
            n=n,
            max_tokens=max_tokens,
            prefix=prefix,
            stop=tuple(stop),
            top_logprobs=top_logprobs,
            seed_offset=seed_offset,
        )
        self.calls.append(call)
        self.opened += 1
        try:
            if self._prompt_tokens is not None:
                yield Delta(index=-1, prompt_tokens=self._prompt_tokens)
            writers = [_Writer(self._choice(call, i), i, self._limit(max_tokens)) for i in range(n)]
            while writers := [writer for writer in writers if not writer.done]:
                ready = [writer for writer in writers if writer.ready]
                for writer in ready:
                    delta = writer.next()
                    self.made += delta.tokens
                    yield delta
                if ready:
                    await asyncio.sleep(0)  # others have their turn, as they do while a real engine computes
                else:
                    await _first([event for writer in writers if (event := writer.waits_for) is not None])
            self.finished += 1
        finally:
            self.closed += 1

    def _choice(self, call: Call, number: int) -> Choice:
        if callable(self._script):
            return self._script(call, number)
        return self._script[call.seed_offset + number]

    def _limit(self, max_tokens: int) -> int | None:
        return max_tokens if self._honours_max_tokens else None


class _Writer:
    """One choice while it is played."""

    def __init__(self, choice: Choice, index: int, limit: int | None) -> None:
        self._choice = choice
        self._index = index
        self._left = limit
        self._at = 0
        self.done = False

    @property
    def waits_for(self) -> asyncio.Event | None:
        return self._choice.pieces[self._at].after if self._at < len(self._choice.pieces) else None

    @property
    def ready(self) -> bool:
        return self.waits_for is None or self.waits_for.is_set()

    def next(self) -> Delta:
        choice = self._choice
        if self._at == len(choice.pieces):
            if choice.fails:
                raise EngineError("scripted failure")
            self.done = True
            return Delta(index=self._index, finish_reason=choice.finish_reason, stop_reason=choice.stop_reason)
        piece = choice.pieces[self._at]
        self._at += 1
        delta = Delta(
            index=self._index,
            text=piece.text,
            reasoning=piece.reasoning,
            tool_calls=piece.tool_calls,
            tokens=piece.tokens,
            logprobs=piece.logprobs,
        )
        last = self._at == len(choice.pieces) and not choice.fails
        if self._left is not None:
            if piece.tokens > self._left or (piece.tokens == self._left and not last):
                self.done = True
                fits = piece.tokens == self._left
                return replace(delta, text=delta.text if fits else "", tokens=self._left, finish_reason="length")
            self._left -= piece.tokens
        if last:
            self.done = True
            return replace(
                delta,
                finish_reason=choice.finish_reason,
                stop_reason=choice.stop_reason,
                total_tokens=choice.total_tokens,
            )
        return delta


async def _first(events: Sequence[asyncio.Event]) -> None:
    """Wait until one of the events is set."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
            with suppress(asyncio.CancelledError):
                await wait


@dataclass(slots=True, kw_only=True)
class TextScorer:
    """Implements `strategies.types.Scorer`: a score for every text, 0 for texts it does not know."""

    scores: Mapping[str, float]
    needs_top_logprobs: int | None = None
    pace: Pace = "at_once"

    async def score(self, query: Query, candidates: Sequence[Candidate]) -> Sequence[float]:
        return [self.scores.get(candidate.text, 0.0) for candidate in candidates]
