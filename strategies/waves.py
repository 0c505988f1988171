"""Drawing in waves: candidates one by one as they come, and a checkpoint after each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from strategies.draws import Draws
from strategies.spec import StrategySpec
from strategies.stopping import Stop, Verdict
from strategies.types import Candidate, Query, Tools

_PATIENCE = 2.0  # a wave's last candidates may take this many times as long as its first half did


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """How the drawing of a request's candidates ended."""

    stop: Stop | None = None  # a checkpoint said so
    failure: Exception | None = None  # the engine's; what came before it has been taken


async def draw_in_waves(
    query: Query,
    spec: StrategySpec,
    tools: Tools,
    take: Callable[[Candidate, int], Awaitable[Verdict]],
    *,
    top_logprobs: int | None = None,
) -> Drawing:
    """Draw up to n candidates and give each to `take`, with the number of those that have been asked for and have not
    come yet. Its verdict says whether to go on, and with how many.

    The next wave starts when the one before has ended, or has only stragglers left. What is under way when a verdict
    says stop is cut on the engine. When time gets short, everything that is left is drawn at once: another wave after
    this one would come too late.
    """
    size, to_ask, under_way = tools.wave or spec.n, spec.n, 0
    async with aclosing(Draws(query, tools, top_logprobs=top_logprobs)) as draws:
        while to_ask and not draws.short:
            asked = min(size, to_ask)
            to_ask -= asked
            under_way += asked
            wave, started, came, until = draws.start(asked), time.monotonic(), 0, None
            while (drawn := await draws.next(until=until if to_ask else None)) is not None:
                under_way -= 1
                verdict = await take(drawn.candidate, under_way)
                await asyncio.sleep(0)  # reading an answer can take milliseconds: others have their turn in between
                if verdict.stop is not None:
                    return Drawing(stop=verdict.stop)
                size = verdict.wave or size
                came += drawn.wave == wave  # a straggler of an earlier one says nothing of how far this one is
                if came == asked:
                    until = started  # what is still under way belongs to earlier waves, and has had its time
                elif until is None and came >= (asked + 1) // 2:
                    until = started + _PATIENCE * (time.monotonic() - started)
            if query.budget.deadline - time.monotonic() < 2 * (time.monotonic() - started):
                size = to_ask or size
        return Drawing(failure=draws.failure)
