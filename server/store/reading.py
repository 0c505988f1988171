"""What commands read from a store: outcomes to learn from, calls, and a summary."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from router.logs.recorded import Recorded
from router.pools import Call
from server.store import schema
from server.store.database import Database, StoreError, Unusable, connect, pages, version_of

_MOST_CALLS = 5_000


@contextmanager
def opened(url: str) -> Generator[Database]:
    """A store that is there, whatever gateway writes to it meanwhile. Raises StoreError."""
    database = connect(url, read_only=True)
    try:
        try:
            version = version_of(database)
        except Unusable:
            raise
        except StoreError as error:
            raise Unusable(f"not a store of outcomes: {error}") from error
        if version < schema.VERSION:
            raise Unusable(
                f"the store is of version {version}: a gateway of this version, pointed at it, brings it to "
                f"{schema.VERSION}"
            )
        yield database
    finally:
        database.close()


def outcomes(database: Database) -> Iterator[Recorded]:
    """From the oldest on. Raises StoreError."""
    names = ("id", "recorded", "model", "strategy", "temperature", "tokens", "seconds", "candidates")
    rest = ("asked", "texts", "score", "reference")
    for row in pages(database, schema.READ):
        yield Recorded(**dict(zip((*names, *rest), row, strict=True)))


def calls(database: Database) -> list[Call]:
    """The latest."""
    names = ("prompt_tokens", "running", "added", "first_token_seconds", "seconds", "longest")
    rows = database.run(schema.READ_CALLS, {"most": _MOST_CALLS})
    return [Call(**dict(zip(names, row, strict=True))) for row in rows]


def summary(database: Database) -> Sequence[Sequence[Any]]:
    """A row a strategy; see `schema.SUMMARY`."""
    return database.run(schema.SUMMARY)
