"""Ask an engine the questions, judge what comes back, and write the pools.

Resumable: what has been recorded is on disk at once (`journal`), and a later run goes on from there. Under a budget the
questions are taken in a random order, always the same, so that those which the tokens last for are a fair sample.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path

from router.outcomes import accuracy, agreed, judged, sample_of
from router.pools import Call, Pool, Run, Sample, check_name, write_pools
from router.questions import Question
from server.calibration.asking import Ask, Recorder, as_query, ask
from server.calibration.journal import Journal
from server.calibration.plan import PILOT, Estimate, Plan, Progress, estimate, next_round
from strategies.anytime import run
from strategies.ledger import Ledger
from strategies.registry import strategies
from strategies.sampling import MeteredSampler
from strategies.scorers import SCORERS
from strategies.spec import StrategySpec
from strategies.types import Candidate, Engine, EngineError, Query, Tools

_UNLIMITED = 10**12
_ITS_OWN_FAULT = frozenset({400, 413, 422})  # statuses that tell of the question, not of the engine

Judge = Callable[[Query, Sequence[Candidate]], Awaitable[Sequence[float]]]


def check_new(out: Path) -> None:
    """Raises ValueError when a finished recording is there: it took hours and is not overwritten. ImportError too."""
    check_name(out)
    if out.exists():
        raise ValueError(f"{out} holds a finished recording, which is not overwritten: name another file with --out")


async def record(
    questions: Sequence[Question],
    plan: Plan,
    engine: Engine,
    recorder: Recorder,
    out: Path,
    *,
    progress: Callable[[Progress], None],
    asker: Ask | None = None,
    planned: Callable[[Estimate], None] = lambda estimate: None,
    judge: Judge | None = None,
    swept: Callable[[], Awaitable[Sequence[Call]]] | None = None,
    sweep: int = 0,
) -> list[Pool]:
    """Record every question that `<out>.partial` does not hold yet, then write `out`.

    asker: draws the samples in place of the engine, which is left with the runs. judge: the user's verifier. swept: a
    load sweep to record at the end, for which so many tokens of a budget are kept. planned: told what the budget buys,
    once a few questions have been asked. Questions that the engine refuses are left out. Raises EngineError,
    ValueError; what was recorded until then stays and the next call goes on after it.
    """
    check_new(out)
    with Journal(out, questions, plan) as journal:
        asker = asker or partial(ask, engine, plan)
        collector = _Collector(questions, plan, engine, recorder, journal, asker, judge, sweep=sweep, progress=progress)
        try:
            await collector.collect(planned)
            await collector.run_strategies()
        finally:
            collector.settle()
        pools = [judged(journal.pools[question.id]) for question in questions if question.id in journal.pools]
        if not pools:
            raise collector.refusal or ValueError("the budget does not last for a single question")
        if swept is not None:
            pools[0] = replace(pools[0], calls=(*pools[0].calls, *await swept()))
        write_pools(out, pools)
        journal.remove()
    return pools


class _Collector:
    def __init__(
        self,
        questions: Sequence[Question],
        plan: Plan,
        engine: Engine,
        recorder: Recorder,
        journal: Journal,
        asker: Ask,
        judge: Judge | None,
        *,
        sweep: int,
        progress: Callable[[Progress], None],
    ) -> None:
        by_chance = sorted(questions, key=lambda question: sha256(question.id.encode()).digest())
        self._questions = questions if plan.budget is None else by_chance
        self._plan, self._engine, self._recorder, self._journal = plan, engine, recorder, journal
        self._ask, self._judge, self._sweep, self._progress = asker, judge, sweep, progress
        limit = _UNLIMITED if plan.budget is None else plan.budget - sweep - journal.tokens
        self._ledger = Ledger(limit) if limit > 0 else None
        self._kept = 0  # tokens of this run that became samples
        self._drawing = 0
        self._ended = asyncio.Condition()  # a draw has, and given back what it did not need
        self._closed: set[str] = set()  # questions that get no more: refused, or past the budget
        self._started, self._known, self._had = time.monotonic(), len(journal.pools), journal.samples
        self.refusal: EngineError | None = None

    async def collect(self, planned: Callable[[Estimate], None]) -> None:
        opening = self._plan.opening
        if self._plan.budget is not None:
            await self._all(self._questions[:PILOT], opening)
        planned(estimate(self._questions, self._journal.pools.values(), self._plan, sweep=self._sweep))
        await self._all(self._questions, opening)
        while opened := [pool for pool in self._recorded() if self._open(pool)]:
            for_more = next_round(opened, self._plan)
            await _at_once(
                [self._top_up(pool.question, len(pool.samples) + self._plan.first) for pool in for_more],
                self._plan.concurrency,
            )

    async def run_strategies(self) -> None:
        """One after the other and with nothing beside them, so that their seconds are their own. All questions once,
        then all of them again, so that what changes over the hours changes for all."""
        for turn in range(1, self._plan.runs_each + 1):
            for pool in self._recorded():
                done = Counter(run.spec for run in pool.runs)
                if missing := [spec for spec in self._plan.runs if done[str(spec)] < turn]:
                    runs = [await self._run(pool, spec) for spec in missing]
                    self._journal.keep(replace(pool, runs=(*pool.runs, *runs)))
        self._recorder.take()  # calls that go on with a text: mostly cached prompts, which would mislead

    def settle(self) -> None:
        """Tokens that were spent and are in no sample count against the budget of the next run too."""
        if self._ledger is not None and (lost := self._ledger.capacity - self._ledger.remaining - self._kept) > 0:
            self._journal.lose(lost)

    def _recorded(self) -> list[Pool]:
        return [self._journal.pools[q.id] for q in self._questions if q.id in self._journal.pools]

    def _open(self, pool: Pool) -> bool:
        return len(pool.samples) < self._plan.samples and pool.question.id not in self._closed

    async def _all(self, questions: Iterable[Question], upto: int) -> None:
        await _at_once([self._top_up(question, upto) for question in questions], self._plan.concurrency)

    def _top_up(self, question: Question, upto: int) -> Callable[[], Awaitable[None]]:
        """Draw until the question has so many samples, or the budget has no more for it."""

        async def work() -> None:
            while question.id not in self._closed:
                pool = self._journal.pools.get(question.id)
                missing = min(upto, self._plan.samples) - (len(pool.samples) if pool else 0)
                if missing < 1:
                    return
                wave = await self._begin(min(missing, self._engine.max_n), question.max_tokens)
                if wave < 1:
                    self._closed.add(question.id)
                    return
                try:
                    await self._draw(question, wave)
                finally:
                    await self._end()

        return work

    async def _begin(self, wanted: int, most: int) -> int:
        """How many samples of up to `most` tokens may be drawn now: all that are wanted, or, once nothing more can
        come back, what the rest of the budget is sure to last for. A sample is never cut to fit, as that would teach
        that answers are short."""
        if self._ledger is None:
            return 0
        async with self._ended:
            while (allowed := min(wanted, self._ledger.remaining // most)) < wanted and self._drawing:
                await self._ended.wait()
            self._drawing += allowed > 0
        return allowed

    async def _end(self) -> None:
        self._drawing -= 1
        async with self._ended:
            self._ended.notify_all()

    async def _draw(self, question: Question, wave: int) -> None:
        """Only whole waves are kept: of an interrupted one the short answers have come, and the long ones have not."""
        assert self._ledger is not None  # noqa: S101 - `_begin` allows nothing without it
        try:
            candidates = await self._ask(question, wave, self._ledger)
        except EngineError as error:
            if error.status not in _ITS_OWN_FAULT:
                raise
            self._closed.add(question.id)
            self.refusal = self.refusal or error
            return
        if candidates is None:
            return
        fresh = await self._samples(question, as_query(question, self._plan), candidates)
        before = self._journal.pools.get(question.id) or self._empty(question)
        pool = replace(before, samples=(*before.samples, *fresh), calls=(*before.calls, *self._recorder.take()))
        self._journal.keep(pool)
        self._kept += sum(sample.tokens for sample in fresh)
        self._progress(self._now(judged(pool)))

    async def _samples(self, question: Question, query: Query, candidates: Sequence[Candidate]) -> list[Sample]:
        verdicts: Sequence[float | None] = [None] * len(candidates)
        if question.verifier == "function":
            if self._judge is None:
                raise ValueError(f"question {question.id!r} needs a verifier")
            verdicts = await self._judge(query, candidates)
        pairs = zip(candidates, verdicts, strict=True)
        return [sample_of(question, candidate, correct=verdict) for candidate, verdict in pairs]

    async def _run(self, pool: Pool, spec: StrategySpec) -> Run:
        question, plan = pool.question, self._plan
        query = as_query(question, plan)
        ledger = Ledger(query.budget.max_total_tokens)
        sampler = MeteredSampler(self._engine, ledger, default_max_tokens=question.max_tokens)
        tools = Tools(sampler=sampler, scorer=SCORERS[spec.scorer] if spec.scorer else None)
        strategy = strategies(plan.steps)[spec.method]
        started = time.monotonic()
        answer = await run(strategy, query, spec, tools, sampler, deadline=query.budget.deadline)
        seconds = time.monotonic() - started
        (winner,) = await self._samples(question, query, answer.winners[:1])
        return Run(
            spec=str(spec),
            correct=agreed(pool, winner.answer) if pool.label == "agreement" else winner.correct,
            tokens=ledger.spent,
            seconds=round(seconds, 4),
        )

    def _empty(self, question: Question) -> Pool:
        return Pool(
            question=question,
            model=self._plan.model,
            temperature=self._plan.temperature,
            recorded=datetime.now(UTC).date().isoformat(),
            samples=(),
        )

    def _now(self, last: Pool) -> Progress:
        wanted = len(self._questions) * self._plan.samples - self._had
        share = (self._journal.samples - self._had) / wanted
        if self._plan.budget is not None and self._ledger is not None:
            share = max(share, self._kept / self._ledger.capacity)
        word = "agree" if last.label == "agreement" else "right"
        return Progress(
            done=len(self._journal.pools),
            total=len(self._questions),
            started_with=self._known,
            samples=self._journal.samples,
            tokens=self._journal.tokens,
            share=share,
            seconds=time.monotonic() - self._started,
            last=f"{last.question.family}: {accuracy(last.samples):.2f} {word}",
        )


async def _at_once(work: Sequence[Callable[[], Awaitable[None]]], limit: int) -> None:
    """So many at a time, in order. The first that fails ends all of them, and is raised as it is."""
    waiting = iter(work)

    async def worker() -> None:
        for each in waiting:
            await each()

    failure: Exception | None = None
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(limit, len(work))):
                group.create_task(worker())
    except* Exception as failures:  # noqa: BLE001 - raised again, out of its group
        failure = next(_leaves(failures))
    if failure is not None:  # raised in the clause, older Pythons put it into a group again
        raise failure from None


def _leaves(group: BaseExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
