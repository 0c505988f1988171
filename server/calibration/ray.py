"""Workers on Ray. Ray restarts what dies, places it and carries what is said; everything else is in `workers`."""

from __future__ import annotations

import asyncio
import importlib
import os
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from router.questions import Question
from server.backends.openai import EngineSettings
from server.calibration.asking import Ask, Recorder
from server.calibration.plan import Plan
from server.calibration.workers import Lost, Reply, Worker, Workers
from strategies.types import EngineError

MISSING = "--runner ray needs ray: install apportion[ray]"
_LOCAL = "local"  # Ray's word for an instance of one's own
_CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # on Linux too: without them Ray listens on loopback alone
_STORE = 80 * 1024 * 1024  # bytes, about the least that Ray takes: what is said is small
_CONNECT = 5.0  # seconds
_START = 60.0  # seconds until a worker is there, or again there


def load_ray(address: str | None) -> Any:
    """For `on_ray`. Raises ImportError with the remedy."""
    if _chosen(address) == _LOCAL:
        os.environ.setdefault(_CLUSTERS, "0")  # read while it is imported
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ImportError(MISSING) from error


@asynccontextmanager
async def on_ray(
    address: str | None,
    workers: int | None,
    settings: EngineSettings,
    plan: Plan,
    recorder: Recorder,
    turn: AbstractAsyncContextManager[object],
    say: Callable[[str], None],
) -> AsyncGenerator[Ask]:
    """Workers that ask the engine, as long as it is entered. They end with it, and their connections to the engine too.

    address: of a running cluster, else RAY_ADDRESS, else Ray is started on this machine. workers: else one a CPU, as
    many as there are questions asked at once. Raises ConnectionError, EngineError, ImportError.
    """
    ray = load_ray(address)
    _connect(ray, _chosen(address), cpus=min(plan.concurrency, workers or os.cpu_count() or 1))
    try:
        count = min(plan.concurrency, workers or int(ray.cluster_resources().get("CPU", 1)))
        kind = ray.remote(num_cpus=1, max_restarts=-1)(Worker)
        pool = Workers([_OnRay(ray, kind.remote(settings, plan)) for _ in range(count)], recorder, turn)
        started = await pool.start()
        say(f"{started} of {count} Ray workers")
        yield pool.ask
    finally:
        ray.shutdown()


def _chosen(address: str | None) -> str:
    return address or os.environ.get("RAY_ADDRESS") or _LOCAL


def _connect(ray: Any, address: str, *, cpus: int) -> None:
    """cpus: of a Ray that is started here, which sends no usage statistics by itself. Raises ConnectionError."""
    quietly: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address == _LOCAL:
        quietly |= {
            "num_cpus": cpus,
            "num_gpus": 0,
            "object_store_memory": _STORE,
            "include_dashboard": False,
        }
    try:
        host, _, port = address.rpartition(":")
        if port.isdecimal():  # Ray itself tries for a minute
            socket.create_connection((host, int(port)), timeout=_CONNECT).close()
        ray.init(address, **quietly)
    except (OSError, RuntimeError, ValueError) as error:  # no cluster there, another version of Ray, no such address
        reason = _first_line(error) or "no cluster answers there"
        raise ConnectionError(f"Ray at {address} can't be used: {reason}") from error


class _OnRay:
    """One worker: an actor, which Ray starts again when it dies."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray, self._actor = ray, actor
        self._errors = ray.exceptions

    async def start(self) -> EngineError | None:
        # asked again by Ray until the actor has come back
        call = self._actor.start.options(max_task_retries=-1)
        try:
            async with asyncio.timeout(_START):
                return await self._said(call.remote())
        except TimeoutError:
            raise Lost(f"Ray has not started a worker in {_START:g} s: has it a CPU for each?") from None

    async def ask(self, question: Question, n: int) -> Reply:
        return await self._said(self._actor.ask.remote(question, n))

    async def _said(self, reference: Any) -> Any:
        try:
            return await reference
        except self._errors.RayTaskError:  # the worker is there, and has a mistake in it
            raise
        except self._errors.RayError as error:
            raise Lost(f"a Ray worker is gone: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
