"""What others have in work on the engine, by the engine's own metrics: read now and then, not while a request waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from strategies.types import EngineError

STALE = 5.0  # seconds; what is older says nothing of now
_LARGEST = 4 * 1024 * 1024  # characters of a page


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One reading."""

    sequences: float  # in work or waiting, whoever's
    own: int  # of them this gateway's, as it counts itself
    read: float  # monotonic seconds

    @property
    def others(self) -> int:
        return max(0, round(self.sequences - self.own))


class EngineLoad:
    """Polls while `poll` runs; `others` is what came of it, 0 where nothing is known."""

    def __init__(
        self,
        page: Callable[[], Awaitable[str]],
        own: Callable[[], int],
        names: Callable[[], Sequence[str]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """page: reads the engine's metrics, within a time of its own, or raises EngineError. own: this gateway's
        sequences now. names: of the gauges to be summed, as far as is known by now; none: there is nothing to read."""
        self._page, self._own, self._names, self._clock = page, own, names, clock
        self._last: Signal | None = None

    @property
    def age(self) -> float | None:
        """Seconds since the last reading."""
        return None if self._last is None else self._clock() - self._last.read

    @property
    def others(self) -> int:
        last = self._last
        return 0 if last is None or self._clock() - last.read > STALE else last.others

    async def poll(self, every: float) -> None:
        """Until it is cancelled. every: seconds between the end of a reading and the next."""
        while True:
            await self.read()
            await asyncio.sleep(every)

    async def read(self) -> None:
        """Once. What can't be read leaves the last reading to grow old."""
        names = self._names()
        if not names:
            return
        before = self._own()
        try:
            page = await self._page()
        except EngineError:
            return
        found = summed(page, names)
        if found is not None:
            # calls that began or ended meanwhile may or may not be in it: better taken for ours than for others'
            self._last = Signal(sequences=found, own=max(before, self._own()), read=self._clock())


def summed(page: str, names: Sequence[str]) -> float | None:
    """Of all series of these gauges; None where the page has none of them. Other lines are not parsed: vLLM's page has
    some thousand, and to read them all takes tens of milliseconds."""
    if len(page) > _LARGEST:
        return None
    lines = [line for line in page.splitlines() if line.startswith(tuple(names))]
    try:
        samples = [s for family in text_string_to_metric_families("\n".join(lines) + "\n") for s in family.samples]
    except ValueError:
        return None
    values = [sample.value for sample in samples if sample.name in names]
    return sum(values) if values else None
