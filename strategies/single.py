"""One generation, passed straight through."""

from __future__ import annotations

from contextlib import aclosing

from strategies.types import Answer, Candidate, Publish, Query, StrategySpec, Tools


async def single(query: Query, spec: StrategySpec, tools: Tools, publish: Publish) -> Answer:
    """As many generations as the client wants answers back (normally one), in the engine's own order."""
    finished: list[Candidate] = []
    answer = Answer(winners=())
    async with aclosing(tools.sampler.draw(query, n=query.answers)) as stream:
        async for candidate in stream:
            finished.append(candidate)
            ordered = tuple(sorted(finished, key=lambda c: c.index))
            answer = Answer(winners=ordered, candidates=len(finished))
            publish(answer)
    return answer
