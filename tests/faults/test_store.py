"""The outcome store when its database is locked, full, read-only, slow or gone: requests never notice."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from server.store.database import Database, Unavailable, connect
from server.store.retention import Keep
from server.store.sqlite import Sqlite
from server.store.writer import Writer
from tests.fake_engine import VLLM, drops, running, script_of, words
from tests.serving import error_of, serving
from tests.stores import CANARY, PATIENCE, kept, rows, settled, write

pytestmark = pytest.mark.anyio
SOON = 0.005  # seconds between two attempts


class Told:
    """What the metrics are told, and a way to wait for it."""

    def __init__(self) -> None:
        self.sums: dict[str, int] = {}
        self._changed = threading.Condition()

    def __call__(self, result: str, number: int) -> None:
        with self._changed:
            self.sums[result] = self.sums.get(result, 0) + number
            self._changed.notify_all()

    def wait(self, result: str, number: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.sums.get(result, 0) >= number, PATIENCE), self.sums


class Switch:
    """Opens a file, as long as it is let."""

    def __init__(self, path: Path, *, broken: bool = False) -> None:
        self._path = path
        self._changed = threading.Condition()
        self.broken = broken
        self.attempts = 0

    def __call__(self) -> Database:
        with self._changed:
            self.attempts += 1
            self._changed.notify_all()
        if self.broken:
            raise Unavailable("not now")
        return Sqlite.open(str(self._path), busy=0.01)

    def wait(self, attempts: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.attempts >= attempts, PATIENCE)


def started(open_: Callable[[], Database], told: Told | None = None, **options: Any) -> Writer:
    writer = Writer(open_, Keep(), counted=told or Told(), pause=SOON, **options)
    writer.start()
    return writer


def test_a_database_that_is_down_is_tried_again_and_gets_what_waited(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Said once in the log, not once an attempt. Questions are answered at once meanwhile."""
    caplog.set_level(logging.INFO, "apportion")
    told, switch = Told(), Switch(tmp_path / "o.db", broken=True)
    writer = started(switch, told)
    for i in range(10):
        assert writer.put(kept(str(i)))
    switch.wait(4)
    with pytest.raises(Unavailable, match="not now"):
        writer.ask(lambda database: None).result(PATIENCE)
    assert writer.waiting == 10
    switch.broken = False
    told.wait("written", 10)
    settled(writer)
    assert writer.stop(PATIENCE) == 0
    assert len(rows(f"sqlite:///{tmp_path}/o.db")) == 10
    said = [record.message for record in caplog.records]
    assert said == [
        "the outcome store can't be used, outcomes wait for it: not now",
        "the outcome store is written again",
    ]


def test_a_locked_file_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "o.db"
    write(f"sqlite:///{file}", []).stop(PATIENCE)
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    told, switch = Told(), Switch(file)
    writer = started(switch, told)
    assert writer.put(kept("a"))
    switch.wait(3)
    assert isinstance(writer.down, Unavailable)
    assert "locked" in str(writer.down)
    other.execute("COMMIT")
    other.close()
    told.wait("written", 1)
    settled(writer)
    assert writer.down is None
    writer.stop(PATIENCE)
    assert [row["id"] for row in rows(f"sqlite:///{file}")] == ["a"]


def test_a_full_disk_is_waited_for(tmp_path: Path) -> None:
    """SQLite's own limit of pages, which says what a full disk says."""
    pages = 40
    attempts = Switch(tmp_path / "o.db")

    def limited() -> Database:
        database = attempts()
        database.run(f"PRAGMA max_page_count = {pages}")
        return database

    told = Told()
    writer = started(limited, told)
    for i in range(100):
        assert writer.put(kept(str(i), "x" * 5000, keeps_texts=True))
    attempts.wait(3)
    assert "full" in str(writer.down)
    pages = 100_000
    told.wait("written", 100)
    assert writer.stop(PATIENCE) == 0
    assert len(rows(f"sqlite:///{tmp_path}/o.db")) == 100


def test_a_read_only_file_is_waited_for(tmp_path: Path) -> None:
    """Root may write to any file, so it is the connection that may not."""
    file, told = tmp_path / "o.db", Told()
    write(f"sqlite:///{file}", []).stop(PATIENCE)
    attempts = Switch(file)
    read_only = True

    def open_() -> Database:
        database = attempts()
        database.run(f"PRAGMA query_only = {int(read_only)}")
        return database

    writer = started(open_, told)
    assert writer.put(kept("a"))
    attempts.wait(3)
    assert "readonly" in str(writer.down)
    read_only = False
    told.wait("written", 1)
    writer.stop(PATIENCE)
    assert [row["id"] for row in rows(f"sqlite:///{file}")] == ["a"]


def test_a_file_that_is_taken_away_is_made_again(tmp_path: Path) -> None:
    """SQLite would go on writing into the file that nobody can find any more."""
    file, told = tmp_path / "o.db", Told()
    writer = started(partial(connect, f"sqlite:///{file}"), told)
    assert writer.put(kept("before"))
    told.wait("written", 1)
    for each in tmp_path.iterdir():
        each.unlink()
    assert writer.put(kept("after"))
    told.wait("written", 2)
    writer.stop(PATIENCE)
    assert [row["id"] for row in rows(f"sqlite:///{file}")] == ["after"]


def test_a_defect_in_the_middle_does_not_end_the_thread(tmp_path: Path) -> None:
    told = Told()
    writer = started(Switch(tmp_path / "o.db"), told)

    def broken(database: Database) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        writer.ask(broken).result(PATIENCE)
    assert writer.put(kept("a"))
    told.wait("written", 1)
    writer.stop(PATIENCE)


def test_a_database_that_hangs_neither_fills_memory_nor_holds_up_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What comes beyond the queue is dropped, counted, and said in the log once."""
    let, entered = threading.Event(), threading.Event()

    def hangs() -> Database:
        entered.set()
        let.wait(PATIENCE)
        return Sqlite.open(str(tmp_path / "o.db"))

    told = Told()
    writer = started(hangs, told, most_waiting=5)
    assert entered.wait(PATIENCE)
    assert [writer.put(kept(str(i))) for i in range(20)] == [True] * 5 + [False] * 15
    assert told.sums == {"dropped": 15}
    assert [r.message for r in caplog.records] == ["the outcome store's queue is full: 1 outcomes dropped"]
    assert writer.stop(0.01) == 5  # not written by then
    assert not writer.put(kept("late"))
    let.set()
    told.wait("written", 5)


# --- through the gateway


def everything(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())


async def test_a_gateway_without_its_database_answers_and_refuses_feedback(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = {"url": f"sqlite:///{tmp_path}/file/o.db"}
    async with running(VLLM) as engine, serving(engine.url, store=store) as served:
        response = await served.chat()
        assert response.status_code == 200
        said = {"id": response.json()["id"], "correct": True}
        refused = await served.client.post("/v1/apportion/feedback", json=said)
        assert (refused.status_code, error_of(refused)["code"]) == (503, "store_unavailable")
        assert str(tmp_path) not in refused.text
        assert "\napportion_store_down 1.0\n" in (await served.client.get("/metrics")).text


async def test_a_restart_goes_on_with_what_was_there(tmp_path: Path) -> None:
    """Also with feedback on a response of before."""
    url = f"sqlite:///{tmp_path}/o.db"
    async with running(VLLM) as engine:
        async with serving(engine.url, store={"url": url}) as served:
            first = (await served.chat()).json()["id"]
        async with serving(engine.url, store={"url": url}) as served:
            second = (await served.chat()).json()["id"]
            said = await served.client.post("/v1/apportion/feedback", json={"id": first, "score": 0.5})
            assert said.status_code == 200
    assert {row["id"] for row in rows(url)} == {first, second}


async def test_another_gateways_outcome_may_still_be_on_its_way(tmp_path: Path) -> None:
    """Feedback that comes to the other of two gateways finds it when it has been written."""
    url = f"sqlite:///{tmp_path}/o.db"
    store = {"url": url}
    async with (
        running(VLLM) as engine,
        serving(engine.url, store=store) as one,
        serving(engine.url, store=store) as other,
    ):
        id = (await one.chat()).json()["id"]
        said = await other.client.post("/v1/apportion/feedback", json={"id": id, "correct": True})
        assert said.status_code == 200


async def test_failed_and_abandoned_requests_are_outcomes_too(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/o.db"
    async with running(VLLM) as engine, serving(engine.url, store={"url": url}) as served:
        engine.act = drops
        failed = await served.chat()
        assert failed.status_code == 502
        id = failed.headers["x-request-id"]
        said = await served.client.post("/v1/apportion/feedback", json={"id": id, "correct": True})
        assert (said.status_code, error_of(said)["param"]) == (400, "id")
    ((row),) = rows(url)
    assert (row["id"], row["answered"], row["error"]) == (id, 0, "EngineError")


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_gateway_writes_nothing_of_prompts_and_answers(tmp_path: Path, streamed: bool) -> None:
    """By default, and its log and metrics do not either."""
    url = f"sqlite:///{tmp_path}/o.db"
    script = script_of(words(f"It is a {CANARY}"))
    async with running(VLLM, script=script) as engine, serving(engine.url, store={"url": url}) as served:
        for strategy in ("single", "majority_vote@3", "beam_search@2x2"):
            body = {"content": f"What is a {CANARY}?", "user": CANARY, "metadata": {"x": CANARY}}
            assert (await served.chat(strategy, **body, stream=streamed)).status_code == 200
        assert CANARY not in (await served.client.get("/metrics")).text
        written = everything(tmp_path)
    assert len(rows(url)) == 3
    assert CANARY.encode() not in written + (tmp_path / "o.db").read_bytes()


async def test_texts_are_there_where_they_are_asked_for(tmp_path: Path) -> None:
    """Else the test above would prove nothing."""
    url = f"sqlite:///{tmp_path}/o.db"
    store = {"url": url, "keep": "texts"}
    script = script_of(words(f"It is a {CANARY}"))
    async with running(VLLM, script=script) as engine, serving(engine.url, store=store) as served:
        await served.chat("majority_vote@3", content=f"What is a {CANARY}?")
    (row,) = rows(url)
    assert CANARY in row["asked"]
    assert row["texts"].count(CANARY) == 3


async def test_many_requests_at_once_are_all_written_when_the_gateway_ends(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/o.db"
    async with running(VLLM) as engine, serving(engine.url, store={"url": url}) as served:
        answers = await asyncio.gather(*(served.chat() for _ in range(40)))
    assert {row["id"] for row in rows(url)} == {answer.json()["id"] for answer in answers}
    assert len(rows(url, "calls")) == 40
