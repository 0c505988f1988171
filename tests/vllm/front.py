"""A gateway in front of the real vLLM, and the `openai` client of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from tests.serving import Served, serving
from tests.vllm.conftest import Vllm

PATIENCE = 300.0  # seconds: vLLM has both cores of a small machine, and such a machine can stand still for a minute


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    served: Served
    client: AsyncOpenAI
    vllm: Vllm

    async def chat(self, strategy: str = "single", content: str = "2 + 2 = ?", **fields: Any) -> httpx.Response:
        """Without the SDK between, for what it does not know."""
        body = {"seed": 7, "max_tokens": 16, "model": self.vllm.model, **fields}
        return await self.served.chat(strategy, content=content, **body)

    async def running(self, wanted: int, asking: asyncio.Task[httpx.Response] | None = None) -> None:
        """Until vLLM itself says that it has so many sequences in work: 0, or at least so many.

        asking: that is to bring them about; when it ends before, it is told how."""
        ends = time.monotonic() + PATIENCE
        while time.monotonic() < ends:
            found = await self.vllm.total("vllm:num_requests_running") + await self.vllm.total(
                "vllm:num_requests_waiting"
            )
            if found >= wanted if wanted else not found:
                return
            if asking is not None and asking.done():
                raise AssertionError(f"it ended before vLLM had it in work: {asking.result().text}")
            await asyncio.sleep(0.05)
        raise AssertionError(f"vLLM had not {wanted} sequences in work within {PATIENCE:g} s, but {found:g}")


@asynccontextmanager
async def front(vllm: Vllm, **sections: Mapping[str, Any]) -> AsyncGenerator[Front]:
    async with serving(vllm.url, **sections) as served:
        served.client.timeout = httpx.Timeout(PATIENCE)
        http = DefaultAsyncHttpxClient(trust_env=False)
        base = f"http://127.0.0.1:{served.port}/v1"
        async with AsyncOpenAI(
            base_url=base, api_key="none", http_client=http, max_retries=0, timeout=PATIENCE
        ) as client:
            yield Front(served=served, client=client, vllm=vllm)


def told(completion: Any) -> dict[str, Any]:
    """The `apportion` object of the SDK's."""
    return completion.model_extra["apportion"]
