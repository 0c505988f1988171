"""Turn candidates into an answer by their votes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from strategies.answers import Extracted, Group, answer_of, group
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


class Ballot:
    """Candidates with the answers they give. Each is read once, when cast, however often the votes are counted."""

    def __init__(self, *, form: str | None) -> None:
        """`form`: see `strategies.answers.expected_form`."""
        self._form = form
        self._cast: list[tuple[Candidate, Extracted | None]] = []

    @classmethod
    def of(cls, candidates: Iterable[Candidate], *, form: str | None) -> Ballot:
        ballot = cls(form=form)
        for candidate in candidates:
            ballot.cast(candidate)
        return ballot

    def cast(self, candidate: Candidate) -> None:
        self._cast.append((candidate, answer_of(candidate, form=self._form)))

    @property
    def candidates(self) -> list[Candidate]:
        return [candidate for candidate, _ in self._cast]

    @property
    def groups(self) -> list[Group]:
        """Equal answers, the largest group first. Blank and cut candidates are in none."""
        return group(self._cast)

    def elect(self, ranking: Sequence[Candidate], *, answers: int = 1) -> Answer:
        """The first `answers` of a ranking, with the votes.

        `agreement` is the share of the votes cast that agree with the first; None when it cast none itself.
        """
        groups = self.groups
        cast = sum(len(g.members) for g in groups)
        first = ranking[0].index if ranking else None
        own = next((g for g in groups if any(c.index == first for c in g.members)), None)
        return Answer(
            winners=tuple(ranking[:answers]),
            agreement=len(own.members) / cast if own is not None else None,
            votes={g.value: len(g.members) for g in groups},
            candidates=len(self._cast),
            note="" if groups else "no candidate gave an answer that could vote",
        )

    def vote(self, *, answers: int = 1) -> Answer:
        """Majority vote: the largest group's best member first."""
        return self.elect(rank(self.groups, self.candidates), answers=answers)
