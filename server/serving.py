"""Serve the application on a port until told to stop: what `apportion serve` and the demo share."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from functools import partial
from typing import Any, Literal, TypeVar

import uvicorn
from fastapi import FastAPI

from server.app import create_app
from server.backends.launch import Launched
from server.config import Config
from server.connection import Connection

logger = logging.getLogger("apportion")


class PortTaken(Exception):
    """The address can't be listened on; the message is one sentence for a person."""


T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """asyncio.run, on uvloop where there is one."""
    try:
        factory = importlib.import_module("uvloop").new_event_loop
    except ImportError:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


async def serve_forever(config: Config) -> None:
    """Until SIGINT or SIGTERM, which let running requests end, or until the vLLM it has launched ends.

    Raises PortTaken, ModelError, EmbeddedEngineError, LaunchError.
    """
    with cancelled_by_signals(), contextlib.suppress(asyncio.CancelledError):
        async with serving(config) as (url, task):
            logger.info("serving at %s/v1", url)
            await task


@contextlib.contextmanager
def cancelled_by_signals() -> Generator[None]:
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


class _Server(uvicorn.Server):
    """Leaves signals to `cancelled_by_signals`: the server is to end before the engine does."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(
    config: Config, *, progress: Callable[[str], None] = logger.info
) -> AsyncGenerator[tuple[str, asyncio.Future[None]]]:
    """The gateway's address, and what is done when it serves no longer.

    The port is taken and the lifespan entered here, not by uvicorn, which would log their errors and exit. Raises
    PortTaken, ModelError, EmbeddedEngineError, LaunchError; the future LaunchError.
    """
    listener = take_port(config.server.host, config.server.port)
    app = create_app(config, progress=progress)
    with contextlib.closing(listener):
        async with app.router.lifespan_context(app):
            options = http(app, config)
            options.timeout_graceful_shutdown = max(1, round(config.server.shutdown_grace_seconds))
            server = _Server(options)
            task = asyncio.create_task(server.serve(sockets=[listener]))
            watching = asyncio.create_task(_until_ended(task, app.state.gateway.launched, progress))
            try:
                yield _address(listener), asyncio.shield(watching)
            finally:
                server.should_exit = True
                await task
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)


async def _until_ended(task: asyncio.Task[None], vllm: Launched | None, progress: Callable[[str], None]) -> None:
    """Until the server ends. Raises LaunchError when the launched vLLM does: a gateway without it is of no use."""
    waiting: set[asyncio.Future[None]] = {task}
    if vllm is not None:
        waiting.add(asyncio.ensure_future(_watched(vllm, progress)))
    try:
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for each in done:
            each.result()
    finally:
        for each in waiting - {task}:
            each.cancel()


async def _watched(vllm: Launched, progress: Callable[[str], None]) -> None:
    await vllm.healthy(progress)
    await vllm.ended()


def http(app: FastAPI, config: Config, *, lifespan: Literal["on", "off"] = "off") -> uvicorn.Config:
    """How the application is spoken to."""
    connection: Any = partial(Connection, patience=config.server.body_timeout_seconds)
    return uvicorn.Config(app, http=connection, lifespan=lifespan, log_config=None, access_log=False)


def take_port(host: str, port: int) -> socket.socket:
    """The port, taken before anything slow is started. Raises PortTaken."""
    # the protocol is named because asyncio turns Nagle's algorithm off only then: 40 ms a response
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if sys.platform != "win32":  # there it would let two servers share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise PortTaken(
            f"can't listen on {host}:{port} ({error.strerror}): choose another with --port or stop what uses it"
        ) from None
    return listener


def _address(listener: socket.socket) -> str:
    """Where a client on this machine finds it; port 0 has become a real one."""
    host, port = listener.getsockname()[:2]
    host = str({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host))  # noqa: S104 - compared
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
