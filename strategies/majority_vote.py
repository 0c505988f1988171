"""Adaptive majority vote (self-consistency, Wang et al. 2022; adaptive consistency, Aggarwal et al. 2023)."""

from __future__ import annotations

from dataclasses import replace

from strategies.spec import StrategySpec
from strategies.stopping import Verdict, verdict_of
from strategies.types import Answer, Candidate, Publish, Query, Tools
from strategies.voting import Ballot
from strategies.waves import draw_in_waves


async def majority_vote(query: Query, spec: StrategySpec, tools: Tools, publish: Publish) -> Answer:
    """Draw up to n candidates in waves, count each as it ends, and stop once no more are worth their price."""
    ballot = Ballot.to(query)
    answer = Answer(winners=())

    async def take(candidate: Candidate, under_way: int) -> Verdict:
        nonlocal answer
        ballot.cast(candidate)
        if tools.equivalence is not None:
            publish(ballot.vote(answers=query.answers))  # algebra may take longer than there is time for
            await ballot.reconcile(tools.equivalence)
        answer = ballot.vote(answers=query.answers)
        verdict = verdict_of(tools.stopping, ballot.poll(answer, cap=spec.n, under_way=under_way))
        answer = replace(answer, confidence=verdict.confidence)
        publish(answer)
        enough = len(answer.winners) >= query.answers
        return verdict if enough else replace(verdict, stop=None)

    drawing = await draw_in_waves(query, spec, tools, take)
    if drawing.failure is not None:
        raise drawing.failure
    return replace(answer, cut_short=drawing.stop)
