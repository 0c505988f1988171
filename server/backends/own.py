"""The engine that the gateway starts itself, where it does, and takes down with itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable

from server.backends import embedded
from server.backends.launch import Launched, LaunchSettings, launched
from server.backends.settings import Engine

Say = Callable[[str], None]


@contextlib.asynccontextmanager
async def own_engine(engine: Engine, progress: Say) -> AsyncGenerator[tuple[str, Launched | None]]:
    """The engine's address, and the vLLM that was launched there: it may still be starting.

    Raises EmbeddedEngineError, LaunchError.
    """
    if engine.kind == "embedded":
        child = await asyncio.to_thread(_start_embedded, engine, progress)
        try:
            yield child.url, None
        finally:
            await asyncio.to_thread(child.stop)
    elif engine.kind == "vllm":
        async with launched(_launch_settings(engine)) as vllm:
            yield vllm.url, vllm
    else:
        yield engine.url, None


def _start_embedded(engine: Engine, progress: Say) -> embedded.EmbeddedEngine:
    wanted = engine.embedded
    settings = embedded.EmbeddedSettings(
        threads=wanted.threads, slots=wanted.slots, context=wanted.context, port=wanted.port
    )
    return embedded.start(settings, progress=progress)


def _launch_settings(engine: Engine) -> LaunchSettings:
    wanted = engine.vllm
    return LaunchSettings(
        model=wanted.model or "",  # the configuration has seen to it
        flags=wanted.flags,
        executable=wanted.executable,
        api_key=engine.api_key.get_secret_value() if engine.api_key else None,
        port=wanted.port,
        start_timeout=wanted.start_timeout_seconds,
        stop_timeout=wanted.stop_timeout_seconds,
    )
