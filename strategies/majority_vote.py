"""Adaptive majority vote (self-consistency, Wang et al. 2022; adaptive consistency, Aggarwal et al. 2023)."""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import replace

from strategies.answers import expected_form
from strategies.stopping import settled
from strategies.types import Answer, EngineError, Publish, Query, StrategySpec, Tools
from strategies.voting import Ballot


async def majority_vote(query: Query, spec: StrategySpec, tools: Tools, publish: Publish) -> Answer:
    """Draw n candidates in waves, count each as it ends, and stop what is left of them once the vote is settled.

    Candidates that a failing call has lost are drawn again, once. When time gets short, everything that is left is
    drawn at once: another wave after this one would come too late.
    """
    ballot = Ballot(form=expected_form(query))
    answer = Answer(winners=())
    left = spec.n
    wave = tools.wave or spec.n
    replaced = False
    while left:
        asked, before = min(wave, left), left
        started = time.monotonic()
        try:
            async with aclosing(tools.sampler.draw(query, n=asked)) as stream:
                async for candidate in stream:
                    left -= 1
                    ballot.cast(candidate)
                    answer = ballot.vote(answers=query.answers)
                    publish(answer)
                    enough = len(answer.winners) >= query.answers
                    if left and enough and settled(list(answer.votes.values()), left, tools.stop_threshold):
                        return replace(answer, cut_short="consensus")
        except EngineError:
            if replaced or not ballot.candidates:  # an engine that fails altogether is not asked again
                raise
            replaced = True
            continue
        if before - left < asked:  # the token budget allows no more
            break
        now = time.monotonic()
        if query.budget.deadline - now < 2 * (now - started):
            wave = left
    return answer
