"""What every log is read into: one generation for one question."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from router.pools import Pool
from router.questions import Question
from strategies.confidence import confidences
from strategies.types import Candidate, Json, LogprobSummary

_CHARACTERS = 4  # of a token, in English prose; where a log counts none


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How logs are to be read."""

    max_tokens: int  # of questions whose log names no limit
    model: str | None = None  # whose samples are wanted; the name of one that a log does not name
    score: str | None = None  # which of a log's scores says what is right; None: its first
    questions: Path | None = None  # the batch input that belongs to a batch output


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    question: Question
    candidate: Candidate
    correct: float | None  # by the log, 0 to 1
    model: str
    temperature: float
    recorded: str  # ISO date
    guessed: bool = False  # its tokens are


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    why: str


Found = Drawn | Skipped


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    pools: tuple[Pool, ...]
    notes: tuple[str, ...]  # what whoever trains on them should know, a sentence each


def candidate_of(
    text: str,
    *,
    tokens: int | None,
    finish_reason: str = "stop",
    tool_calls: Sequence[Json] = (),
    content: object = None,
) -> tuple[Candidate, bool]:
    """A candidate, and whether its tokens had to be guessed. content: OpenAI's logprobs.content entries."""
    entries = objects(content)
    known = tokens if tokens is not None else len(entries) or None
    candidate = Candidate(
        index=0,
        text=text,
        tokens=known if known is not None else math.ceil(len(text) / _CHARACTERS),
        finish_reason=finish_reason,
        tool_calls=tuple(tool_calls),
        logprobs=_summary(entries) if entries else None,
    )
    return candidate, known is None


def _summary(entries: Sequence[Json]) -> LogprobSummary:
    sure = confidences(entries)
    return LogprobSummary(
        tokens=len(entries),
        total=sum(float(entry["logprob"]) for entry in entries),
        certainty=sum(sure),
        certain_tokens=len(sure),
    )


def listed(value: object) -> list[Any]:
    """A JSON list; anything else is an empty one."""
    return cast("list[Any]", value) if isinstance(value, list) else []


def objects(value: object) -> list[Json]:
    """The JSON objects in a list; anything else is none."""
    return [cast("Json", item) for item in listed(value) if isinstance(item, Mapping)]


def mapping(value: object) -> Json:
    """A JSON object; anything else is an empty one."""
    return cast("Json", value) if isinstance(value, Mapping) else {}


def text_of(content: object) -> str:
    """A message's content, its parts of text joined."""
    if isinstance(content, str):
        return content
    return "\n".join(str(part["text"]) for part in objects(content) if isinstance(part.get("text"), str))


def right(value: object) -> float | None:
    """A score as a share of rightness. None if it is none: not a number or word for it, or not between 0 and 1."""
    if isinstance(value, str):
        words = {"c": 1.0, "p": 0.5, "i": 0.0, "n": 0.0, "yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
        return words.get(value.casefold())
    if isinstance(value, bool | int | float) and 0 <= value <= 1:
        return float(value)
    return None


def number(value: object, default: float) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else default


def limit(*values: object, default: int) -> int:
    """The first that is a limit of tokens."""
    return next((v for v in values if isinstance(v, int) and not isinstance(v, bool) and v > 0), default)
