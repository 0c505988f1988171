"""Ask from other processes, each with a client of its own, while the plan, the budget and the journal stay in this one.

A call that a worker died with is asked again. Nobody knows what the engine made of the first one, so that is paid in
full: the budget holds whoever dies.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Protocol

from router.pools import Call
from router.questions import Question
from server.backends.openai import EngineSettings, OpenAIEngine
from server.calibration.asking import Recorder, ask
from server.calibration.plan import Plan
from strategies.ledger import Ledger
from strategies.types import Candidate, EngineError

_LOSSES = 3  # workers that one question may be lost with


class Lost(ConnectionError):
    """A worker died, or can't be started. Says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came of one call."""

    candidates: Sequence[Candidate]
    calls: Sequence[Call]
    charged: int  # tokens, those that a failed call may have cost included
    error: EngineError | None


class Worker:
    """Lives in the other process. What it takes and gives can be pickled."""

    def __init__(self, settings: EngineSettings, plan: Plan) -> None:
        self._settings, self._plan = settings, plan
        self._recorder = Recorder()
        self.engine: OpenAIEngine | None = None  # open for as long as the process lives

    async def start(self) -> EngineError | None:
        """Make the client and find the engine; may be called again. What it gives is why that can't be done."""
        if self.engine is None:
            self.engine = OpenAIEngine(self._settings, observe=self._recorder.observe)
        try:
            await self.engine.probe()
        except EngineError as error:
            return error
        return None

    async def ask(self, question: Question, n: int) -> Reply:
        if self.engine is None:
            raise RuntimeError("a worker is started before it is asked")
        ledger = Ledger(n * question.max_tokens)
        candidates: Sequence[Candidate] = ()
        failure: EngineError | None = None
        try:
            candidates = await ask(self.engine, self._plan, question, n, ledger)
        except EngineError as error:
            failure = error
        charged = ledger.capacity - ledger.remaining
        return Reply(candidates=candidates, calls=self._recorder.take(), charged=charged, error=failure)


class Remote(Protocol):
    """A worker as it is seen from here. Both raise Lost."""

    async def start(self) -> EngineError | None:
        """Wait until it is there, a dead one until it has been started again."""
        ...

    async def ask(self, question: Question, n: int) -> Reply: ...


class _Seat:
    """A worker and what it has in work."""

    def __init__(self, remote: Remote) -> None:
        self.remote = remote
        self.sequences = 0
        self.up = False  # as far as is known

    async def start(self) -> None:
        """Raises Lost, EngineError."""
        if not self.up:
            if (error := await self.remote.start()) is not None:
                raise error
            self.up = True


class Workers:
    """Gives every call to the worker with the least in work, in its turn: a rate limit holds for all together."""

    def __init__(
        self, remotes: Sequence[Remote], recorder: Recorder, turn: AbstractAsyncContextManager[object]
    ) -> None:
        self._seats = [_Seat(remote) for remote in remotes]
        self._recorder, self._turn = recorder, turn
        self._losses: Counter[str] = Counter()

    async def start(self) -> int:
        """How many there are. Raises Lost when there are none, EngineError when one can't reach the engine."""
        return sum(await asyncio.gather(*(self._start(seat) for seat in tuple(self._seats))))

    async def ask(self, question: Question, n: int, ledger: Ledger) -> Sequence[Candidate] | None:
        """None: the worker died. Raises EngineError, and Lost for the last worker or the question's third."""
        lease = ledger.reserve(n * question.max_tokens)
        charged = 0
        try:
            async with self._turn:
                pass
            running = sum(seat.sequences for seat in self._seats)
            seat = min(self._seats, key=lambda seat: seat.sequences)
            seat.sequences += n
            try:
                if not await self._start(seat):
                    return None
                charged = lease.limit  # as long as nothing else is known
                reply = await self._reply(seat, question, n)
            finally:
                seat.sequences -= n
            if reply is None:
                return None
            charged = reply.charged
        finally:
            lease.count(charged)
            lease.close(cancelled=False)
        # a worker's client counts its own sequences only
        self._recorder.add(replace(call, running=running) for call in reply.calls)
        if reply.error is not None:
            raise reply.error
        return reply.candidates

    async def _start(self, seat: _Seat) -> bool:
        """False: it can't be started, so the others go on without it."""
        try:
            await seat.start()
        except Lost:
            if self._seats == [seat]:
                raise
            if seat in self._seats:
                self._seats.remove(seat)
            return False
        return True

    async def _reply(self, seat: _Seat, question: Question, n: int) -> Reply | None:
        try:
            return await seat.remote.ask(question, n)
        except Lost as loss:
            seat.up = False
            self._losses[question.id] += 1
            if self._losses[question.id] < _LOSSES:
                return None
            raise Lost(f"{_LOSSES} workers died with question {question.id!r}; the last: {loss}") from loss
