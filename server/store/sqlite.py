"""An outcome store in a file, by the standard library's SQLite."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from server.store.database import Refused, StoreError, Unavailable, Unusable, Values

_BUSY = 5.0
_PAGES = 256  # that are given back to the file system at a time: a megabyte
MAGIC = b"SQLite format 3\x00"  # how every such file begins


def is_sqlite(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


class Sqlite:
    """Implements `server.store.database.Database`. Of one thread only."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._file = _identity(path)

    @classmethod
    def open(cls, name: str, *, read_only: bool = False, busy: float = _BUSY) -> Self:
        """Makes the file, readable by its owner alone, and the folders above it. Raises StoreError.

        busy: seconds that a statement waits for another process's transaction.
        """
        path = Path(name)
        if read_only and not path.is_file():
            raise Unusable(f"{path}: no such file")
        connection = None
        try:
            if not read_only:
                path.parent.mkdir(parents=True, exist_ok=True)
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            mode = "ro" if read_only else "rw"
            uri = f"{path.absolute().as_uri()}?mode={mode}"
            connection = sqlite3.connect(uri, uri=True, timeout=busy, isolation_level=None)
            if not read_only:
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # of a file that is new
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.execute("PRAGMA secure_delete = ON")  # what is deleted is not to be read from the file
            connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchall()
            return cls(connection, path)
        except (OSError, sqlite3.Error) as error:
            if connection is not None:
                connection.close()
            raise _translated(error, path) from error

    def run(self, sql: str, values: Values | None = None) -> Sequence[Sequence[Any]]:
        try:
            return self._connection.execute(sql, values or {}).fetchall()
        except (sqlite3.Error, OverflowError, UnicodeEncodeError) as error:
            raise _translated(error, self._path) from error

    def run_many(self, sql: str, rows: Sequence[Values]) -> None:
        try:
            self._connection.executemany(sql, rows)
        except (sqlite3.Error, OverflowError, UnicodeEncodeError) as error:
            raise _translated(error, self._path) from error

    @contextmanager
    def writing(self) -> Generator[None]:
        self.run("BEGIN IMMEDIATE")
        try:
            yield
            self.run("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                self._connection.rollback()
            raise

    def check(self) -> None:
        if _identity(self._path) != self._file:
            raise Unavailable(f"{self._path}: the file was replaced or removed")

    def tidy(self) -> None:
        self.run(f"PRAGMA incremental_vacuum({_PAGES})")

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._connection.close()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _translated(error: Exception, path: Path) -> StoreError:
    what = f"{path}: {getattr(error, 'strerror', None) or error}"
    if isinstance(error, sqlite3.OperationalError | OSError):
        return Unavailable(what)
    if isinstance(error, sqlite3.DatabaseError) and "not a database" in str(error):
        return Unusable(what)
    return Refused(what)
