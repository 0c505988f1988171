"""vLLM as a child of the gateway: `apportion serve --launch vllm --model NAME [-- vLLM's own flags]`.

Between the two stands a guard, a small process of this module. It ends vLLM when its standard input closes, so that
vLLM never outlives the gateway, however that ends; and when vLLM ends by itself, it says how. A guard that is lost is
the gateway's to clear up after. Nothing is started again: what keeps services running (systemd, Kubernetes) sees one
process, and its exit status.

The guard says two lines of JSON: {"group": the id of vLLM's process group}, and at the end {"status": exit status, or a
signal's number below zero; "why": a line of vLLM's log}.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import httpx

INSTALL_HINT = "pip install 'apportion[vllm]'"
_POLL = 0.5  # seconds between two questions whether it is healthy
_TELL_EVERY = 15.0  # seconds
_LAST = 50  # lines of vLLM's log that are searched for why it ended
_MARGIN = 10.0  # seconds the guard may take beyond what it gives vLLM
_GONE = 5.0  # seconds until killed processes are gone
_WHY = re.compile(r"\b(?!SystemExit)\w*(?:Error|Exception|Interrupt)\b: \S|\berror: ")


class LaunchError(Exception):
    """vLLM can't be started, or has ended; the message is one sentence for a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSettings:
    """Durations in seconds."""

    model: str  # as `vllm serve` takes it: a name on the hub or a folder
    flags: Sequence[str] = ()
    executable: Path | None = None
    api_key: str | None = None  # what it is to ask of its clients; in its environment, where other users don't see it
    port: int = 0  # 0: any free one
    start_timeout: float = 900.0
    stop_timeout: float = 20.0  # what it gets to end by itself
    log: Path | None = None  # file for its output; None: our standard error


class Launched:
    """A vLLM that is starting, running or has ended. `url` is where its OpenAI API is, on loopback."""

    def __init__(self, guard: asyncio.subprocess.Process, settings: LaunchSettings, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._guard = guard
        self._settings = settings
        self._healthy = False
        self._group: int | None = None
        self._verdict = asyncio.ensure_future(self._heard())

    async def healthy(self, progress: Callable[[str], None]) -> None:
        """Returns when it answers. Raises LaunchError when it ends before, or takes too long: then it is taken down."""
        started = time.monotonic()
        async with httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=5.0) as client:
            told = started
            while not await _answers(client):
                if (now := time.monotonic()) - started > self._settings.start_timeout:
                    raise await self._given_up()
                if now - told >= _TELL_EVERY:
                    told = now
                    progress(f"vLLM is starting: {now - started:.0f} s")
                await asyncio.wait([self._verdict], timeout=_POLL)
                if self._verdict.done():
                    await self.ended()
        self._healthy = True
        progress(f"vLLM is healthy after {time.monotonic() - started:.0f} s")

    async def ended(self) -> NoReturn:
        """Waits until it ends by itself. Raises LaunchError with how."""
        verdict = await asyncio.shield(self._verdict)
        when = "" if self._healthy else " while starting"
        if verdict is None:
            raise LaunchError(f"vLLM was lost{when}: what watched it has ended")
        status = verdict["status"]
        how = f"by signal {-status}" if status < 0 else f"with exit status {status}"
        raise LaunchError(f"vLLM ended{when} {how}{_because(verdict)}")

    async def stop(self) -> None:
        """End it, with all its processes, and wait for that."""
        assert self._guard.stdin is not None  # noqa: S101 - tells the type checker what PIPE means
        self._guard.stdin.close()
        try:
            async with asyncio.timeout(self._settings.stop_timeout + _MARGIN):
                await self._guard.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._guard.kill()
            await self._guard.wait()
        if await asyncio.shield(self._verdict) is None and self._group is not None:
            _kill_group(self._group)  # the guard is gone without having seen to it

    async def _given_up(self) -> LaunchError:
        await self.stop()
        seconds = f"{self._settings.start_timeout:.0f} s (engine.vllm.start_timeout_seconds)"
        return LaunchError(f"vLLM was not healthy after {seconds}{_because(await asyncio.shield(self._verdict))}")

    async def _heard(self) -> dict[str, Any] | None:
        """How vLLM ended, when it has. None: the guard ended first."""
        assert self._guard.stdout is not None  # noqa: S101
        async for line in self._guard.stdout:
            with contextlib.suppress(ValueError):  # a line cut short is the guard's last
                said: dict[str, Any] = json.loads(line)
                if "status" in said:
                    return said
                self._group = said["group"]
        return None


@contextlib.asynccontextmanager
async def launched(settings: LaunchSettings) -> AsyncGenerator[Launched]:
    """Starts it, without waiting until it is healthy, and takes it down. Raises LaunchError."""
    program = _executable(settings.executable)
    port = _port(settings.port)
    command = [
        program, "serve", settings.model, "--host", "127.0.0.1", "--port", str(port), *settings.flags,
    ]  # fmt: skip
    environment = {**os.environ, **({"VLLM_API_KEY": settings.api_key} if settings.api_key else {})}
    with contextlib.ExitStack() as files:
        guard = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "server.backends.launch", str(settings.stop_timeout), *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=None if settings.log is None else files.enter_context(settings.log.open("wb")),
            env=environment,
            start_new_session=True,  # Ctrl-C is ours, to end things in order
        )  # fmt: skip
    child = Launched(guard, settings, port)
    try:
        yield child
    finally:
        stopping = asyncio.ensure_future(child.stop())
        try:
            await asyncio.shield(stopping)
        except asyncio.CancelledError:  # a second Ctrl-C does not leave it behind
            await stopping
            raise


def _executable(given: Path | None) -> str:
    """The program. Raises LaunchError."""
    if given is not None:
        if not os.access(given, os.X_OK) or given.is_dir():
            raise LaunchError(f"engine.vllm.executable: {given} is no program that can be run")
        return str(given)
    beside = Path(sys.executable).with_name("vllm")  # of our own environment, whether or not it is activated
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("vllm")
    if found is None:
        raise LaunchError(
            f"vLLM is not installed: {INSTALL_HINT}, or name its program with --vllm-executable "
            "(engine.vllm.executable)"
        )
    return found


def _port(wanted: int) -> int:
    """The wanted one; 0: any free one. Raises LaunchError when it is taken: what has it would be taken for vLLM."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was in use a moment ago will do
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError as error:
            raise LaunchError(
                f"vLLM can't listen on 127.0.0.1:{wanted} ({error.strerror}): "
                "choose another with engine.vllm.port or stop what uses it"
            ) from None
        return int(probe.getsockname()[1])


async def _answers(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/health")).status_code == 200
    except httpx.HTTPError:
        return False


def _because(verdict: Mapping[str, Any] | None) -> str:
    return f": {verdict['why']}" if verdict and verdict["why"] else ""


# --- the guard, in a process of its own


def _guard(stop_timeout: float, command: Sequence[str]) -> None:  # pragma: no cover - a process of its own
    for number in (signal.SIGTERM, signal.SIGINT):  # sent to all of a service's processes, they are for the others
        signal.signal(number, _unmoved)  # not SIG_IGN, which vLLM would inherit
    try:
        child = subprocess.Popen(  # noqa: S603 - the operator's own program
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
    except OSError as error:
        _tell(status=127, why=str(error))
        return
    _tell(group=child.pid)
    last: deque[str] = deque(maxlen=_LAST)
    before: list[str] = []  # why, as it was when it was told to end
    reader = threading.Thread(target=_pass_on, args=(child, last), daemon=True)
    reader.start()
    threading.Thread(target=_stop_when_alone, args=(child, stop_timeout, last, before), daemon=True).start()
    status = child.wait()
    _kill_group(child.pid)  # what it may have left behind
    _await_group(child.pid)
    reader.join(2.0)
    _tell(status=status, why=before[0] if before else _why(list(last)))
    os._exit(0)  # the other threads are waiting for what does not come


def _unmoved(*_: object) -> None:  # pragma: no cover
    pass


def _pass_on(child: subprocess.Popen[bytes], last: deque[str]) -> None:  # pragma: no cover
    assert child.stdout is not None  # noqa: S101
    for line in child.stdout:
        last.append(line.decode(errors="replace").strip())
        with contextlib.suppress(OSError):  # its log may have nowhere to go, it has to be read all the same
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()


def _stop_when_alone(
    child: subprocess.Popen[bytes], stop_timeout: float, last: deque[str], before: list[str]
) -> None:  # pragma: no cover
    sys.stdin.buffer.read()  # until the gateway closes it or dies
    before.append(_why(list(last)))
    child.terminate()
    try:
        child.wait(stop_timeout)
    except subprocess.TimeoutExpired:
        _kill_group(child.pid)


def _kill_group(group: int) -> None:  # pragma: no cover
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _await_group(group: int) -> None:  # pragma: no cover
    """A killed process is gone when its memory is. Those that nobody takes note of stay, so this has an end."""
    until = time.monotonic() + _GONE
    with contextlib.suppress(ProcessLookupError, PermissionError):
        while time.monotonic() < until:
            os.killpg(group, 0)
            time.sleep(0.02)


def _why(last: Sequence[str]) -> str:  # pragma: no cover
    """The line that tells the most, as far as can be told."""
    lines = [line for line in last if line]
    telling = [line for line in lines if _WHY.search(line)]
    return (telling or lines or [""])[-1][:400]


def _tell(**said: Any) -> None:  # pragma: no cover
    with contextlib.suppress(OSError):
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _guard(float(sys.argv[1]), sys.argv[2:])
