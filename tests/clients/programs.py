"""Programs in the clients' own environments, which `make test` has made.

Every client runs as its users run it: its own packages, a process of its own, HTTP. They could not share an environment
in any case: one wants openai 2, another openai 3.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.conftest import ROOT

HERE = Path(__file__).parent
NODE = HERE / "node"
_VENVS = ROOT / ".venv" / "clients"
KEY = "sk-of-the-suites-4711"  # for the gateway in front of the scripted engine
_PATIENCE = 300.0  # seconds; a suite takes three to fifteen on a quiet machine
# what the clients would fetch or send by themselves: docs/clients/ says what that is
_NOTHING_SENT_HOME = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LANGSMITH_TRACING": "false",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateways:
    """Addresses. live: with the real model behind it. scripted: with an engine that does what the prompt says."""

    live: str
    scripted: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A program that has ended."""

    status: int
    output: str
    errors: str
    outside: str  # the hosts beside this machine that it wanted to reach, a line each


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One test of a suite; problem: None if it passed."""

    name: str
    problem: str | None


def run(
    command: Sequence[str | Path],
    gateways: Gateways,
    folder: Path,
    *,
    cwd: Path = HERE,
    settings: Mapping[str, str] | None = None,
) -> Finished:
    """Run a program that talks to the gateways. folder: for its scratch files; settings: of its environment.

    It may reach this machine only: Python through tests/clients/loopback/sitecustomize.py, Node through only.mjs.
    """
    outside = folder / "outside.log"
    outside.touch()
    inherited = {name: value for name, value in os.environ.items() if not _leads_astray(name)}
    environment = {
        **inherited,
        **_NOTHING_SENT_HOME,
        "LIVE_URL": gateways.live,
        "SCRIPTED_URL": gateways.scripted,
        "SCRIPTED_KEY": KEY,
        "OUTSIDE_LOG": str(outside),
        "PYTHONPATH": str(HERE / "loopback"),
        "NODE_OPTIONS": f"--import={(HERE / 'loopback' / 'only.mjs').as_uri()}",
        **(settings or {}),
    }
    done = subprocess.run(
        command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE
    )
    return Finished(status=done.returncode, output=done.stdout, errors=done.stderr, outside=outside.read_text())


def _leads_astray(name: str) -> bool:
    """Settings of this shell that would point a client elsewhere, or give it a key."""
    return name.upper().startswith(("OPENAI_", "LITELLM_", "LANGCHAIN_", "LANGSMITH_", "APPORTION_")) or (
        name.lower() in ("http_proxy", "https_proxy", "all_proxy")
    )


def python(environment: str) -> Path:
    """The interpreter of a Python client's environment. Skips the test where it is not there."""
    return _there(_VENVS / environment / "bin" / "python")


def node() -> Path:
    """Skips the test where Node or its packages are not there."""
    _there(NODE / "node_modules")
    return _there(Path(shutil.which("node") or "node"))


def _there(path: Path) -> Path:
    if not path.exists():
        problem = f"{path} is not there: `make test` makes it, where npm is installed"
        if os.environ.get("CI"):
            pytest.fail(problem, pytrace=False)
        pytest.skip(problem)
    return path


def cases(report: Path) -> Sequence[Case]:
    """What a JUnit report tells, as pytest and Node write it."""
    found: list[Case] = []
    for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314 - written by a program of ours
        problem = next((part for part in case if part.tag in ("failure", "error")), None)
        text = None if problem is None else f"{problem.get('message') or ''}\n{problem.text or ''}"
        found.append(Case(name=case.get("name") or "", problem=text))
    return found
