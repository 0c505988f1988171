"""Record pools: ask an engine every calibration question many times, and judge what comes back.

Resumable: every finished question is one line of `<out>.partial`, written at once; a later run goes on after it.
"""

from __future__ import annotations

import asyncio
import fcntl
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from router.families import builtin_questions
from router.pools import Call, Pool, Run, Sample, write_pools
from router.questions import Question, verify
from server.backends.calls import CallStats
from server.backends.openai import OpenAIEngine
from server.config import Config
from server.gateway import engine_settings, start_embedded
from strategies.answers import answer_of, expected_form
from strategies.anytime import run
from strategies.beam_search import Steps
from strategies.ledger import Ledger
from strategies.registry import strategies
from strategies.sampling import MeteredSampler
from strategies.scorers import SCORERS
from strategies.types import Budget, Candidate, Prices, Query, StrategySpec, Tools

_TOP_LOGPROBS = 5
_DEADLINE = 300.0  # seconds for one run of a strategy; an engine slower than that is broken


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to record for each question."""

    samples: int = 16
    runs: tuple[StrategySpec, ...] = ()  # strategies that can't be derived from samples
    sampling: Mapping[str, Any] = field(default_factory=lambda: {"temperature": 0.8})
    steps: Steps = field(default_factory=Steps)
    model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    done: int
    total: int
    started_with: int  # questions that were there already
    seconds: float
    correct: float  # mean correctness of the last question's samples
    family: str

    def __str__(self) -> str:
        fresh = self.done - self.started_with
        left = (self.total - self.done) * self.seconds / fresh if fresh else 0.0
        return (
            f"{self.done}/{self.total} questions, {self.seconds:.0f} s, about {left / 60:.1f} min left"
            f" ({self.family}: {self.correct:.2f} right)"
        )


class Recorder:
    """Collects the engine's calls while it records. Give its `observe` to the engine."""

    def __init__(self) -> None:
        self._calls: list[Call] = []

    def observe(self, stats: CallStats) -> None:
        if stats.completed and stats.first_token_seconds is not None:
            self._calls.append(
                Call(
                    prompt_tokens=stats.prompt_tokens,
                    running=stats.running,
                    added=stats.added,
                    first_token_seconds=round(stats.first_token_seconds, 4),
                    seconds=round(stats.seconds, 4),
                    longest=stats.longest,
                )
            )

    def take(self) -> tuple[Call, ...]:
        calls, self._calls = tuple(self._calls), []
        return calls


def as_query(question: Question, plan: Plan, *, seconds: float = _DEADLINE) -> Query:
    """The question as a client would ask it."""
    now = time.monotonic()
    return Query(
        id=f"calibrate-{question.id}",
        model=plan.model,
        messages=question.messages,
        sampling=plan.sampling,
        budget=Budget(max_total_tokens=1_000_000, deadline=now + seconds),
        prices=Prices(token_price=0.0, latency_price=0.0),
        max_tokens=question.max_tokens,
        arrived=now,
    )


async def record_question(question: Question, plan: Plan, engine: OpenAIEngine, recorder: Recorder) -> Pool:
    """All samples and runs of one question. Raises EngineError."""
    query = as_query(question, plan)
    form = expected_form(query)
    samples: list[Sample] = []
    while len(samples) < plan.samples:
        sampler = MeteredSampler(engine, Ledger(query.budget.max_total_tokens), default_max_tokens=question.max_tokens)
        wave = min(engine.max_n, plan.samples - len(samples))
        drawn = sampler.draw(query, n=wave, top_logprobs=_TOP_LOGPROBS)
        async with aclosing(drawn):
            samples += [_sample(question, candidate, form) async for candidate in drawn]
    calls = recorder.take()
    runs = [await _run(question, spec, plan, engine) for spec in plan.runs]
    recorder.take()  # a run's calls are continuations: their prompts are mostly cached, and would mislead
    return Pool(
        question=question,
        model=plan.model,
        temperature=float(plan.sampling.get("temperature", 1.0)),
        recorded=datetime.now(UTC).date().isoformat(),
        samples=tuple(samples),
        runs=tuple(runs),
        calls=calls,
    )


def _sample(question: Question, candidate: Candidate, form: str | None) -> Sample:
    found = answer_of(candidate, form=form)
    logprobs = candidate.logprobs
    return Sample(
        text=candidate.text,
        answer=found.value if found is not None else None,
        correct=verify(question, candidate.text) if found is not None else 0.0,
        tokens=candidate.tokens,
        mean_logprob=round(logprobs.mean, 5) if logprobs and logprobs.tokens else None,
        certainty=round(logprobs.certainty / logprobs.certain_tokens, 5)
        if logprobs and logprobs.certain_tokens
        else None,
    )


async def _run(question: Question, spec: StrategySpec, plan: Plan, engine: OpenAIEngine) -> Run:
    query = as_query(question, plan)
    ledger = Ledger(query.budget.max_total_tokens)
    sampler = MeteredSampler(engine, ledger, default_max_tokens=question.max_tokens)
    tools = Tools(sampler=sampler, scorer=SCORERS[spec.scorer] if spec.scorer else None)
    strategy = strategies(plan.steps)[spec.method]
    started = time.monotonic()
    answer = await run(strategy, query, spec, tools, sampler, deadline=query.budget.deadline)
    winner = answer.winners[0]
    return Run(
        spec=str(spec),
        correct=verify(question, winner.text) if winner.finished else 0.0,
        tokens=ledger.spent,
        seconds=round(time.monotonic() - started, 4),
    )


def check_new(out: Path) -> None:
    """Raises ValueError when a finished recording is there: it took hours and is not overwritten."""
    if out.exists():
        raise ValueError(f"{out} holds a finished recording, which is not overwritten: name another file with --out")


async def record(
    questions: Sequence[Question],
    plan: Plan,
    engine: OpenAIEngine,
    recorder: Recorder,
    out: Path,
    *,
    progress: Callable[[Progress], None],
    swept: Callable[[], Awaitable[Sequence[Call]]] | None = None,
) -> list[Pool]:
    """Record every question that `<out>.partial` does not hold yet, then write `out`.

    swept: a load sweep to record at the end. Raises EngineError, ValueError; what was recorded until then stays and the
    next call goes on after it.
    """
    check_new(out)
    partial = out.with_name(out.name + ".partial")
    out.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("ab") as lines:
        _claim(lines, partial)
        done = _resume(partial)
        _check_same(done.values(), plan, partial)
        known, started = len(done), time.monotonic()
        for question in questions:
            if question.id in done:
                continue
            pool = await record_question(question, plan, engine, recorder)
            lines.write(orjson.dumps(pool.to_json()) + b"\n")
            lines.flush()
            done[question.id] = pool
            right = sum(sample.correct for sample in pool.samples) / len(pool.samples)
            progress(
                Progress(
                    done=len(done),
                    total=len(questions),
                    started_with=known,
                    seconds=time.monotonic() - started,
                    correct=right,
                    family=question.family,
                )
            )
        pools = [done[question.id] for question in questions]
        if swept is not None:
            pools[0] = replace(pools[0], calls=(*pools[0].calls, *await swept()))
    write_pools(out, pools)
    partial.unlink()
    return pools


def _claim(file: BinaryIO, partial: Path) -> None:
    """Two recordings into one file would tear each other's lines. Raises ValueError when another one is running."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"another calibration is writing {partial}") from None


def _check_same(done: Iterable[Pool], plan: Plan, partial: Path) -> None:
    """What an interrupted run left behind is gone on with only in its own way. Raises ValueError."""
    temperature = float(plan.sampling.get("temperature", 1.0))
    for pool in done:
        before = (pool.model, pool.temperature, len(pool.samples), {run.spec for run in pool.runs})
        if before != (plan.model, temperature, plan.samples, {str(spec) for spec in plan.runs}):
            raise ValueError(
                f"{partial} was begun with {pool.model}, temperature {pool.temperature:g}, {len(pool.samples)} samples "
                "or another menu: go on with the same settings, or remove it"
            )


def _resume(partial: Path) -> dict[str, Pool]:
    """Pools of an interrupted run. A torn last line is cut off; its question is asked again."""
    if not partial.exists():
        return {}
    done: dict[str, Pool] = {}
    whole = 0
    raw = partial.read_bytes()
    for line in raw.splitlines(keepends=True):
        try:
            pool = Pool.from_json(orjson.loads(line))
        except ValueError:
            break
        if not line.endswith(b"\n"):
            break
        done[pool.question.id] = pool
        whole += len(line)
    if whole < len(raw):
        with partial.open("r+b") as file:
            file.truncate(whole)
    return done


async def sweep(
    engine: OpenAIEngine,
    recorder: Recorder,
    plan: Plan,
    *,
    rounds: int = 2,
    sentences: Sequence[int] = (2, 12, 40, 100),
    sequences: Sequence[int] = (1, 2, 4, 8),
    at_once: Sequence[int] = (1, 2, 4),
) -> tuple[Call, ...]:
    """A short load sweep for the speed model: prompts of several lengths, several sequences in a call,
    several calls at once."""
    filler = "The quick brown fox jumps over the lazy dog. "
    recorder.take()
    for turn, length, added, calls in product(range(rounds), sentences, sequences, at_once):
        if added <= engine.max_n:
            questions = [_load(f"{turn}-{length}-{added}-{calls}-{i}", filler * length) for i in range(calls)]
            await asyncio.gather(*(_drain(engine, as_query(q, plan), added) for q in questions))
    return recorder.take()


def _load(name: str, filler: str) -> Question:
    """A prompt never seen before, so that no prefix cache shortens the prefill."""
    return Question(
        id=f"sweep-{name}",
        family="sweep",
        messages=({"role": "user", "content": f"{name} {filler}Go on."},),
        reference="0",
        verifier="number",
        max_tokens=24,
    )


async def _drain(engine: OpenAIEngine, query: Query, added: int) -> None:
    async for _ in engine.sample(query, n=added, max_tokens=query.max_tokens or 24):
        pass


async def calibrate_builtin(
    config: Config,
    *,
    out: Path,
    per_family: int,
    samples: int,
    seed: int,
    families: Sequence[str],
    sweep_load: bool,
    say: Callable[[str], None],
) -> None:
    """Record the built-in questions on the configured engine.

    Raises EngineError, EmbeddedEngineError, ImportError, ValueError.
    """
    check_new(out)  # before the engine is started
    questions = builtin_questions(per_family=per_family, seed=seed, families=families)
    settings = config.strategies
    child = await asyncio.to_thread(start_embedded, config, say) if config.engine.kind == "embedded" else None
    recorder = Recorder()
    url = child.url if child is not None else config.engine.url
    engine = OpenAIEngine(engine_settings(config, url), observe=recorder.observe)
    try:
        profile = await engine.probe()
        plan = Plan(
            samples=samples,
            # a scorer that asks someone else is not there while calibrating
            runs=tuple(spec for spec in config.menu if spec.method == "beam_search" and spec.scorer in SCORERS),
            sampling={"temperature": settings.sampling_temperature},
            steps=Steps(
                stop=settings.beam_step_stop, tokens=settings.beam_step_tokens, max_steps=settings.beam_max_steps
            ),
            model=config.engine.model or profile.models[0],
        )
        said = 0.0

        def show(progress: Progress) -> None:
            nonlocal said
            if time.monotonic() - said > 1 or progress.done == progress.total:
                said = time.monotonic()
                say(str(progress))

        async def swept() -> Sequence[Call]:
            say("load sweep")
            return await sweep(engine, recorder, plan)

        await record(questions, plan, engine, recorder, out, progress=show, swept=swept if sweep_load else None)
    finally:
        await engine.aclose()
        if child is not None:
            child.stop()
