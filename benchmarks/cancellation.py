"""How soon the engine is idle after work has become useless: python -m benchmarks.cancellation [--times 10]

The real gateway in front of the embedded engine, over HTTP; with --engine-url in front of the engine that is there, a
vLLM or a llama.cpp that nobody else uses. Milliseconds from the moment at which the client has gone, or has its answer,
until the engine's own metrics say that nothing is running or waiting. They answer between two steps of generation, so a
step is the least that can be seen.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from server.backends.load import summed
from server.config import load_config
from server.serving import serving

LONG = {"messages": [{"role": "user", "content": "Tell me a story."}], "max_tokens": 1000, "ignore_eos": True}
SUM = [
    {"role": "user", "content": "2 + 2 = ?"},
    {"role": "assistant", "content": "2 + 2 = 4"},
    {"role": "user", "content": "1 + 4 = ?"},
]
Cause = Callable[[httpx.AsyncClient], Awaitable[bool]]
PORT = 18099


async def leave_stream(client: httpx.AsyncClient) -> bool:
    body = {**LONG, "stream": True, "apportion": {"strategy": "single"}}  # others say nothing until they have chosen
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        seen = 0
        async for _ in response.aiter_lines():
            seen += 1
            if seen == 10:
                break
    return True


def leave(strategy: str) -> Cause:
    async def cause(client: httpx.AsyncClient) -> bool:
        body = {**LONG, "apportion": {"strategy": strategy}}
        asking = asyncio.create_task(client.post("/v1/chat/completions", json=body))
        await asyncio.sleep(0.7)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        return True

    return cause


def deadline(strategy: str) -> Cause:
    async def cause(client: httpx.AsyncClient) -> bool:
        body = {**LONG, "apportion": {"strategy": strategy, "deadline_ms": 800}}
        reply = await client.post("/v1/chat/completions", json=body)
        return reply.status_code == 504 or reply.json()["apportion"]["cut_short"] == "deadline"

    return cause


async def settled(client: httpx.AsyncClient) -> bool:
    body = {"messages": SUM, "max_tokens": 64, "apportion": {"strategy": "majority_vote@8", "token_price": 0}}
    reply = await client.post("/v1/chat/completions", json=body)
    return reply.json()["apportion"]["cut_short"] == "consensus"


GAUGES = (
    "llamacpp:requests_processing", "llamacpp:requests_deferred",
    "vllm:num_requests_running", "vllm:num_requests_waiting",
)  # fmt: skip
CAUSES: Mapping[str, Cause] = {
    "client left a stream": leave_stream,
    "client left, single": leave("single"),
    "client left, majority_vote@8": leave("majority_vote@8"),
    "client left, beam_search@4x2": leave("beam_search@4x2"),
    "deadline, single": deadline("single"),
    "deadline, majority_vote@8": deadline("majority_vote@8"),
    "deadline, beam_search@4x2": deadline("beam_search@4x2"),
    "vote settled": settled,
}


async def running(engine: httpx.AsyncClient) -> int:
    page = (await engine.get("/metrics")).raise_for_status().text
    values = [summed(page, [name]) for name in GAUGES]
    known = [value for value in values if value is not None]
    if not known:
        sys.exit("the engine's metrics do not tell what is running")
    return round(sum(known))


async def measure(times: int, engine_url: str | None) -> dict[str, list[float]]:
    if engine_url is None:
        overrides: dict[str, Any] = {"engine.embedded.threads": 1, "engine.embedded.port": PORT}
    else:
        overrides = {"engine.kind": "openai", "engine.url": engine_url}
    config = load_config(Path("configs/demo.yaml"), overrides={**overrides, "server.port": PORT + 1})
    found: dict[str, list[float]] = {}
    async with (
        serving(config) as (url, _),
        httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client,
        httpx.AsyncClient(base_url=engine_url or f"http://127.0.0.1:{PORT}", timeout=60, trust_env=False) as engine,
    ):
        while (await client.get("/ready")).status_code != 200:  # noqa: ASYNC110 - the state of another process
            await asyncio.sleep(0.1)
        for name, cause in CAUSES.items():
            for _ in range(times):
                happened = await cause(client)
                since = time.monotonic()
                while await running(engine):  # noqa: ASYNC110 - the state of another process
                    await asyncio.sleep(0.002)
                if happened:
                    found.setdefault(name, []).append((time.monotonic() - since) * 1000)
                    print(name, f"{found[name][-1]:.0f} ms", file=sys.stderr)
    return found


def table(found: Mapping[str, Sequence[float]]) -> str:
    lines = [f"{'cause':<32}{'times':>6}{'median ms':>11}{'longest ms':>12}"]
    for name, each in found.items():
        lines.append(f"{name:<32}{len(each):>6}{statistics.median(each):>11.1f}{max(each):>12.1f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--engine-url", help="an engine that is there, instead of the embedded one")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/cancellation.json"))
    options = parser.parse_args()
    found = asyncio.run(measure(options.times, options.engine_url))
    print(table(found))
    command = shlex.join(["python", "-m", "benchmarks.cancellation", *sys.argv[1:]])
    options.out.write_text(json.dumps({"command": command, "milliseconds": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
