"""Step-level beam search against best-of-N and the majority vote at about equal tokens, on the embedded engine:

    python -m benchmarks.beam_search --seconds 700

Beam searches are run; the other two are computed from one pool of samples a question, over all its subsets of k
samples (as many as 100), so they carry less noise than the one run of a beam search, and none of an early stop. Each
beam search is compared with the k whose mean tokens come nearest to its own. Intervals: 95 %, paired bootstrap over
questions.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import sys
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from router.families import builtin_questions
from router.questions import Question, verify
from server.backends.embedded import EmbeddedSettings, start
from server.backends.openai import EngineSettings, OpenAIEngine
from strategies.answers import expected_form
from strategies.anytime import run
from strategies.beam_search import Steps
from strategies.ledger import Ledger
from strategies.registry import strategies
from strategies.sampling import MeteredSampler
from strategies.scorers import SCORERS
from strategies.spec import StrategySpec
from strategies.types import Budget, Candidate, Prices, Query, Tools
from strategies.voting import Ballot, best_first, usable

SHORT = ("chain_sum", "brackets", "counting", "lcm", "sequence")
STORIES = ("story_one_step", "story_two_step", "story_money")
STEPS = Steps(stop=(". ", "\n"), tokens=8, max_steps=16)
SAMPLES = 6
SUBSETS = 100
RESULTS = Path(__file__).parent / "results" / "beam_search.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One question: what each strategy came to. right: 0 to 1."""

    id: str
    family: str
    right: dict[str, float]
    tokens: dict[str, float]
    seconds: dict[str, float]


def questions(*, short: int, stories: int, seed: int) -> list[Question]:
    """Family by family, so that the engine has the worked examples in its cache, but each family in two halves."""
    halves: list[list[Question]] = [[], []]
    for families, count in ((SHORT, short), (STORIES, stories)):
        for family in families:
            drawn = builtin_questions(per_family=count, seed=seed, families=[family])
            halves[0] += drawn[: (count + 1) // 2]
            halves[1] += drawn[(count + 1) // 2 :]
    return halves[0] + halves[1]


def as_query(question: Question, model: str) -> Query:
    now = time.monotonic()
    return Query(
        id=f"benchmark-{question.id}",
        model=model,
        messages=question.messages,
        sampling={"temperature": 0.8},
        budget=Budget(max_total_tokens=100_000, deadline=now + 300),
        prices=Prices(token_price=0.0, latency_price=0.0),
        max_tokens=question.max_tokens,
        arrived=now,
    )


async def measure(question: Question, specs: Sequence[StrategySpec], engine: OpenAIEngine) -> Row:
    query = as_query(question, engine.profile.models[0])
    form = expected_form(query)
    ledger = Ledger(100_000)
    sampler = MeteredSampler(engine, ledger, default_max_tokens=question.max_tokens)
    started = time.monotonic()
    async with aclosing(sampler.draw(query, n=SAMPLES, top_logprobs=0)) as drawn:
        pool = [candidate async for candidate in drawn]
    pool.sort(key=lambda candidate: candidate.index)
    right, tokens = resampled(question, pool, form)
    seconds = {f"best_of_n@{SAMPLES}": time.monotonic() - started}
    for spec in specs:
        ledger = Ledger(100_000)
        sampler = MeteredSampler(engine, ledger, default_max_tokens=question.max_tokens)
        tools = Tools(sampler=sampler, scorer=SCORERS["mean_logprob"])
        started = time.monotonic()
        answer = await run(
            strategies(STEPS)[spec.method], query, spec, tools, sampler, deadline=query.budget.deadline
        )  # fmt: skip
        name = str(spec)
        seconds[name] = time.monotonic() - started
        right[name] = verify(question, answer.winners[0].text) if answer.winners[0].finished else 0.0
        tokens[name] = float(ledger.spent)
    return Row(
        id=question.id,
        family=question.family,
        right={name: round(value, 4) for name, value in right.items()},
        tokens={name: round(value, 1) for name, value in tokens.items()},
        seconds={name: round(value, 3) for name, value in seconds.items()},
    )


def resampled(
    question: Question, pool: Sequence[Candidate], form: str | None
) -> tuple[dict[str, float], dict[str, float]]:
    """Mean correctness and tokens of a vote and of best-of-k by mean log probability, over the pool's subsets."""
    verdict = {c.index: verify(question, c.text) if c.finished else 0.0 for c in pool}
    right: dict[str, float] = {}
    tokens: dict[str, float] = {}
    for k in range(1, len(pool) + 1):
        subsets = list(combinations(pool, k))
        if len(subsets) > SUBSETS:
            subsets = Random(question.id).sample(subsets, SUBSETS)
        votes = [Ballot.of(subset, form=form).vote().winners[0] for subset in subsets]
        # as best_of_n does: the most probable of those that can vote
        best = [(best_first([c for c in s if c.finished and c.text.strip()]) or usable(s))[0] for s in subsets]
        right[f"majority_vote@{k}"] = float(np.mean([verdict[c.index] for c in votes]))
        right[f"best_of_n@{k}"] = float(np.mean([verdict[c.index] for c in best]))
        spent = float(np.mean([sum(c.tokens for c in subset) for subset in subsets]))
        tokens[f"majority_vote@{k}"] = tokens[f"best_of_n@{k}"] = spent
    return right, tokens


def interval(values: np.ndarray, *, draws: int = 10_000) -> list[float]:
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (draws, len(values)))].mean(axis=1)
    return [round(float(np.quantile(means, q)), 4) for q in (0.025, 0.975)]


def report(rows: Sequence[Row], specs: Sequence[StrategySpec]) -> dict[str, Any]:
    def column(kind: str, name: str, among: Sequence[Row] = rows) -> np.ndarray:
        return np.array([getattr(row, kind)[name] for row in among])

    table: dict[str, Any] = {}
    for name in rows[0].right:
        accuracy = column("right", name)
        table[name] = {
            "accuracy": round(float(accuracy.mean()), 4),
            "interval": interval(accuracy),
            "tokens": round(float(column("tokens", name).mean()), 1),
        }
        if name in rows[0].seconds:
            table[name]["mean_seconds"] = round(float(column("seconds", name).mean()), 2)
            table[name]["median_seconds"] = round(float(np.median(column("seconds", name))), 2)
    compared: list[dict[str, Any]] = []
    for spec in map(str, specs):
        for method in ("best_of_n", "majority_vote"):
            others = [f"{method}@{k}" for k in range(1, SAMPLES + 1)]
            for label, among in (
                ("all", rows),
                ("short", [row for row in rows if row.family in SHORT]),
                ("stories", [row for row in rows if row.family in STORIES]),
            ):
                spent = column("tokens", spec, among).mean()
                other = min(others, key=lambda o: abs(column("tokens", o, among).mean() - spent))
                difference = column("right", spec, among) - column("right", other, among)
                compared.append(
                    {
                        "strategy": spec,
                        "against": other,
                        "questions": f"{label} ({len(among)})",
                        "tokens": [round(float(column("tokens", s, among).mean()), 1) for s in (spec, other)],
                        "accuracy": [round(float(column("right", s, among).mean()), 4) for s in (spec, other)],
                        "difference": round(float(difference.mean()), 4),
                        "interval": interval(difference),
                    }
                )
    families = {
        family: {
            name: round(float(column("right", name, [r for r in rows if r.family == family]).mean()), 3)
            for name in ("majority_vote@1", f"majority_vote@{SAMPLES}", f"best_of_n@{SAMPLES}", *map(str, specs))
        }
        for family in sorted({row.family for row in rows})
    }
    return {"strategies": table, "at_about_equal_tokens": compared, "families": families}


async def measured(arguments: argparse.Namespace, url: str, specs: Sequence[StrategySpec]) -> list[Row]:
    engine = OpenAIEngine(EngineSettings(url=url, first_token_timeout=300, idle_timeout=300))
    rows: list[Row] = []
    begun = time.monotonic()
    try:
        await engine.probe()
        for question in questions(short=arguments.short, stories=arguments.stories, seed=arguments.seed):
            if time.monotonic() - begun > arguments.seconds:
                print(f"out of time after {len(rows)} questions")
                break
            rows.append(await measure(question, specs, engine))
            if len(rows) % 10 == 0:
                print(f"{len(rows)} questions, {time.monotonic() - begun:.0f} s", flush=True)
    finally:
        await engine.aclose()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", type=int, default=26, help="questions of each short family")
    parser.add_argument("--stories", type=int, default=7, help="questions of each family of stories")
    parser.add_argument("--seed", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3600, help="begin no question after this")
    parser.add_argument("--strategies", default="beam_search@2x2,beam_search@2x2:diverse")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    specs = [StrategySpec.parse(text) for text in arguments.strategies.split(",")]
    child = start(EmbeddedSettings(threads=arguments.threads))
    begun = time.monotonic()
    try:
        rows = asyncio.run(measured(arguments, child.url, specs))
    finally:
        child.stop()
    found = {
        "command": f"python -m benchmarks.beam_search {' '.join(sys.argv[1:])}".strip(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"Python {platform.python_version()}, {platform.machine()}, {arguments.threads} engine thread(s)",
        "questions": len(rows),
        "seed": arguments.seed,
        "steps": asdict(STEPS),
        "wall_seconds": round(time.monotonic() - begun),
        **report(rows, specs),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    summary = json.dumps(found, indent=1)
    lines = ",\n  ".join(json.dumps(asdict(row)) for row in rows)  # a question a line
    arguments.out.write_text(f'{summary[:-2]},\n "rows": [\n  {lines}\n ]\n}}\n')
    print(summary)


if __name__ == "__main__":
    main()
