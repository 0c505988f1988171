"""Pools: recorded outcomes of many samples a question, from which every smaller strategy's outcome follows.

One pool of N samples gives best-of-k and majority-of-k for every k <= N by resampling without replacement, so that
recording costs N samples a question and not the sum over the menu. Strategies that can't be derived (beam search) are
recorded as runs.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import orjson

from router.questions import Question

POOL_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One recorded generation."""

    text: str
    answer: str | None  # canonical, as the vote saw it; None: it cast no vote
    correct: float  # 0 to 1, by the question's verifier
    tokens: int
    mean_logprob: float
    certainty: float  # self-certainty over the top 5 logprobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One recorded run of a whole strategy."""

    spec: str
    correct: float
    tokens: int
    seconds: float


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

    def to_json(self) -> dict[str, Any]:
        return {
            "version": POOL_VERSION,
            "question": self.question.to_json(),
            "model": self.model,
            "temperature": self.temperature,
            "recorded": self.recorded,
            "samples": [asdict(sample) for sample in self.samples],
            "runs": [asdict(run) for run in self.runs],
            "calls": [asdict(call) for call in self.calls],
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Pool:
        """Raises ValueError for another version or a row that is not a pool."""
        if row.get("version") != POOL_VERSION:
            raise ValueError(f"pool version {row.get('version')!r}, this program reads {POOL_VERSION}")
        try:
            return cls(
                question=Question.from_json(row["question"]),
                model=row["model"],
                temperature=row["temperature"],
                recorded=row["recorded"],
                samples=tuple(Sample(**sample) for sample in row["samples"]),
                runs=tuple(Run(**run) for run in row["runs"]),
                calls=tuple(Call(**call) for call in row["calls"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a pool: {error}") from error


def read_pools(path: Path) -> list[Pool]:
    """Read a pools file (.jsonl or .jsonl.gz). Raises ValueError with the line that is broken."""
    pools: list[Pool] = []
    for number, line in enumerate(_lines(path), start=1):
        try:
            pools.append(Pool.from_json(cast("dict[str, Any]", orjson.loads(line))))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    return pools


def write_pools(path: Path, pools: Iterable[Pool]) -> None:
    """Write compressed; the same pools give the same bytes. Replaces the file only when all is written."""
    data = b"".join(orjson.dumps(pool.to_json()) + b"\n" for pool in pools)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".writing")
    partial.write_bytes(gzip.compress(data, compresslevel=9, mtime=0))
    partial.replace(path)


def _lines(path: Path) -> Iterator[bytes]:
    raw = path.read_bytes()
    if path.suffix == ".gz":
        raw = gzip.decompress(raw)
    return (line for line in raw.splitlines() if line.strip())
