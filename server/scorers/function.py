"""The user's own Python function, in processes of its own.

Processes and not threads: a thread can't be stopped, so that a function that never returns would keep one for ever;
and one that crashes or takes all memory would take the gateway with it. A process that is past its time is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import orjson

from server.scorers.client import as_dict, listed
from strategies.types import Candidate, Pace, Query, ScorerError

_WORKER = Path(__file__).with_name("function_worker.py")
_MAX_LINE = 1024 * 1024  # of an answer
_OURS = "APPORTION_"  # variables that may hold keys, which the user's code has no use for


class Function:
    """`path.py:function`, called as function(messages, candidates), which returns one number (or None) a candidate."""

    needs_top_logprobs: int | None = None

    def __init__(self, function: str, *, together: bool, processes: int) -> None:
        path, _, self._name = function.rpartition(":")
        self._path = str(Path(path).expanduser().resolve())
        self.pace: Pace = "together" if together else "each"
        self._places = asyncio.Semaphore(processes)
        self._idle: list[asyncio.subprocess.Process] = []
        self._alive: set[asyncio.subprocess.Process] = set()

    async def score(self, query: Query, candidates: Sequence[Candidate]) -> Sequence[float | None]:
        asked = {"messages": list(query.messages), "candidates": [as_dict(candidate) for candidate in candidates]}
        try:
            line = orjson.dumps(asked) + b"\n"
        except orjson.JSONEncodeError:
            raise ScorerError("the request can't be sent as JSON") from None
        async with self._places:
            answer = await self._ask(line)
        if isinstance(answer, dict) and "error" in answer:
            raise ScorerError(str(cast("dict[str, Any]", answer)["error"]))
        return listed(cast("object", answer), len(candidates))

    async def aclose(self) -> None:
        for process in list(self._alive):
            await self._end(process)
        self._idle.clear()

    async def _ask(self, line: bytes) -> object:
        self._idle = [process for process in self._idle if process.returncode is None]
        process = self._idle.pop() if self._idle else await self._start()
        try:
            answer = await _exchange(process, line)
        except BaseException:  # cancelled or out of time as well: what it still does is for nobody
            await asyncio.shield(self._end(process))
            raise
        self._idle.append(process)
        return answer

    async def _start(self) -> asyncio.subprocess.Process:
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # nothing of ours on its sys.path
                str(_WORKER),
                self._path,
                self._name,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=_MAX_LINE,
                start_new_session=True,  # ended as a group, with what the user's code started
                env={name: value for name, value in os.environ.items() if not name.startswith(_OURS)},  # no keys
            )
        except OSError as error:
            raise ScorerError(f"its process can't be started: {type(error).__name__}") from error
        self._alive.add(process)
        return process

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            if sys.platform == "win32":
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)
        if process.stdin is not None:
            process.stdin.close()
        await process.wait()
        self._alive.discard(process)


async def _exchange(process: asyncio.subprocess.Process, line: bytes) -> object:
    stdin, stdout = cast("asyncio.StreamWriter", process.stdin), cast("asyncio.StreamReader", process.stdout)
    try:
        stdin.write(line)
        await stdin.drain()
        answer = await stdout.readline()
        return orjson.loads(answer)
    except (ConnectionError, ValueError):  # gone, no line, or no JSON
        raise ScorerError("its process ended") from None
