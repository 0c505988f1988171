"""Ask the engine one question: the call that a recording is made of, wherever it is made from."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing

from router.pools import Call
from router.questions import Question
from server.backends.calls import CallStats
from server.calibration.plan import Plan
from strategies.ledger import Ledger
from strategies.sampling import MeteredSampler
from strategies.types import Budget, Candidate, Engine, Prices, Query

_TOP_LOGPROBS = 5
_DEADLINE = 300.0  # seconds for one run of a strategy; an engine slower than that is broken

# Asks a question so many times in one call, paid from the ledger, which lasts for that many of `max_tokens` each.
# None: nobody knows what became of the call, so it is paid and made again. Raises EngineError.
Ask = Callable[[Question, int, Ledger], Awaitable[Sequence[Candidate] | None]]


class Recorder:
    """Collects the engine's calls while it records. Give its `observe` to the engine."""

    def __init__(self) -> None:
        self._calls: list[Call] = []

    def observe(self, stats: CallStats) -> None:
        if stats.completed and stats.first_token_seconds is not None:
            self._calls.append(
                Call(
                    prompt_tokens=stats.prompt_tokens,
                    running=stats.running,
                    added=stats.added,
                    first_token_seconds=round(stats.first_token_seconds, 4),
                    seconds=round(stats.seconds, 4),
                    longest=stats.longest,
                )
            )

    def take(self) -> tuple[Call, ...]:
        calls, self._calls = tuple(self._calls), []
        return calls

    def add(self, calls: Iterable[Call]) -> None:
        """Calls that another recorder has taken, in another process."""
        self._calls.extend(calls)


def as_query(question: Question, plan: Plan, *, seconds: float = _DEADLINE) -> Query:
    """The question as a client would ask it."""
    now = time.monotonic()
    return Query(
        id=f"calibrate-{question.id}",
        model=plan.model,
        messages=question.messages,
        sampling={**question.sampling, **plan.sampling},
        tools=question.tools,
        budget=Budget(max_total_tokens=1_000_000, deadline=now + seconds),
        prices=Prices(token_price=0.0, latency_price=0.0),
        max_tokens=question.max_tokens,
        arrived=now,
    )


async def ask(engine: Engine, plan: Plan, question: Question, n: int, ledger: Ledger) -> Sequence[Candidate]:
    """One call of the recording, n at most what the engine takes in one. Raises EngineError."""
    sampler = MeteredSampler(engine, ledger, default_max_tokens=question.max_tokens)
    returned = engine.logprobs and (engine.logprobs_with_tools or not question.tools)
    top_logprobs = _TOP_LOGPROBS if returned else None
    async with aclosing(sampler.draw(as_query(question, plan), n=n, top_logprobs=top_logprobs)) as drawn:
        return [candidate async for candidate in drawn]
