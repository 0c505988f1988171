"""How much later a client has what the engine says: python -m benchmarks.first_byte [--times 200] [--in-a-row 10]

A scripted engine, the gateway and the client, each a process of its own. The engine writes the time into every piece
that it sends, so the client can tell how long each was under way; it is asked by turns directly and through the
gateway (`single`, streamed), and what counts is the difference. Milliseconds. With `--in-a-row 1` the gateway has had
nothing to do for a tenth of a second before each request, and its code has to come back into the processor's caches.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shlex
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from httpx_aiohttp import AiohttpTransport
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

PIECES = 20
BETWEEN = 0.005  # seconds from one piece to the next
BODY = {"model": "scripted", "messages": [{"role": "user", "content": "What time is it?"}], "stream": True}
Times = dict[str, list[float]]  # what -> milliseconds


def now() -> float:
    """Milliseconds on the clock that all processes of a machine share."""
    return time.monotonic() * 1000


# --- the engine


async def models(request: Request) -> Response:
    return JSONResponse({"object": "list", "data": [{"id": "scripted", "object": "model", "owned_by": "scripted"}]})


async def chat(request: Request) -> Response:
    asked = now()
    await request.body()
    return StreamingResponse(pieces(asked), media_type="text/event-stream")


async def pieces(asked: float) -> AsyncGenerator[bytes, None]:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "scripted"}
    for number in range(PIECES):
        if number:
            await asyncio.sleep(BETWEEN)
        content = f"{asked} {now()} "
        choice = {"index": 0, "delta": {"content": content}, "finish_reason": "stop" if number == PIECES - 1 else None}
        yield f"data: {json.dumps({**head, 'choices': [choice]})}\n\n".encode()
    yield b"data: [DONE]\n\n"


def serve_engine(port: int) -> None:
    app = Starlette(routes=[Route("/v1/models", models), Route("/v1/chat/completions", chat, methods=["POST"])])
    uvicorn.run(app, port=port, log_level="error", access_log=False)


# --- the client


async def ask(client: httpx.AsyncClient) -> Times:
    """One stream: when the engine was asked, and how long the first and the other pieces were under way."""
    found: Times = {"until the engine is asked": [], "first piece": [], "later pieces": []}
    sent = now()
    async with client.stream("POST", "/v1/chat/completions", json=BODY) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            read = now()
            if not line.startswith("data: {"):
                continue
            delta: Any = json.loads(line.removeprefix("data: "))["choices"][0]["delta"]
            if not delta.get("content"):
                continue
            asked, written = map(float, delta["content"].split())
            first = not found["first piece"]
            if first:
                found["until the engine is asked"].append(asked - sent)
            found["first piece" if first else "later pieces"].append(read - written)
    return found


async def measure(urls: Mapping[str, str], times: int, in_a_row: int) -> dict[str, Times]:
    found: dict[str, Times] = {way: {} for way in urls}
    async with contextlib.AsyncExitStack() as stack:
        clients = {
            way: await stack.enter_async_context(
                httpx.AsyncClient(base_url=url, transport=AiohttpTransport(trust_env=False), timeout=60)
            )
            for way, url in urls.items()
        }
        for url_client in clients.values():
            await ready(url_client)
            await ask(url_client)  # connections are made, and code is loaded
        for _ in range(times // in_a_row):
            for way, client in clients.items():
                for _ in range(in_a_row):
                    for what, values in (await ask(client)).items():
                        found[way].setdefault(what, []).extend(values)
    return found


async def ready(client: httpx.AsyncClient) -> None:
    for _ in range(600):
        with contextlib.suppress(httpx.TransportError):
            if (await client.get("/v1/models")).status_code == 200:
                return
        await asyncio.sleep(0.1)
    raise SystemExit(f"{client.base_url} did not come up")


# --- all together


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def process(*arguments: str, **environment: str) -> Generator[None]:
    """A Python process with the modules of this folder, ended afterwards."""
    command = [sys.executable, "-m", *arguments]
    child = subprocess.Popen(command, env={**os.environ, **environment})  # noqa: S603 - our own modules
    try:
        yield
    finally:
        child.terminate()
        child.wait(timeout=30)


def summary(found: Mapping[str, Times]) -> dict[str, dict[str, float]]:
    """Medians and 99th percentiles of both ways, and their differences."""
    shown: dict[str, dict[str, float]] = {}
    for what, direct in found["direct"].items():
        through = found["gateway"][what]
        row = {f"{way} {name}": value for way, values in (("direct", direct), ("gateway", through)) for name, value in
               (("median", statistics.median(values)), ("p99", percentile(values)))}  # fmt: skip
        row["added median"] = row["gateway median"] - row["direct median"]
        row["added p99"] = row["gateway p99"] - row["direct p99"]
        shown[what] = {name: round(value, 3) for name, value in row.items()}
    return shown


def percentile(values: Sequence[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(0.99 * len(values)))]


def table(shown: Mapping[str, Mapping[str, float]]) -> str:
    names = list(next(iter(shown.values())))
    lines = [f"{'milliseconds':<28}" + "".join(f"{name:>16}" for name in names)]
    lines += [f"{what:<28}" + "".join(f"{row[name]:>16.2f}" for name in names) for what, row in shown.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--in-a-row", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/first_byte.json"))
    parser.add_argument("--engine-port", type=int, help=argparse.SUPPRESS)  # this process is the engine
    options = parser.parse_args()
    if options.engine_port:
        serve_engine(options.engine_port)
        return
    engine_port, port = free_port(), free_port()
    urls = {"direct": f"http://127.0.0.1:{engine_port}", "gateway": f"http://127.0.0.1:{port}/single"}
    flags = ["--engine-url", urls["direct"], "--port", str(port)]
    with (
        process("benchmarks.first_byte", "--engine-port", str(engine_port)),
        process("server", "serve", *flags, APPORTION_SERVER__LOG_LEVEL="warning"),
    ):
        found = asyncio.run(measure(urls, options.times, options.in_a_row))
    shown = summary(found)
    print(table(shown))
    command = shlex.join(["python", "-m", "benchmarks.first_byte", *sys.argv[1:]])
    options.out.write_text(json.dumps({"command": command, "milliseconds": shown}, indent=2) + "\n")


if __name__ == "__main__":
    main()
