"""Adaptive majority vote (self-consistency, Wang et al. 2022; adaptive consistency, Aggarwal et al. 2023)."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace

from strategies.answers import expected_form
from strategies.stopping import settled
from strategies.types import Answer, Candidate, Publish, Query, StrategySpec, Tools
from strategies.voting import vote


async def majority_vote(query: Query, spec: StrategySpec, tools: Tools, publish: Publish) -> Answer:
    """Draw n candidates, count each as it ends, and stop the rest on the engine once the vote is settled."""
    form = expected_form(query)
    seen: list[Candidate] = []
    answer = Answer(winners=())
    async with aclosing(tools.sampler.draw(query, n=spec.n)) as stream:
        async for candidate in stream:
            seen.append(candidate)
            answer = vote(seen, form=form, answers=query.answers)
            publish(answer)
            outstanding = spec.n - len(seen)
            enough = len(answer.winners) >= query.answers
            if outstanding and enough and settled(list(answer.votes.values()), outstanding, tools.stop_threshold):
                return replace(answer, cut_short="consensus")
    return answer
