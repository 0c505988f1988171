"""`apportion demo`: the real gateway in front of the small embedded model, and a tour of six decisions.

Every question goes over HTTP to the same endpoint a client uses, and what is shown is read from the response: the
tour can only show what any client could see.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from typing import Any

import click
import httpx
import uvicorn

from router.boosted import ModelError
from server.app import create_app
from server.backends.embedded import EmbeddedEngineError
from server.config import Config
from server.demo_questions import STOPS, Stop
from server.demo_view import View, Visit

_READY_WITHIN = 120.0  # seconds; loading takes about six, on a busy machine much longer
_POLL = 0.1
_PATIENCE = 10.0  # seconds past a request's deadline after which the gateway itself is taken to be stuck
_INTERRUPTED = 130  # what a shell reports for a program ended by Ctrl-C


class DemoError(Exception):
    """The tour can't go on; the message is one sentence for a person."""


def tour(config: Config, *, once: bool, stops: Sequence[Stop] = STOPS) -> int:
    """Start the gateway, ask the questions, show every decision. Returns the process's exit status.

    once: stop after the tour. Otherwise the gateway serves until Ctrl-C or SIGTERM.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        return asyncio.run(_tour(config, View(), stops, once=once))
    except KeyboardInterrupt:  # before our own handlers were in place
        return _INTERRUPTED
    except (DemoError, EmbeddedEngineError, ModelError) as error:
        click.echo(f"apportion: {error}", err=True)
        return 1


async def _tour(config: Config, view: View, stops: Sequence[Stop], *, once: bool) -> int:
    status = _INTERRUPTED
    with _cancelled_by_signals():
        try:
            async with contextlib.AsyncExitStack() as stack:
                started = time.monotonic()
                with view.busy("starting the gateway") as say:
                    client, ready = await _started(config, stack, say)
                view.ready(str(client.base_url), ready, time.monotonic() - started)
                visits: list[Visit] = []
                for number, stop in enumerate(stops, 1):
                    view.asked(number, len(stops), stop, config.profiles[stop.profile])
                    with view.busy("deciding and generating"):
                        visit = await _visit(client, stop)
                    view.answered(visit)
                    visits.append(visit)
                problems = [problem for visit in visits for problem in visit.problems()]
                view.summary(visits, problems)
                view.how_to_go_on(str(client.base_url), await _model(client), stopping=once)
                status = 1 if problems else 0
                if not once:
                    await asyncio.Event().wait()
        except asyncio.CancelledError:
            view.line("stopped")
    return status


@contextlib.contextmanager
def _cancelled_by_signals() -> Generator[None]:
    """Ctrl-C and SIGTERM cancel the current task, so that everything started is stopped in order.

    signal.signal and not the loop's own handlers: it works on Windows, and for a job that a shell started with `&`,
    whose SIGINT is ignored.
    """
    task, loop = asyncio.current_task(), asyncio.get_running_loop()

    def cancel(*_: object) -> None:
        if task is not None:
            loop.call_soon_threadsafe(task.cancel)

    before = {number: signal.signal(number, cancel) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _started(
    config: Config, stack: contextlib.AsyncExitStack, say: Callable[[str], None]
) -> tuple[httpx.AsyncClient, Mapping[str, Any]]:
    """A client of the running gateway, and what /ready says. Raises DemoError, EmbeddedEngineError, ModelError."""
    problem = "it does not answer"
    timer = asyncio.timeout(_READY_WITHIN)
    try:
        async with timer:
            await stack.enter_async_context(_serving(config, say))
            client = await stack.enter_async_context(httpx.AsyncClient(base_url=_address(config), trust_env=False))
            say("waiting until the engine answers")
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    reply = await client.get("/ready")
                    if reply.status_code == 200:
                        return client, reply.json()
                    problem = str(reply.json()["problem"])
                await asyncio.sleep(_POLL)
    except TimeoutError:
        if not timer.expired():
            raise
        raise DemoError(f"the gateway was not ready after {_READY_WITHIN:.0f} s: {problem}") from None


class _Server(uvicorn.Server):
    """Leaves signals to the tour: there they end the client first, then the server, then the engine."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


@contextlib.asynccontextmanager
async def _serving(config: Config, say: Callable[[str], None]) -> AsyncGenerator[None]:
    """The gateway, served as `apportion serve` does.

    The port is taken and the lifespan entered here, not by uvicorn, which would log their errors and exit.
    """
    listener = take_port(config.server.host, config.server.port)
    app = create_app(config, progress=say)
    with contextlib.closing(listener):
        async with app.router.lifespan_context(app):
            options = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False)
            options.timeout_graceful_shutdown = max(1, round(config.server.shutdown_grace_seconds))
            server = _Server(options)
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            try:
                yield
            finally:
                server.should_exit = True
                await serving


def take_port(host: str, port: int) -> socket.socket:
    """The port, taken before anything slow is started. Raises DemoError."""
    # the protocol is named because asyncio turns Nagle's algorithm off only then: 40 ms a response
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if sys.platform != "win32":  # there it would let two servers share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise DemoError(
            f"can't listen on {host}:{port} ({error.strerror}): choose another with --port or stop what uses it"
        ) from None
    return listener


def _address(config: Config) -> str:
    """Where a client on this machine finds the gateway."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.server.host, config.server.host)  # noqa: S104 - compared
    return f"http://{f'[{host}]' if ':' in host else host}:{config.server.port}"


async def _visit(client: httpx.AsyncClient, stop: Stop) -> Visit:
    """Ask one question. The seconds are the client's own: from sending to the last byte."""
    started = time.monotonic()
    try:
        reply = await client.post("/v1/chat/completions", json=stop.body, timeout=stop.seconds + _PATIENCE)
    except httpx.HTTPError as error:
        raise DemoError(f"the gateway did not answer ({type(error).__name__}): {stop.ask}") from None
    return Visit(stop=stop, status=reply.status_code, body=reply.json(), seconds=time.monotonic() - started)


async def _model(client: httpx.AsyncClient) -> str:
    reply = await client.get("/v1/models")
    return str(reply.json()["data"][0]["id"])
