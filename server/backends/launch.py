"""vLLM as a child of the gateway: `apportion serve --launch vllm --model NAME [-- vLLM's own flags]`.

Between the two stands a guard, a small process of this module. It ends vLLM when its standard input closes, so that
vLLM never outlives the gateway, however that ends; and when vLLM ends by itself, it says how. Neither is started again:
what keeps services running (systemd, Kubernetes) sees one process, and its exit status.
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
from collections.abc import AsyncGenerator, Callable, Sequence
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

    async def healthy(self, progress: Callable[[str], None]) -> None:
        """Returns when it answers. Raises LaunchError when it ends before, or takes too long."""
        started = time.monotonic()
        ended = asyncio.ensure_future(self.ended())
        try:
            async with httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=5.0) as client:
                told = started
                while not await _answers(client):
                    if (now := time.monotonic()) - started > self._settings.start_timeout:
                        raise LaunchError(
                            f"vLLM was not healthy after {self._settings.start_timeout:.0f} s "
                            "(engine.vllm.start_timeout_seconds)"
                        )
                    if now - told >= _TELL_EVERY:
                        told = now
                        progress(f"vLLM is starting: {now - started:.0f} s")
                    await asyncio.wait([ended], timeout=_POLL)
                    if ended.done():
                        ended.result()
            self._healthy = True
            progress(f"vLLM is healthy after {time.monotonic() - started:.0f} s")
        finally:
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)

    async def ended(self) -> NoReturn:
        """Waits until it ends by itself. Raises LaunchError with how."""
        assert self._guard.stdout is not None  # noqa: S101 - tells the type checker what PIPE means
        said = await self._guard.stdout.readline()
        raise LaunchError(_verdict(said, while_starting=not self._healthy))

    async def stop(self) -> None:
        """End it, with all its processes, and wait for that."""
        assert self._guard.stdin is not None  # noqa: S101
        self._guard.stdin.close()
        try:
            async with asyncio.timeout(self._settings.stop_timeout + _MARGIN):
                await self._guard.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._guard.kill()
            await self._guard.wait()


@contextlib.asynccontextmanager
async def launched(settings: LaunchSettings) -> AsyncGenerator[Launched]:
    """Starts it, without waiting until it is healthy, and takes it down. Raises LaunchError."""
    program = _executable(settings.executable)
    port = settings.port or _free_port()
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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _answers(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/health")).status_code == 200
    except httpx.HTTPError:
        return False


def _verdict(said: bytes, *, while_starting: bool) -> str:
    when = " while starting" if while_starting else ""
    try:
        verdict: dict[str, Any] = json.loads(said)
    except ValueError:
        return f"vLLM was lost{when}: what watched it has ended"
    status = verdict["status"]
    how = f"by signal {-status}" if status < 0 else f"with exit status {status}"
    why = f": {verdict['why']}" if verdict["why"] else ""
    return f"vLLM ended{when} {how}{why}"


# --- the guard, in a process of its own


def _guard(stop_timeout: float, command: Sequence[str]) -> None:  # pragma: no cover - a process of its own
    try:
        child = subprocess.Popen(  # noqa: S603 - the operator's own program
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
    except OSError as error:
        _tell(127, str(error))
        return
    last: deque[str] = deque(maxlen=_LAST)
    reader = threading.Thread(target=_pass_on, args=(child, last), daemon=True)
    reader.start()
    threading.Thread(target=_stop_when_alone, args=(child, stop_timeout), daemon=True).start()
    status = child.wait()
    _kill_group(child.pid)  # what it may have left behind
    _await_group(child.pid)
    reader.join(2.0)
    _tell(status, _why(last))
    os._exit(0)  # the other threads are waiting for what does not come


def _pass_on(child: subprocess.Popen[bytes], last: deque[str]) -> None:  # pragma: no cover
    assert child.stdout is not None  # noqa: S101
    for line in child.stdout:
        last.append(line.decode(errors="replace").strip())
        with contextlib.suppress(OSError):  # its log may have nowhere to go, it has to be read all the same
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()


def _stop_when_alone(child: subprocess.Popen[bytes], stop_timeout: float) -> None:  # pragma: no cover
    sys.stdin.buffer.read()  # until the gateway closes it or dies
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


def _tell(status: int, why: str) -> None:  # pragma: no cover
    with contextlib.suppress(OSError):
        sys.stdout.write(json.dumps({"status": status, "why": why}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _guard(float(sys.argv[1]), sys.argv[2:])
