"""The real vLLM, launched as a user does it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.conftest import ROOT, await_ready, free_port
from tests.vllm.conftest import _ENVIRONMENT, EAGER, FOLDER  # pyright: ignore[reportPrivateUsage]

VLLM = str(FOLDER / "bin" / "vllm")


def test_it_answers_and_leaves_nothing_behind(tmp_path: Path) -> None:
    port = free_port()
    log = tmp_path / "log"
    command = [
        sys.executable, "-m", "server", "serve", "--port", str(port), "--launch", "vllm", "--vllm-executable", VLLM,
        "--model", str(FOLDER / "models" / "smollm2"), "--", "--served-model-name", "smollm2", *EAGER,
    ]  # fmt: skip
    with log.open("wb") as errors:
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **_ENVIRONMENT}, stderr=errors)
    try:
        await_ready(process, f"http://127.0.0.1:{port}", log)
        children = _below(process.pid)
        assert len(children) >= 3, "the guard, vLLM and its engine"
        body = {"model": "smollm2", "messages": [{"role": "user", "content": "2 + 2 = ?"}], "max_tokens": 4}
        reply = httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=60, trust_env=False)
        assert reply.status_code == 200, reply.text
        assert reply.json()["usage"]["completion_tokens"] > 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 0
        assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []
    finally:
        process.kill()
        process.wait()
    said = log.read_text(errors="replace")
    assert re.search(r"apportion vLLM is healthy after \d+ s", said)
    # vLLM's own, of its engine that ended before its server, has its process before it
    assert not re.search(r"^Traceback", said, re.MULTILINE), said


def test_a_model_that_is_not_there_is_told(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "server", "serve", "--port", "0", "--launch", "vllm", "--vllm-executable", VLLM,
        "--model", str(tmp_path / "nothing"),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **_ENVIRONMENT}, stderr=subprocess.PIPE, check=False)
    last = done.stderr.decode().splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith("apportion: vLLM ended while starting with exit status 1: ")
    assert "nothing" in last


def _below(pid: int) -> list[int]:
    """All processes that a process has started, and those that these have."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except FileNotFoundError:
            continue
        parents.setdefault(parent, []).append(int(folder.name))
    found = list(parents.get(pid, []))
    for each in found:
        found += parents.get(each, [])
    return found


@pytest.fixture(autouse=True)
def _prepared() -> None:
    if not Path(VLLM).exists():
        pytest.fail("vLLM is not there: `make test-vllm` makes it", pytrace=False)
