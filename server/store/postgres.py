"""An outcome store in PostgreSQL, by psycopg (extra `postgres`)."""

from __future__ import annotations

import importlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Self

from server.store.database import Refused, StoreError, Unavailable, Unusable, Values
from server.store.schema import in_pyformat

_CONNECT = 5  # seconds
_STATEMENT_MS = 15_000
_LOCK = 0x6170706F72  # of the transactions that write, so that two gateways do not make the same tables at once
# a server that vanished is noticed by what was sent and not acknowledged, not after hours
_OPTIONS = {
    "connect_timeout": _CONNECT,
    "tcp_user_timeout": _STATEMENT_MS,
    "keepalives_idle": 30,
    "application_name": "apportion",
}


def driver() -> Any:
    """psycopg. Raises Unusable."""
    try:
        return importlib.import_module("psycopg")
    except ImportError as error:
        raise Unusable("store.url is of PostgreSQL: install apportion[postgres]") from error


class Postgres:
    """Implements `server.store.database.Database`. Of one thread only."""

    def __init__(self, connection: Any, psycopg: Any) -> None:
        self._connection = connection
        self._psycopg = psycopg

    @classmethod
    def open(cls, url: str, *, read_only: bool = False) -> Self:
        """Raises StoreError."""
        psycopg = driver()
        options = f"-c statement_timeout={_STATEMENT_MS} -c lock_timeout={_STATEMENT_MS // 2}"
        if read_only:
            options = "-c default_transaction_read_only=on"
        try:
            connection = psycopg.connect(url, autocommit=True, options=options, **_OPTIONS)
        except psycopg.ProgrammingError as error:  # what the URL says is no URL; it may hold a password
            raise Unusable("store.url can't be read as a PostgreSQL address") from error
        except psycopg.Error as error:
            said = " ".join(str(error).split())[:300]  # host, port and user, never the password
            raise Unavailable(f"PostgreSQL can't be reached: {said}") from error
        return cls(connection, psycopg)

    def run(self, sql: str, values: Values | None = None) -> Sequence[Sequence[Any]]:
        try:
            cursor = self._connection.execute(in_pyformat(sql), values or {})
            return cursor.fetchall() if cursor.description is not None else []
        except self._psycopg.Error as error:
            raise self._translated(error) from error

    def run_many(self, sql: str, rows: Sequence[Values]) -> None:
        try:
            with self._connection.cursor() as cursor:
                cursor.executemany(in_pyformat(sql), rows)
        except self._psycopg.Error as error:
            raise self._translated(error) from error

    @contextmanager
    def writing(self) -> Generator[None]:
        self.run("BEGIN")
        try:
            self.run("SELECT pg_advisory_xact_lock(:lock)", {"lock": _LOCK})
            yield
            self.run("COMMIT")
        except BaseException:
            with suppress(self._psycopg.Error):
                self._connection.rollback()
            raise

    def check(self) -> None:
        """A connection that has broken says so itself."""

    def tidy(self) -> None:
        """Its autovacuum does."""

    def close(self) -> None:
        with suppress(self._psycopg.Error):
            self._connection.close()

    def _translated(self, error: Exception) -> StoreError:
        """A server's message can quote the values of a row, so only its name and its code are told."""
        what = f"PostgreSQL: {type(error).__name__} {getattr(error, 'sqlstate', None) or ''}".rstrip()
        if isinstance(
            error, self._psycopg.OperationalError | self._psycopg.InterfaceError | self._psycopg.InternalError
        ):
            return Unavailable(what)
        return Refused(what)
