"""What the gateway makes of the engine's load, others' included, and of an engine that is slower than it thought.

The engine is scripted (tests/fake_engine.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.fake_engine import VLLM, metrics_page, running, until
from tests.fakes import ask
from tests.serving import Served, serving

pytestmark = pytest.mark.anyio
RUNNING, WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
POLLING = {"load_poll_seconds": 0.01}


def busy(sequences: int) -> Any:
    """vLLM with so many sequences that are not ours."""
    page = metrics_page(RUNNING).replace(" 0.0", f" {sequences}.0") + metrics_page(WAITING)
    return replace(VLLM, pages={**VLLM.pages, "/metrics": page})


async def predicted(served: Served, strategy: str = "majority_vote@4") -> float:
    response = await served.chat(strategy)
    return response.json()["apportion"]["predicted"]["seconds"]


async def test_others_on_the_engine_make_predictions_longer() -> None:
    async with running(VLLM) as engine, serving(engine.url, engine=POLLING) as served:
        alone = await predicted(served)
    async with running(busy(96)) as engine, serving(engine.url, engine=POLLING) as served:
        await until(lambda: served.gateway.engine.load.others == 96, "a reading")
        assert await predicted(served) > 3 * alone
        await until(lambda: served.gateway.engine.load.others == 96, "a reading with nothing of our own in work")
        assert "\napportion_engine_other_sequences 96.0\n" in (await served.client.get("/metrics")).text


async def test_under_others_load_the_same_deadline_holds_less() -> None:
    """Of the menu what fits the deadline is chosen: with a crowd on the engine that is a smaller strategy."""
    fields: dict[str, Any] = {
        "messages": [{"role": "user", "content": "How much is 3 + 4?"}],
        "max_tokens": 64,
        "apportion": {"deadline_ms": 3000, "token_price": 0, "latency_price": 0},
    }
    chosen: list[str] = []
    for others in (0, 60):
        async with running(busy(others)) as engine, serving(engine.url, engine=POLLING) as served:
            await until(lambda load=served.gateway.engine.load: load.age is not None, "a reading")
            response = await served.client.post("/v1/chat/completions", json=fields)
            chosen.append(response.json()["apportion"]["strategy"])
    alone, crowded = chosen
    assert alone != "single"
    assert crowded == "single"


async def test_it_is_not_asked_where_that_is_not_wanted() -> None:
    async with running(busy(96)) as engine, serving(engine.url, engine={"load_poll_seconds": 0}) as served:
        await predicted(served)
        assert served.gateway.engine.load.age is None


async def test_an_engine_without_such_metrics_is_not_asked_for_them() -> None:
    silent = replace(VLLM, pages={name: page for name, page in VLLM.pages.items() if name != "/metrics"})
    async with running(silent) as engine, serving(engine.url, engine=POLLING) as served:
        await predicted(served)
        assert served.gateway.engine.load.others == 0


async def test_bounds_that_were_missed_get_wider_and_the_next_request_knows() -> None:
    """The scripted engine answers in no time, so what is missed here is made up: ten requests of 100 s."""
    async with running(VLLM) as engine, serving(engine.url) as served:
        first = (await served.chat("best_of_n@4")).json()["apportion"]["predicted"]
        _, allocation = served.gateway.pipeline.allocate(ask(), running=0)
        row = next(row for row in allocation.predictions if row.spec.method == "best_of_n")
        for _ in range(10):
            served.gateway.pipeline.coverage.observe(row, tokens=None, seconds=100.0)
        later = (await served.chat("best_of_n@4")).json()["apportion"]["predicted"]
    assert later["seconds_upper"] / later["seconds"] > 2 * first["seconds_upper"] / first["seconds"]
