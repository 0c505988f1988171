"""Best of N: a scorer ranks the candidates, alone (naive) or summed over equal answers (weighted)."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace

from strategies.answers import expected_form
from strategies.types import Answer, Candidate, Publish, Query, Scorer, StrategySpec, Tools
from strategies.voting import Ballot, best_first, rank, usable


async def best_of_n(query: Query, spec: StrategySpec, tools: Tools, publish: Publish) -> Answer:
    """Draw n candidates and rank them. Publishes the best of those seen so far after every one."""
    ballot = Ballot(form=expected_form(query))
    scorer = tools.scorer
    answer = Answer(winners=())
    top_logprobs = scorer.needs_top_logprobs if scorer is not None else None
    async with aclosing(tools.sampler.draw(query, n=spec.n, top_logprobs=top_logprobs)) as stream:
        async for candidate in stream:
            ballot.cast(await _scored(query, candidate, scorer))
            answer = select(ballot, weighted=spec.weighted, answers=query.answers)
            publish(answer)
    return answer


async def _scored(query: Query, candidate: Candidate, scorer: Scorer | None) -> Candidate:
    if scorer is None:
        return candidate
    (score,) = await scorer.score(query, [candidate])
    return replace(candidate, score=score)


def select(ballot: Ballot, *, weighted: bool, answers: int = 1) -> Answer:
    """The highest score wins; weighted: the answer whose candidates' scores sum highest (Li et al. 2023)."""
    groups = ballot.groups
    if weighted:
        groups = sorted(groups, key=lambda g: sum(c.score or 0.0 for c in g.members), reverse=True)
        ranking = rank(groups, ballot.candidates)
    else:
        ranking = best_first([c for g in groups for c in g.members])
        ranked = {c.index for c in ranking}
        ranking += [c for c in usable(ballot.candidates) if c.index not in ranked]
    return ballot.elect(ranking, answers=answers)
