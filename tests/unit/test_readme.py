"""The README's tree: it is how one finds a module."""

from __future__ import annotations

import re

import pytest

from tests.conftest import ROOT

TREE = (ROOT / "README.md").read_text().partition("\n## The tree\n")[2].split("```")[1]
LISTED = set(re.findall(r"[\w/]+(?:\.py|/(?=\s))", TREE))


@pytest.mark.parametrize("package", ["server", "router", "strategies"])
def test_every_module_and_folder_is_in_the_tree(package: str) -> None:
    """Of a folder its name: what is in it is its own business."""
    own = {file.name for file in (ROOT / package).glob("*.py")} - {"__init__.py", "__main__.py"}
    folders = {f"{file.parent.name}/" for file in (ROOT / package).glob("*/__init__.py")}
    assert own | folders <= LISTED


def test_every_module_in_the_tree_is_there() -> None:
    there = {file.name for package in ("server", "router", "strategies") for file in (ROOT / package).rglob("*.py")}
    assert {name for name in LISTED if name.endswith(".py")} <= there
