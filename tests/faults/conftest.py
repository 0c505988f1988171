"""What all tests of faults share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import stamina


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    """Attempts follow each other at once; how many there are stays as configured."""
    with stamina.set_testing(True, attempts=100, cap=True):
        yield
