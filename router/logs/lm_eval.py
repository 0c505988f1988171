"""Samples of lm-evaluation-harness: `samples_<task>_<date>.jsonl`, written with --log_samples."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from router.chats import group_of, json_lines
from router.logs.drawn import (
    Drawn,
    Found,
    Reading,
    Skipped,
    candidate_of,
    limit,
    listed,
    mapping,
    number,
    objects,
    right,
)
from router.questions import Question, form_of
from strategies.types import Json

_NAME = re.compile(r"samples_(?P<task>.+?)(?:_(?P<date>\d{4}-\d{2}-\d{2})T[\d.:-]+)?")
# fields of a row that are not its scores, for logs that do not list their metrics
_KNOWN = frozenset(
    [
        *("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"),
        *("doc_hash", "prompt_hash", "target_hash"),
    ]
)


def read(path: Path, reading: Reading) -> Iterator[Found]:
    """Every generation of every document. Rows of one document differ in their filter only: its best score counts.

    A filter is a way of reading the answer out of a text; that one of them did not find it says nothing of the answer.
    """
    name = _NAME.fullmatch(path.stem)
    task = name["task"] if name else path.stem
    written = datetime.fromtimestamp(path.stat().st_mtime, UTC).date().isoformat()
    date = name["date"] if name and name["date"] else written
    documents: dict[str, list[Json]] = {}
    for _, row in json_lines(path):
        documents.setdefault(str(row.get("doc_id")), []).append(row)
    for number_of, rows in documents.items():
        yield from _document(f"{task}-{number_of}", task, date, path, rows, reading)


def _document(name: str, task: str, date: str, path: Path, rows: Sequence[Json], reading: Reading) -> Iterator[Found]:
    row = rows[0]
    texts, sampled = _texts(row)
    prompt, settings = _arguments(row.get("arguments"))
    if not sampled or prompt is None:
        yield Skipped(why="scored by likelihood, so that nothing was sampled")
        return
    question = Question(
        id=name,
        family=task,
        messages=tuple(_messages(prompt)),
        reference=_target(row.get("target")),
        verifier="reference",
        max_tokens=limit(settings.get("max_gen_toks"), settings.get("max_tokens"), default=reading.max_tokens),
    )
    question = replace(question, group=group_of(question))
    scores = [score for each in rows if (score := _score(each, reading.score)) is not None]
    if len(texts) > 1 and form_of(question) == "code":
        yield Skipped(why="several samples of code under one score")
        return
    for text in texts:
        candidate, guessed = candidate_of(text, tokens=None)
        yield Drawn(
            question=question,
            candidate=candidate,
            correct=max(scores) if scores and len(texts) == 1 else None,
            model=reading.model or path.resolve().parent.name,
            temperature=number(settings.get("temperature"), 1.0 if settings.get("do_sample") else 0.0),
            recorded=date,
            guessed=guessed,
        )


def _texts(row: Json) -> tuple[list[str], bool]:
    """The generations of a document's one request, and whether that is what they are."""
    responses = listed(row.get("resps")) or listed(row.get("filtered_resps"))
    if len(responses) != 1:
        return [], False
    texts = listed(responses[0]) or responses
    return texts, all(isinstance(text, str) for text in texts)


def _arguments(value: object) -> tuple[str | None, Json]:
    """The prompt and the settings: {"gen_args_0": {"arg_0", "arg_1"}}, or in older logs [[prompt, settings]]."""
    named = mapping(mapping(value).get("gen_args_0"))
    older = [*listed((listed(value) or [None])[0]), None, None]
    prompt: Any = named.get("arg_0", older[0])
    if chat := listed(prompt):  # as one string in a tuple
        prompt = chat[0]
    return (prompt if isinstance(prompt, str) else None), mapping(named.get("arg_1", older[1]))


def _messages(prompt: str) -> list[Json]:
    """A chat if the prompt is one as JSON, as the harness's clients of chat APIs have it; else one message."""
    if prompt.startswith("["):
        try:
            messages = objects(orjson.loads(prompt))
        except orjson.JSONDecodeError:
            messages = []
        if messages and all("role" in message for message in messages):
            return messages
    return [{"role": "user", "content": prompt}]


def _target(value: object) -> str:
    several = listed(value)
    first = several[0] if several else value
    return "" if first is None else str(first)


def _score(row: Json, wanted: str | None) -> float | None:
    names = [str(name) for name in listed(row.get("metrics"))] or sorted(set(row) - _KNOWN)
    for name in [wanted] if wanted is not None else names:
        if (score := right(row.get(name))) is not None:
            return score
    return None
