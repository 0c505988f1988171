"""Best of N: a scorer ranks the candidates, and a rule makes a winner of the ranks (see `strategies.selection`)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace

from strategies.answers import expected_form
from strategies.draws import Draws
from strategies.selection import select
from strategies.types import Answer, Candidate, Publish, Query, ScorerError, StrategySpec, Tools
from strategies.voting import Ballot

_INSTEAD = "so the majority vote decided"


async def best_of_n(query: Query, spec: StrategySpec, tools: Tools, publish: Publish) -> Answer:
    """Draw n candidates and rank them. Publishes the best of those seen so far with every candidate and every score.

    A scorer that takes its time is asked beside the drawing. Where it fails, the majority vote decides.
    """
    scoring = _Scoring(query, spec, tools, publish)
    top_logprobs = tools.scorer.needs_top_logprobs if tools.scorer is not None else None
    try:
        async with aclosing(Draws(query, tools, top_logprobs=top_logprobs)) as draws:
            draws.start(spec.n)
            while (drawn := await draws.next()) is not None:
                await scoring.add(drawn.candidate)
        answer = await scoring.finish()  # what came before a failure is ranked all the same
        if draws.failure is not None:
            raise draws.failure
        return answer
    finally:
        await scoring.cancel()


class _Scoring:
    """The candidates of one request, and what is known of their scores."""

    def __init__(self, query: Query, spec: StrategySpec, tools: Tools, publish: Publish) -> None:
        self._query = query
        self._spec = spec
        self._scorer = tools.scorer
        self._power = tools.borda_power
        self._equivalence = tools.equivalence
        self._publish = publish
        self._ballot = Ballot(form=expected_form(query))
        self._scores: dict[int, float] = {}
        self._unscored: list[Candidate] = []  # voters for which a scorer that sees all together is waiting
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure = ""

    async def add(self, candidate: Candidate) -> None:
        """Only what votes can win, so that nothing is spent on scores for anything else."""
        votes = self._ballot.cast(candidate)
        await self._ballot.reconcile(self._equivalence)
        if votes and not self._failure and self._scorer is not None:
            if self._scorer.pace == "at_once":
                await self._score([candidate])
            elif self._scorer.pace == "each":
                self._begin([candidate])
            else:
                self._unscored.append(candidate)
        self._publish(self._answer())

    async def finish(self) -> Answer:
        """The answer when all scores have come."""
        if self._unscored:
            self._begin(self._unscored)
            self._unscored = []
        if self._tasks:
            done, _ = await asyncio.wait(self._tasks)
            for task in done:
                if not task.cancelled() and (fault := task.exception()) is not None:
                    raise fault
        return self._answer(final=True) if self._ballot.candidates else Answer(winners=())

    async def cancel(self) -> None:
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, candidates: Sequence[Candidate]) -> None:
        self._tasks.add(asyncio.create_task(self._score_and_publish(candidates)))

    async def _score_and_publish(self, candidates: Sequence[Candidate]) -> None:
        await self._score(candidates)
        if self._failure:
            for task in self._tasks - {asyncio.current_task()}:
                task.cancel()
        self._publish(self._answer())

    async def _score(self, candidates: Sequence[Candidate]) -> None:
        try:
            if self._scorer is None:
                return
            if self._scorer.needs_top_logprobs is not None and all(c.logprobs is None for c in candidates):
                raise ScorerError("the engine sent no logprobs")
            scores = await self._scorer.score(self._query, candidates)
        except ScorerError as error:
            self._failure = self._failure or str(error)
            return
        known = zip(candidates, scores, strict=True)
        self._scores |= {candidate.index: score for candidate, score in known if score is not None}

    def _answer(self, *, final: bool = False) -> Answer:
        """By what is known now."""
        if not self._failure and (self._scores or self._scorer is None):
            ballot = self._ballot.scored(self._scores)
            answer = select(ballot, rule=self._spec.rule, answers=self._query.answers, power=self._power)
            return replace(answer, scores=dict(self._scores))
        vote = self._ballot.vote(answers=self._query.answers)
        if not vote.votes:
            return vote
        why = self._failure or ("the scorer had no opinion" if final else "no score had come yet")
        return replace(vote, note="; ".join(filter(None, (f"{why}, {_INSTEAD}", vote.note))))
