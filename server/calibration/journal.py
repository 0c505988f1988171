"""What a recording has got so far, on disk at once: `<out>.partial`, which the next run goes on from.

Its lines are JSON: first how it is recorded, then pools, a later one of the same question in place of an earlier one,
and tokens that were spent without becoming samples.
"""

from __future__ import annotations

import fcntl
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

import orjson

from router.pools import Pool
from router.questions import Question
from server.calibration.plan import Plan


def partial_of(out: Path) -> Path:
    return out.with_name(out.name + ".partial")


def read_journal(out: Path) -> dict[str, Pool]:
    """The pools of an interrupted recording by their questions' ids, if there is one."""
    partial = partial_of(out)
    return _Content(partial.read_bytes()).pools if partial.exists() else {}


class Journal:
    """Open it with `with`. Raises ValueError when another recording writes it, or it was begun in another way."""

    def __init__(self, out: Path, questions: Sequence[Question], plan: Plan) -> None:
        self._path = partial_of(out)
        self._questions = {question.id: question for question in questions}
        self._plan = plan
        self._file: BinaryIO | None = None
        self.pools: dict[str, Pool] = {}
        self.samples = 0
        self.tokens = 0  # spent by this recording in all its runs, also on what became no sample

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("a+b")
        try:
            self._resume(self._file)
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def keep(self, pool: Pool) -> None:
        before = self.pools.get(pool.question.id)
        fresh = pool.samples[len(before.samples) if before else 0 :]
        self.samples += len(fresh)
        self.tokens += sum(sample.tokens for sample in fresh)
        self.pools[pool.question.id] = pool
        self._write(pool.to_json())

    def lose(self, tokens: int) -> None:
        self.tokens += tokens
        self._write({"lost": tokens})

    def remove(self) -> None:
        self._path.unlink()

    def _write(self, row: Mapping[str, Any]) -> None:
        assert self._file is not None  # noqa: S101 - only used inside `with`
        self._file.write(orjson.dumps(row) + b"\n")
        self._file.flush()

    def _resume(self, file: BinaryIO) -> None:
        try:  # two recordings into one file would tear each other's lines
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another calibration is writing {self._path}") from None
        file.seek(0)
        content = _Content(file.read())
        settings = _settings(self._plan)
        if content.settings is None:
            if content.whole:
                raise ValueError(f"{self._path} is not what an interrupted calibration leaves: remove it")
            file.truncate(0)
            self._write({"recording": settings})
            return
        if content.settings != settings:
            before = ", ".join(f"{name} {value}" for name, value in content.settings.items())
            raise ValueError(f"{self._path} was begun with {before}: go on with the same settings, or remove it")
        for pool in content.pools.values():
            if self._questions.get(pool.question.id, pool.question) != pool.question:
                raise ValueError(
                    f"{self._path} has another question with the id {pool.question.id!r}: "
                    "go on with the same questions, or remove it"
                )
        file.truncate(content.whole)
        self.pools = {name: pool for name, pool in content.pools.items() if name in self._questions}
        self.samples = sum(len(pool.samples) for pool in self.pools.values())
        self.tokens = content.lost + sum(sample.tokens for pool in content.pools.values() for sample in pool.samples)


class _Content:
    """The lines up to the first that is torn or broken; what follows it is asked again."""

    def __init__(self, raw: bytes) -> None:
        self.settings: Mapping[str, Any] | None = None
        self.pools: dict[str, Pool] = {}
        self.lost = 0
        self.whole = 0  # bytes that are good
        for number, line in enumerate(raw.splitlines(keepends=True)):
            try:
                row: Any = orjson.loads(line)
                if not line.endswith(b"\n") or not isinstance(row, dict):
                    break
                self._add(number, cast("dict[str, Any]", row))
            except (ValueError, TypeError):
                break
            self.whole += len(line)

    def _add(self, number: int, row: dict[str, Any]) -> None:
        if number == 0 and "recording" in row:
            self.settings = row["recording"]
        elif "lost" in row:
            self.lost += int(row["lost"])
        else:
            pool = Pool.from_json(row)
            self.pools[pool.question.id] = pool


def _settings(plan: Plan) -> dict[str, Any]:
    """What the samples of one recording must have in common. Its budget may be another the next time."""
    return {
        "model": plan.model,
        "temperature": plan.temperature,
        "samples": plan.samples,
        "runs": [str(spec) for spec in plan.runs],
    }
