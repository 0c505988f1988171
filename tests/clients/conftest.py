"""The two gateways that the clients talk to."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from anyio.from_thread import start_blocking_portal

from tests.clients.programs import KEY, Gateways
from tests.clients.scripted import MODEL, ByPrompt
from tests.conftest import Live, gateway_process
from tests.fake_engine import running

collect_ignore = ["suites", "node"]  # test_suites.py runs them, each in its client's environment


@pytest.fixture(scope="session")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Generator[str, None, None]:
    """The address of a gateway in front of the scripted engine, which wants a key."""
    log = tmp_path_factory.mktemp("scripted") / "stderr.log"
    # the gateway asks its engine once, so that whether to ask again is the client's decision
    settings = {
        "APPORTION_ENGINE__RETRIES": "0",
        "APPORTION_ANSWERS__MATHS": "never",
        "APPORTION_KEYS__SUITES__KEY": KEY,
    }
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(running(act=ByPrompt(), models=[MODEL])) as engine,
        gateway_process(log, "--engine-url", engine.url, **settings) as url,
    ):
        yield url


@pytest.fixture
def gateways(gateway: Live, scripted: str) -> Gateways:
    return Gateways(live=gateway.url, scripted=scripted)
