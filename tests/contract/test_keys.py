"""What the openai package makes of keys and limits: the right exceptions, with what they need to go on."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from tests.fake_engine import VLLM, running
from tests.serving import Served, serving

pytestmark = pytest.mark.anyio
KEY = "sk-test-0123456789abcdef"
ASKED: Any = {"model": "tiny", "messages": [{"role": "user", "content": "How much is 3 + 4?"}]}


def client_of(served: Served, key: str = KEY) -> AsyncOpenAI:
    http = DefaultAsyncHttpxClient(trust_env=False)
    return AsyncOpenAI(base_url=f"{served.client.base_url}/v1", api_key=key, http_client=http, max_retries=0)


async def test_a_wrong_key_is_an_authentication_error_and_the_right_one_gets_an_answer() -> None:
    async with running(VLLM) as engine, serving(engine.url, keys={"team": {"key": KEY}}) as served:
        async with client_of(served, "sk-test-something-else") as client:
            with pytest.raises(openai.AuthenticationError) as caught:
                await client.chat.completions.create(**ASKED)
        assert (caught.value.code, caught.value.status_code) == ("invalid_api_key", 401)
        async with client_of(served) as client:
            assert (await client.chat.completions.create(**ASKED)).choices
            assert [model.id async for model in client.models.list()] == ["tiny"]


async def test_a_used_up_limit_is_a_rate_limit_error_that_says_when_to_come_back() -> None:
    keys = {"team": {"key": KEY, "requests_per_minute": 1}}
    async with running(VLLM) as engine, serving(engine.url, keys=keys) as served, client_of(served) as client:
        first = await client.chat.completions.with_raw_response.create(**ASKED)
        assert first.headers["x-ratelimit-remaining-requests"] == "0"
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(**ASKED)
        assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "requests")
        assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60


async def test_a_profile_that_the_key_has_not_is_a_permission_error() -> None:
    keys = {"team": {"key": KEY, "profiles": ["fast"]}}
    async with running(VLLM) as engine, serving(engine.url, keys=keys) as served, client_of(served) as client:
        with pytest.raises(openai.PermissionDeniedError, match="may not ask for 'quality'"):
            await client.chat.completions.create(**{**ASKED, "model": "tiny:quality"})


async def test_anthropics_header_carries_the_key_too() -> None:
    async with running(VLLM) as engine, serving(engine.url, keys={"team": {"key": KEY}}) as served:
        response: httpx.Response = await served.client.get("/v1/models", headers={"x-api-key": KEY})
        assert response.status_code == 200
