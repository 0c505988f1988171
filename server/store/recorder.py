"""The event loop's side of the outcome store."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from functools import partial

from router.features import Features
from server.access.caller import account
from server.backends.calls import CallStats
from server.store.database import Unavailable, check_driver, connect
from server.store.retention import Keep
from server.store.rows import noted
from server.store.settings import Store
from server.store.verdicts import Given, UnknownResponse, Verdict, give
from server.store.writer import Counted, Timed, Writer
from strategies.types import Outcome, Query

logger = logging.getLogger("apportion")
_PATIENCE = 5.0  # seconds for one verdict to be written
_CLOSING = 5.0  # seconds for what is queued, when the gateway stops
# another gateway of the same store may have answered, and its outcome still be in its queue
_TRIES, _BETWEEN = 3, 0.5


class Recorder:
    """Takes outcomes and calls without waiting, and verdicts. Nothing here raises because of the database but
    `feedback`."""

    def __init__(self, writer: Writer, settings: Store, *, sampling_temperature: float) -> None:
        self.writer = writer
        self.settings = settings
        self._sampling_temperature = sampling_temperature

    @classmethod
    def start(cls, settings: Store, *, sampling_temperature: float, counted: Counted) -> Recorder | None:
        """None where nothing is to be kept. Raises Unusable without the database's driver; one that can't be reached
        is tried again."""
        if settings.url is None:
            return None
        url = settings.url.get_secret_value()
        check_driver(url)
        keep = Keep(days=settings.keep_days, rows=settings.max_rows, bytes=settings.max_bytes)
        writer = Writer(partial(connect, url), keep, counted=counted)
        writer.start()
        return cls(writer, settings, sampling_temperature=sampling_temperature)

    def record(self, query: Query, features: Features | None, outcome: Outcome) -> None:
        """Queue a request's outcome. Never raises, and never waits."""
        try:
            kept = noted(
                query,
                features,
                outcome,
                owner=account().name,
                recorded=time.time(),
                keeps_texts=self.settings.keep == "texts",
                sampling_temperature=self._sampling_temperature,
            )
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, its client gets the answer
            logger.error("the outcome of request %s can't be noted: %s", outcome.query_id, type(error).__name__)
            return
        self.writer.put(kept)

    def observe(self, call: CallStats) -> None:
        """Queue a call's times, if they tell how fast the engine is: ended by itself, from the beginning on."""
        if call.completed and not call.continued and call.first_token_seconds is not None and call.longest > 1:
            self.writer.put_call(Timed(id=uuid.uuid4().hex, recorded=time.time(), stats=call))

    async def feedback(self, verdict: Verdict) -> Given:
        """Written when this returns. Raises what `give` raises, StoreError when it can't be written now."""
        for left in reversed(range(_TRIES)):
            try:
                async with asyncio.timeout(_PATIENCE):
                    return await asyncio.wrap_future(self.writer.ask(partial(give, verdict=verdict)))
            except TimeoutError:
                raise Unavailable("the outcome store takes too long") from None
            except UnknownResponse:
                if not left or not _ours(verdict.id):
                    raise
            await asyncio.sleep(_BETWEEN)
        raise UnknownResponse

    async def aclose(self) -> None:
        """Write what is queued, within bounds, and let the database go."""
        lost = await asyncio.to_thread(self.writer.stop, _CLOSING)
        if lost:
            logger.warning("%d outcomes were not written before the end", lost)


def _ours(id: str) -> bool:
    """Whether a gateway could have given a response this id."""
    return id.startswith(("chatcmpl-", "resp_"))
