"""The tour for real: the engine, the gateway and the command, in a process of their own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("rich")

from server.demo_questions import STOPS
from server.serving import PortTaken, take_port

ROOT = Path(__file__).parents[2]
PATIENCE = 300.0  # seconds; a tour takes ten on a quiet machine


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command(port: int, *options: str) -> Sequence[str]:
    return [sys.executable, "-m", "server", "demo", "--port", str(port), *options]


def environment() -> dict[str, str]:
    """This process's, with what makes other programs colour their logs: the tour must not be led astray by it."""
    return {**os.environ, "FORCE_COLOR": "1", "PYTHONWARNINGS": "error::ResourceWarning"}


@pytest.mark.engine
def test_once_shows_six_decisions_and_ends() -> None:
    """All six questions with their tables, a summary, no control codes, exit status 0, and nothing left running."""
    port = free_port()
    done = subprocess.run(
        command(port, "--once"), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=PATIENCE
    )

    assert done.returncode == 0, done.stdout + done.stderr
    for stop in STOPS:
        assert stop.ask in " ".join(done.stdout.split())
    assert "tokens/upper" in done.stdout
    assert "majority_vote@16" in done.stdout
    assert done.stdout.count("deciding and generating") == len(STOPS)
    assert re.search(r"^summary ", done.stdout, re.MULTILINE)
    assert "every budget was kept" in done.stdout
    assert f"curl http://127.0.0.1:{port}/v1/chat/completions" in done.stdout
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 130  # the lines to copy are never wrapped
    assert "Traceback" not in done.stderr
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.engine
@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_serves_what_it_advertises_until_interrupted() -> None:
    """After the tour the printed curl line and Python program work as they stand; Ctrl-C ends it with status 0."""
    port = free_port()
    process = subprocess.Popen(
        command(port), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("serving until Ctrl-C"):
                break
        shown = "".join(lines)
        if shutil.which("curl"):
            curl = re.search(r"^curl .*\\\n.*$", shown, re.MULTILINE)
            assert curl is not None, shown
            replied = subprocess.run(["sh", "-c", curl[0]], capture_output=True, text=True, timeout=PATIENCE)
            assert '"strategy":"majority_vote@8"' in replied.stdout, replied.stdout + replied.stderr
        program = shown[shown.index("from openai import") : shown.index("metrics: http")]
        replied = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE)
        assert replied.returncode == 0, replied.stderr
        assert "utility" in replied.stdout

        process.send_signal(signal.SIGINT)
        rest, problems = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "stopped" in rest
        assert "Traceback" not in problems
    finally:
        process.kill()
        process.communicate()


def test_a_busy_port_is_one_clear_sentence() -> None:
    """Exit status 1, the port and the way out on standard error, no traceback, and no engine was started."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = subprocess.run(
            command(port, "--once"), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60
        )

    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"can't listen on 127.0.0.1:{port}" in done.stderr
    assert "--port" in done.stderr
    assert "loading" not in done.stdout  # no engine was started


def test_a_port_taken_since_it_was_checked_is_refused_too() -> None:
    """The tour takes the port itself before it starts the engine, and says the same sentence."""
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        pytest.raises(PortTaken, match=r"can't listen on 127\.0\.0\.1:\d+ \(.+\): choose another with --port"),
    ):
        take_port("127.0.0.1", other.getsockname()[1])
