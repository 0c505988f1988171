"""From scored candidates to a winner: the rules of best-of-N. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from strategies.answers import Group
from strategies.spec import Rule
from strategies.types import Answer, Candidate
from strategies.voting import Ballot, best_first


def select(ballot: Ballot, *, rule: Rule, answers: int = 1, power: float = 1.0) -> Answer:
    """The winner among the ballot's candidates, of which those that cast no vote come last.

    naive: the highest score. weighted: the answer whose candidates' scores sum highest (Li et al. 2023), which with a
    confidence for a score is confidence-weighted voting. borda: the same over places instead of scores.
    """
    groups = ballot.groups
    if rule == "naive":
        ranking = best_first([c for g in groups for c in g.members])
        return ballot.elect(ballot.completed(ranking), answers=answers)
    if rule == "weighted":
        worth: Callable[[Candidate], float] = _score
    else:
        votes = places([c for g in groups for c in g.members if c.score is not None], power=power)
        worth = lambda candidate: votes.get(candidate.index, 0.0)  # noqa: E731 - one of two functions

    def total(group: Group) -> float:
        return sum(worth(candidate) for candidate in group.members)

    return ballot.elect(ballot.rank(sorted(groups, key=total, reverse=True)), answers=answers)


def _score(candidate: Candidate) -> float:
    return candidate.score or 0.0


def places(candidates: Sequence[Candidate], *, power: float) -> dict[int, float]:
    """Votes by place: (N - place + 1) to the power, the best of N being first. Equal scores share their places' votes.

    Borda voting over self-certainty (Kang et al. 2025): power 0 is the plain vote, a large one the best score alone.
    """
    equal: dict[float, list[int]] = defaultdict(list)
    for candidate in candidates:
        equal[_score(candidate)].append(candidate.index)
    votes: dict[int, float] = {}
    for value in sorted(equal):
        below = len(votes)
        shared = sum((below + i + 1) ** power for i in range(len(equal[value]))) / len(equal[value])
        votes |= dict.fromkeys(equal[value], shared)
    return votes
