"""What the suites rely on: that a program which leaves this machine is noticed. And who would, by itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.clients.programs import Gateways, node, python, run

NOWHERE = Gateways(live="", scripted="")


@pytest.mark.parametrize(
    "code",
    [
        "import urllib.request; urllib.request.urlopen('http://example.invalid')",
        "import socket; socket.create_connection(('192.0.2.1', 80))",
    ],
)
def test_a_python_program_that_leaves_this_machine_is_noticed(code: str, tmp_path: Path) -> None:
    done = run([python("openai-3"), "-c", code], NOWHERE, tmp_path)

    assert done.status != 0
    assert done.outside.split() in (["example.invalid"], ["192.0.2.1"])


@pytest.mark.parametrize(
    "code",
    [
        "await fetch('http://example.invalid')",
        "import net from 'node:net'; net.connect(80, '192.0.2.1')",
    ],
)
def test_a_node_program_that_leaves_this_machine_is_noticed(code: str, tmp_path: Path) -> None:
    done = run([node(), "--input-type=module", "--eval", code], NOWHERE, tmp_path)

    assert done.status != 0
    assert done.outside.split() in (["example.invalid"], ["192.0.2.1"])


@pytest.mark.parametrize(
    ("code", "settings", "host"),
    [
        ("import litellm", {"LITELLM_LOCAL_MODEL_COST_MAP": "False"}, "raw.githubusercontent.com"),
        (
            "import agents\nwith agents.trace('one'): pass\nagents.flush_traces()",
            {"OPENAI_AGENTS_DISABLE_TRACING": "0", "OPENAI_API_KEY": "unused"},
            "api.openai.com",
        ),
    ],
    ids=["litellm", "openai-agents"],
)
def test_what_the_pages_say_of_clients_that_send_home(
    code: str, settings: Mapping[str, str], host: str, tmp_path: Path
) -> None:
    """Unless they are told not to, as the suites tell them: the guard sees the attempt."""
    done = run([python("openai-3"), "-c", code], NOWHERE, tmp_path, settings=settings)

    assert host in done.outside.split()
