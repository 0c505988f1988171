"""Pools as a Parquet file: one row a question, its samples, runs and calls nested in it.

What queries look at has columns and types of its own; what has no fixed shape (messages, tools, other request fields,
metadata) is JSON in a string. `docs/calibrate.md` has the columns. The version stands in the file's metadata.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import orjson

SUFFIX = ".parquet"
MISSING = "Parquet files need pyarrow: install apportion[calibrate]"
VERSION = 2
_KEY = b"apportion.pools"
_JSON = ("messages", "metadata", "tools", "sampling")  # columns of JSON text


def load() -> Any:
    """pyarrow, which carries no types. Raises ImportError with the remedy."""
    try:
        importlib.import_module("pyarrow.parquet")
        return importlib.import_module("pyarrow")
    except ImportError as error:
        raise ImportError(MISSING) from error


@lru_cache(maxsize=1)
def schema() -> Any:
    """The columns. Raises ImportError without pyarrow."""
    pa = load()
    text, real, whole = pa.string(), pa.float64(), pa.int64()

    def needed(name: str, kind: Any) -> Any:
        return pa.field(name, kind, nullable=False)

    def listed(name: str, *fields: Any) -> Any:
        return needed(name, pa.list_(needed("element", pa.struct(fields))))

    return pa.schema(
        [
            needed("id", text),
            needed("family", text),
            pa.field("group", text),
            needed("label", text),
            needed("verifier", text),
            needed("reference", text),
            needed("max_tokens", whole),
            *(needed(name, text) for name in _JSON),
            needed("model", text),
            needed("temperature", real),
            needed("recorded", text),
            listed(
                "samples",
                needed("text", text),
                pa.field("answer", text),
                needed("correct", real),
                needed("tokens", whole),
                pa.field("mean_logprob", real),
                pa.field("certainty", real),
            ),
            listed(
                "runs",
                *(needed("spec", text), needed("correct", real), needed("tokens", whole)),
                pa.field("seconds", real),
            ),
            listed(
                "calls",
                *(needed(name, whole) for name in ("prompt_tokens", "running", "added")),
                *(needed(name, real) for name in ("first_token_seconds", "seconds")),
                needed("longest", whole),
            ),
        ],
        metadata={_KEY: str(VERSION).encode()},
    )  # fmt: skip


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as `Pool.to_json` gives them. Raises ImportError without pyarrow."""
    pa = load()
    flat = [_flat(row) for row in rows]
    pa.parquet.write_table(pa.Table.from_pylist(flat, schema=schema()), path, compression="zstd")


def read(path: Path) -> list[dict[str, Any]]:
    """Rows for `Pool.from_json`. Raises ValueError for what is not such a file, ImportError without pyarrow."""
    pa = load()
    try:
        table = pa.parquet.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a Parquet file that can be read") from error
    version = cast("dict[bytes, bytes]", table.schema.metadata or {}).get(_KEY)
    if version is None:
        raise ValueError(f"{path} is a Parquet file, but not one of pools")
    if version != str(VERSION).encode():
        raise ValueError(f"{path}: pool version {version.decode(errors='replace')}, this program reads {VERSION}")
    try:
        table = table.select(schema().names).cast(schema())
    except (KeyError, pa.ArrowException) as error:
        raise ValueError(f"{path}: its columns are not those of pools: {str(error).splitlines()[0][:200]}") from error
    try:
        return [_nested(row) for row in cast("list[dict[str, Any]]", table.to_pylist())]
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{path}: one of {', '.join(_JSON)} is not JSON") from error


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    question: Mapping[str, Any] = row["question"]
    written = {name: orjson.dumps(question[name]).decode() for name in _JSON}
    return {**question, **row, **written}


def _nested(row: dict[str, Any]) -> dict[str, Any]:
    question = {name: row.pop(name) for name in ("id", "family", "group", "verifier", "reference", "max_tokens")}
    question |= {name: orjson.loads(row.pop(name)) for name in _JSON}
    del row["label"]  # follows from the verifier
    return {"version": VERSION, "question": question, **row}
