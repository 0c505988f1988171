"""What becomes of a launched vLLM, and of the gateway in front of it, when either ends or never comes up.

A script stands in for vLLM, which leaves a process of its own behind whenever it can. The real one: tests/vllm.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from server.backends.launch import LaunchError, LaunchSettings, launched
from server.cli import main
from server.config import Config, ConfigError, load_config
from server.gateway import running
from server.store.database import Unusable
from tests.conftest import ROOT, free_port
from tests.fake_engine import until, within
from tests.serving import NO_ALGEBRA

pytestmark = pytest.mark.anyio
NO_WAIT: dict[str, Any] = {"start_timeout": 60.0, "stop_timeout": 20.0}
SCRIPT = """#!{python}
import http.server, json, os, pathlib, signal, subprocess, sys
arguments = sys.argv[1:]
mode = arguments[-1]
folder = pathlib.Path({folder!r})
helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
said = dict(pids=[os.getpid(), helper.pid], arguments=arguments, key=os.environ.get("VLLM_API_KEY"))
(folder / "writing").write_text(json.dumps(said))
(folder / "writing").rename(folder / "said")
if mode == "dies":
    print("INFO loading")
    print("OSError: no-such-model is not a local folder")
    print("INFO see above")
    sys.exit(3)
if mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if mode == "never":
    print("INFO loading the weights", flush=True)
    signal.pause()

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/v1/end":
            os.kill(os.getpid(), signal.SIGKILL)
        body = json.dumps(dict(object="list", data=[dict(id="m", object="model", owned_by="vllm")])).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(arguments[arguments.index("--port") + 1])), Handler).serve_forever()
"""


class Fake:
    """A program called vllm, and what it has said of itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program = folder / "vllm"
        self.program.write_text(SCRIPT.format(python=sys.executable, folder=str(folder)))
        self.program.chmod(0o755)

    def settings(self, mode: str, **fields: Any) -> LaunchSettings:
        own: dict[str, Any] = {
            "model": "no-such-model",
            "flags": (mode,),
            "executable": self.program,
            "log": self.folder / "log",
        }
        return LaunchSettings(**{**own, **NO_WAIT, **fields})

    @property
    def started(self) -> bool:
        return (self.folder / "said").exists()

    @property
    def said(self) -> Mapping[str, Any]:
        return json.loads((self.folder / "said").read_text())

    @property
    def guard(self) -> int:
        """The process between the gateway and it."""
        return int(Path(f"/proc/{self.said['pids'][0]}/stat").read_text().rpartition(")")[2].split()[1])

    @property
    def alive(self) -> list[int]:
        """Its processes that run."""
        return [pid for pid in self.said["pids"] if _runs(pid)]


async def gone(fake: Fake) -> None:
    """A kill takes effect a moment later."""
    await until(lambda: fake.alive == [], "the end of vLLM")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def silent(text: str) -> None:
    """Progress nobody looks at."""


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return Fake(tmp_path)


async def test_it_is_given_its_flags_and_its_key_and_ends_with_all_its_processes(fake: Fake) -> None:
    async with launched(fake.settings("well", flags=("--seed", "1", "well"), api_key="hush")) as vllm:
        await within(vllm.healthy(silent))
        port = vllm.url.rpartition(":")[2]
        expected = ["serve", "no-such-model", "--host", "127.0.0.1", "--port", port, "--seed", "1", "well"]
        assert fake.said["arguments"] == expected
        assert fake.said["key"] == "hush"
        assert len(fake.alive) == 2
    await gone(fake)


async def test_one_that_ends_while_starting_says_why(fake: Fake) -> None:
    async with launched(fake.settings("dies")) as vllm:
        with pytest.raises(
            LaunchError,
            match=r"^vLLM ended while starting with exit status 3: OSError: no-such-model is not a local folder$",
        ):
            await within(vllm.healthy(silent))
        await gone(fake)
    assert b"INFO see above" in (fake.folder / "log").read_bytes()


async def test_one_that_never_answers_is_given_up_and_taken_down(fake: Fake) -> None:
    """What it said last before that is told."""
    log = fake.folder / "log"
    async with launched(fake.settings("never", start_timeout=0.01)) as vllm:
        await until(lambda: b"weights" in log.read_bytes(), "having started")
        with pytest.raises(LaunchError, match=r"^vLLM was not healthy after 0 s \(.*\): INFO loading the weights$"):
            await within(vllm.healthy(silent))
        await gone(fake)


async def test_a_gateway_that_fails_between_start_and_serving_leaves_nothing_behind(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)  # the driver of the store
    vllm = {"model": "m", "flags": ("never",), "executable": fake.program}
    store = {"url": "postgresql://h/d"}
    config = Config.model_validate({"engine": {"kind": "vllm", "vllm": vllm}, "answers": NO_ALGEBRA, "store": store})
    with pytest.raises(Unusable):
        async with running(config, progress=silent):
            pass
    assert _naming(fake.program) == []


def _naming(program: Path) -> list[str]:
    """Command lines of running processes that name a program: it, and what watches it."""
    lines: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            lines.append(path.read_text(errors="replace"))
    return [line for line in lines if str(program) in line]


async def test_a_port_that_is_taken_is_told_before_anything_is_started(fake: Fake) -> None:
    """Else what listens there would be taken for vLLM."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(LaunchError, match=rf"^vLLM can't listen on 127\.0\.0\.1:{port} .*engine\.vllm\.port"):
            async with launched(fake.settings("well", port=port)):
                pass
    assert not fake.started


async def test_one_that_does_not_want_to_end_is_killed(fake: Fake) -> None:
    async with launched(fake.settings("stubborn", stop_timeout=0.1)) as vllm:
        await within(vllm.healthy(silent))
    await gone(fake)


async def test_it_is_taken_down_also_when_the_gateway_is_killed(fake: Fake) -> None:
    async with gateway(fake, "well") as (process, _):
        process.kill()
        process.wait()
        await gone(fake)


async def test_the_gateway_ends_with_it_and_says_how(fake: Fake) -> None:
    async with gateway(fake, "well") as (process, log):
        os.kill(fake.said["pids"][0], signal.SIGKILL)
        status = await asyncio.to_thread(process.wait, 60)
    assert status == 1
    assert "apportion: vLLM ended by signal 9" in log()
    await gone(fake)


async def test_a_signal_to_all_of_a_service_does_not_lose_it(fake: Fake) -> None:
    """As systemd does it: what watches vLLM stays until vLLM has ended."""
    async with gateway(fake, "stubborn", stop_timeout=0.5) as (process, _):
        os.kill(fake.guard, signal.SIGTERM)
        os.kill(fake.guard, signal.SIGINT)
        process.terminate()
        assert await asyncio.to_thread(process.wait, 60) == 0
        assert fake.alive == []


async def test_without_what_watches_it_the_gateway_ends_it_and_itself(fake: Fake) -> None:
    async with gateway(fake, "well") as (process, log):
        os.kill(fake.guard, signal.SIGKILL)
        status = await asyncio.to_thread(process.wait, 60)
    assert status == 1
    assert "apportion: vLLM was lost: what watched it has ended" in log()
    await gone(fake)


async def test_told_to_stop_the_gateway_takes_it_down(fake: Fake) -> None:
    async with gateway(fake, "well") as (process, log):
        process.terminate()
        assert await asyncio.to_thread(process.wait, 60) == 0
    await gone(fake)
    assert "vLLM is healthy" in log()


async def test_interrupted_while_it_starts_the_gateway_takes_it_down(fake: Fake) -> None:
    async with gateway(fake, "never", ready=False) as (process, _):
        await until(lambda: fake.started, "having started")
        process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(process.wait, 60) == 0
    await gone(fake)


@contextlib.asynccontextmanager
async def gateway(
    fake: Fake, mode: str, *, ready: bool = True, stop_timeout: float = 20.0
) -> AsyncGenerator[tuple[subprocess.Popen[bytes], Callable[[], str]]]:
    """`apportion serve --launch vllm`, and what it has written to standard error."""
    port = free_port()
    command = [
        sys.executable, "-m", "server", "serve", "--port", str(port), "--launch", "vllm", "--model", "no-such-model",
        "--vllm-executable", str(fake.program), "--", mode,
    ]  # fmt: skip
    path = fake.folder / "gateway.log"
    with path.open("wb") as log:
        environment = {**os.environ, "APPORTION_ENGINE__VLLM__STOP_TIMEOUT_SECONDS": str(stop_timeout)}
        process = subprocess.Popen(  # noqa: ASYNC220
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:

            async def up() -> None:
                while (await _status(client)) != 200:
                    assert process.poll() is None, path.read_text()
                    await asyncio.sleep(0.05)

            if ready:
                await within(up())
        yield process, path.read_text
    finally:
        process.kill()
        process.wait()


async def _status(client: httpx.AsyncClient) -> int:
    try:
        return (await client.get("/ready")).status_code
    except httpx.HTTPError:
        return 0


# --- what is asked for


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--launch", "vllm"], "engine.vllm.model: needed, because engine.kind is vllm"),
        (["--launch", "vllm", "--model", "m", "--embedded"], "--embedded and --launch exclude each other"),
        (["--model", "m"], "--model goes with --launch vllm"),
        (["--engine-url", "http://127.0.0.1:1", "--", "--seed", "1"], "--seed goes with --launch vllm"),
        (["--launch", "vllm", "--model", "m", "--", "--port", "1"], "--port is not among vLLM's flags"),
        (["--launch", "vllm", "--model", "m", "--", "--por=1"], "--por is not among vLLM's flags"),
        (["--launch", "vllm", "--model", "m", "--", "--api_key=x"], "set engine.api_key"),
        (["--launch", "vllm", "--model", "m", "--", "--ssl-certfile", "c"], "without TLS"),
        (
            ["--launch", "vllm", "--model", "m", "--enforce-eager"],
            "no option --enforce-eager: vLLM's own flags go behind",
        ),
        (["--enforce-eager"], "No such option '--enforce-eager'"),
        (
            ["--launch", "vllm", "--model", "m", "--vllm-executable", "/no/such/vllm", "--port", "0"],
            "engine.vllm.executable: /no/such/vllm is no program that can be run",
        ),
    ],
)
def test_what_can_not_be_launched_is_told_in_one_sentence(arguments: list[str], complaint: str) -> None:
    result = CliRunner().invoke(main, ["serve", *arguments])
    assert result.exit_code != 0
    assert complaint in result.output
    assert "Traceback" not in result.output


def test_without_vllm_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    result = CliRunner().invoke(main, ["serve", "--launch", "vllm", "--model", "m", "--port", "0"])
    assert result.exit_code == 1
    assert "vLLM is not installed: pip install 'apportion[vllm]'" in result.output


def test_it_can_be_set_by_variables() -> None:
    environ = {"APPORTION_ENGINE__KIND": "vllm", "APPORTION_ENGINE__VLLM__FLAGS": "--seed,1"}
    with pytest.raises(ConfigError, match=r"engine\.vllm\.model"):
        load_config(None, environ=environ)
    config = load_config(None, environ={**environ, "APPORTION_ENGINE__VLLM__MODEL": "m"})
    assert config.engine.vllm.flags == ("--seed", "1")
