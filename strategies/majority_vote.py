"""Adaptive majority vote (self-consistency, Wang et al. 2022; adaptive consistency, Aggarwal et al. 2023)."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace

from strategies.answers import expected_form
from strategies.stopping import settled
from strategies.types import Answer, Publish, Query, StrategySpec, Tools
from strategies.voting import Ballot


async def majority_vote(query: Query, spec: StrategySpec, tools: Tools, publish: Publish) -> Answer:
    """Draw n candidates, count each as it ends, and stop the rest on the engine once the vote is settled."""
    ballot = Ballot(form=expected_form(query))
    answer = Answer(winners=())
    async with aclosing(tools.sampler.draw(query, n=spec.n)) as stream:
        async for candidate in stream:
            ballot.cast(candidate)
            answer = ballot.vote(answers=query.answers)
            publish(answer)
            outstanding = spec.n - answer.candidates
            enough = len(answer.winners) >= query.answers
            if outstanding and enough and settled(list(answer.votes.values()), outstanding, tools.stop_threshold):
                return replace(answer, cut_short="consensus")
    return answer
