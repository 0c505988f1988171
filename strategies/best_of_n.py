"""Best of N: a scorer ranks the candidates, and a rule makes a winner of the ranks (see `strategies.selection`)."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import replace

from strategies.selection import select
from strategies.spec import RIGHT, StrategySpec
from strategies.stopping import Verdict, verdict_of
from strategies.types import Answer, Candidate, Publish, Query, ScorerError, Tools
from strategies.voting import Ballot
from strategies.waves import Drawing, draw_in_waves

_INSTEAD = "so the majority vote decided"


async def best_of_n(query: Query, spec: StrategySpec, tools: Tools, publish: Publish) -> Answer:
    """Draw up to n candidates and rank them. Publishes the best of those seen so far with every candidate and score.

    A scorer that takes its time is asked beside the drawing, once there are two answers to choose from. Where it fails,
    the majority vote decides. The first candidate that a verifier calls right ends the drawing, and what is under way
    is cut on the engine.
    """
    scoring = _Scoring(query, spec, tools, publish)
    top_logprobs = tools.scorer.needs_top_logprobs if tools.scorer is not None else None
    try:
        drawn = draw_in_waves(query, spec, tools, scoring.add, top_logprobs=top_logprobs)
        drawing = await (scoring.until_verified(drawn) if spec.verified else drawn)
        answer = await scoring.finish()  # what came before a failure is ranked all the same
        if drawing.failure is not None:
            raise drawing.failure
        return replace(answer, cut_short=drawing.stop)
    finally:
        await scoring.cancel()


class _Scoring:
    """The candidates of one request, and what is known of their scores."""

    def __init__(self, query: Query, spec: StrategySpec, tools: Tools, publish: Publish) -> None:
        self._query = query
        self._spec = spec
        self._scorer = tools.scorer
        self._power = tools.borda_power
        self._stopping = tools.stopping
        self._equivalence = tools.equivalence
        self._publish = publish
        self._ballot = Ballot.to(query)
        self._scores: dict[int, float] = {}
        self._unscored: list[Candidate] = []  # voters that no scorer has been asked about yet
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure = ""
        self._confidence: float | None = None
        self._verified = asyncio.Event()

    async def until_verified(self, drawing: Coroutine[None, None, Drawing]) -> Drawing:
        """The drawing to its end, or to the moment when as many are right as answers are wanted."""
        draws, right = asyncio.create_task(drawing), asyncio.create_task(self._verified.wait())
        try:
            await asyncio.wait((draws, right), return_when=asyncio.FIRST_COMPLETED)
            if draws.done():
                return draws.result()
            return Drawing(stop=self._right().stop)
        finally:
            for task in (draws, right):
                task.cancel()
            await asyncio.gather(draws, right, return_exceptions=True)

    async def add(self, candidate: Candidate, under_way: int) -> Verdict:
        """Scores only what votes can win, so that nothing is spent on anything else. Checkpoints judge by scores that
        are there at once: others may change the leader long after the last candidate has come."""
        votes = self._ballot.cast(candidate)
        if self._equivalence is not None:
            self._publish(self._answer())
            await self._ballot.reconcile(self._equivalence)
        if votes and not self._failure and self._scorer is not None:
            if self._scorer.pace == "at_once":
                await self._score([candidate])
            else:
                self._unscored.append(candidate)
                if self._scorer.pace == "each":
                    self._ask()
        if self._spec.verified and not under_way and self._tasks:  # another wave may be for nothing
            await asyncio.wait(self._tasks)
        answer = self._answer()
        verdict = self._judge(answer, under_way)
        self._confidence = verdict.confidence
        self._publish(replace(answer, confidence=self._confidence))
        return verdict

    def _judge(self, answer: Answer, under_way: int) -> Verdict:
        verified = self._spec.verified
        if self._scorer is None or self._failure or (self._scorer.pace != "at_once" and not verified):
            return Verdict(wave=self._spec.n)
        if self._verified.is_set():
            return self._right()
        if verified and under_way:  # not all of the wave's verdicts are known
            return Verdict()
        verdict = self._checkpoint(answer, under_way)
        return verdict if len(answer.winners) >= self._query.answers else replace(verdict, stop=None)

    def _checkpoint(self, answer: Answer, under_way: int) -> Verdict:
        poll = self._ballot.poll(
            answer,
            cap=self._spec.n,
            under_way=under_way,
            by_votes=False,
            verified=self._spec.verified,
            scores=answer.scores,
        )
        return verdict_of(self._stopping, poll)

    def _right(self) -> Verdict:
        """As many are right as answers are wanted: the end, though not before its time if all have been drawn."""
        return Verdict(stop="verified" if len(self._ballot.candidates) < self._spec.n else None)

    async def finish(self) -> Answer:
        """The answer when all scores have come."""
        if self._verified.is_set():  # what the others would be called changes nothing
            await self.cancel()
        self._ask()
        if self._tasks:
            done, _ = await asyncio.wait(self._tasks)
            for task in done:
                if not task.cancelled() and (fault := task.exception()) is not None:
                    raise fault
        if not self._ballot.candidates:
            return Answer(winners=())
        answer = self._answer(final=True)
        if self._verified.is_set():  # by a verdict that came after the last checkpoint
            self._confidence = self._checkpoint(answer, 0).confidence
        return replace(answer, confidence=self._confidence)

    async def cancel(self) -> None:
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def _contested(self) -> bool:
        """While all answers are equal no score changes them, and none is paid for. A verifier may refuse them all."""
        return self._spec.verified or len(self._ballot.groups) > 1

    def _ask(self) -> None:
        """Begin to score what waits for it, each alone or all together as the scorer wants them."""
        if self._scorer is None or not self._unscored or not self._contested:
            return
        waiting, self._unscored = self._unscored, []
        calls = [waiting] if self._scorer.pace == "together" else [[candidate] for candidate in waiting]
        for candidates in calls:
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
        if self._spec.verified and sum(score >= RIGHT for score in self._scores.values()) >= self._query.answers:
            self._verified.set()

    def _answer(self, *, final: bool = False) -> Answer:
        """By what is known now."""
        if not self._failure and (self._scores or self._scorer is None):
            ballot = self._ballot.scored(self._scores)
            answer = select(ballot, rule=self._spec.rule, answers=self._query.answers, power=self._power)
            return replace(answer, scores=dict(self._scores))
        vote = self._ballot.vote(answers=self._query.answers)
        if not vote.votes or (self._unscored and not self._contested):
            return vote
        why = self._failure or ("the scorer had no opinion" if final else "no score had come yet")
        return replace(vote, note="; ".join(filter(None, (f"{why}, {_INSTEAD}", vote.note))))
