"""The outcome store in SQLite: what is written, by whom it may be judged, what is deleted. See also tests/faults."""

from __future__ import annotations

import sqlite3
import stat
import sys
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from server.cli import main
from server.config import ConfigError, load_config
from server.store import schema
from server.store.database import Unusable, connect, prepare, version_of
from server.store.reading import calls, opened, outcomes, summary
from server.store.retention import BATCH, Keep, forget
from server.store.rows import MOST_TEXT, hashed, row_of
from server.store.verdicts import NothingSaid, NothingToJudge, UnknownResponse, Verdict, give
from server.store.writer import Timed
from strategies.answers import extract
from tests.fakes import ask
from tests.stores import CANARY, PATIENCE, a_call, kept, rows, said, settled, write

SALT = b"salt"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/outcomes.db"


# --- a row


def test_a_row_tells_what_was_predicted_and_what_it_came_to(url: str) -> None:
    write(url, [kept("a", "7", "8", "7", owner="team")]).stop(PATIENCE)
    (row,) = rows(url)
    assert (row["id"], row["owner"], row["model"], row["profile"]) == ("a", "team", "m", "balanced")
    assert (row["strategy"], row["decided_by"], row["model_version"], row["familiar"]) == (
        "majority_vote@3", "model", "v", 1,
    )  # fmt: skip
    assert (row["predicted_accuracy"], row["predicted_tokens"], row["predicted_tokens_upper"]) == (0.6, 30, 60)
    assert (row["tokens"], row["seconds"], row["first_token_seconds"]) == (9, 0.5, 0.1)
    assert (row["agreement"], row["confidence"], row["answered"], row["drawn"]) == (0.5, 0.75, 1, 3)
    assert row["temperature"] == 0.8
    assert (row["asked"], row["texts"]) == (None, None)
    assert len(orjson.loads(row["features"])) == 115


def test_equal_answers_have_equal_hashes_which_another_store_does_not_share() -> None:
    entry = kept("a", "7", "The answer is 7.", "8", said("7", index=3, finish_reason=None))
    candidates = orjson.loads(row_of(entry, SALT).candidates)
    answers = [candidate["answer"] for candidate in candidates]
    assert answers[0] == answers[1] != answers[2]
    assert answers[3] is None  # one that was cut gives none
    assert [candidate["place"] for candidate in candidates] == [0, None, None, None]
    assert answers[0] != hashed("7", b"another")
    found = extract("7")
    assert found is not None
    assert answers[0] == hashed(found.value, SALT)


def test_answers_are_read_in_the_form_that_was_asked_for() -> None:
    """A letter among others here, JSON there, a pattern of the client's."""
    lettered = ask("Which? A) red B) blue")
    for query, one, same in (
        (lettered, "B", "(B) blue"),
        (ask(sampling={"response_format": {"type": "json_object"}}), '{"a": 1, "b": 2}', '{"b":2,"a":1.0}'),
        (ask(answer_pattern=r"is (\d+)"), "it is 7 of 9", "no, it is 7"),
    ):
        first, second = orjson.loads(row_of(kept("a", one, same, query=query), SALT).candidates)
        assert first["answer"] == second["answer"] is not None
        first, second = orjson.loads(row_of(kept("a", one, same), SALT).candidates)
        assert first["answer"] != second["answer"]


def test_two_stores_have_different_salts_and_one_keeps_its_own(tmp_path: Path) -> None:
    def salt(name: str) -> bytes:
        database = connect(f"sqlite:///{tmp_path}/{name}.db")
        try:
            return prepare(database)
        finally:
            database.close()

    assert len(salt("one")) == 32
    assert salt("one") == salt("one") != salt("two")


def test_texts_are_kept_only_where_asked_for_and_not_when_they_are_huge() -> None:
    question = ask(f"What is a {CANARY}?", tools=[{"type": "function", "function": {"name": "f"}}])
    row = row_of(kept("a", "A weevil.", query=question, keeps_texts=True), SALT)
    assert row.asked is not None
    assert row.texts is not None
    assert orjson.loads(row.asked)["messages"][0]["content"] == f"What is a {CANARY}?"
    assert orjson.loads(row.texts) == [{"text": "A weevil."}]
    without = kept("a", "A weevil.", query=question)
    assert (row_of(without, SALT).asked, row_of(without, SALT).texts) == (None, None)
    for huge in (
        kept("a", "A weevil.", query=ask("x" * (MOST_TEXT + 1)), keeps_texts=True),
        kept("a", "x" * (MOST_TEXT + 1), keeps_texts=True),
    ):
        assert (row_of(huge, SALT).asked, row_of(huge, SALT).texts) == (None, None)


def test_the_file_holds_nothing_of_prompts_and_answers(url: str, tmp_path: Path) -> None:
    """Not in its tables, nor between them, nor in the file beside it that SQLite writes first."""
    entries = [kept(str(i), f"It is a {CANARY}.", f"{CANARY}", query=ask(f"{CANARY}? {CANARY} {i}")) for i in range(30)]
    writer = write(url, entries)
    written = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    writer.stop(PATIENCE)
    assert len(written) > 30_000
    assert CANARY.encode() not in written + (tmp_path / "outcomes.db").read_bytes()


def test_what_a_database_would_not_take_is_written_all_the_same(url: str) -> None:
    """NUL in a model's name, halves of characters in a text, numbers that are none."""
    odd = ask(model="m\x00\ud800", messages=[{"role": "user", "content": "\ud800"}])
    entry = kept("a", said("\ud800\x00"), query=odd, keeps_texts=True, seconds=float("nan"), strategy="single")
    write(url, [kept("b"), entry, kept("c")]).stop(PATIENCE)
    assert [row["id"] for row in rows(url)] == ["b", "c"]  # seconds are needed


def test_one_that_is_refused_takes_no_other_with_it(url: str) -> None:
    results: list[tuple[str, int]] = []
    entries = [kept(str(i), seconds=float("nan") if i == 3 else 0.5) for i in range(6)]
    write(url, entries, counted=lambda result, number: results.append((result, number))).stop(PATIENCE)
    assert [row["id"] for row in rows(url)] == ["0", "1", "2", "4", "5"]
    assert sum(number for result, number in results if result == "refused") == 1
    assert sum(number for result, number in results if result == "written") == 5


def test_the_same_outcome_twice_is_one(url: str) -> None:
    """As when the answer to a commit was lost, and it is tried again."""
    write(url, [kept("a", "7"), kept("a", "8")]).stop(PATIENCE)
    (row,) = rows(url)
    assert row["drawn"] == 1


def test_the_file_is_its_owners_alone(url: str, tmp_path: Path) -> None:
    write(url, [kept("a")])
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}


def test_a_search_keeps_its_answer_and_not_its_steps() -> None:
    steps = [said(f"step {i}", index=i) for i in range(8)]
    row = row_of(kept("a", *steps, strategy="beam_search@2x2", winner=5), SALT)
    assert (len(orjson.loads(row.candidates)), row.drawn) == (1, 8)


# --- migrations


@pytest.mark.parametrize("version", range(schema.VERSION + 1))
def test_a_store_of_any_earlier_version_is_brought_up_to_date(
    version: int, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And keeps its rows. Twice does no harm."""
    with monkeypatch.context() as earlier:
        earlier.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:version])
        earlier.setattr(schema, "SALT", schema.SALT if version else "SELECT 1")
        earlier.setattr(schema, "SALT_IS", schema.SALT_IS if version else "SELECT '00'")
        database = connect(url)
        prepare(database)
        if version:
            database.run("INSERT INTO feedback (id, given, score, reference) VALUES ('old', 1, 1, NULL)")
        database.close()
    write(url, [kept("a")]).stop(PATIENCE)
    write(url, [kept("b")]).stop(PATIENCE)
    assert [row["id"] for row in rows(url)] == ["a", "b"]
    assert [row["id"] for row in rows(url, "feedback")] == (["old"] if version else [])
    assert [row["version"] for row in rows(url, "schema_version", "version")] == list(range(1, schema.VERSION + 1))
    assert rows(url, "calls") == []


def test_a_migration_that_fails_changes_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(url, [kept("a")]).stop(PATIENCE)
    broken = (*schema.MIGRATIONS, ("CREATE TABLE half (id text)", "CREATE TABLE half (id text)"))
    monkeypatch.setattr(schema, "MIGRATIONS", broken)
    monkeypatch.setattr(schema, "VERSION", len(broken))
    database = connect(url)
    with pytest.raises(Exception, match="already exists"):
        prepare(database)
    assert version_of(database) == len(broken) - 1
    assert not database.run("SELECT name FROM sqlite_master WHERE name = 'half'")
    database.close()


def test_a_store_of_a_newer_program_is_left_alone(url: str) -> None:
    write(url, []).stop(PATIENCE)
    database = connect(url)
    database.run(schema.APPLY, {"version": schema.VERSION + 1, "applied": 0.0})
    with pytest.raises(Unusable, match=f"this program knows versions up to {schema.VERSION}"):
        prepare(database)
    database.close()


# --- feedback


def judged(url: str, **fields: Any) -> Any:
    database = connect(url)
    try:
        with database.writing():
            return give(database, Verdict(**{"id": "a", "given": 1.0, "score": 1.0, **fields}))
    finally:
        database.close()


def test_later_feedback_replaces_earlier(url: str) -> None:
    write(url, [kept("a")]).stop(PATIENCE)
    first, second = judged(url), judged(url, score=0.25)
    assert (first.replaced, first.first, second.replaced, second.first) == (False, True, True, False)
    assert (first.strategy, first.expected) == ("majority_vote@3", 0.75)
    assert [(row["id"], row["score"]) for row in rows(url, "feedback")] == [("a", 0.25)]


def test_without_a_confidence_the_predicted_accuracy_was_what_was_expected(url: str) -> None:
    entry = kept("a", answer=None, winner=None)
    write(url, [entry, kept("b")]).stop(PATIENCE)
    database = connect(url)
    database.run("UPDATE outcomes SET confidence = NULL")
    database.close()
    assert judged(url, id="b").expected == 0.6
    with pytest.raises(NothingToJudge):
        judged(url)


def test_a_key_judges_its_own_responses_unless_it_may_judge_all(url: str) -> None:
    write(url, [kept("a", owner="team")]).stop(PATIENCE)
    for owner in ("other", None):
        with pytest.raises(UnknownResponse):
            judged(url, owner=owner)
    assert not judged(url, owner="team").replaced
    assert judged(url, owner="other", on_all=True).replaced


def test_a_reference_is_kept_only_beside_the_texts(url: str) -> None:
    write(url, [kept("a"), kept("b", keeps_texts=True)]).stop(PATIENCE)
    assert not judged(url, reference=CANARY).reference_kept
    with pytest.raises(NothingSaid):
        judged(url, score=None, reference=CANARY)
    assert judged(url, id="b", score=None, reference="7").reference_kept
    assert [(row["id"], row["reference"]) for row in rows(url, "feedback")] == [("a", None), ("b", "7")]
    assert judged(url, id="b").first  # nobody had given a score before


def test_feedback_waits_for_the_outcome_in_the_queue(url: str) -> None:
    """A client can be faster than the batch."""
    writer = write(url, [])
    assert writer.put(kept("late"))
    verdict = Verdict(id="late", given=1.0, score=1.0)
    assert writer.ask(partial(give, verdict=verdict)).result(PATIENCE).strategy == "majority_vote@3"
    writer.stop(PATIENCE)


# --- what is deleted


def ids(url: str) -> list[str]:
    return [row["id"] for row in rows(url)]


def swept(url: str, keep: Keep, *, now: float = 1e9) -> int:
    """How many batches it took."""
    database = connect(url)
    try:
        batches = 0
        while forget(database, keep, now=now):
            batches += 1
        return batches
    finally:
        database.close()


def test_what_is_older_than_the_days_goes_with_its_feedback(url: str) -> None:
    write(url, [kept(name, recorded=1e9 - age * 86_400) for name, age in (("old", 31), ("new", 29))]).stop(PATIENCE)
    judged(url, id="old")
    judged(url, id="new")
    assert swept(url, Keep(days=30)) == 1
    assert ids(url) == ["new"]
    assert [row["id"] for row in rows(url, "feedback")] == ["new"]
    assert swept(url, Keep(days=None), now=1e12) == 0


def test_the_oldest_go_when_there_are_too_many_a_batch_at_a_time(url: str) -> None:
    write(url, [kept(f"{i:05}", recorded=1e9 + i) for i in range(2 * BATCH + 20)]).stop(PATIENCE)
    assert swept(url, Keep(rows=10)) == 3
    assert ids(url) == [f"{i:05}" for i in range(2 * BATCH + 10, 2 * BATCH + 20)]


def test_the_oldest_go_when_they_take_too_much_room(url: str) -> None:
    texts = ["x" * 10_000]
    write(url, [kept(f"{i:02}", *texts, keeps_texts=True, recorded=1e9 + i) for i in range(20)]).stop(PATIENCE)
    size = sum(row["bytes"] for row in rows(url))
    assert size > 20 * 10_000
    swept(url, Keep(bytes=size // 2))
    left = rows(url)
    assert sum(row["bytes"] for row in left) <= size // 2
    assert 8 <= len(left) <= 10
    assert left[-1]["id"] == "19"


def test_deleted_texts_are_not_left_in_the_file(url: str, tmp_path: Path) -> None:
    write(url, [kept(str(i), CANARY, keeps_texts=True) for i in range(50)]).stop(PATIENCE)
    assert CANARY.encode() in (tmp_path / "outcomes.db").read_bytes()
    before = (tmp_path / "outcomes.db").stat().st_size
    swept(url, Keep(days=1), now=2e9)
    assert ids(url) == []
    assert CANARY.encode() not in (tmp_path / "outcomes.db").read_bytes()
    assert (tmp_path / "outcomes.db").stat().st_size < before


def test_a_running_store_forgets_by_itself(url: str) -> None:
    writer = write(url, [kept("old", recorded=1.0), kept("new", recorded=4e9)], keep=Keep(days=1))
    for _ in range(100):  # each of them a turn of the thread
        settled(writer)
        if ids(url) == ["new"]:
            break
    writer.stop(PATIENCE)
    write(url, [], keep=Keep(days=1)).stop(PATIENCE)
    assert ids(url) == ["new"]


# --- who writes and who reads


def test_two_writers_share_one_store(url: str) -> None:
    """As two gateway processes do."""
    one, two = write(url, []), write(url, [])
    for i in range(200):
        assert (one if i % 2 else two).put(kept(f"{i:03}"))
    one.stop(PATIENCE)
    two.stop(PATIENCE)
    assert len(ids(url)) == 200


def test_commands_read_while_a_gateway_writes(url: str) -> None:
    writer = write(url, [kept(f"{i:04}", recorded=1e9 + i // 700) for i in range(1100)])
    writer.put_call(Timed(id="x", recorded=1.0, stats=a_call(seconds=1.5, held_seconds=0.5)))
    settled(writer)
    judged(url, id="0001")
    with opened(url) as database:
        found = list(outcomes(database))
        assert [each.id for each in found] == [f"{i:04}" for i in range(1100)]
        assert [each.score for each in found[:3]] == [None, 1.0, None]
        assert [(call.seconds, call.longest) for call in calls(database)] == [(1.0, 5)]
        ((strategy, answered, accuracy, confidence, verdicts, score, *_),) = summary(database)
    assert (strategy, answered, verdicts, score) == ("majority_vote@3", 1100, 1, 1.0)
    assert (accuracy, confidence) == (pytest.approx(0.6), pytest.approx(0.75))
    writer.stop(PATIENCE)


def test_what_is_no_store_is_said_to_be_none(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    for path, complaint in ((other, "not a store of outcomes"), (tmp_path / "none.db", "no such file")):
        with pytest.raises(Unusable, match=complaint), opened(f"sqlite:///{path}"):
            pass


def test_a_file_that_is_no_database_is_never_written(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("not a database, but something that somebody needs\n" * 100)
    with pytest.raises(Unusable, match="not a database"):
        connect(f"sqlite:///{file}")
    assert file.read_text().startswith("not a database, but")


# --- settings


def test_without_its_driver_the_gateway_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    result = CliRunner().invoke(main, ["serve", "--port", "0"], env={"APPORTION_STORE__URL": "postgresql://u:hush@h/d"})
    assert result.exit_code == 1
    assert result.output == "apportion: store.url is of PostgreSQL: install apportion[postgres]\n"


def test_days_without_end_are_said_as_null(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("store: {keep_days: null}")
    assert load_config(file, environ={}).store.keep_days is None


@pytest.mark.parametrize("wrong", ["outcomes.db", "sqlite:///", "mysql://u:hush@h/d", "sqlite://x.db"])
def test_an_address_of_another_kind_is_refused_without_being_repeated(wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"store\.url: should be sqlite:///PATH") as raised:
        load_config(None, overrides={"store.url": wrong}, environ={})
    assert "hush" not in str(raised.value)


def test_the_address_is_a_secret() -> None:
    config = load_config(None, overrides={"store.url": "postgresql://u:hush@h/d"}, environ={})
    assert "hush" not in f"{config!r} {config.model_dump_json()}"


def test_statements_are_the_same_for_both_databases() -> None:
    assert schema.in_pyformat("SELECT :a, b::text, '100%' WHERE c = :long_name") == (
        "SELECT %(a)s, b::text, '100%%' WHERE c = %(long_name)s"
    )
