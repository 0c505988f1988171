"""Every strategy, really run on the embedded engine, on questions that no allocator was trained on.

    python -m benchmarks.strategies [--per-family 5] [--threads 2] [--only ARM]
                                    [--out benchmarks/results/strategies.json]

Accuracy by the questions' verifiers, completion tokens over all candidates, the part of them that early stopping
cancelled, and seconds, one request at a time. Every arm asks a question with that question's seed, so the arms draw the
same candidates. Differences are paired over questions (95 %, bootstrap). Seconds are this machine's: compare them
within one run only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from zlib import crc32

import numpy as np

from router.boosted import Boosted, features_of
from router.evaluation import bootstrap
from router.families import builtin_questions
from router.pools import read_pools
from router.questions import Question, verify
from router.stopper import Stopper
from router.stopping import ByPrice, Spending, wave_of
from router.waves import wave_size
from server.backends.openai import OpenAIEngine
from server.calibration.asking import as_query
from server.calibration.plan import Plan
from server.config import load_config
from server.gateway import engine_settings, start_embedded
from strategies.answers import expected_form
from strategies.anytime import run
from strategies.beam_search import Steps
from strategies.ledger import Ledger
from strategies.majority_vote import majority_vote
from strategies.registry import strategies
from strategies.sampling import MeteredSampler
from strategies.scorers import SCORERS
from strategies.spec import StrategySpec
from strategies.stopping import ByPosterior, Stopping
from strategies.types import Answer, Prices, Publish, Query, Strategy, Tools
from strategies.voting import Ballot

SEED = 2  # of the questions; calibration's is 1
CONFIG = Path("configs/demo.yaml")
POOLS = Path("configs/pools/smollm2-135m.jsonl.gz")
MODEL = Path("configs/models/smollm2-135m")
NEVER_STOPPED = "majority_vote@16, never stopped"
DEAR_TOKENS = Prices(token_price=1.0, latency_price=0.02)


async def full_vote(query: Query, spec: StrategySpec, tools: Tools, publish: Publish) -> Answer:
    """A majority vote as it is without early stopping: all candidates at once, each to its own end."""
    ballot = Ballot(form=expected_form(query))
    async with aclosing(tools.sampler.draw(query, n=spec.n)) as stream:
        async for candidate in stream:
            ballot.cast(candidate)
    return ballot.vote()


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    name: str
    strategy: Strategy
    spec: StrategySpec
    wave: int | None = None
    learned: bool = False  # the demo's model says when to stop, at DEAR_TOKENS


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One arm on one question."""

    correct: float
    tokens: int
    cancelled: int
    seconds: float


def arms(steps: Steps) -> Sequence[Arm]:
    by_method = strategies(steps)

    def arm(written: str) -> Arm:
        spec = StrategySpec.parse(written)
        return Arm(name=written, strategy=by_method[spec.method], spec=spec)

    def learned(written: str) -> Arm:
        each = arm(written)
        first = wave_of(each.spec.n, price=DEAR_TOKENS.token_price * 0.015, wait=DEAR_TOKENS.latency_price * 0.3)
        return replace(each, name=f"{written}, learned", wave=first, learned=True)

    sixteen = StrategySpec.parse("majority_vote@16")
    size = wave_size(16, tokens=15, seconds=0.3, prices=DEAR_TOKENS, threshold=0.95)
    return [
        arm("single"),
        arm("majority_vote@8"),
        Arm(name=NEVER_STOPPED, strategy=full_vote, spec=sixteen),
        Arm(name="majority_vote@16", strategy=majority_vote, spec=sixteen),
        Arm(name=f"majority_vote@16, waves of {size}", strategy=majority_vote, spec=sixteen, wave=size),
        learned("majority_vote@16"),
        arm("best_of_n@8"),
        arm("best_of_n@8:weighted"),
        arm("best_of_n@16:weighted"),
        learned("best_of_n@16:weighted"),
        arm("beam_search@2x2"),
    ]


async def ask(question: Question, arm: Arm, plan: Plan, engine: OpenAIEngine, stopper: Stopper) -> Row:
    query = as_query(question, plan)
    # a seed of the question's own: one for all would give every question the same draws of chance
    query = replace(query, sampling={**query.sampling, "seed": crc32(question.id.encode()) % 2**31})
    ledger = Ledger(query.budget.max_total_tokens)
    sampler = MeteredSampler(engine, ledger, default_max_tokens=question.max_tokens)
    stopping: Stopping = ByPosterior()
    if arm.learned:
        place = stopper.place(features_of(question))
        spending = Spending.of(DEAR_TOKENS, seconds=0.3)
        stopping = stopper.for_request(arm.spec, place, spending) or ByPrice(spending=spending)
    scorer = SCORERS[arm.spec.scorer] if arm.spec.scorer else None
    tools = Tools(sampler=sampler, scorer=scorer, wave=arm.wave, stopping=stopping)
    started = time.monotonic()
    answer = await run(arm.strategy, query, arm.spec, tools, sampler, deadline=query.budget.deadline)
    seconds = time.monotonic() - started
    winner = answer.winners[0]
    return Row(
        correct=verify(question, winner.text) if winner.finished else 0.0,
        tokens=ledger.spent,
        cancelled=sum(c.tokens for c in sampler.candidates if c.finish_reason is None),
        seconds=seconds,
    )


async def measure(per_family: int, threads: int, only: Sequence[str]) -> Mapping[str, Sequence[Row]]:
    known = {pool.question.id for pool in read_pools(POOLS)}
    questions = [q for q in builtin_questions(per_family=per_family, seed=SEED) if q.id not in known]
    config = load_config(CONFIG, overrides={"engine.embedded.threads": threads})
    stopper = Boosted.load(MODEL).stopper
    assert stopper is not None, "train the demo's model first"  # noqa: S101 - a benchmark's own precondition
    settings = config.strategies
    steps = Steps(stop=settings.beam_step_stop, tokens=settings.beam_step_tokens, max_steps=settings.beam_max_steps)
    child = await asyncio.to_thread(start_embedded, config, lambda text: print(text, file=sys.stderr))
    engine = OpenAIEngine(engine_settings(config, child.url))
    rows: dict[str, list[Row]] = {}
    started = time.monotonic()
    try:
        model = (await engine.probe()).models[0]
        plan = Plan(sampling={"temperature": settings.sampling_temperature}, steps=steps, model=model)
        for number, question in enumerate(questions, 1):
            for arm in (each for each in arms(steps) if not only or each.name in only):
                rows.setdefault(arm.name, []).append(await ask(question, arm, plan, engine, stopper))
            if number % 10 == 0:
                print(f"{number}/{len(questions)}, {time.monotonic() - started:.0f} s", file=sys.stderr)
    finally:
        await engine.aclose()
        child.stop()
    return rows


def table(rows: Mapping[str, Sequence[Row]]) -> str:
    questions = len(next(iter(rows.values())))
    lines = [f"{questions} questions", "", f"{'strategy':<40}{'right':>7}{'tokens':>9}{'cancelled':>11}{'seconds':>9}"]
    for name, each in rows.items():
        means = [np.mean([getattr(row, field) for row in each]) for field in Row.__dataclass_fields__]
        lines.append(f"{name:<40}{means[0]:>7.3f}{means[1]:>9.1f}{means[2]:>11.1f}{means[3]:>9.2f}")
    lines.append("")
    for name, each in rows.items():
        plain = "best_of_n@16:weighted" if name.startswith("best_of_n@16:weighted") else NEVER_STOPPED
        off = rows.get(plain, [])
        if not off:
            continue
        if name.startswith(("majority_vote@16", "best_of_n@16:weighted")) and name != plain:
            right = np.array([a.correct - b.correct for a, b in zip(each, off, strict=True)])
            low, high = bootstrap(right, [str(i) for i in range(questions)])
            saved = 1 - sum(row.tokens for row in each) / sum(row.tokens for row in off)
            lines.append(
                f"{name} against never stopped: {saved:.0%} fewer tokens, accuracy {right.mean():+.3f} "
                f"[{low:+.3f}, {high:+.3f}]"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-family", type=int, default=5, help="questions of each of the 33 families")
    parser.add_argument("--threads", type=int, default=2, help="of the engine; no more than there are free cores")
    parser.add_argument("--only", action="append", default=[], help="run this arm; may be repeated")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/strategies.json"))
    options = parser.parse_args()
    rows = asyncio.run(measure(options.per_family, options.threads, options.only))
    print(table(rows))
    command = shlex.join(["python", "-m", "benchmarks.strategies", *sys.argv[1:]])
    figures = {"command": command, "rows": {name: [asdict(row) for row in each] for name, each in rows.items()}}
    options.out.write_text(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
