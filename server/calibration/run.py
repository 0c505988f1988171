"""`apportion calibrate`: from the configuration and the command line to a recording."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from router.pools import Call, Pool
from router.questions import Question
from server.backends.openai import OpenAIEngine
from server.backends.own import own_engine
from server.calibration.asking import Recorder
from server.calibration.collect import check_new, record
from server.calibration.journal import partial_of, read_journal
from server.calibration.pace import Paced, limiter
from server.calibration.plan import Estimate, Plan, Progress, estimate
from server.calibration.ray import load_ray, on_ray
from server.calibration.sweep import SEQUENCES, sweep, sweep_tokens
from server.calibration.verifier import Verifier, located
from server.config import Config
from server.gateway import engine_settings
from strategies.beam_search import Steps
from strategies.scorers import SCORERS
from strategies.types import Engine

_SWEEP_SHARE = 0.1  # of a budget at most: the load sweep teaches seconds, the samples everything else

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line asks for."""

    out: Path
    samples: int
    budget: int | None = None  # completion tokens
    concurrency: int = 1
    rate: float | None = None  # requests a second
    verifier: str | None = None  # file.py or file.py:function
    verifier_seconds: float = 10.0
    sweep: bool = True
    runs_each: int = 1
    runner: Literal["local", "ray"] = "local"
    ray_address: str | None = None  # of a running cluster
    ray_workers: int | None = None


def check(config: Config, options: Options) -> None:
    """What can be found wrong before an engine is started. Raises ValueError, ImportError."""
    check_new(options.out)
    if options.runner == "ray":
        if config.engine.kind == "embedded":
            raise ValueError(
                "--runner ray needs a served engine (engine.url): the embedded one takes its cores from the workers, "
                "and so would copies of it, so that wrong times would be recorded"
            )
        load_ray(options.ray_address)
    elif options.ray_address is not None or options.ray_workers is not None:
        raise ValueError("--ray-address and --ray-workers go with --runner ray")
    if options.verifier is not None:
        located(options.verifier)
    if options.rate is not None:
        limiter(options.rate)


def dry_run(config: Config, questions: Sequence[Question], options: Options) -> Estimate:
    """What a recording would buy, without asking anyone: by what an interrupted one has seen, or by max_tokens."""
    plan = _plan(config, options, model="")
    recorded = read_journal(options.out).values()
    return estimate(questions, recorded, plan, sweep=_kept_for_sweep(options, max(SEQUENCES)))


async def calibrate(config: Config, questions: Sequence[Question], options: Options, say: Say) -> list[Pool]:
    """Record the questions on the configured engine.

    Raises EngineError, EmbeddedEngineError, LaunchError, ImportError, ValueError.
    """
    check(config, options)
    recorder = Recorder()
    async with AsyncExitStack() as closing:
        url, vllm = await closing.enter_async_context(own_engine(config.engine, say))
        if vllm is not None:
            await vllm.healthy(say)
        settings = engine_settings(config, url)
        client = OpenAIEngine(settings, observe=recorder.observe)
        closing.push_async_callback(client.aclose)
        profile = await client.probe()
        turn: AbstractAsyncContextManager[None] = nullcontext() if options.rate is None else limiter(options.rate)
        engine: Engine = Paced(client, turn)
        plan = _plan(config, options, model=config.engine.model or profile.models[0])
        kept = _kept_for_sweep(options, engine.max_n)
        verifier = None
        if options.verifier is not None:
            verifier = Verifier(options.verifier, seconds=options.verifier_seconds)
            closing.push_async_callback(verifier.aclose)
        asker = None
        if options.runner == "ray":
            workers = on_ray(options.ray_address, options.ray_workers, settings, plan, recorder, turn, say)
            asker = await closing.enter_async_context(workers)

        async def swept() -> Sequence[Call]:
            say("load sweep")
            return await sweep(engine, recorder, plan)

        pools = await record(
            questions,
            plan,
            engine,
            recorder,
            options.out,
            progress=_throttled(say),
            asker=asker,
            planned=lambda bought: say(str(bought)),
            judge=verifier.judge if verifier is not None else None,
            swept=swept if kept or (options.sweep and options.budget is None) else None,
            sweep=kept,
        )
    if verifier is not None and verifier.late:
        late = f"{verifier.late} samples count as wrong, because the verifier was not done with them"
        say(f"{late} in {options.verifier_seconds:g} s")
    for sentence in summary(questions, pools):
        say(sentence)
    return pools


def interrupted(options: Options) -> str:
    """What to tell someone who pressed Ctrl-C."""
    pools = read_journal(options.out)
    samples = sum(len(pool.samples) for pool in pools.values())
    return (
        f"interrupted: {len(pools)} questions with {samples} samples are in {partial_of(options.out)}; "
        "the same command goes on from there"
    )


def summary(questions: Sequence[Question], pools: Sequence[Pool]) -> list[str]:
    """What whoever trains on the pools should know of them."""
    said: list[str] = []
    if missing := len(questions) - len(pools):
        said.append(f"{missing} of {len(questions)} questions are left out: refused by the engine, or past the budget")
    by_label = {label: [pool for pool in pools if pool.label == label] for label in ("reference", "agreement")}
    if agreement := by_label["agreement"]:
        lone = sum(sum(sample.correct for sample in pool.samples) <= 1 for pool in agreement)
        said.append(
            f"{len(agreement)} questions have neither a reference nor a verifier: there 'right' means that a sample "
            "agrees with the vote over all of them"
        )
        if lone:
            said.append(f"in {lone} of them no two samples agree, so that a vote has nothing to gain: open questions?")
    return said


def _plan(config: Config, options: Options, *, model: str) -> Plan:
    settings = config.strategies
    return Plan(
        samples=options.samples,
        budget=options.budget,
        concurrency=options.concurrency,
        # a scorer that asks someone else is not there while calibrating; under a budget, runs would eat the samples
        runs=tuple(spec for spec in config.menu if spec.method == "beam_search" and spec.scorer in SCORERS)
        if options.budget is None
        else (),
        runs_each=options.runs_each,
        sampling={"temperature": settings.sampling_temperature},
        steps=Steps(stop=settings.beam_step_stop, tokens=settings.beam_step_tokens, max_steps=settings.beam_max_steps),
        model=model,
    )


def _kept_for_sweep(options: Options, max_n: int) -> int:
    """Tokens of the budget that the load sweep gets: what it costs, or nothing where that is too much of it."""
    cost = sweep_tokens(max_n)
    return cost if options.sweep and options.budget is not None and cost <= options.budget * _SWEEP_SHARE else 0


def _throttled(say: Say) -> Callable[[Progress], None]:
    said = 0.0

    def show(progress: Progress) -> None:
        nonlocal said
        if time.monotonic() - said > 1 or progress.share >= 1:
            said = time.monotonic()
            say(str(progress))

    return show
