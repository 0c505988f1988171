"""What the gateway makes of the engine's load, others' included, and of an engine that is slower than it thought.

The engine is scripted (tests/fake_engine.py).
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from strategies.spec import StrategySpec
from strategies.types import Allocation, Budget, Prediction
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


async def test_requests_that_miss_their_bounds_widen_them_for_the_next() -> None:
    """What they took is made up: the scripted engine answers in no time."""
    async with running(VLLM) as engine, serving(engine.url) as served:
        pipeline = served.gateway.pipeline
        first = _row(served)
        for _ in range(10):
            row = _row(served)
            pipeline.coverage.observe(row, tokens=None, seconds=3 * row.seconds_upper)
        assert _row(served).seconds_upper > 2 * first.seconds_upper
        told = (await served.chat("best_of_n@4")).json()["apportion"]["predicted"]
        assert told["seconds_upper"] > 2 * first.seconds_upper


async def test_while_many_come_none_gets_what_not_all_could_have() -> None:
    """Though nothing is running at the moment; but who asks for a strategy gets it."""
    async with running(VLLM) as engine, serving(engine.url) as served:
        pipeline = served.gateway.pipeline

        def decided(requested: StrategySpec | None = None) -> Allocation:
            budget = Budget(max_total_tokens=100_000, deadline=time.monotonic() + 30)
            return pipeline.allocate(ask(budget=budget, requested=requested), running=0)[1]

        alone = decided()
        for _ in range(200):
            decided()
        crowded = decided()
        assert alone.spec.draws > 1
        assert crowded.spec.draws == 1
        assert any(row.reason.endswith("if all requests get it") for row in crowded.predictions)
        asked = decided(alone.spec)
        assert asked.spec == alone.spec
        assert asked.fits


def _row(served: Served) -> Prediction:
    _, allocation = served.gateway.pipeline.allocate(ask(requested=StrategySpec.parse("best_of_n@4")), running=0)
    assert allocation.chosen is not None
    return allocation.chosen
