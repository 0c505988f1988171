"""Best of N: a scorer ranks the candidates, alone (naive) or summed over equal answers (weighted)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace

from strategies.answers import expected_form, group
from strategies.types import Answer, Candidate, Publish, Query, Scorer, StrategySpec, Tools
from strategies.voting import best_first, rank, usable, vote


async def best_of_n(query: Query, spec: StrategySpec, tools: Tools, publish: Publish) -> Answer:
    """Draw n candidates and rank them. Publishes the best of those seen so far after every one."""
    form = expected_form(query)
    scorer = tools.scorer
    seen: list[Candidate] = []
    answer = Answer(winners=())
    top_logprobs = scorer.needs_top_logprobs if scorer is not None else None
    async with aclosing(tools.sampler.draw(query, n=spec.n, top_logprobs=top_logprobs)) as stream:
        async for candidate in stream:
            seen.append(await _scored(query, candidate, scorer))
            answer = select(seen, form=form, weighted=spec.weighted, answers=query.answers)
            publish(answer)
    return answer


async def _scored(query: Query, candidate: Candidate, scorer: Scorer | None) -> Candidate:
    if scorer is None:
        return candidate
    (score,) = await scorer.score(query, [candidate])
    return replace(candidate, score=score)


def select(candidates: Sequence[Candidate], *, form: str | None, weighted: bool, answers: int = 1) -> Answer:
    """The highest score wins; weighted: the answer whose candidates' scores sum highest (Li et al. 2023). Pure."""
    ballot = vote(candidates, form=form, answers=answers)
    groups = group(candidates, form=form)
    if not groups:
        return ballot
    if weighted:
        groups = sorted(groups, key=lambda g: sum(c.score or 0.0 for c in g.members), reverse=True)
        ranking = rank(groups, candidates)
    else:
        ranking = best_first([c for g in groups for c in g.members])
        ranked = {c.index for c in ranking}
        ranking += [c for c in usable(candidates) if c.index not in ranked]
    winner = next(g for g in groups if any(c.index == ranking[0].index for c in g.members))
    return replace(
        ballot,
        winners=tuple(ranking[:answers]),
        agreement=len(winner.members) / sum(len(g.members) for g in groups),
    )
