"""Turn candidates into an answer by their votes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from strategies.answers import Demands, Extracted, Group, answer_of, demands_of, expected_form, group
from strategies.consensus import UNRELATED, Likeness, is_open
from strategies.equivalence import Spellings
from strategies.stopping import Poll, Vote
from strategies.types import Answer, Candidate, Equivalence, Query


def quality(candidate: Candidate) -> tuple[float, float, int]:
    """Orders the members of one group: score, then mean log probability, then the earlier draw. Higher is better."""
    score = candidate.score if candidate.score is not None else float("-inf")
    mean = candidate.logprobs.mean if candidate.logprobs is not None else 0.0
    return score, mean, -candidate.index


def best_first(members: Sequence[Candidate]) -> list[Candidate]:
    return sorted(members, key=quality, reverse=True)


def usable(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Candidates in the order in which they would be returned when nothing could vote: finished, then the longest."""
    return sorted(
        candidates, key=lambda c: (c.finished, bool(c.text or c.tool_calls), c.tokens, -c.index), reverse=True
    )


class Ballot:
    """Candidates with the answers they give. Each is read once, when cast, however often the votes are counted.

    Those that break the request's demands have no vote. Only if nobody else has one do they vote among themselves.
    """

    def __init__(self, *, form: str | None, demands: Demands | None = None) -> None:
        """`form`: see `strategies.answers.expected_form`."""
        self._form = form
        self._demands = demands or Demands()
        self._broken: dict[int, str] = {}  # candidate's index -> the demand that it breaks
        self._cast: list[tuple[Candidate, Extracted | None]] = []
        self._spellings = Spellings()
        self._texts: list[Candidate] = []  # those that `_likeness` compares
        self._likeness = Likeness()

    @classmethod
    def of(cls, candidates: Iterable[Candidate], *, form: str | None) -> Ballot:
        return cls(form=form).filled(candidates)

    @classmethod
    def to(cls, query: Query) -> Ballot:
        """For the answers to one query, with its form and its demands."""
        return cls(form=expected_form(query), demands=demands_of(query))

    def filled(self, candidates: Iterable[Candidate]) -> Ballot:
        for candidate in candidates:
            self.cast(candidate)
        return self

    def cast(self, candidate: Candidate) -> bool:
        """Whether it gives an answer that votes."""
        answer = answer_of(candidate, form=self._form)
        self._cast.append((candidate, answer))
        broken = self._demands.broken(candidate) if candidate.finished else None
        if broken is not None:
            self._broken[candidate.index] = broken
        if answer is None:
            return False
        self._spellings.add(answer)
        if broken is None and answer.form == "text" and is_open(candidate.text):
            self._texts.append(candidate)
            self._likeness.add(candidate.text)
        return broken is None

    def keeps(self, candidate: Candidate) -> bool:
        """Whether a candidate that has been cast breaks no demand."""
        return candidate.index not in self._broken

    def breach(self, winners: Sequence[Candidate]) -> str:
        """A sentence if the first of them breaks a demand, because none keeps to all; else nothing."""
        broken = self._broken.get(winners[0].index) if winners else None
        return f"no candidate keeps to what was asked for: {broken}" if broken else ""

    async def reconcile(self, equivalence: Equivalence | None) -> None:
        """Find out which of the answers cast since the last time equal others in spite of their spelling, so that they
        are one group from now on."""
        if equivalence is not None:
            await self._spellings.settle(equivalence)

    def scored(self, scores: Mapping[int, float]) -> Ballot:
        """The same candidates, none read again, with the scores of those that have one, by index. To be ranked by them:
        it does not compare open texts."""
        ballot = Ballot(form=self._form, demands=self._demands)
        ballot._spellings, ballot._broken = self._spellings, self._broken
        ballot._cast = [(replace(c, score=scores.get(c.index)), found) for c, found in self._cast]
        return ballot

    @property
    def candidates(self) -> list[Candidate]:
        return [candidate for candidate, _ in self._cast]

    @property
    def groups(self) -> list[Group]:
        """Equal answers, the largest group first. Blank and cut candidates are in none."""
        return self._kept or group(self._cast, self._spellings.stands)

    @property
    def _kept(self) -> list[Group]:
        """Those of candidates that keep to the demands."""
        return group([pair for pair in self._cast if self.keeps(pair[0])], self._spellings.stands)

    def completed(self, ranking: Sequence[Candidate]) -> list[Candidate]:
        """A ranking of those that vote, and behind it the others; of the finished, those that break a demand last."""
        ranked = {candidate.index for candidate in ranking}
        rest = [candidate for candidate in usable(self.candidates) if candidate.index not in ranked]
        return [*ranking, *sorted(rest, key=lambda c: (c.finished, self.keeps(c)), reverse=True)]

    def rank(self, groups: Sequence[Group]) -> list[Candidate]:
        """The best of every group in the groups' order, then the groups' other members, then those without a vote."""
        ordered = [best_first(g.members) for g in groups]
        return self.completed([members[0] for members in ordered] + [c for members in ordered for c in members[1:]])

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
            note=self.breach(ranking[:1]) or ("" if groups else "no candidate gave an answer that could vote"),
        )

    def poll(
        self,
        answer: Answer,
        *,
        cap: int,
        under_way: int = 0,
        by_votes: bool = True,
        verified: bool = False,
        scores: Mapping[int, float] | None = None,
    ) -> Poll:
        """The candidates as a checkpoint sees them, see `Poll`. answer: elected by them; scores: by indices.

        One that breaks a demand is none to stop at, however many agree with it.
        """
        number = {c.index: i for i, g in enumerate(self._kept) for c in g.members}
        known = scores or {}
        return Poll(
            votes=[Vote(answer=number.get(c.index), tokens=c.tokens, score=known.get(c.index)) for c, _ in self._cast],
            leader=number.get(answer.winners[0].index) if answer.winners else None,
            cap=cap,
            under_way=under_way,
            by_votes=by_votes,
            verified=verified,
        )

    def vote(self, *, answers: int = 1) -> Answer:
        """Majority vote: the largest group's best member first. Of open texts, no two of which are equal, the one most
        like the others."""
        groups = self.groups
        voters = sum(len(each.members) for each in groups)
        if len(self._texts) > 2 and len(groups) == len(self._texts) == voters:
            return self._consensus(answers)
        return self.elect(self.rank(groups), answers=answers)

    def _consensus(self, answers: int) -> Answer:
        """The text most like the others first, and a note that says how alike they are."""
        means = self._likeness.means()
        order = sorted(range(len(means)), key=lambda i: (-means[i], self._texts[i].index))
        texts = [self._texts[i] for i in order]
        likeness = means[order[0]]
        said = "no two answers are equal: this one is most like the others"
        if likeness < UNRELATED:
            said = "there is no consensus: the answers have little in common"
        return replace(
            self.elect(self.completed(texts), answers=answers), note=f"{said} (mean similarity {likeness:.2f})"
        )
