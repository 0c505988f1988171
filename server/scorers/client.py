"""Asking another server for scores: JSON there and back, bounded in every direction."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import httpx
import orjson
import stamina
from httpx_aiohttp import AiohttpTransport

from server.backends.wire import BROKEN
from strategies.types import Candidate, Json, ScorerError

_MAX_BYTES = 8 * 1024 * 1024
_CONNECT_SECONDS = 5.0
_RETRYABLE = frozenset({429, 502, 503, 504})
_ATTEMPTS = 3


class _Retry(Exception):
    """Worth asking again: a score is the same however often it is asked for."""


class Client:
    """One server. Waits for nothing by itself: who asks sets the time limit."""

    def __init__(self, url: str, *, api_key: str | None, concurrency: int) -> None:
        self._url = url
        self._places = asyncio.Semaphore(concurrency)
        headers = {"accept-encoding": "identity", "content-type": "application/json"}
        if api_key:
            headers["authorization"] = f"Bearer {api_key}"
        limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        self._client = httpx.AsyncClient(
            headers=headers,
            transport=AiohttpTransport(limits=limits, trust_env=False),
            timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),
            trust_env=False,
            follow_redirects=False,
        )

    async def ask(self, body: Mapping[str, Any]) -> Any:
        """The JSON that is answered. Raises ScorerError."""
        try:
            content = orjson.dumps(body)
        except orjson.JSONEncodeError:
            raise ScorerError("the request can't be sent as JSON") from None
        async with self._places:
            try:
                async for attempt in stamina.retry_context(
                    on=_Retry, attempts=_ATTEMPTS, wait_initial=0.1, wait_max=1.0, wait_jitter=0.1, timeout=None
                ):
                    with attempt:
                        return await self._try(content)
            except _Retry as retry:
                raise ScorerError(str(retry)) from None
        raise ScorerError("its server could not be asked")

    async def _try(self, content: bytes) -> Any:
        try:
            async with self._client.stream("POST", self._url, content=content) as response:
                if response.status_code in _RETRYABLE:
                    raise _Retry(f"its server answered {response.status_code}")
                if response.status_code != 200:
                    raise ScorerError(f"its server answered {response.status_code}")
                raw = bytearray()
                async for chunk in response.aiter_raw():
                    raw += chunk
                    if len(raw) > _MAX_BYTES:
                        raise ScorerError("its server's answer is past any sensible size")
        except BROKEN as error:
            raise _Retry(f"its server does not answer: {type(error).__name__}") from error
        try:
            return orjson.loads(raw)
        except orjson.JSONDecodeError:
            raise ScorerError("its server's answer is not JSON") from None

    async def aclose(self) -> None:
        await self._client.aclose()


def as_dict(candidate: Candidate) -> Json:
    """A candidate as the user's own code sees it."""
    return {
        "text": candidate.text,
        "reasoning": candidate.reasoning,
        "tool_calls": list(candidate.tool_calls),
        "tokens": candidate.tokens,
        "finish_reason": candidate.finish_reason,
    }


def number(value: object) -> float:
    """Raises ValueError for what is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("not a number")
    return float(value)


def listed(body: object, wanted: int) -> Sequence[float | None]:
    """`{"scores": [...]}` with a number or null for each candidate. Raises ScorerError."""
    scores = cast("Mapping[str, object]", body).get("scores") if isinstance(body, Mapping) else None
    if not isinstance(scores, list):
        raise ScorerError('it answered something other than {"scores": [...]}')
    values = cast("list[object]", scores)
    if len(values) != wanted:
        raise ScorerError(f"it gave {len(values)} scores for {wanted} candidates")
    try:
        return [None if value is None else number(value) for value in values]
    except (ValueError, OverflowError):
        raise ScorerError("it gave a score that is no number") from None
