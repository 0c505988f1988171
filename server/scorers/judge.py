"""A judge: a chat model that is asked for its verdict. What it writes is paid for by the request's ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from server.scorers import verdicts
from server.scorers.timing import Timing
from strategies.ledger import MIN_USEFUL_TOKENS, Lease, Ledger
from strategies.sampling import MeteredSampler
from strategies.types import Candidate, Engine, Json, Pace, Query, ScorerError


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeModel:
    """Who is asked, and how: the same for every request."""

    engine: Engine
    model: str | None  # None: the request's own
    compare: Literal["pointwise", "pairwise"]
    max_tokens: int  # of one verdict
    places: asyncio.Semaphore  # calls at once, over all requests
    timing: Timing  # of one verdict
    sampling: Mapping[str, Any] = field(default_factory=lambda: {"temperature": 0})

    def for_request(self, ledger: Ledger, *, candidates: int) -> Judge:
        """A judge that reserves now, before candidates are drawn, what its verdicts on them will need."""
        return Judge(self, ledger, verdicts=candidates if self.compare == "pointwise" else candidates - 1)


class Judge:
    """Pointwise: marks from 0 to 10 for each candidate. Pairwise: a knockout, scored by the rounds that were won.

    A verdict that can't be read is no opinion. In a knockout the earlier candidate then goes on, as after a tie.
    All verdicts of a request have half of its token budget at most, however many are asked for.
    """

    needs_top_logprobs: int | None = None

    def __init__(self, model: JudgeModel, ledger: Ledger, *, verdicts: int) -> None:
        self._model = model
        self.pace: Pace = "each" if model.compare == "pointwise" else "together"
        self._sampler = MeteredSampler(model.engine, ledger, default_max_tokens=model.max_tokens)
        self._least = min(model.max_tokens, MIN_USEFUL_TOKENS)
        self._allowance = ledger.capacity // 2
        self._lent = 0  # verdicts that hold a part of it
        self._given_back = asyncio.Event()
        each = min(model.max_tokens, self._allowance // max(1, verdicts))
        enough = each >= self._least
        self._each = each if enough else model.max_tokens
        self._reserved: list[Lease] = [ledger.reserve(each) for _ in range(verdicts)] if enough else []

    @property
    def prompt_tokens(self) -> int:
        return self._sampler.prompt_tokens

    async def score(self, query: Query, candidates: Sequence[Candidate]) -> Sequence[float | None]:
        if self._model.compare == "pointwise":
            return await _all([self._mark(query, candidate) for candidate in candidates])
        return await self._knockout(query, candidates)

    async def _mark(self, query: Query, candidate: Candidate) -> float | None:
        return verdicts.mark(await self._ask(query, verdicts.pointwise(query.messages, candidate)))

    async def _knockout(self, query: Query, candidates: Sequence[Candidate]) -> Sequence[float | None]:
        wins = [0.0] * len(candidates)
        standing = [*range(len(candidates))]
        readable = len(candidates) < 2
        number = 0
        while len(standing) > 1:
            pairs = list(zip(standing[::2], standing[1::2], strict=False))
            first_wins: list[bool | None] = await _all(
                # who is shown first changes from round to round, and judges like what they see first
                [self._first_wins(query, candidates[a], candidates[b], swapped=number % 2 == 1) for a, b in pairs]
            )
            readable = readable or any(won is not None for won in first_wins)
            winners: list[int] = [b if won is False else a for (a, b), won in zip(pairs, first_wins, strict=True)]
            standing: list[int] = [*winners, *standing[2 * len(pairs) :]]
            for winner in standing:
                wins[winner] += 1
            number += 1
        return [won / max(1, number) for won in wins] if readable else [None] * len(candidates)

    async def _first_wins(self, query: Query, one: Candidate, other: Candidate, *, swapped: bool) -> bool | None:
        if one.text == other.text and not one.tool_calls and not other.tool_calls:
            return True
        shown = (other, one) if swapped else (one, other)
        better = verdicts.better(await self._ask(query, verdicts.pairwise(query.messages, *shown)))
        return None if better is None else (better == "A") != swapped

    async def _ask(self, query: Query, messages: Sequence[Json]) -> str:
        """What the judge says. Raises ScorerError when the budget has no room for it, EngineError."""
        asked = replace(
            query,
            model=self._model.model or query.model,
            messages=messages,
            sampling=self._model.sampling,
            tools=(),
            answers=1,
            logprobs=False,
            top_logprobs=0,
        )
        with self._model.timing.watch():
            limit = await self._borrow()
            used = limit  # of a verdict that is broken off; nobody knows what the engine made of it
            try:
                async with self._model.places:
                    if self._reserved:  # given back and taken again in one go: nothing else runs in between
                        self._reserved.pop().close(cancelled=False)
                    async with aclosing(self._sampler.draw(asked, n=1, max_tokens=limit)) as stream:
                        async for verdict in stream:
                            used = verdict.tokens
                            return verdict.text
            finally:
                self._give_back(limit - used)
            raise ScorerError("the token budget left nothing for a verdict")

    async def _borrow(self) -> int:
        """Tokens for one verdict out of the allowance. Waits while others may still give some back; ScorerError."""
        while self._lent and self._allowance < self._each:
            self._given_back.clear()
            await self._given_back.wait()
        limit = min(self._each, self._allowance)
        if limit < self._least:
            raise ScorerError("its half of the token budget is used up")
        self._allowance -= limit
        self._lent += 1
        return limit

    def _give_back(self, tokens: int) -> None:
        self._allowance += tokens
        self._lent -= 1
        self._given_back.set()


async def _all(work: Sequence[Any]) -> list[Any]:
    """All at once; the first that fails ends the others, and is raised as it is."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
