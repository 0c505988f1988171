"""An engine that is asked at most so many times a second."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing

from strategies.types import Delta, Engine, Query

MISSING = "--rate needs aiolimiter: install apportion[calibrate]"


def limiter(requests_per_second: float) -> AbstractAsyncContextManager[None]:
    """Lets one request through every so many seconds, without bursts. Raises ImportError with the remedy."""
    try:
        from aiolimiter import AsyncLimiter
    except ImportError as error:
        raise ImportError(MISSING) from error
    return AsyncLimiter(1, 1 / requests_per_second)


class Paced:
    """Another engine's calls, each of which waits for the limiter first."""

    def __init__(self, engine: Engine, limiter: AbstractAsyncContextManager[None]) -> None:
        self._engine = engine
        self._limiter = limiter

    @property
    def max_n(self) -> int:
        return self._engine.max_n

    @property
    def context(self) -> int | None:
        return self._engine.context

    @property
    def logprobs(self) -> bool:
        return self._engine.logprobs

    @property
    def logprobs_with_tools(self) -> bool:
        return self._engine.logprobs_with_tools

    async def sample(
        self,
        query: Query,
        *,
        n: int,
        max_tokens: int,
        prefix: str = "",
        stop: Sequence[str] = (),
        top_logprobs: int | None = None,
        seed_offset: int = 0,
    ) -> AsyncGenerator[Delta, None]:
        async with self._limiter:
            pass
        stream = self._engine.sample(
            query,
            n=n,
            max_tokens=max_tokens,
            prefix=prefix,
            stop=stop,
            top_logprobs=top_logprobs,
            seed_offset=seed_offset,
        )
        async with aclosing(stream):
            async for delta in stream:
                yield delta
