"""Every client's own suite, in that client's environment and by its own test runner: suites/ and node/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.clients.programs import HERE, NODE, Gateways, cases, node, python, run

SUITES = HERE / "suites"
pytestmark = pytest.mark.engine


@pytest.mark.parametrize(
    ("environment", "suite"),
    [
        ("openai-3", "openai_python"),
        ("openai-2", "openai_python"),
        ("openai-3", "langchain"),
        ("openai-3", "litellm"),
        ("openai-3", "openai_agents"),
        ("openai-2", "llama_index"),
        ("node", "openai-node"),
        ("node", "ai-sdk"),
    ],
)
def test_the_suite_passes(
    gateways: Gateways, environment: str, suite: str, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    """Every test of it is shown, and the client reached nothing but this machine."""
    report = tmp_path / "report.xml"
    done = run(_command(environment, suite, report), gateways, tmp_path)

    assert report.exists(), done.output + done.errors
    told = cases(report)
    for case in told:
        with subtests.test(case.name):
            assert case.problem is None, case.problem
    assert told, done.output + done.errors
    assert done.status == 0 or any(case.problem for case in told), done.output + done.errors
    assert done.outside == ""


def _command(environment: str, suite: str, report: Path) -> Sequence[str | Path]:
    if environment == "node":
        to_file = ["--test-reporter=junit", f"--test-reporter-destination={report}"]
        return [node(), "--test", *to_file, NODE / f"{suite}.test.mjs"]
    options = ["-c", SUITES / "pytest.ini", "--confcutdir", SUITES, "--junitxml", report, "-p", "no:cacheprovider"]
    return [python(environment), "-m", "pytest", *options, SUITES / f"test_{suite}.py"]
