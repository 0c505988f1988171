"""Adaptive majority vote (self-consistency, Wang et al. 2022; adaptive consistency, Aggarwal et al. 2023)."""

from __future__ import annotations

import time
from dataclasses import replace

from strategies.answers import expected_form
from strategies.draws import Draws
from strategies.stopping import settled
from strategies.types import Answer, Candidate, EngineError, Publish, Query, StrategySpec, Tools
from strategies.voting import Ballot

_PATIENCE = 2.0  # a wave's last candidates may take this many times as long as its first half did


async def majority_vote(query: Query, spec: StrategySpec, tools: Tools, publish: Publish) -> Answer:
    """Draw n candidates in waves, count each as it ends, and stop what is left of them once the vote is settled.

    The next wave starts when the one before has ended, or has only stragglers left. Candidates that a failing call has
    lost are drawn again, once. When time gets short, everything that is left is drawn at once: another wave after this
    one would come too late.
    """
    draws = Draws(query, tools)
    try:
        return await _vote(query, spec, tools, publish, draws)
    finally:
        await draws.close()


async def _vote(query: Query, spec: StrategySpec, tools: Tools, publish: Publish, draws: Draws) -> Answer:
    ballot = Ballot(form=expected_form(query))
    answer = Answer(winners=())
    wave, to_ask, replaced = tools.wave or spec.n, spec.n, False
    failure: Exception | None = None
    while True:
        asked = min(wave, to_ask)
        to_ask -= asked
        draws.start(asked)
        started, came, until = time.monotonic(), 0, None
        while draws.open:
            event = await draws.next(until=until if to_ask else None)
            if event is None:
                break  # stragglers
            if isinstance(event, Candidate):
                came += 1
                ballot.cast(event)
                await ballot.reconcile(tools.equivalence)
                answer = ballot.vote(answers=query.answers)
                publish(answer)
                if _is_settled(answer, spec.n - answer.candidates, query, tools):
                    return replace(answer, cut_short="consensus")
                if until is None and came >= (asked + 1) // 2:
                    until = started + _PATIENCE * (time.monotonic() - started)
            elif event.error is None:
                to_ask = 0 if event.missing else to_ask  # the token budget allows no more
            elif isinstance(event.error, EngineError) and ballot.candidates and not replaced:
                replaced, to_ask = True, to_ask + event.missing
            else:
                failure = failure or event.error
        if not to_ask or failure is not None:
            break
        if query.budget.deadline - time.monotonic() < 2 * (time.monotonic() - started):
            wave = to_ask
    if failure is not None:
        raise failure
    return answer


def _is_settled(answer: Answer, left: int, query: Query, tools: Tools) -> bool:
    """With some to come, enough answers for the client, and nothing that those to come would change."""
    enough = len(answer.winners) >= query.answers
    return left > 0 and enough and settled(list(answer.votes.values()), left, tools.stop_threshold)
