"""How well the seconds and tokens of requests are predicted as the load changes:

    python -m benchmarks.latency --url http://127.0.0.1:8000 --engine-url http://127.0.0.1:8001 --seconds 60

Against a running gateway and its engine. Clients that each ask one question after the other: first 1, then 4, then 16
of them; then 4 again while a second tenant, with 8 clients of its own, asks the engine directly. What each request was
predicted to take, and the bound that it was to stay within, stand in its response; what it took is the client's time.

Shown for each phase, over all of its requests (the first among them, in which the gateway learns of the change): the
median of |predicted / actual - 1| for seconds, and the share within the upper bound, to be 90 %, for seconds and
for tokens. A request that was cut at its deadline counts as past its bound.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import shlex
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from router.families import builtin_questions
from router.questions import Question

STRATEGIES = ("single", "majority_vote@4", "best_of_n@4", "best_of_n@8", None)  # None: the allocator's choice
CLIENTS = (1, 4, 16)
OTHERS = 8
_LIMITS = httpx.Limits(max_connections=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    predicted: float
    upper: float
    seconds: float
    tokens_upper: float
    tokens: int
    cut: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    clients: int
    others: int
    requests: int
    failed: int
    median_seconds: float
    median_error: float
    first_error: float  # the same over the first ten
    within_seconds: float
    within_tokens: float


async def ask(client: httpx.AsyncClient, question: Question, strategy: str | None, model: str) -> Seen | None:
    own: dict[str, Any] = {"deadline_ms": 120_000, "max_total_tokens": 4096}
    if strategy is not None:
        own["strategy"] = strategy
    body = {"model": model, "messages": list(question.messages), "max_tokens": 48, "apportion": own}
    started = time.monotonic()
    try:
        response = await client.post("/v1/chat/completions", json=body)
    except httpx.HTTPError:
        return None
    seconds = time.monotonic() - started
    if response.status_code != 200:
        return None
    told = response.json()["apportion"]
    return Seen(
        predicted=told["predicted"]["seconds"],
        upper=told["predicted"]["seconds_upper"],
        seconds=seconds,
        tokens_upper=told["predicted"]["tokens_upper"],
        tokens=response.json()["usage"]["completion_tokens"],
        cut=told["cut_short"] == "deadline",
    )


@contextlib.asynccontextmanager
async def tenant(url: str, model: str, clients: int, questions: Sequence[Question]) -> AsyncGenerator[None]:
    """Someone else's clients, straight at the engine."""

    async def one(client: httpx.AsyncClient, number: int) -> None:
        chance = random.Random(number)
        while True:
            messages = list(chance.choice(questions).messages)
            body = {"model": model, "messages": messages, "max_tokens": 48, "ignore_eos": True}
            await client.post("/v1/chat/completions", json=body)

    async with httpx.AsyncClient(base_url=url, timeout=120, limits=_LIMITS) as client:
        tasks = [asyncio.create_task(one(client, number)) for number in range(clients)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def phase(
    client: httpx.AsyncClient, questions: Sequence[Question], model: str, *, clients: int, others: int, seconds: float
) -> Phase:
    end = time.monotonic() + seconds
    seen: list[Seen] = []
    failed = 0

    async def one(number: int) -> None:
        nonlocal failed
        chance = random.Random(f"{clients} {others} {number}")
        while time.monotonic() < end:
            result = await ask(client, chance.choice(questions), chance.choice(STRATEGIES), model)
            if result is None:
                failed += 1
            else:
                seen.append(result)

    await asyncio.gather(*(one(number) for number in range(clients)))
    errors = [abs(each.predicted / each.seconds - 1) for each in seen]
    return Phase(
        clients=clients,
        others=others,
        requests=len(seen),
        failed=failed,
        median_seconds=float(np.median([each.seconds for each in seen])),
        median_error=float(np.median(errors)),
        first_error=float(np.median(errors[:10])),
        within_seconds=float(np.mean([each.seconds <= each.upper and not each.cut for each in seen])),
        within_tokens=float(np.mean([each.tokens <= each.tokens_upper for each in seen])),
    )


def shown(phases: Sequence[Phase]) -> str:
    lines = ["clients  others  requests  failed  median s  median error (first ten)  within s  within tokens"]
    lines += [
        f"{each.clients:7d}  {each.others:6d}  {each.requests:8d}  {each.failed:6d}  {each.median_seconds:8.2f}"
        f"  {each.median_error:12.0%} {each.first_error:11.0%}  {each.within_seconds:8.1%}  {each.within_tokens:13.1%}"
        for each in phases
    ]
    return "\n".join(lines)


async def measured(options: argparse.Namespace) -> dict[str, Any]:
    questions = builtin_questions(per_family=8, seed=12)
    phases: list[Phase] = []
    async with httpx.AsyncClient(base_url=options.url, timeout=150, limits=_LIMITS) as client:
        model = (await client.get("/v1/models")).raise_for_status().json()["data"][0]["id"]
        for clients in options.clients:
            phases.append(await phase(client, questions, model, clients=clients, others=0, seconds=options.seconds))
            print(shown(phases).splitlines()[-1], file=sys.stderr)
        async with tenant(options.engine_url, model, OTHERS, questions):
            phases.append(await phase(client, questions, model, clients=4, others=OTHERS, seconds=options.seconds))
    return {
        "command": f"python -m benchmarks.latency {shlex.join(sys.argv[1:])}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "phases": [asdict(each) for each in phases],
        "table": shown(phases),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the gateway")
    parser.add_argument("--engine-url", default="http://127.0.0.1:8001", help="of its engine, for the second tenant")
    parser.add_argument("--clients", nargs="+", type=int, default=CLIENTS)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each phase")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    result = asyncio.run(measured(options))
    print(result.pop("table"))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
