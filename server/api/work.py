"""One request from the decision to its outcome, whatever HTTP shape it came in and goes out in."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from router.features import Features
from router.policy import BudgetInfeasible
from server.access.caller import ANYONE, Caller
from server.api.controls import Options, keep_alive
from server.api.request import ChatRequest, to_query
from server.api.response import apportion, server_timing
from server.config import Config
from server.errors import ApiError, DeadlineExceeded, EngineUnavailable, InternalError, from_engine
from server.errors import BudgetInfeasible as BudgetRefused
from server.gateway import Gateway
from server.pipeline import Pipeline
from strategies.anytime import NothingYet
from strategies.types import Allocation, Answer, Candidate, Delta, EngineError, Outcome, Prediction, Query

logger = logging.getLogger("apportion")
_AHEAD = 64  # pieces read ahead of a slow client; then the engine has to wait
_UNTIL_DECIDED_MS = 10  # of a deadline, gone when it is compared with the predictions


@dataclass(frozen=True, slots=True)
class Quiet:
    """Nothing has come for a while: time for a sign of life."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a strategy of several candidates is. Says nothing of what they say."""

    seen: int  # candidates so far
    most: int | None  # candidates there may be; None for a search, which draws at every step
    votes: int | None  # of the leader; None where votes do not decide

    def __str__(self) -> str:
        leader = "" if self.votes is None else f", leader {self.votes} vote{'s' * (self.votes != 1)}"
        if self.most is None:
            return f"{self.seen} candidate{'s' * (self.seen != 1)}{leader}"
        return f"{self.seen} of {self.most} candidates{leader}"


Event = Delta | Progress | Quiet | Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A request that has been decided on: run it once, by `outcome` or by `events`."""

    pipeline: Pipeline
    options: Options
    query: Query
    features: Features
    allocation: Allocation
    created: int  # Unix seconds
    decided: float  # monotonic seconds
    keep_alive: float  # seconds between signs of life in a stream

    @property
    def live(self) -> bool:
        """Pieces are streamed as they come: there is nothing to choose from."""
        return self.allocation.spec.method == "single"

    @property
    def headers(self) -> Mapping[str, str]:
        """What is known before the work has been done."""
        return {"x-request-id": self.query.id, "x-apportion-strategy": str(self.allocation.spec)}

    def headers_after(self, outcome: Outcome) -> Mapping[str, str]:
        return {
            **self.headers,
            "x-apportion-tokens": str(outcome.completion_tokens),
            "server-timing": server_timing(outcome, decided=self.decided - self.query.arrived),
        }

    def report(self, outcome: Outcome) -> dict[str, Any]:
        """The `apportion` object of the response."""
        return apportion(outcome, self.query, self.options.include or (), self.features)

    async def outcome(self) -> Outcome:
        """Do it. Cancelling cancels all there is on the engine. Raises ApiError."""
        try:
            return await self.pipeline.execute(self.query, self.allocation, features=self.features)
        except Exception as error:
            raise translated(error, self.query) from error

    async def events(self) -> AsyncGenerator[Event, None]:
        """Do it, telling what happens: pieces if it is `live`, else progress if the client wants it; the outcome last.

        A piece's index is the place of its choice. Closing the generator cancels the work. Raises ApiError.
        """
        queue: asyncio.Queue[Delta | Progress | None] = asyncio.Queue(_AHEAD)

        async def listen(event: Delta | Candidate) -> None:
            if self.live and isinstance(event, Delta) and event.index >= 0:
                await queue.put(event)

        told: Progress | None = None

        def better(answer: Answer) -> None:
            nonlocal told
            if self.options.progress and not self.live and not queue.full() and told != (now := self._progress(answer)):
                told = now
                queue.put_nowait(now)

        def ended(_: object) -> None:
            if not queue.full():
                queue.put_nowait(None)  # wakes who waits for the next piece

        task = asyncio.create_task(
            self.pipeline.execute(self.query, self.allocation, listen, better, features=self.features)
        )
        task.add_done_callback(ended)
        try:
            while not (task.done() and queue.empty()):
                try:
                    async with asyncio.timeout(self.keep_alive):
                        piece = await queue.get()
                except TimeoutError:
                    yield Quiet()
                    continue
                if piece is not None:
                    yield piece
            yield task.result()
        except Exception as error:
            raise translated(error, self.query) from error
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _progress(self, answer: Answer) -> Progress:
        spec = self.allocation.spec
        votes = next(iter(answer.votes.values()), None) if spec.method == "majority_vote" else None
        most = None if spec.method == "beam_search" else spec.draws
        return Progress(seen=answer.candidates, most=most, votes=votes)


def decide(
    gateway: Gateway,
    request: ChatRequest,
    headers: Mapping[str, str],
    *,
    id: str,
    arrived: float,
    path: str | None = None,
    caller: Caller = ANYONE,
) -> Work:
    """Choose the strategy. arrived: monotonic seconds; path: the word before /v1. Raises ApiError."""
    if not gateway.ready:
        raise EngineUnavailable
    models = (gateway.default_model, *gateway.engine.profile.models)
    query, options = to_query(
        request, headers, gateway.config, id=id, models=models, arrived=arrived, path=path, caller=caller
    )
    try:
        features, allocation = gateway.pipeline.allocate(
            query, running=gateway.engine.running, others=gateway.engine.load.others
        )
    except BudgetInfeasible as error:
        smallest = error.smallest
        gateway.metrics.exhausted.labels(gateway.metrics.strategy(smallest.spec), "strict", "refused").inc()
        raise _refusal(gateway.config, query, smallest) from None
    return Work(
        pipeline=gateway.pipeline,
        options=options,
        query=gateway.pipeline.bounded(query, features),
        features=features,
        allocation=allocation,
        created=int(time.time()),
        decided=time.monotonic(),
        keep_alive=keep_alive(headers),
    )


def _refusal(config: Config, query: Query, smallest: Prediction) -> BudgetRefused:
    """Names the limits that are too small, and how large they have to be."""
    tokens = ceil(smallest.tokens_upper)
    deadline_ms = ceil(smallest.seconds_upper * 1000) + config.budgets.deadline_margin_ms + _UNTIL_DECIDED_MS
    more_tokens = tokens > query.budget.max_total_tokens
    more_time = query.arrived + deadline_ms / 1000 > query.budget.deadline
    return BudgetRefused(
        max_total_tokens=tokens if more_tokens or not more_time else None,
        deadline_ms=deadline_ms if more_time or not more_tokens else None,
    )


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
