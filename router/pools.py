"""Pools: recorded outcomes of many samples a question, from which every smaller strategy's outcome follows.

One pool of N samples gives best-of-k and majority-of-k for every k <= N by resampling without replacement, so that
recording costs N samples a question and not the sum over the menu. Strategies that can't be derived (beam search) are
recorded as runs.

Files are .jsonl.gz, .jsonl (a line a question) or .parquet (`router/parquet.py`); `read_pools` tells by the name.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import orjson

from router import parquet
from router.questions import Label, Question
from strategies.spec import StrategySpec

POOL_VERSION = 2
_READABLE = (1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One recorded generation."""

    text: str
    answer: str | None  # canonical, as the vote saw it; None: it cast no vote
    correct: float  # 0 to 1; by whom, the pool's label says
    tokens: int
    mean_logprob: float | None  # None: the engine sent none, or the log it was read from holds none
    certainty: float | None  # self-certainty over the top 5 logprobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One recorded run of a whole strategy.

    timed: whether the engine had nothing else to do. The seconds of a run that is not timed are worked out from those
    of the same strategy on the same question that are, by their tokens; files have null there.
    """

    spec: str
    correct: float
    tokens: int
    seconds: float
    timed: bool = True

    def to_json(self) -> dict[str, Any]:
        seconds = self.seconds if self.timed else None
        return {"spec": self.spec, "correct": self.correct, "tokens": self.tokens, "seconds": seconds}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One engine call, for the speed model. Sequences, tokens and seconds."""

    prompt_tokens: int
    running: int  # sequences already in work
    added: int  # sequences of this call
    first_token_seconds: float
    seconds: float
    longest: int  # tokens of its longest sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """One question with its outcomes."""

    question: Question
    model: str
    temperature: float
    recorded: str  # ISO date
    samples: tuple[Sample, ...]
    runs: tuple[Run, ...] = ()
    calls: tuple[Call, ...] = ()

    @property
    def label(self) -> Label:
        """Where correctness comes from: a verifier, a reference, feedback, or the samples' own agreement."""
        return self.question.label

    def runs_of(self, spec: StrategySpec) -> list[Run]:
        return [run for run in self.runs if run.spec == str(spec)]

    def to_json(self) -> dict[str, Any]:
        return {
            "version": POOL_VERSION,
            "question": self.question.to_json(),
            "model": self.model,
            "temperature": self.temperature,
            "recorded": self.recorded,
            "label": self.label,
            "samples": [asdict(sample) for sample in self.samples],
            "runs": [run.to_json() for run in self.runs],
            "calls": [asdict(call) for call in self.calls],
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Pool:
        """Raises ValueError for another version or a row that is not a pool."""
        if row.get("version") not in _READABLE:
            known = " and ".join(map(str, _READABLE))
            raise ValueError(f"pool version {row.get('version')!r}, this program reads {known}")
        try:
            return cls(
                question=Question.from_json(row["question"]),
                model=row["model"],
                temperature=row["temperature"],
                recorded=row["recorded"],
                samples=tuple(Sample(**sample) for sample in row["samples"]),
                runs=tuple(_runs(row["runs"])),
                calls=tuple(Call(**call) for call in row["calls"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a pool: {error}") from error


def _runs(rows: Sequence[Mapping[str, Any]]) -> Iterator[Run]:
    """With the seconds of those that are not timed. Raises ValueError where none is."""
    for row in rows:
        if row["seconds"] is not None:
            yield Run(**row)
            continue
        timed = [each for each in rows if each["spec"] == row["spec"] and each["seconds"] is not None]
        tokens = sum(each["tokens"] for each in timed)
        if not tokens:
            raise ValueError(f"no run of {row['spec']} has its seconds")
        yield Run(**{**row, "seconds": row["tokens"] * sum(each["seconds"] for each in timed) / tokens}, timed=False)


def read_pools(path: Path) -> list[Pool]:
    """Read a pools file. Raises ValueError with what is wrong, and in which line, ImportError without pyarrow."""
    if path.suffix == parquet.SUFFIX:
        return [_pool(row, f"{path}, row {number}") for number, row in enumerate(parquet.read(path), start=1)]
    return [_pool(line, f"{path}, line {number}") for number, line in enumerate(_lines(path), start=1)]


def _pool(raw: bytes | Mapping[str, Any], where: str) -> Pool:
    try:
        row: Any = orjson.loads(raw) if isinstance(raw, bytes) else raw
        if not isinstance(row, Mapping):
            raise ValueError("not a pool")
        return Pool.from_json(cast("Mapping[str, Any]", row))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def write_pools(path: Path, pools: Iterable[Pool]) -> None:
    """The same pools give the same bytes. Replaces the file only when all is written.

    Raises ValueError for a name of another kind, ImportError for .parquet without pyarrow.
    """
    check_name(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".writing")
    if path.suffix == parquet.SUFFIX:
        parquet.write(partial, [pool.to_json() for pool in pools])
    else:
        data = b"".join(orjson.dumps(pool.to_json()) + b"\n" for pool in pools)
        partial.write_bytes(gzip.compress(data, compresslevel=9, mtime=0) if path.suffix == ".gz" else data)
    partial.replace(path)


def check_name(path: Path) -> None:
    """Before hours are spent on what can't be written. Raises ValueError, ImportError."""
    if path.suffix == parquet.SUFFIX:
        parquet.load()
    elif not path.name.endswith((".jsonl.gz", ".jsonl")):
        raise ValueError(f"{path}: pools are written to .parquet, .jsonl.gz or .jsonl")


def _lines(path: Path) -> Iterator[bytes]:
    raw = path.read_bytes()
    if path.suffix == ".gz":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is not a whole gzip file") from error
    return (line for line in raw.splitlines() if line.strip())
