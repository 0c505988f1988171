"""The databases an outcome store can live in. All of it blocks: it is for the store's own thread, and for commands.

StoreError             the message is one sentence for a person
├── Unusable           it will not get better by itself: no driver, another program's file, a newer schema
├── Unavailable        not now: not reachable, locked, full, read-only; to be tried again
└── Refused            this one statement is not accepted, the connection is as good as before
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from server.store import schema

Values = Mapping[str, Any]


class StoreError(Exception):
    """One sentence, without secrets in it."""


class Unusable(StoreError): ...


class Unavailable(StoreError): ...


class Refused(StoreError): ...


class Database(Protocol):
    """One connection. Statements have `:name` parameters. Raises StoreError, of which Unavailable ends it."""

    def run(self, sql: str, values: Values = ...) -> Sequence[Sequence[Any]]:
        """The rows that it returns, if it returns any."""
        ...

    def run_many(self, sql: str, rows: Sequence[Values]) -> None: ...

    def writing(self) -> AbstractContextManager[None]:
        """A transaction, alone among all that write through this: others wait. Left by an error it is undone."""
        ...

    def check(self) -> None:
        """Raise Unavailable if what is written would be lost: the file is another one by now."""
        ...

    def tidy(self) -> None:
        """Give room that is not needed any more back, a little at a time."""
        ...

    def close(self) -> None:
        """Never raises."""
        ...


def connect(url: str, *, read_only: bool = False) -> Database:
    """Raises StoreError."""
    if url.startswith("sqlite:///"):
        from server.store.sqlite import Sqlite

        return Sqlite.open(url.removeprefix("sqlite:///"), read_only=read_only)
    from server.store.postgres import Postgres

    return Postgres.open(url, read_only=read_only)


def check_driver(url: str) -> None:
    """Whether what the URL needs is installed. Raises Unusable."""
    if url.startswith("postgresql://"):
        from server.store import postgres

        postgres.driver()


def prepare(database: Database) -> bytes:
    """Bring the tables up to date, whoever made them, and return the store's salt. Raises StoreError."""
    with database.writing():
        database.run(schema.VERSIONS)
        version = version_of(database)
        for number, statements in enumerate(schema.MIGRATIONS[version:], start=version + 1):
            for statement in statements:
                database.run(statement)
            database.run(schema.APPLY, {"version": number, "applied": time.time()})
        database.run(schema.SALT, {"value": secrets.token_hex(32)})
        ((salt,),) = database.run(schema.SALT_IS)
    return bytes.fromhex(salt)


def version_of(database: Database) -> int:
    """Raises Unusable for a store of a newer program."""
    ((version,),) = database.run(schema.APPLIED)
    if version > schema.VERSION:
        raise Unusable(f"the store is of version {version}, this program knows versions up to {schema.VERSION}")
    return int(version)


def pages(database: Database, sql: str, *, most: int = 500) -> Iterator[Sequence[Any]]:
    """The rows of a statement that begins with `id` and `recorded` and reads on after them."""
    after: Values = {"recorded": -1.0, "id": ""}
    while found := database.run(sql, {**after, "most": most}):
        yield from found
        after = {"recorded": found[-1][1], "id": found[-1][0]}
