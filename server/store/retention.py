"""What is kept of the past: deleted a batch at a time, so that no transaction holds the store up for long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from server.store import schema
from server.store.database import Database

BATCH = 500
_MOST_CALLS = 50_000  # the speed model learns nothing from more
_DAY = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    days: float | None = None  # None: without end
    rows: int = 1_000_000
    bytes: int = 1_000_000_000


def forget(database: Database, keep: Keep, *, now: float) -> bool:
    """Delete one batch of what is too old or too much. Whether there may be more. now: Unix seconds.

    What is too much is counted and deleted in one transaction, so that two gateways do not both delete it.
    """
    before = now - keep.days * _DAY if keep.days is not None else -1.0
    with database.writing():
        ids: Sequence[Sequence[Any]] = database.run(schema.OLDER, {"before": before, "most": BATCH})
        if not ids:
            ((rows, size),) = database.run(schema.KEPT)
            over = max(rows - keep.rows, _share_over(int(rows), int(size), keep.bytes))
            ids = database.run(schema.OLDEST, {"most": min(BATCH, over)}) if over > 0 else []
        calls = database.run(schema.OLDER_CALLS, {"before": before, "most": BATCH})
        if not calls:
            ((timed,),) = database.run(schema.CALLS)
            if timed > _MOST_CALLS:
                calls = database.run(schema.OLDEST_CALLS, {"most": min(BATCH, timed - _MOST_CALLS)})
        for sql, found in ((schema.FORGET, ids), (schema.FORGET_FEEDBACK, ids), (schema.FORGET_CALL, calls)):
            if found:
                database.run_many(sql, [{"id": id} for (id,) in found])
    if ids or calls:
        database.tidy()
    return bool(ids or calls)


def _share_over(rows: int, size: int, most: int) -> int:
    """About how many rows are too many bytes, by their mean size; at least one."""
    return max(1, (size - most) * rows // size) if size > most else 0
