"""Which share of requests keeps its deadline and its tokens as the load rises, adaptive and for every fixed strategy:

    python -m benchmarks.load --url http://127.0.0.1:8000 --seconds 30 --json benchmarks/results/load.json

Against a running gateway and the engine behind it. Requests arrive at random moments (Poisson) whether or not earlier
ones are answered, as those of many users do. At each rate every strategy gets the same questions at the same moments,
one strategy after the other. Rates are in capacities: what the engine answers a second when it is kept busy with
`single`, the cheapest strategy, which is measured first. Capacity for a vote of eight is a fraction of that.

In time: answered (status 200) before the deadline and a grace of 250 ms, by the client's clock. Whole: in time, and
not cut short by its budget. Right: of all that were sent, so that what is refused, late or empty counts as wrong.
Questions are the built-in ones with their verifiers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import shlex
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from router.families import builtin_questions
from router.questions import Question, verify

ADAPTIVE = "adaptive"
STRATEGIES = (ADAPTIVE, "single", "majority_vote@4", "best_of_n@8:weighted", "beam_search@2x2")
RATES = (0.25, 0.5, 1.0, 2.0, 3.0)
GRACE = 0.25  # seconds
BUSY = 16  # requests at once, while capacity is measured
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=200)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request, as its client saw it."""

    status: int  # 0: no response
    seconds: float
    tokens: int
    right: float
    cut: bool
    strategy: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One strategy at one rate. Shares of all that were sent."""

    strategy: str
    rate: float  # in capacities
    requests: int
    in_time: float
    whole: float
    late: float  # responses of any kind that came after the deadline and the grace
    over_tokens: float
    right: float
    statuses: Mapping[str, int]
    tokens: float  # mean, of those answered
    median_seconds: float
    p99_seconds: float
    slowest: float
    mix: Mapping[str, int]  # which strategies ran


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What every request asks for."""

    model: str
    deadline: float  # seconds
    max_total_tokens: int
    profile: str


async def ask(client: httpx.AsyncClient, question: Question, strategy: str, terms: Terms) -> Asked:
    own: dict[str, Any] = {
        "profile": terms.profile,
        "deadline_ms": round(terms.deadline * 1000),
        "max_total_tokens": terms.max_total_tokens,
    }
    if strategy != ADAPTIVE:
        own["strategy"] = strategy
    body = {
        "model": terms.model,
        "messages": list(question.messages),
        "max_tokens": question.max_tokens,
        "apportion": own,
    }
    started = time.monotonic()
    try:
        response = await client.post("/v1/chat/completions", json=body)
    except httpx.HTTPError:
        return Asked(status=0, seconds=time.monotonic() - started, tokens=0, right=0.0, cut=True, strategy=None)
    seconds = time.monotonic() - started
    said = response.json()
    if response.status_code != 200:
        return Asked(status=response.status_code, seconds=seconds, tokens=0, right=0.0, cut=True, strategy=None)
    return Asked(
        status=200,
        seconds=seconds,
        tokens=said["usage"]["completion_tokens"],
        right=verify(question, said["choices"][0]["message"]["content"] or ""),
        cut=bool(said["apportion"]["cut_short"]),
        strategy=said["apportion"]["strategy"],
    )


async def capacity(client: httpx.AsyncClient, questions: Sequence[Question], terms: Terms, *, seconds: float) -> float:
    """Requests a second that are answered with `single` when the engine always has enough to do."""
    end = time.monotonic() + seconds
    answered = 0

    async def busy(mine: Sequence[Question]) -> None:
        nonlocal answered
        at = 0
        while time.monotonic() < end:
            asked = await ask(client, mine[at % len(mine)], "single", terms)
            answered += asked.status == 200 and time.monotonic() < end
            at += 1

    started = time.monotonic()
    await asyncio.gather(*(busy(questions[k::BUSY]) for k in range(BUSY)))
    return answered / (min(end, time.monotonic()) - started)


async def arrive(
    client: httpx.AsyncClient, arrivals: Sequence[tuple[float, Question]], strategy: str, terms: Terms
) -> list[Asked]:
    started = time.monotonic()
    async with asyncio.TaskGroup() as group:
        tasks: list[asyncio.Task[Asked]] = []
        for moment, question in arrivals:
            await asyncio.sleep(max(0.0, started + moment - time.monotonic()))
            tasks.append(group.create_task(ask(client, question, strategy, terms)))
    return [task.result() for task in tasks]


def arrivals_at(
    rate: float, questions: Sequence[Question], *, seconds: float, seed: int
) -> list[tuple[float, Question]]:
    """rate: requests a second."""
    chance = random.Random(f"{seed} {rate:.6f}")
    found: list[tuple[float, Question]] = []
    moment = chance.expovariate(rate)
    while moment < seconds:
        found.append((moment, chance.choice(questions)))
        moment += chance.expovariate(rate)
    return found


def cell(strategy: str, rate: float, asked: Sequence[Asked], terms: Terms) -> Cell:
    seconds = np.array([each.seconds for each in asked])
    in_time = [each.status == 200 and each.seconds <= terms.deadline + GRACE for each in asked]
    answered = [each.tokens for each in asked if each.status == 200]
    return Cell(
        strategy=strategy,
        rate=rate,
        requests=len(asked),
        in_time=float(np.mean(in_time)),
        whole=float(np.mean([ok and not each.cut for ok, each in zip(in_time, asked, strict=True)])),
        late=float((seconds > terms.deadline + GRACE).mean()),
        over_tokens=float(np.mean([each.tokens > terms.max_total_tokens for each in asked])),
        right=float(np.mean([each.right if ok else 0.0 for ok, each in zip(in_time, asked, strict=True)])),
        statuses={str(status): count for status, count in sorted(Counter(each.status for each in asked).items())},
        tokens=float(np.mean(answered)) if answered else 0.0,
        median_seconds=float(np.median(seconds)),
        p99_seconds=float(np.quantile(seconds, 0.99)),
        slowest=float(seconds.max()),
        mix=dict(Counter(each.strategy for each in asked if each.strategy).most_common()),
    )


def shown(cells: Sequence[Cell]) -> str:
    lines = ["load  strategy                 sent  in time  whole   late  right  tokens  median s  p99 s"]
    lines += [
        f"{each.rate:4.2f}  {each.strategy:24} {each.requests:4d}  {each.in_time:7.1%} {each.whole:6.1%}"
        f" {each.late:6.1%} {each.right:6.1%}  {each.tokens:6.1f}  {each.median_seconds:8.2f} {each.p99_seconds:6.2f}"
        + (f"  {dict(list(each.mix.items())[:4])}" if each.strategy == ADAPTIVE else "")
        for each in cells
    ]
    return "\n".join(lines)


async def measured(options: argparse.Namespace) -> dict[str, Any]:
    questions = builtin_questions(per_family=options.per_family, seed=options.seed)
    async with httpx.AsyncClient(base_url=options.url, timeout=options.deadline + 60, limits=_LIMITS) as client:
        model = (await client.get("/v1/models")).raise_for_status().json()["data"][0]["id"]
        terms = Terms(
            model=model, deadline=options.deadline, max_total_tokens=options.max_total_tokens, profile=options.profile
        )
        patient = Terms(model=model, deadline=120.0, max_total_tokens=options.max_total_tokens, profile=options.profile)
        await capacity(client, questions, patient, seconds=options.seconds)  # until its caches are warm
        single = await capacity(client, questions, patient, seconds=options.seconds)
        print(f"capacity: {single:.2f} requests a second of `single`", file=sys.stderr)
        cells: list[Cell] = []
        for rate in options.rates:
            arrivals = arrivals_at(rate * single, questions, seconds=options.seconds, seed=options.seed)
            for strategy in options.strategies:
                asked = await arrive(client, arrivals, strategy, terms)
                cells.append(cell(strategy, rate, asked, terms))
                print(shown(cells[-1:]).splitlines()[1], file=sys.stderr)
    return {
        "command": f"python -m benchmarks.load {shlex.join(sys.argv[1:])}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "capacity": single,
        "terms": asdict(terms),
        "cells": [asdict(each) for each in cells],
        "table": shown(cells),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the gateway")
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES)
    parser.add_argument("--rates", nargs="+", type=float, default=RATES, help="in capacities")
    parser.add_argument(
        "--seconds", type=float, default=30.0, help="that requests arrive, for each strategy at each rate"
    )
    parser.add_argument("--deadline", type=float, default=3.0, help="seconds")
    parser.add_argument("--max-total-tokens", type=int, default=256)
    parser.add_argument("--profile", default="quality")
    parser.add_argument("--per-family", type=int, default=8)
    parser.add_argument("--seed", type=int, default=11, help="of the questions: not those that calibration asks")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    result = asyncio.run(measured(options))
    print(result.pop("table"))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
