"""The gateway's side of the algebra: one process, one question at a time, a short queue before it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec

logger = logging.getLogger("apportion")
_QUEUE = 16  # questions that may wait; the next is left without an answer
_GRACE = 1.0  # seconds beyond the limit after which a silent process is given up
_START = 60.0  # seconds in which it has to be ready
_AGAIN = 5.0  # seconds before one that died is replaced as a whole
_ENVIRONMENT = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "PYTHONPATH",
)  # no keys for a process that reads hostile input


def available() -> bool:
    """Whether the extra is installed, on a system that can end a process by a timer."""
    return hasattr(os, "fork") and hasattr(signal, "setitimer") and find_spec("math_verify") is not None


@dataclass(slots=True, kw_only=True)
class _Question:
    answer: str
    others: Sequence[str]
    reply: asyncio.Future[Sequence[bool | None]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class _Died(Exception):
    """The process ended, or says nothing."""


class _Pipes:
    """Lines to and from the process. Raises _Died, ConnectionError."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._in = process.stdin
        self._out = process.stdout

    async def write(self, line: str) -> None:
        if self._in is None:
            raise _Died
        self._in.write(line.encode() + b"\n")
        await self._in.drain()

    async def read(self, seconds: float) -> str:
        if self._out is None:
            raise _Died
        try:
            line = await asyncio.wait_for(self._out.readline(), seconds)
        except (TimeoutError, ValueError):  # silent, or a line without an end
            raise _Died from None
        if not line.endswith(b"\n"):
            raise _Died
        return line[:-1].decode()


class MathsEquivalence:
    """Implements `strategies.types.Equivalence`. Until the process is ready, and when many wait: no answer."""

    def __init__(self, *, seconds: float) -> None:
        self._seconds = seconds
        self._queue: asyncio.Queue[_Question] = asyncio.Queue(_QUEUE)
        self._task: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._ending: asyncio.Task[None] | None = None
        self._number = 0
        self.ready = asyncio.Event()
        self.cut = 0  # questions that were ended by the limit

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Begin to warm up, beside everything else."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def same(self, answer: str, others: Sequence[str]) -> Sequence[bool | None]:
        """See `Equivalence`. Takes no longer than twice the limit, whatever waits before it and whatever the process
        does; what is given up then is not asked any more."""
        unknown = [None] * len(others)
        if not self.ready.is_set():
            return unknown
        question = _Question(answer=answer, others=others)
        try:
            self._queue.put_nowait(question)
        except asyncio.QueueFull:
            return unknown
        try:
            async with asyncio.timeout(2 * self._seconds):
                return await question.reply
        except TimeoutError:
            return unknown

    async def aclose(self) -> None:
        """End the process, and wait until it has ended. Who still waits gets no answer."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self._ending is not None:
            await asyncio.shield(self._ending)

    async def _run(self) -> None:
        again = True
        while again:
            try:
                again = await self._serve()
            except OSError as error:  # no memory, no file descriptors: there may be some later
                logger.warning("the process for the algebra of answers did not start: %s", error)
            if again:
                await asyncio.sleep(_AGAIN)

    async def _serve(self) -> bool:
        """One process from its start to its end. Whether it makes sense to start another. Raises OSError."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "server.maths.worker", str(self._seconds)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # ended as a group; Ctrl+C at the gateway's terminal is not for it
            env={name: value for name in _ENVIRONMENT if (value := os.environ.get(name)) is not None},
        )
        self._process = process
        pipes = _Pipes(process)
        question: _Question | None = None
        try:
            if await pipes.read(_START) != "ready":
                raise _Died
            self.ready.set()
            while True:
                question = await self._queue.get()
                if not question.reply.done():
                    _reply(question, await self._ask(pipes, question))
                question = None
        except (_Died, ConnectionError):
            was_ready = self.ready.is_set()
            logger.warning("the process for the algebra of answers ended%s", "" if was_ready else ": it is not used")
            return was_ready
        finally:
            self.ready.clear()
            waiting = [] if question is None else [question]
            while not self._queue.empty():
                waiting.append(self._queue.get_nowait())
            for each in waiting:
                _reply(each, "")
            self._ending = asyncio.create_task(_end(process, self._seconds))
            await asyncio.shield(self._ending)  # closing does not interrupt it, and waits for it too

    async def _ask(self, pipes: _Pipes, question: _Question) -> str:
        self._number += 1
        await pipes.write(json.dumps([self._number, question.answer, list(question.others)]))
        while True:
            number, _, verdicts = (await pipes.read(self._seconds + _GRACE)).partition(" ")
            if number in ("!", str(self._number)):  # anything else belongs to a question that was given up
                self.cut += number == "!" or verdicts.endswith("!")
                return verdicts


def _reply(question: _Question, verdicts: str) -> None:
    """What was found out, and None for the rest."""
    if not question.reply.done():
        known = {"1": True, "0": False}
        found = [known.get(verdict) for verdict in verdicts[: len(question.others)]]
        question.reply.set_result([*found, *[None] * (len(question.others) - len(found))])


async def _end(process: asyncio.subprocess.Process, seconds: float) -> None:
    """Closing its input ends it and its copy, within the limit. If not, the kernel does."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), seconds + _GRACE)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
