"""Adaptive majority vote (self-consistency, Wang et al. 2022; adaptive consistency, Aggarwal et al. 2023)."""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import replace

from strategies.answers import expected_form
from strategies.draws import Draws
from strategies.stopping import settled
from strategies.types import Answer, Publish, Query, StrategySpec, Tools
from strategies.voting import Ballot

_PATIENCE = 2.0  # a wave's last candidates may take this many times as long as its first half did


async def majority_vote(query: Query, spec: StrategySpec, tools: Tools, publish: Publish) -> Answer:
    """Draw n candidates in waves, count each as it ends, and stop what is left of them once the vote is settled.

    The next wave starts when the one before has ended, or has only stragglers left. When time gets short, everything
    that is left is drawn at once: another wave after this one would come too late.
    """
    ballot = Ballot(form=expected_form(query))
    answer = Answer(winners=())
    size, to_ask = tools.wave or spec.n, spec.n
    async with aclosing(Draws(query, tools)) as draws:
        while to_ask and not draws.short:
            asked = min(size, to_ask)
            to_ask -= asked
            wave, started, came, until = draws.start(asked), time.monotonic(), 0, None
            while (drawn := await draws.next(until=until if to_ask else None)) is not None:
                ballot.cast(drawn.candidate)
                await ballot.reconcile(tools.equivalence)
                answer = ballot.vote(answers=query.answers)
                publish(answer)
                if _is_settled(answer, spec.n - answer.candidates, query, tools):
                    return replace(answer, cut_short="consensus")
                came += drawn.wave == wave  # a straggler of an earlier one says nothing of how far this one is
                if came == asked:
                    until = started  # what is still under way belongs to earlier waves, and has had its time
                elif until is None and came >= (asked + 1) // 2:
                    until = started + _PATIENCE * (time.monotonic() - started)
            if query.budget.deadline - time.monotonic() < 2 * (time.monotonic() - started):
                size = to_ask
    if draws.failure is not None:
        raise draws.failure
    return answer


def _is_settled(answer: Answer, left: int, query: Query, tools: Tools) -> bool:
    """With some to come, enough answers for the client, and nothing that those to come would change."""
    enough = len(answer.winners) >= query.answers
    return left > 0 and enough and settled(list(answer.votes.values()), left, tools.stop_threshold)
