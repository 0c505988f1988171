"""Pools on disk: what was written is read again, in every format, and what is none is named in one sentence."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from router.pools import Pool, Run, read_pools, write_pools
from router.questions import Question
from tests.pools import POOLS

FORMATS = ("pools.parquet", "pools.jsonl.gz", "pools.jsonl")


def chat() -> Pool:
    """A user's question with all that one can have, answered without logprobs and once not at all."""
    question = Question(
        id="chat-1",
        family="mail",
        messages=(
            {"role": "system", "content": "Sort mail."},
            {"role": "user", "content": [{"type": "text", "text": "Überweisung 7 €?"}]},
        ),
        reference="",
        verifier="agreement",
        max_tokens=64,
        metadata={"source": {"line": 3}},
        tools=({"type": "function", "function": {"name": "move", "parameters": {"type": "object"}}},),
        sampling={"response_format": {"type": "json_object"}},
        group="g1",
    )
    first = replace(POOLS[0].samples[0], mean_logprob=None, certainty=None, correct=0.25)
    return replace(POOLS[0], question=question, samples=(first, replace(first, answer=None)), runs=(), calls=())


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_written_is_read_again(name: str, tmp_path: Path) -> None:
    pools = [chat(), *POOLS[:3]]
    write_pools(tmp_path / name, pools)
    assert read_pools(tmp_path / name) == pools
    assert [pool.label for pool in pools] == ["agreement", "verifier", "verifier", "verifier"]


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_pools_give_the_same_bytes(name: str, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_pools(tmp_path / folder / name, POOLS)
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_first_version_is_still_read(tmp_path: Path) -> None:
    """It knew none of the fields that a user's own chats have."""
    first = POOLS[0].to_json()
    for name in ("tools", "sampling", "group"):
        del first["question"][name]
    del first["label"]
    path = tmp_path / "old.jsonl"
    path.write_bytes(orjson.dumps({**first, "version": 1}))
    (pool,) = read_pools(path)
    assert pool == POOLS[0]
    write_pools(tmp_path / "new.parquet", [pool])
    assert read_pools(tmp_path / "new.parquet") == [pool]


@pytest.mark.parametrize("name", FORMATS)
def test_runs_without_a_time_take_that_of_the_others_by_their_tokens(name: str, tmp_path: Path) -> None:
    quiet = Run(spec="beam_search@2x2", correct=1.0, tokens=40, seconds=0.5)
    busy = replace(quiet, tokens=60, seconds=0.75, timed=False)
    write_pools(tmp_path / name, [replace(POOLS[0], runs=(busy, quiet))])
    (found,) = read_pools(tmp_path / name)
    assert found.runs == (busy, quiet)
    write_pools(tmp_path / name, [found])
    assert read_pools(tmp_path / name) == [found], "what is worked out does not become what was measured"


def test_a_strategy_of_which_no_run_has_a_time_is_named(tmp_path: Path) -> None:
    alone = Run(spec="beam_search@2x2", correct=1.0, tokens=40, seconds=0.0, timed=False)
    write_pools(tmp_path / "p.jsonl", [replace(POOLS[0], runs=(alone,))])
    with pytest.raises(ValueError, match=r"p\.jsonl, line 1: no run of beam_search@2x2 has its seconds"):
        read_pools(tmp_path / "p.jsonl")


def test_other_programs_see_columns_with_types(tmp_path: Path) -> None:
    """What a query groups by or sums needs no parsing, and a missing logprob is null, not 0."""
    write_pools(tmp_path / "pools.parquet", [chat(), POOLS[0]])
    table = pq.read_table(tmp_path / "pools.parquet")
    assert table["label"].to_pylist() == ["agreement", "verifier"]
    assert table["group"].to_pylist() == ["g1", None]
    samples = pa.concat_arrays(table["samples"].chunks).flatten()
    assert samples.field("tokens").type == pa.int64()
    assert samples.field("mean_logprob").null_count == 2


def _foreign(path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), path)


def _newer(path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({"apportion.pools": "9"}), path)


def _lacking(path: Path) -> None:
    write_pools(path, POOLS[:1])
    pq.write_table(pq.read_table(path).drop_columns(["samples"]), path)


def _no_json(path: Path) -> None:
    write_pools(path, POOLS[:1])
    table = pq.read_table(path)
    at = table.schema.get_field_index("messages")
    pq.write_table(table.set_column(at, table.schema.field(at), [["no"]]), path)


def _torn(path: Path) -> None:
    write_pools(path, POOLS[:1])
    path.write_bytes(path.read_bytes()[:-20])


def _a_number(path: Path) -> None:
    path.write_bytes(b"1\n")


@pytest.mark.parametrize(
    ("name", "write", "complaint"),
    [
        ("x.parquet", _foreign, "not one of pools"),
        ("x.parquet", _newer, "pool version 9, this program reads 2"),
        ("x.parquet", _lacking, "its columns are not those of pools"),
        ("x.parquet", _no_json, "is not JSON"),
        ("x.parquet", _torn, "not a Parquet file that can be read"),
        ("x.jsonl.gz", _torn, "not a whole gzip file"),
        ("x.jsonl.gz", _a_number, "not a whole gzip file"),
        ("x.jsonl", _a_number, "line 1: not a pool"),
    ],
)
def test_what_is_no_pools_file_is_named(name: str, write: object, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / name
    assert callable(write)
    write(path)
    with pytest.raises(ValueError, match=complaint) as raised:
        read_pools(path)
    assert name in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_name_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.parquet, \.jsonl\.gz or \.jsonl"):
        write_pools(tmp_path / "pools.csv", POOLS)


def test_without_pyarrow_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match=r"install apportion\[calibrate\]"):
        write_pools(tmp_path / "pools.parquet", POOLS)
