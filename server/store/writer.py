"""The store's own thread: writes what is queued in batches, answers questions, deletes what is too old.

Whoever puts something in never waits: a queue that is full takes nothing more, and says so in a metric and in the log.
While the database can't be used, the queue is kept and tried again with growing pauses. A thread and not a task,
because both databases' drivers block; a daemon, because a database that hangs must not keep a process from ending.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from server.backends.calls import CallStats
from server.store import schema
from server.store.database import Database, Refused, StoreError, Unavailable, Values, prepare
from server.store.retention import Keep, forget
from server.store.rows import Noted, Row, row_of, values

logger = logging.getLogger("apportion")
T = TypeVar("T")

MOST_WAITING = 10_000  # outcomes in the queue
MOST_WAITING_BYTES = 64 * 1024 * 1024  # about, of what they hold
_MOST_CALLS = 2_000
_MOST_QUESTIONS = 256
_BATCH = 200
_GATHER = 0.2  # seconds in which a batch comes together
_FORGET_EVERY = 60.0
_SAY_EVERY = 60.0  # seconds between two lines of the log about outcomes that were dropped
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0  # after a failure, doubled each time

Question = Callable[[Database], Any]
Counted = Callable[
    [str, int], None
]  # "written", "dropped" (the queue is full), "refused" (by the database), and how many


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """A call to the engine and when it ended, Unix seconds."""

    id: str
    recorded: float
    stats: CallStats


class Writer:
    def __init__(
        self,
        connect: Callable[[], Database],
        keep: Keep,
        *,
        counted: Counted = lambda result, number: None,
        most_waiting: int = MOST_WAITING,
        most_bytes: int = MOST_WAITING_BYTES,
        pause: float = _FIRST_PAUSE,
    ) -> None:
        """connect: on the thread, again after each failure. pause: seconds after the first failure."""
        self._connect = connect
        self._keep = keep
        self._counted = counted
        self._most = most_waiting
        self._most_bytes = most_bytes
        self._pause = pause
        self._waiting: deque[Noted] = deque()
        self._bytes = 0
        self._calls: deque[Timed] = deque(maxlen=_MOST_CALLS)
        self._questions: deque[tuple[Question, Future[Any]]] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._down: StoreError | None = None
        self._dropped = 0  # since the log last told
        self._told = -_SAY_EVERY
        self._database: Database | None = None
        self._salt = b""
        self._forget_at = 0.0  # monotonic
        self._thread = threading.Thread(target=self._run, name="apportion-store", daemon=True)

    # --- from any thread, without waiting

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def down(self) -> StoreError | None:
        """Why nothing can be written at present."""
        return self._down

    def start(self) -> None:
        self._thread.start()

    def put(self, kept: Noted) -> bool:
        """Queue an outcome. False: there is no room, so it is lost."""
        with self._changed:
            full = len(self._waiting) >= self._most or self._bytes + kept.weight > self._most_bytes
            if not (full or self._stopping):
                self._waiting.append(kept)
                self._bytes += kept.weight
                self._changed.notify()
                return True
        self._counted("dropped", 1)
        self._dropped += 1
        if not self._stopping and (now := time.monotonic()) - self._told >= _SAY_EVERY:
            logger.warning("the outcome store's queue is full: %d outcomes dropped", self._dropped)
            self._told, self._dropped = now, 0
        return False

    def put_call(self, call: Timed) -> None:
        """Of many only the latest are kept, as one says much the same as the next."""
        self._calls.append(call)

    def ask(self, question: Callable[[Database], T]) -> Future[T]:
        """Have something asked in a transaction of its own, after all that is queued by now has been written.

        The result raises StoreError, at once while the database can't be used.
        """
        answer: Future[T] = Future()
        with self._changed:
            if self._stopping or len(self._questions) >= _MOST_QUESTIONS:
                answer.set_exception(self._down or Unavailable("the outcome store has too much to do"))
            elif self._down is not None:
                answer.set_exception(self._down)
            else:
                self._questions.append((question, answer))
                self._changed.notify()
        return answer

    def stop(self, seconds: float) -> int:
        """Blocking: write what is queued, as far as the time lasts. How many outcomes were not written."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(seconds)
        return len(self._waiting)

    # --- on the thread

    def _run(self) -> None:
        pause = self._pause
        while self._wait():
            try:
                self._work()
                pause = self._pause
            except Exception as error:  # noqa: BLE001 - whatever it is, the next outcomes are to be written
                self._failed(error)
                if self._stopping:
                    break
                self._rest(pause * random.uniform(0.75, 1.25))
                pause = min(2 * pause, _LONGEST_PAUSE)
        self._disconnect()
        self._refuse(Unavailable("the outcome store is closed"))

    def _wait(self) -> bool:
        """Until there is something to do. False: everything is done, and nothing more will come."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopping or self._waiting or self._questions,
                timeout=max(0.0, self._forget_at - time.monotonic()),
            )
            if self._waiting and not self._questions:
                self._changed.wait_for(
                    lambda: self._stopping or self._questions or len(self._waiting) >= _BATCH, timeout=_GATHER
                )
            return not self._stopping or bool(self._waiting or self._questions)

    def _rest(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopping, timeout=seconds)

    def _work(self) -> None:
        database = self._connected()
        with self._changed:
            asked = len(self._questions)
            queued = len(self._waiting)
        while queued > 0:
            queued -= self._write_batch(database)
        for _ in range(asked):
            self._answer(database)
        self._write_calls(database)
        if time.monotonic() >= self._forget_at and not self._stopping:
            more = forget(database, self._keep, now=time.time())
            self._forget_at = time.monotonic() + (0.0 if more else _FORGET_EVERY)

    def _connected(self) -> Database:
        if self._database is None:
            self._database = self._connect()
            self._salt = prepare(self._database)
            if self._down is not None:
                logger.info("the outcome store is written again")
        self._database.check()
        self._down = None
        return self._database

    def _write_batch(self, database: Database) -> int:
        """Write the oldest, and take them off the queue only then. How many they were."""
        with self._changed:
            batch = [self._waiting[i] for i in range(min(_BATCH, len(self._waiting)))]
        rows = [row for kept in batch if (row := self._row(kept)) is not None]
        written = self._insert(database, [values(row) for row in rows])
        with self._changed:
            for kept in batch:
                self._waiting.popleft()
                self._bytes -= kept.weight
        self._counted("written", written)
        self._counted("refused", len(batch) - written)
        return len(batch)

    def _row(self, kept: Noted) -> Row | None:
        try:
            return row_of(kept, self._salt)
        except Exception as error:  # noqa: BLE001 - one that can't be read must not hold up the others
            logger.error("the outcome of request %s can't be stored: %s", kept.id, type(error).__name__)
            return None

    def _insert(self, database: Database, rows: Sequence[Values]) -> int:
        try:
            with database.writing():
                database.run_many(schema.INSERT, rows)
            return len(rows)
        except Refused:
            if len(rows) == 1:
                logger.error("the outcome of request %s was refused by the store", rows[0]["id"])
                return 0
        return sum(self._insert(database, [row]) for row in rows)

    def _write_calls(self, database: Database) -> None:
        rows = [_call(self._calls[i]) for i in range(min(_BATCH, len(self._calls)))]
        if rows:
            with database.writing():
                database.run_many(schema.INSERT_CALL, rows)
            for _ in rows:
                self._calls.popleft()

    def _answer(self, database: Database) -> None:
        question, answer = self._questions.popleft()
        if not answer.set_running_or_notify_cancel():
            return
        try:
            with database.writing():
                result = question(database)
        except Exception as error:
            answer.set_exception(error)
            if isinstance(error, StoreError) and not isinstance(error, Refused):
                raise
        else:
            answer.set_result(result)

    def _failed(self, error: Exception) -> None:
        self._disconnect()
        if not isinstance(error, StoreError):
            logger.error("the outcome store failed", exc_info=error)
            error = Unavailable(f"the outcome store failed: {type(error).__name__}")
        if self._down is None:  # once an outage, not once an attempt
            logger.warning("the outcome store can't be used, outcomes wait for it: %s", error)
        self._down = error
        self._refuse(error)

    def _refuse(self, error: StoreError) -> None:
        """Nobody is left waiting for an answer."""
        with self._changed:
            questions = list(self._questions)
            self._questions.clear()
        for _, answer in questions:
            if answer.set_running_or_notify_cancel():
                answer.set_exception(error)

    def _disconnect(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            database.close()


def _call(call: Timed) -> Values:
    stats = call.stats
    return {
        "id": call.id,
        "recorded": call.recorded,
        "prompt_tokens": stats.prompt_tokens,
        "running": stats.running + stats.others,
        "added": stats.added,
        "first_token_seconds": cast("float", stats.first_token_seconds),
        "seconds": stats.seconds - stats.held_seconds,
        "longest": stats.longest,
    }
