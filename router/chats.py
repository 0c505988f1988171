"""Questions from a user's own traffic: JSONL of chats or of OpenAI batch requests. docs/calibrate.md has the fields."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import orjson

from router.questions import Question, expected
from strategies.types import Json

FAMILY = "chats"
# what changes the task; temperature, seed, n and the like are the calibration's own to choose
SENT = ("response_format", "stop", "tool_choice", "parallel_tool_calls", "reasoning_effort", "chat_template_kwargs")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chats:
    """The different questions of a file, in its order."""

    questions: tuple[Question, ...]
    duplicates: int  # lines that ask what an earlier one asked


def read_chats(path: Path, *, max_tokens: int, has_verifier: bool = False) -> Chats:
    """Read a file of chats. max_tokens: for those that set none. has_verifier: the user's function judges all of them.

    Raises ValueError with the line that can't be used.
    """
    asked: dict[str, Question] = {}
    named: dict[str, str] = {}
    lines = 0
    for where, row in json_lines(path):
        lines += 1
        try:
            question = question_of(row, max_tokens=max_tokens, has_verifier=has_verifier)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        key = fingerprint(question)
        asked.setdefault(key, question)
        if named.setdefault(question.id, key) != key:
            raise ValueError(f"{where}: another question has the id {question.id!r} already")
    if not asked:
        raise ValueError(f"{path} holds no chats")
    return Chats(questions=tuple(asked.values()), duplicates=lines - len(asked))


def json_lines(path: Path) -> Generator[tuple[str, Json]]:
    """The objects of a JSONL file, each with its place. Raises ValueError for a line that is no JSON object."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                row: Any = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise ValueError(f"{where}: not JSON") from error
            if not isinstance(row, dict):
                raise ValueError(f"{where}: not a JSON object")
            yield where, cast("Json", row)


def question_of(row: Json, *, max_tokens: int, has_verifier: bool = False) -> Question:
    """One line: a chat, or a batch request, whose `body` is the chat. Raises ValueError."""
    body: Any = row.get("body", row)
    if not isinstance(body, Mapping):
        raise ValueError("body: not a JSON object")
    chat = cast("Json", body)
    if body is not row and (url := row.get("url", "/v1/chat/completions")) != "/v1/chat/completions":
        raise ValueError(f"url: {str(url)[:80]!r} is no chat completion")
    reference = row.get("reference")
    question = Question(
        id="",
        family=str(row.get("family") or FAMILY),
        messages=tuple(_messages(chat)),
        reference="" if reference is None else _text(reference),
        verifier="function" if has_verifier else "reference" if reference is not None else "agreement",
        max_tokens=_limit(chat) or max_tokens,
        tools=tuple(_objects(chat, "tools")),
        sampling={name: chat[name] for name in SENT if chat.get(name) is not None},
    )
    name = row.get("id") if body is row else row.get("custom_id")
    question = replace(
        question,
        id=str(name) if name is not None else f"chat-{fingerprint(question)[:12]}",
        group=group_of(question),
    )
    if question.verifier == "reference":
        expected(question)
    return question


def fingerprint(question: Question) -> str:
    """The same for the same request, whatever it is called."""
    asked = [question.messages, question.tools, question.sampling]
    return hashlib.sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).hexdigest()


def group_of(question: Question) -> str:
    """The same for requests that differ in digits, case or white space alone: one template, filled in again."""
    texts = (" ".join(_NUMBER.sub("0", text.casefold()).split()) for text in _texts(question.messages))
    return hashlib.sha256("\x1f".join(texts).encode()).hexdigest()[:12]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in cast("Mapping[str, Any]", value).values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in cast("Sequence[Any]", value):
            yield from _texts(inner)


def _messages(chat: Json) -> list[Json]:
    messages = _objects(chat, "messages")
    if not messages or not all(isinstance(message.get("role"), str) for message in messages):
        raise ValueError("messages: a list of at least one message, each with a role, is needed")
    if messages[-1]["role"] == "assistant":
        raise ValueError("messages: the last one is the assistant's; leave it out, or make it the reference")
    return messages


def _objects(chat: Json, name: str) -> list[Json]:
    value: Any = chat.get(name)
    if value is None:
        return []
    items = cast("list[Any]", value) if isinstance(value, list) else [None]
    if not all(isinstance(item, Mapping) for item in items):
        raise ValueError(f"{name}: not a list of JSON objects")
    return cast("list[Json]", items)


def _limit(chat: Json) -> int | None:
    value: Any = chat.get("max_completion_tokens", chat.get("max_tokens"))
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError("max_tokens: not a whole number above 0")
    return value


def _text(reference: Any) -> str:
    return reference if isinstance(reference, str) else orjson.dumps(reference).decode()
