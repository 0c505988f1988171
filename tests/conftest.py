"""What all tests share."""

from __future__ import annotations

import pytest
from hypothesis import settings

# a busy machine is no failure
settings.register_profile("apportion", deadline=None)
settings.load_profile("apportion")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The gateway runs on asyncio only."""
    return "asyncio"
