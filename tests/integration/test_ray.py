"""The same work list on a real local Ray: the same pools, also when a worker dies, and the same journal."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Sequence
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest

from router.pools import Pool, read_pools
from server.calibration.run import Options, calibrate
from server.config import load_config
from tests.conftest import ROOT, free_port
from tests.fake_engine import VLLM, FakeEngine, running, streams, until, within, words
from tests.recordings import Script, asked, calibrating, question, untimed

# not imported before its settings are there
pytestmark = [pytest.mark.anyio, pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra ray")]

PATIENCE = 60.0  # seconds; a worker is there within three on a quiet machine
# in a process of its own: the tests connect to it as a command does, and it ends with them
HEAD = """
import sys
import ray
started = ray.init(
    "local", num_cpus=2, object_store_memory=80 * 1024 * 1024, include_dashboard=False, log_to_driver=False
)
print(started.address_info["gcs_address"], flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module", autouse=True)
def settings() -> Generator[None]:
    """A token of these tests' own, as Ray would else make one in the home directory; and no cluster but theirs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", token_hex(16))
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # loopback alone
        patch.delenv("RAY_ADDRESS", raising=False)
        yield


@pytest.fixture(scope="module")
def head(settings: None) -> Generator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", HEAD], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="module")
def address(head: subprocess.Popen[str]) -> str:
    assert head.stdout is not None
    return head.stdout.readline().strip()


async def recorded(folder: Path, server: FakeEngine, **options: Any) -> list[Pool]:
    """The whole of `calibrate`, in this process."""
    config = load_config(
        None, overrides={"engine.url": server.url, "engine.max_n": 4, "menu": ["single", "beam_search@2x2"]}
    )
    wanted = Options(out=folder / f"{options.get('runner')}.parquet", samples=8, sweep=False, **options)
    await calibrate(config, [question(name) for name in "abcdefgh"], wanted, lambda text: None)
    return read_pools(wanted.out)


def processes() -> dict[int, int]:
    """Every process and its parent."""
    found: dict[int, int] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            found[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has just ended
            continue
    return found


def processes_of(root: int, title: bytes = b"") -> list[int]:
    """Descendants of a process that call themselves so."""
    parents = processes()
    family = [root]
    for each in family:
        family += [child for child, parent in parents.items() if parent == each]
    return [pid for pid in family[1:] if title in Path(f"/proc/{pid}/cmdline").read_bytes()]


def listened_on(pids: Sequence[int]) -> set[str]:
    """The addresses, as the kernel writes them."""
    sockets = {str(file.readlink()) for pid in pids for file in Path(f"/proc/{pid}/fd").iterdir() if file.is_symlink()}
    rows = [row.split() for table in ("tcp", "tcp6") for row in Path("/proc/net", table).read_text().splitlines()[1:]]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}


@pytest.mark.parametrize("options", [{"concurrency": 3}, {"budget": 300}], ids=["all", "budget"])
async def test_both_runners_record_the_same(options: dict[str, Any], address: str, tmp_path: Path) -> None:
    """Questions, samples in their order, labels and runs, and what it cost."""
    pools: list[list[Pool]] = []
    spent: list[int] = []
    for runner in ({"runner": "local"}, {"runner": "ray", "ray_address": address, "ray_workers": 2}):
        async with running(VLLM, Script(a=["7", "8"], b=["7", "8", "9"], e=["1", "2"])) as server:
            pools.append(await recorded(tmp_path, server, **runner, **options))
            spent.append(server.tokens)
            # the command's own client, for the runs, and one a worker
            assert server.connections >= (3 if runner["runner"] == "ray" and "concurrency" in options else 1)
    assert untimed(pools[0]) == untimed(pools[1])
    assert spent[0] == spent[1]
    assert [len(pool.calls) for pool in pools[0]] == [len(pool.calls) for pool in pools[1]]


async def test_what_a_dead_worker_was_asked_is_asked_again(
    head: subprocess.Popen[str], address: str, tmp_path: Path
) -> None:
    """Ray starts another in its place."""
    never = asyncio.Event()
    async with running(VLLM, Script()) as server:
        server.acts.extend([streams(), streams(), streams(words("The answer is 7", after=never))])
        task = asyncio.create_task(
            recorded(tmp_path, server, runner="ray", ray_address=address, ray_workers=1, budget=10_000)
        )
        await until(lambda: len(server.requests) == 3, seconds=PATIENCE)
        held = server.requests[2]
        (pid,) = processes_of(head.pid, b"ray::Worker")
        os.kill(pid, signal.SIGKILL)
        await within(held.gone.wait())
        pools = await within(task, PATIENCE)
    assert [len(pool.samples) for pool in pools] == [8] * 8
    assert asked(server.requests[3]) == asked(held)


async def test_ctrl_c_ends_the_workers_and_any_runner_goes_on(address: str, tmp_path: Path) -> None:
    never = asyncio.Event()
    async with running(VLLM, Script()) as server:
        server.acts.extend([streams(), streams(), streams(words("The answer is 7", after=never))])
        process = await calibrating(
            tmp_path, server, "--samples", "4", "--runner", "ray", "--ray-address", address, "--ray-workers", "1"
        )
        await until(lambda: len(server.requests) == 3, seconds=PATIENCE)
        held = server.requests[2]
        process.send_signal(signal.SIGINT)
        _, said = await within(process.communicate(), PATIENCE)
        assert process.returncode == 130
        assert b"1 of 1 Ray workers" in said
        assert b"interrupted: 2 questions with 8 samples are in" in said
        assert b"Traceback" not in said
        await within(held.gone.wait())

        process = await calibrating(tmp_path, server, "--samples", "4")
        _, said = await within(process.communicate(), PATIENCE)
        assert process.returncode == 0, said
    assert len(read_pools(tmp_path / "mine.parquet")) == 4
    assert len(server.requests) == 3 + 2


async def test_without_an_address_ray_is_started_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody else can reach it, and it ends with the command."""
    monkeypatch.delenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
    go = asyncio.Event()
    async with running(VLLM, Script()) as server:
        server.acts.append(streams(*[words("The answer is 7", after=go)] * 4))
        process = await calibrating(tmp_path, server, "--samples", "4", "--concurrency", "2", "--runner", "ray")
        await until(lambda: bool(server.requests), seconds=PATIENCE)
        started = processes_of(process.pid)
        assert listened_on(started) == {"0100007F", "0000000000000000FFFF00000100007F"}
        go.set()
        printed, said = await within(process.communicate(), PATIENCE)
        assert process.returncode == 0, said
    assert not set(started) & set(processes())
    assert printed.decode().strip() == str(tmp_path / "mine.parquet")
    assert len(read_pools(tmp_path / "mine.parquet")) == 4
    assert len(server.requests) == 4


async def test_where_no_ray_is_one_sentence_says_so(tmp_path: Path) -> None:
    async with running(VLLM, Script()) as server:
        process = await calibrating(tmp_path, server, "--runner", "ray", "--ray-address", f"127.0.0.1:{free_port()}")
        _, said = await within(process.communicate(), PATIENCE)
    assert process.returncode == 1
    assert b"can't be used" in said
    assert b"Traceback" not in said
