"""`apportion demo`: the real gateway in front of the small embedded model, and a tour of six decisions.

Every question goes over HTTP to the same endpoint a client uses, and what is shown is read from the response: the
tour can only show what any client could see.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
import httpx

from router.boosted import ModelError
from server.backends.embedded import EmbeddedEngineError
from server.backends.launch import LaunchError
from server.config import Config
from server.demo_questions import STOPS, Stop
from server.demo_view import View, Visit
from server.serving import PortTaken, cancelled_by_signals, run, serving
from server.store.database import Unusable

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
        return run(_tour(config, View(), stops, once=once))
    except KeyboardInterrupt:  # before our own handlers were in place
        return _INTERRUPTED
    except (DemoError, PortTaken, EmbeddedEngineError, LaunchError, ModelError, Unusable) as error:
        click.echo(f"apportion: {error}", err=True)
        return 1


async def _tour(config: Config, view: View, stops: Sequence[Stop], *, once: bool) -> int:
    status = _INTERRUPTED
    with cancelled_by_signals():
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


async def _started(
    config: Config, stack: contextlib.AsyncExitStack, say: Callable[[str], None]
) -> tuple[httpx.AsyncClient, Mapping[str, Any]]:
    """A client of the running gateway, and what /ready says.

    Raises DemoError, PortTaken, EmbeddedEngineError, ModelError.
    """
    problem = "it does not answer"
    timer = asyncio.timeout(_READY_WITHIN)
    try:
        async with timer:
            url, _ = await stack.enter_async_context(serving(config, progress=say))
            client = await stack.enter_async_context(httpx.AsyncClient(base_url=url, trust_env=False))
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
