"""How single engine calls go: what the speed model learns from, and the metrics count."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator
from dataclasses import dataclass

from strategies.types import Delta


@dataclass(frozen=True, slots=True, kw_only=True)
class CallStats:
    """One call to the engine, as it went: what the speed model learns from."""

    prompt_tokens: int
    added: int  # sequences of this call
    running: int  # sequences of this gateway already in work when it started
    others: int = 0  # sequences of others at that time, as far as the engine has told
    first_token_seconds: float | None
    seconds: float
    tokens: int
    longest: int  # tokens of its longest sequence
    held_seconds: float  # of `seconds`: spent waiting for whoever reads the pieces
    continued: bool  # it went on with a text, whose beginning the engine may have in its cache
    status: str  # "ok", "cancelled", "error"

    @property
    def completed(self) -> bool:
        """Ended by itself, not cancelled and not failed."""
        return self.status == "ok"


class Meter:
    """Measures one call while it runs."""

    def __init__(self, *, added: int, running: int, others: int, continued: bool) -> None:
        self.added, self.running, self.others, self.continued = added, running, others, continued
        self.started = time.monotonic()
        self.held_seconds = 0.0
        self.first: float | None = None
        self.prompt_tokens = 0
        self.counts: dict[int, int] = {}
        self.status = "cancelled"

    @contextlib.contextmanager
    def held(self) -> Generator[None]:
        before = time.monotonic()
        try:
            yield
        finally:
            self.held_seconds += time.monotonic() - before

    def see(self, delta: Delta) -> None:
        if delta.prompt_tokens is not None:
            self.prompt_tokens = delta.prompt_tokens
        if delta.index < 0:
            return
        if self.first is None and delta.tokens:
            self.first = time.monotonic()
        self.counts[delta.index] = delta.total_tokens or self.counts.get(delta.index, 0) + delta.tokens

    def stats(self) -> CallStats:
        return CallStats(
            prompt_tokens=self.prompt_tokens,
            added=self.added,
            running=self.running,
            others=self.others,
            first_token_seconds=None if self.first is None else self.first - self.started,
            seconds=time.monotonic() - self.started,
            tokens=sum(self.counts.values()),
            longest=max(self.counts.values(), default=0),
            held_seconds=self.held_seconds,
            continued=self.continued,
            status=self.status,
        )
