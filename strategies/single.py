"""One generation, passed straight through."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace

from strategies.spec import StrategySpec
from strategies.stopping import verdict_of
from strategies.types import Answer, Candidate, Publish, Query, Tools
from strategies.voting import Ballot


async def single(query: Query, spec: StrategySpec, tools: Tools, publish: Publish) -> Answer:
    """As many generations as the client wants answers back (normally one), in the engine's own order."""
    finished: list[Candidate] = []
    answer = Answer(winners=())
    async with aclosing(tools.sampler.draw(query, n=query.answers)) as stream:
        async for candidate in stream:
            finished.append(candidate)
            ordered = tuple(sorted(finished, key=lambda c: c.index))
            ballot = Ballot.to(query).filled(ordered[:1])  # of several answers, it tells of the first
            answer = Answer(winners=ordered, candidates=len(finished), note=ballot.breach(ordered))
            answer = replace(answer, confidence=verdict_of(tools.stopping, ballot.poll(answer, cap=1)).confidence)
            publish(answer)
    return answer
