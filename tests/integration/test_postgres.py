"""The outcome store in a real PostgreSQL, which the test starts: what SQLite is tested for, where they could differ."""

from __future__ import annotations

import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from router.pools import read_pools
from server.cli import main
from server.store import schema
from server.store.database import Unavailable, Unusable, connect, prepare
from server.store.reading import calls, opened, outcomes, summary
from server.store.retention import BATCH, Keep, forget
from server.store.verdicts import Verdict, give
from server.store.writer import Timed, Writer
from tests.fake_engine import VLLM, running
from tests.fakes import ask
from tests.serving import error_of, serving
from tests.stores import CANARY, PATIENCE, Postgres, a_call, kept, need_postgres, rows, settled, write

pytestmark = pytest.mark.anyio
PASSWORD = "hush-hush"  # noqa: S105 - of nobody


@pytest.fixture(scope="module")
def server() -> Generator[Postgres]:
    need_postgres()
    server = Postgres()
    yield server
    server.remove()


@pytest.fixture
def url(server: Postgres) -> Generator[str]:
    """An empty database."""
    command(server.url, "CREATE DATABASE tested")
    yield server.url.replace("/postgres", "/tested")
    command(server.url, "DROP DATABASE tested WITH (FORCE)")


def command(url: str, sql: str) -> None:
    """On a connection of its own: the server may have been stopped since the last."""
    database = connect(url)
    try:
        database.run(sql)
    finally:
        database.close()


def judged(url: str, **fields: Any) -> Any:
    database = connect(url)
    try:
        with database.writing():
            return give(database, Verdict(**{"id": "a", "given": 1.0, "score": 1.0, **fields}))
    finally:
        database.close()


def test_outcomes_are_written_judged_and_read(url: str) -> None:
    entries = [kept(f"{i:04}", recorded=1e9 + i // 700, owner="team") for i in range(1100)]
    writer = write(url, entries)
    writer.put_call(Timed(id="x", recorded=1.0, stats=a_call(seconds=1.5, held_seconds=0.5)))
    settled(writer)
    assert not judged(url, id="0001", owner="team").replaced
    assert judged(url, id="0001", score=0.5, on_all=True).replaced
    with opened(url) as database:
        found = list(outcomes(database))
        assert [each.id for each in found] == [entry.id for entry in entries]
        assert [each.score for each in found[:3]] == [None, 0.5, None]
        assert [(call.seconds, call.longest) for call in calls(database)] == [(1.0, 5)]
        ((strategy, answered, _, _, verdicts, score, *_),) = summary(database)
    assert (strategy, answered, verdicts, score) == ("majority_vote@3", 1100, 1, 0.5)
    writer.stop(PATIENCE)


def test_a_reader_can_not_write(url: str) -> None:
    write(url, [kept("a")]).stop(PATIENCE)
    with opened(url) as database, pytest.raises(Unavailable, match="ReadOnlySqlTransaction"):
        database.run(schema.FORGET, {"id": "a"})


def test_what_it_would_not_take_is_written_all_the_same_or_alone_refused(url: str) -> None:
    """NUL is a character that PostgreSQL does not have."""
    results: dict[str, int] = {}
    texts = ask(f"{CANARY}\x00", model="m\x00\ud800", messages=[{"role": "user", "content": "a\x00b"}])
    entries = [
        kept("a", "x\x00y", query=texts, keeps_texts=True),
        kept("b", seconds=float("nan")),
        kept("c", completion_tokens=2**80),
        kept("d"),
    ]
    writer = write(url, entries, counted=lambda name, number: results.update({name: results.get(name, 0) + number}))
    writer.stop(PATIENCE)
    found = rows(url)
    assert [row["id"] for row in found] == ["a", "d"]
    assert found[0]["model"] == "m�?"
    assert found[0]["asked"].count("a\\u0000b") == 1
    assert results == {"written": 2, "refused": 2}


@pytest.mark.parametrize("version", range(schema.VERSION + 1))
def test_a_store_of_any_earlier_version_is_brought_up_to_date(
    version: int, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:version])
        earlier.setattr(schema, "SALT", schema.SALT if version else "SELECT 1")
        earlier.setattr(schema, "SALT_IS", schema.SALT_IS if version else "SELECT '00'")
        database = connect(url)
        prepare(database)
        database.close()
    for name in ("a", "b"):
        write(url, [kept(name)]).stop(PATIENCE)
    assert [row["id"] for row in rows(url)] == ["a", "b"]
    assert [row["version"] for row in rows(url, "schema_version", "version")] == list(range(1, schema.VERSION + 1))


def test_several_gateways_may_start_on_an_empty_database_at_once(url: str) -> None:
    """Only one of them makes the tables."""
    salts: list[bytes] = []
    together = threading.Barrier(5)

    def prepared() -> None:
        database = connect(url)
        together.wait(PATIENCE)
        salts.append(prepare(database))
        database.close()

    threads = [threading.Thread(target=prepared) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(salts) == 5
    assert len(set(salts)) == 1


def test_what_is_too_old_or_too_much_is_deleted_a_batch_at_a_time(url: str) -> None:
    old = kept("old", recorded=1.0)
    write(url, [old, *(kept(f"{i:05}", recorded=1e9 + i) for i in range(BATCH + 20))]).stop(PATIENCE)
    judged(url, id="old")
    database = connect(url)
    batches = 0
    while forget(database, Keep(days=30, rows=10), now=1e9):
        batches += 1
    database.close()
    assert batches == 3
    assert [row["id"] for row in rows(url)] == [f"{i:05}" for i in range(BATCH + 10, BATCH + 20)]
    assert rows(url, "feedback") == []


def test_a_server_that_goes_is_waited_for_and_gets_what_waited(server: Postgres, url: str) -> None:
    """It stops as a machine does that loses its power, with connections open, in the middle of the work."""
    changed = threading.Condition()
    attempts = written = 0

    def attempted() -> Any:
        nonlocal attempts
        with changed:
            attempts += 1
            changed.notify_all()
        return connect(url)

    def count(result: str, number: int) -> None:
        nonlocal written
        with changed:
            written += number if result == "written" else 0
            changed.notify_all()

    writer = Writer(attempted, Keep(), counted=count, pause=0.005)
    writer.start()
    assert writer.put(kept("before"))
    settled(writer)
    server.stop()
    try:
        for i in range(20):
            assert writer.put(kept(f"while {i:02}"))
        with changed:
            assert changed.wait_for(lambda: attempts >= 3, PATIENCE)
        assert isinstance(writer.down, Unavailable)
        assert writer.waiting == 20
    finally:
        server.start()
    with changed:
        assert changed.wait_for(lambda: written >= 21, PATIENCE)
    assert writer.stop(PATIENCE) == 0
    assert len(rows(url)) == 21


def test_an_address_that_can_not_be_used_is_told_without_its_password(server: Postgres) -> None:
    nobody = server.url.replace("apportion@", f"nobody:{PASSWORD}@")
    for wrong, kind in (
        (nobody, Unavailable),
        (f"postgresql://u:{PASSWORD}@127.0.0.1:1/x", Unavailable),
        (f"postgresql://u:{PASSWORD}@h/x?no_such_option=1", Unusable),
    ):
        with pytest.raises(kind) as raised:
            connect(wrong)
        assert PASSWORD not in str(raised.value)


def test_import_and_train_read_it(url: str, tmp_path: Path) -> None:
    entries = [kept(str(i), "7", "8", query=ask(f"{i} + 1?", max_tokens=32), keeps_texts=True) for i in range(9)]
    write(url, entries).stop(PATIENCE)
    judged(url, id="3")
    out = tmp_path / "mine.parquet"
    result = CliRunner().invoke(main, ["import", "--store", url, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "right by what most samples say: 8, feedback: 1" in result.output
    assert len(read_pools(out)) == 9
    shown = CliRunner().invoke(main, ["outcomes", "--store", url])
    assert shown.output.splitlines()[1].split()[:2] == ["majority_vote@3", "9"]


async def test_a_gateway_keeps_nothing_of_prompts_and_answers_in_it(server: Postgres, url: str) -> None:
    """Not in its files either, of which all are read."""
    async with running(VLLM) as engine, serving(engine.url, store={"url": url}) as served:
        for strategy in ("single", "majority_vote@3"):
            response = await served.chat(strategy, content=f"What is a {CANARY}?")
            body = {"id": response.json()["id"], "correct": True, "reference": CANARY}
            assert (await served.client.post("/v1/apportion/feedback", json=body)).json()["reference_kept"] is False
        unknown = await served.client.post("/v1/apportion/feedback", json={"id": "x", "correct": True})
        assert error_of(unknown)["code"] == "response_not_found"
    assert [row["score"] for row in rows(url, "feedback")] == [1.0, 1.0]
    command(url, "CHECKPOINT")
    found = sum(CANARY.encode() in file.read_bytes() for file in server.folder.rglob("*") if file.is_file())
    assert found == 0


async def test_texts_are_in_its_files_where_they_are_asked_for(server: Postgres, url: str) -> None:
    """Else the test above would prove nothing."""
    async with running(VLLM) as engine, serving(engine.url, store={"url": url, "keep": "texts"}) as served:
        await served.chat("single", content=f"What is a {CANARY}?")
    assert any(CANARY in row["asked"] for row in rows(url))
    files = [file for file in server.folder.rglob("*") if file.is_file()]
    assert any(CANARY.encode() in file.read_bytes() for file in files)
