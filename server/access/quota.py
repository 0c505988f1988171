"""Requests and tokens a minute, by key: counted in windows of a minute that begin with their first request.

Windows and not a bucket, because they can give back: tokens are reserved before the work and settled to what it really
took. The counters are those of the `limits` package: two a key, so as many as the configuration has, in the process or
in Redis. When Redis does not answer, requests pass, and a warning is logged: a limit protects, it is not worth an
outage. Nor is it worth the wait: a Redis that kept a request waiting is not asked again for a while.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

from limits import RateLimitItemPerMinute
from limits.aio.storage import Storage
from limits.aio.strategies import FixedWindowRateLimiter
from limits.errors import StorageError
from limits.storage import storage_from_string

from server.errors import RateLimited

logger = logging.getLogger("apportion")
T = TypeVar("T")
_PATIENCE = 1.0  # seconds for one question to Redis
_REST = 5.0  # seconds without a question after one that took longer
_MINUTE = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of one key, a minute. None: unlimited."""

    requests: int | None = None
    tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserved:
    """Tokens taken from a window, which ends at `until` (wall clock)."""

    tokens: int
    until: float


class LimitsUnavailable(Exception):
    """The limits' storage can't be used; the message is one sentence for a person."""


class Quota:
    """The counters of all keys."""

    def __init__(
        self,
        limits: Mapping[str, Limits],
        *,
        storage: str | None = None,
        refused: Callable[[str], None] = lambda kind: None,
    ) -> None:
        """storage: URL of a Redis; else the process's memory. refused: told of every refusal, whether it was for
        `requests` or for `tokens`. Raises LimitsUnavailable."""
        self._refused = refused
        self._requests = {name: _item(each.requests) for name, each in limits.items() if each.requests}
        self._tokens = {name: _item(each.tokens) for name, each in limits.items() if each.tokens}
        self._counters = FixedWindowRateLimiter(_storage(storage))
        self._resting_until = 0.0  # monotonic seconds
        self._counting = True  # as far as the last question tells

    async def admit(self, name: str) -> None:
        """Count one request. Raises RateLimited."""
        if (item := self._requests.get(name)) is not None:
            await self._take("requests", item, name, 1)

    async def reserve(self, name: str, tokens: int, *, likely: int | None = None) -> Reserved | None:
        """Take tokens before they are spent, at most a whole minute's.

        likely: what will do where fewer than that are left; then those that are left are taken. Raises RateLimited.
        """
        if (item := self._tokens.get(name)) is None or tokens <= 0:
            return None
        tokens = min(tokens, item.amount)
        if likely is not None and likely < tokens:
            _, left = await self._window(item, "tokens", name)
            tokens = min(tokens, max(likely, left))
        return Reserved(tokens=tokens, until=await self._take("tokens", item, name, tokens))

    async def settle(self, name: str, reserved: Sequence[Reserved], spent: int) -> None:
        """Make what was reserved what was spent. What was reserved in a window that has ended is gone with it."""
        if (item := self._tokens.get(name)) is None:
            return
        now = time.time()
        held = sum(each.tokens for each in reserved if now < each.until)
        if spent != held:
            await self._hit("tokens", item, name, spent - held)

    async def headers(self, name: str) -> dict[str, str]:
        """OpenAI's x-ratelimit-* of a key."""
        found: dict[str, str] = {}
        for kind, item in (("requests", self._requests.get(name)), ("tokens", self._tokens.get(name))):
            if item is not None:
                reset, remaining = await self._window(item, kind, name)
                found[f"x-ratelimit-limit-{kind}"] = str(item.amount)
                found[f"x-ratelimit-remaining-{kind}"] = str(remaining)
                found[f"x-ratelimit-reset-{kind}"] = duration(max(0.0, reset - time.time()))
        return found

    async def aclose(self) -> None:
        """Close the connections to Redis, where there are any."""
        client = getattr(getattr(self._counters.storage, "bridge", None), "storage", None)
        if client is not None:
            await client.aclose()

    async def _take(self, kind: str, item: RateLimitItemPerMinute, name: str, amount: int) -> float:
        """When the window ends. Raises RateLimited."""
        if await self._hit(kind, item, name, amount):
            return (await self._window(item, kind, name))[0]
        await self._hit(kind, item, name, -amount)  # refused: not taken after all
        reset, _ = await self._window(item, kind, name)
        self._refused(kind)
        raise RateLimited(kind, limit=item.amount, asked=amount, seconds=reset - time.time())

    async def _hit(self, kind: str, item: RateLimitItemPerMinute, name: str, amount: int) -> bool:
        """Take tokens, or give back. Whether it stays within the limit."""
        return await self._asked(lambda: self._counters.hit(item, kind, name, cost=amount), True)

    async def _window(self, item: RateLimitItemPerMinute, kind: str, name: str) -> tuple[float, int]:
        """When it ends (wall clock), and what is left in it."""
        full = (time.time() + _MINUTE, item.amount)
        reset, left = await self._asked(lambda: self._counters.get_window_stats(item, kind, name), full)
        return reset, min(int(left), item.amount)

    async def _asked(self, question: Callable[[], Awaitable[T]], otherwise: T) -> T:
        if time.monotonic() < self._resting_until:
            return otherwise
        try:
            async with asyncio.timeout(_PATIENCE):
                answer = await question()
        except (StorageError, TimeoutError, OSError) as error:
            if isinstance(error, TimeoutError):
                self._resting_until = time.monotonic() + _REST
            if self._counting:  # once an outage, not once a request
                logger.warning("limits can't be counted, so they do not hold: %s", type(error).__name__)
            self._counting = False
            return otherwise
        if not self._counting:
            logger.info("limits are counted again")
        self._counting = True
        return answer


def _item(amount: int) -> RateLimitItemPerMinute:
    return RateLimitItemPerMinute(amount, namespace="apportion")


def _storage(url: str | None) -> Storage:
    options = {"implementation": "redispy"} if url else {}
    try:
        return cast("Storage", storage_from_string(f"async+{url or 'memory://'}", wrap_exceptions=True, **options))
    except Exception as error:  # noqa: BLE001 - the package's own for every URL, driver and option
        raise LimitsUnavailable(f"access.limits_storage can't be used: {type(error).__name__}") from None


def duration(seconds: float) -> str:
    """As OpenAI writes it: `6m0s`, `59.3s`, `12ms`."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    if seconds < 60:
        return f"{round(seconds, 1):g}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s"
