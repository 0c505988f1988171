"""Run a strategy so that there is always a best answer so far: at the deadline, the budget, a failing engine."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from strategies.sampling import MeteredSampler
from strategies.spec import StrategySpec
from strategies.types import Answer, Candidate, CutShort, EngineError, Publish, Query, Strategy, Tools
from strategies.voting import Ballot, usable


class NothingYet(Exception):
    """The deadline came before a single token did."""


async def run(
    strategy: Strategy,
    query: Query,
    spec: StrategySpec,
    tools: Tools,
    sampler: MeteredSampler,
    *,
    deadline: float,
    better: Publish | None = None,
) -> Answer:
    """Run until the strategy ends or the deadline (monotonic seconds) comes, and return the best answer there is.

    better: told of every answer that is published on the way.

    The work on the engine has been stopped when this returns. Raises EngineError if the engine failed before any
    answer, NothingYet if the deadline came before any token.
    """
    best: Answer | None = None

    def publish(answer: Answer) -> None:
        nonlocal best
        best = answer
        if better is not None:
            better(answer)

    cut: CutShort = "deadline"
    note = ""
    timer = asyncio.timeout(deadline - time.monotonic())
    try:
        async with timer:
            answer = await strategy(query, spec, tools, publish)
        if not answer.winners:
            raise NothingYet("the token budget allowed no candidate")
        short = sampler.drew_fewer or (sampler.drew_shorter and _unfinished(answer))
        return replace(answer, cut_short="tokens") if short and answer.cut_short is None else answer
    except TimeoutError:
        if not timer.expired():
            raise  # a timeout inside the strategy is a fault, not the deadline
    except EngineError as error:
        if best is None and not sampler.candidates:
            raise
        cut, note = "engine_error", str(error)
    # the pieces of a beam search are steps, not answers: they stand in only while there is nothing else
    pieces = sampler.candidates if best is None or spec.method != "beam_search" else []
    return _best_so_far(best, pieces, query, cut, note)


def _unfinished(answer: Answer) -> bool:
    return any(not candidate.finished for candidate in answer.winners)


def _best_so_far(best: Answer | None, candidates: list[Candidate], query: Query, cut: CutShort, note: str) -> Answer:
    """The last published answer; before the first one, the partial candidate that got furthest."""
    if best is not None and best.winners:
        known = {candidate.index for candidate in best.winners}
        partial = [candidate for candidate in usable(candidates) if candidate.index not in known]
        winners = (*best.winners, *partial)[: query.answers]  # who asked for n answers gets the unfinished ones too
        return replace(best, winners=winners, cut_short=cut, note=note or best.note)
    if not candidates:
        raise NothingYet("no token had come when the deadline was reached")
    partial = Ballot.to(query).filled(candidates).vote(answers=query.answers)
    return replace(partial, cut_short=cut, note=note)
