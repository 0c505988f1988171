"""The store's queue: bounded whatever comes and whatever the database does, and nothing lost or doubled on the way."""

from __future__ import annotations

import threading
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from server.store.database import Database, Unavailable, connect
from server.store.retention import Keep
from server.store.rows import Noted
from server.store.writer import Writer
from tests.stores import PATIENCE, kept, rows


@given(
    sizes=st.lists(st.integers(0, 40_000), max_size=60),
    most=st.integers(1, 30),
    most_bytes=st.integers(1, 200_000),
)
@settings(max_examples=40)
def test_under_a_stalled_database_the_queue_holds_no_more_than_it_may(
    sizes: list[int], most: int, most_bytes: int
) -> None:
    """Neither in number nor in bytes; all else is counted as dropped, at once."""
    let = threading.Event()
    dropped = 0

    def stalls() -> Database:
        let.wait(PATIENCE)
        raise Unavailable("still not")

    def count(result: str, number: int) -> None:
        nonlocal dropped
        dropped += number if result == "dropped" else 0

    writer = Writer(stalls, Keep(), counted=count, most_waiting=most, most_bytes=most_bytes)
    writer.start()
    held: list[Noted] = []
    for i, size in enumerate(sizes):
        entry = kept(str(i), "x" * size)
        if writer.put(entry):
            held.append(entry)
        assert writer.waiting == len(held) <= most
        assert sum(each.weight for each in held) <= most_bytes
    assert dropped == len(sizes) - len(held)
    let.set()
    assert writer.stop(PATIENCE) == len(held)


@given(fails=st.lists(st.booleans(), max_size=12), number=st.integers(1, 30))
@settings(max_examples=30)
def test_what_was_taken_is_written_once_however_often_it_failed(fails: list[bool], number: int) -> None:
    left = list(fails)
    with TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder)}/o.db"

        def unreliable() -> Database:
            if left and left.pop():
                raise Unavailable("not now")
            return connect(url)

        written = threading.Event()
        done = 0

        def count(result: str, number_of: int) -> None:
            nonlocal done
            done += number_of if result == "written" else 0
            if done >= number:
                written.set()

        writer = Writer(unreliable, Keep(), counted=count, pause=0.0)
        writer.start()
        for i in range(number):
            assert writer.put(kept(f"{i:02}"))
        assert written.wait(PATIENCE)
        writer.stop(PATIENCE)
        assert [row["id"] for row in rows(url)] == [f"{i:02}" for i in range(number)]
