"""Turn candidates into an answer by their votes. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from strategies.answers import Group, group
from strategies.types import Answer, Candidate


def quality(candidate: Candidate) -> tuple[float, float, int]:
    """Orders the members of one group: score, then mean log probability, then the earlier draw. Higher is better."""
    score = candidate.score if candidate.score is not None else 0.0
    mean = candidate.logprobs.mean if candidate.logprobs is not None else 0.0
    return score, mean, -candidate.index


def best_first(members: Sequence[Candidate]) -> list[Candidate]:
    return sorted(members, key=quality, reverse=True)


def usable(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Candidates in the order in which they would be returned when nothing could vote: finished, then the longest."""
    return sorted(
        candidates, key=lambda c: (c.finished, bool(c.text or c.tool_calls), c.tokens, -c.index), reverse=True
    )


def rank(groups: Sequence[Group], candidates: Sequence[Candidate]) -> list[Candidate]:
    """The best of every group in the groups' order, then the groups' other members, then those that cast no vote."""
    ordered = [best_first(g.members) for g in groups]
    ranking = [members[0] for members in ordered] + [c for members in ordered for c in members[1:]]
    voted = {c.index for c in ranking}
    return ranking + [c for c in usable(candidates) if c.index not in voted]


def vote(candidates: Sequence[Candidate], *, form: str | None, answers: int = 1) -> Answer:
    """Majority vote: the largest group's best member first. Blank and cut candidates never vote.

    `agreement` is the leader's share of the votes cast; None when nobody could vote.
    """
    groups = group(candidates, form=form)
    votes = {g.value: len(g.members) for g in groups}
    cast = sum(votes.values())
    return Answer(
        winners=tuple(rank(groups, candidates)[:answers]),
        agreement=len(groups[0].members) / cast if groups else None,
        votes=votes,
        candidates=len(candidates),
        note="" if groups else "no candidate gave an answer that could vote",
    )
