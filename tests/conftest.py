"""What all tests share."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from anyio import sleep, to_thread
from hypothesis import settings
from prometheus_client.parser import text_string_to_metric_families

# a busy machine is no failure
settings.register_profile("apportion", deadline=None)
settings.load_profile("apportion")

# shells start background jobs with it ignored, which the processes that tests start and interrupt would inherit
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parents[1]
_READY_WITHIN = 120.0  # seconds; it takes two to six on a quiet machine
_IDLE_WITHIN = 60.0
_POLL = 0.02


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The gateway runs on asyncio only."""
    return "asyncio"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLoad:
    """What the engine itself says it is doing."""

    processing: int  # sequences in work
    deferred: int  # requests waiting for a free slot
    decodes: int  # steps of generation since it started
    generated: int  # tokens of sequences that ended by themselves: it does not count cancelled ones

    @property
    def idle(self) -> bool:
        return not self.processing and not self.deferred


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """A gateway process with the real embedded engine behind it, and a view of that engine past the gateway."""

    url: str
    engine_url: str

    @property
    def api(self) -> str:
        return f"{self.url}/v1"

    def metrics_text(self) -> str:
        return _get(f"{self.url}/metrics")

    def total(self, name: str, **labels: str) -> float:
        """A metric of the gateway, summed over all the series that carry these labels."""
        return _total(self.metrics_text(), name, labels)

    def load(self) -> EngineLoad:
        """Answered by the engine between two steps of generation, so it can take as long as a step does."""
        text = _get(f"{self.engine_url}/metrics")
        return EngineLoad(
            processing=int(_total(text, "llamacpp:requests_processing")),
            deferred=int(_total(text, "llamacpp:requests_deferred")),
            decodes=int(_total(text, "llamacpp:n_decode_total")),
            generated=int(_total(text, "llamacpp:tokens_predicted_total")),
        )

    async def until(self, wanted: Callable[[EngineLoad], bool], *, within: float) -> EngineLoad:
        """The first load of the engine that is as wanted. Fails the test after `within` seconds."""
        started = time.monotonic()
        while True:
            load = await to_thread.run_sync(self.load)
            if wanted(load):
                return load
            assert time.monotonic() - started < within, f"after {within} s the engine still says {load}"
            await sleep(_POLL)


def _get(url: str) -> str:
    return httpx.get(url, timeout=60, trust_env=False).raise_for_status().text


def _total(text: str, name: str, labels: Mapping[str, str] | None = None) -> float:
    wanted = (labels or {}).items()
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples if s.name == name]
    return sum(sample.value for sample in samples if wanted <= sample.labels.items())


@contextmanager
def gateway_process(log: Path, *arguments: str, **environment: str) -> Generator[str, None, None]:
    """The address of a gateway that runs as a process of its own, ended by SIGTERM.

    arguments: of `apportion serve`; environment: its settings, instead of those this process has. Fails the test when
    the gateway ends by itself or writes a traceback.
    """
    port = free_port()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("APPORTION_")}
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "server", "serve", *arguments, "--port", str(port)],
            cwd=ROOT,
            env={**inherited, "PYTHONWARNINGS": "error::ResourceWarning", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
    try:
        await_ready(process, f"http://127.0.0.1:{port}", log)
        yield f"http://127.0.0.1:{port}"
        ended_before = process.poll()
        process.terminate()
        status = process.wait(timeout=30)
    finally:
        process.kill()
        process.wait()
    said = log.read_text(errors="replace")
    assert ended_before is None, f"the gateway ended by itself with status {ended_before}:\n{said}"
    assert "Traceback" not in said, said
    if sys.platform != "win32":  # there terminate() is no signal that could be handled
        assert status in (0, -signal.SIGTERM), said
        assert not listening(port), "something outlived the gateway"


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Generator[Live, None, None]:
    """One gateway for the whole run, as `apportion serve -c configs/demo.yaml` starts it.

    One thread for the engine instead of the demo's two: llama.cpp's threads wait for each other spinning, and on two
    cores together with a client and a gateway (and whatever else runs) one step of generation then takes seconds.
    """
    engine_port = free_port()
    log = tmp_path_factory.mktemp("gateway") / "stderr.log"
    engine = {"APPORTION_ENGINE__EMBEDDED__PORT": str(engine_port), "APPORTION_ENGINE__EMBEDDED__THREADS": "1"}
    with gateway_process(log, "-c", "configs/demo.yaml", **engine) as url:
        yield Live(url=url, engine_url=f"http://127.0.0.1:{engine_port}")
    if sys.platform != "win32":
        assert not listening(engine_port), "the engine outlived the gateway"


def await_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Until a gateway serves. Fails the test with what it wrote when it does not come to that."""
    started = time.monotonic()
    problem = "nothing answered"
    while time.monotonic() - started < _READY_WITHIN:
        if process.poll() is not None:
            problem = f"it ended with status {process.returncode}"
            break
        try:
            reply = httpx.get(f"{url}/ready", timeout=5, trust_env=False)
        except httpx.HTTPError:
            time.sleep(0.1)
            continue
        if reply.status_code == 200:
            return
        problem = reply.text
        time.sleep(0.1)
    pytest.fail(f"the gateway did not get ready: {problem}\n{log.read_text(errors='replace')}", pytrace=False)


@pytest.fixture
def gateway(live: Live) -> Live:
    """The running gateway with nothing left to do for an earlier test, so that every test counts its own work only."""
    started = time.monotonic()
    while not live.load().idle or live.total("apportion_requests_in_flight"):
        assert time.monotonic() - started < _IDLE_WITHIN, f"an earlier test left work behind: {live.load()}"
        time.sleep(_POLL)
    return live
