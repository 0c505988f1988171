"""Outcomes for the store's tests, and a real PostgreSQL to keep them in."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from router.features import extract
from server.backends.calls import CallStats
from server.store.database import Database, connect
from server.store.retention import Keep
from server.store.rows import Noted, noted
from server.store.writer import Writer
from strategies.spec import StrategySpec
from strategies.types import Allocation, Answer, Candidate, LogprobSummary, Outcome, Prediction, Query
from tests.conftest import free_port
from tests.fakes import ask

PATIENCE = 60.0  # seconds for what should happen at once; a busy machine is no failure
CANARY = "zyzzyva"


def said(text: str, *, index: int = 0, tokens: int = 3, finish_reason: str | None = "stop") -> Candidate:
    logprobs = LogprobSummary(tokens=tokens, total=-0.5 * tokens, certainty=2.0 * tokens, certain_tokens=tokens)
    return Candidate(index=index, text=text, tokens=tokens, finish_reason=finish_reason, logprobs=logprobs)


def outcome_of(
    id: str, *texts: str | Candidate, strategy: str = "majority_vote@3", winner: int | None = 0, **fields: Any
) -> Outcome:
    """One that drew the texts; winner: which of them was returned."""
    spec = StrategySpec.parse(strategy)
    candidates = [said(each, index=i) if isinstance(each, str) else each for i, each in enumerate(texts)]
    row = Prediction(spec=spec, accuracy=0.6, tokens=30, tokens_upper=60, seconds=1.0, seconds_upper=2.0)
    answer = None
    if winner is not None:
        answer = Answer(winners=[candidates[winner]], agreement=0.5, confidence=0.75, candidates=len(candidates))
    return Outcome(
        **{
            "query_id": id,
            "allocation": Allocation(
                spec=spec, predictions=[row], reason="", decided_by="model", model_version="v", familiar=True
            ),
            "answer": answer,
            "completion_tokens": sum(c.tokens for c in candidates),
            "returned_tokens": 3,
            "cancelled_tokens": 0,
            "prompt_tokens": 5,
            "seconds": 0.5,
            "first_token_seconds": 0.1,
            "candidates": candidates,
            **fields,
        }
    )


def kept(
    id: str,
    *texts: str | Candidate,
    query: Query | None = None,
    keeps_texts: bool = False,
    recorded: float = 1e9,
    owner: str | None = None,
    **fields: Any,
) -> Noted:
    query = query or ask(id=id)
    return noted(
        query,
        extract(query),
        outcome_of(id, *(texts or ("7",)), **fields),
        owner=owner,
        recorded=recorded,
        keeps_texts=keeps_texts,
        sampling_temperature=0.8,
    )


def write(url: str, entries: Sequence[Noted], **options: Any) -> Writer:
    """A writer that has written them, and goes on."""
    writer = Writer(partial(connect, url), options.pop("keep", Keep()), **options)
    writer.start()
    for entry in entries:
        assert writer.put(entry)
    settled(writer)
    return writer


def a_call(**fields: Any) -> CallStats:
    """A call that tells how fast the engine is."""
    return CallStats(
        **{
            "prompt_tokens": 7, "added": 3, "running": 0, "first_token_seconds": 0.1, "seconds": 1.0, "tokens": 15,
            "longest": 5, "held_seconds": 0.0, "continued": False, "status": "ok", **fields,
        }
    )  # fmt: skip


def settled(writer: Writer) -> None:
    """All that is queued by now has been written."""
    writer.ask(lambda database: None).result(PATIENCE)


def rows(url: str, table: str = "outcomes", order: str = "id") -> list[Mapping[str, Any]]:
    """What is in a table."""
    database = connect(url)
    try:
        return [dict(row) for row in _named(database, f"SELECT * FROM {table} ORDER BY {order}")]  # noqa: S608
    finally:
        database.close()


def _named(database: Database, sql: str) -> list[dict[str, Any]]:
    connection: Any = database._connection  # pyright: ignore - the protocol has no use for names of columns
    cursor = connection.execute(sql)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


# --- PostgreSQL


class Postgres:
    """A server of its own on loopback, in a folder that goes with it. It never runs as root, which it refuses."""

    def __init__(self) -> None:
        self._user = "postgres" if hasattr(os, "geteuid") and os.geteuid() == 0 else None
        self.folder = Path(tempfile.mkdtemp(prefix="apportion-postgres-"))
        if self._user is not None:
            shutil.chown(self.folder, self._user)
        self._data = self.folder / "data"
        self.port = free_port()
        self.url = f"postgresql://apportion@127.0.0.1:{self.port}/postgres"
        self._run("initdb", "-U", "apportion", "-A", "trust", "-E", "UTF8", "--locale", "C", "--no-sync")
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        command = [postgres_program(program) or program, "-D", str(self._data), *arguments]
        with (self.folder / f"{program}.log").open("ab") as log:  # no pipe, which the server would inherit
            subprocess.run(
                command, check=True, cwd="/", user=self._user, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                timeout=120,
            )  # fmt: skip

    def start(self) -> None:
        options = (
            f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder} -c fsync=off "
            "-c autovacuum=off"
        )
        self._run("pg_ctl", "-w", "-t", "100", "-o", options, "-l", str(self.folder / "server.log"), "start")

    def stop(self) -> None:
        """At once, as a machine that goes: open connections break."""
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def postgres_program(name: str) -> str | None:
    """Debian keeps them off the path."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else shutil.which(name)


def need_postgres() -> None:
    """Skips the test, but not where REQUIRE_POSTGRES is set: there it fails."""
    if find_spec("psycopg") is None:
        problem = "no driver for PostgreSQL here: install apportion[postgres]"
    elif postgres_program("initdb") is None or postgres_program("pg_ctl") is None:
        problem = "no PostgreSQL here (its initdb and pg_ctl): install the system's package postgresql"
    else:
        return
    if os.environ.get("REQUIRE_POSTGRES"):
        pytest.fail(problem)
    pytest.skip(problem)
