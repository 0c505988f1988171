"""The pages of docs/clients/: their programs run as they stand there, and they tell the versions that were tested."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.clients.programs import HERE, NODE, Finished, Gateways, node, python, run
from tests.conftest import ROOT

DOCS = ROOT / "docs" / "clients"
PAGES = {
    "openai-python": "openai-3",
    "openai-node": "node",
    "ai-sdk": "node",
    "langchain": "openai-3",
    "litellm": "openai-3",
    "openai-agents": "openai-3",
    "llama-index": "openai-2",
    "curl": "shell",
}
_LANGUAGES = {"node": "js", "shell": "sh"}  # else python
_STRATEGY = re.compile(r"\b(single|majority_vote@\d+|best_of_n@\d+|beam_search@\d+x\d+)")


def page(name: str) -> str:
    return (DOCS / f"{name}.md").read_text()


def program(name: str) -> str:
    """All of a page's code in the page's language, top to bottom: a later block may use what an earlier one made."""
    language = _LANGUAGES.get(PAGES[name], "python")
    blocks: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", page(name), re.MULTILINE | re.DOTALL)
    return "\n".join(blocks)


def test_every_client_has_its_page() -> None:
    assert {path.stem for path in DOCS.glob("*.md")} == {*PAGES, "README"}


@pytest.mark.engine
@pytest.mark.parametrize("name", PAGES)
def test_the_pages_program_runs(gateways: Gateways, name: str, tmp_path: Path) -> None:
    """Against the demo's model, nothing changed but the port. It tells which strategy ran, and sends nothing away."""
    code = program(name).replace("http://127.0.0.1:8000", gateways.live)
    assert gateways.live in code
    done = _run(PAGES[name], code, gateways, tmp_path)

    assert done.status == 0, done.output + done.errors
    assert _STRATEGY.search(done.output), done.output + done.errors
    assert done.outside == ""


def _run(environment: str, code: str, gateways: Gateways, folder: Path) -> Finished:
    if environment == "node":
        return run([node(), "--input-type=module", "--eval", code], gateways, folder, cwd=NODE)
    if environment == "shell":
        return run(["bash", "-e", "-o", "pipefail", "-c", code], gateways, folder)
    return run([python(environment), "-c", code], gateways, folder)


@pytest.mark.parametrize("name", [name for name in PAGES if PAGES[name] != "shell"])
def test_the_page_tells_the_versions_that_are_tested(name: str) -> None:
    """Whatever it says was tested is what the suites install."""
    told = re.findall(r"`([@a-z/-]+) (\d+\.\d+\.\d+)`", page(name))

    assert told
    assert set(told) <= _installed()


def _installed() -> set[tuple[str, str]]:
    found = set(json.loads((NODE / "package.json").read_text())["dependencies"].items())
    for file in (HERE / "environments").glob("*.txt"):
        found |= set(re.findall(r"^([a-z0-9-]+)==(\S+)$", file.read_text(), re.MULTILINE))
    return found
