"""What the suites rely on to be told the truth: that a program which leaves this machine is noticed."""

from __future__ import annotations

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
