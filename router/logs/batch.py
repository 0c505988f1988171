"""OpenAI batch outputs, joined with the batch's input by `custom_id`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from router.chats import json_lines, question_of
from router.logs.drawn import Drawn, Found, Reading, Skipped, candidate_of, mapping, number, objects, text_of
from router.questions import Question
from strategies.types import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    question: Question
    temperature: float


def read(path: Path, reading: Reading) -> Iterator[Found]:
    """Every choice of every answer. Raises ValueError without the input, and for a line that is broken."""
    if reading.questions is None:
        raise ValueError(f"{path} is a batch output: name its input, which has the questions, with --questions")
    asked = _asked(reading.questions, reading)
    for where, row in json_lines(path):
        question = asked.get(str(row.get("custom_id")))
        response = mapping(row.get("response"))
        if question is None:
            yield Skipped(why=f"the question is not in {reading.questions.name}")
        elif row.get("error") or response.get("status_code", 200) != 200:
            yield Skipped(why="the request failed")
        else:
            try:
                yield from _choices(question, mapping(response.get("body")))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{where}: not a chat completion") from error


def _asked(path: Path, reading: Reading) -> Mapping[str, _Asked]:
    asked: dict[str, _Asked] = {}
    for where, row in json_lines(path):
        try:
            question = question_of(row, max_tokens=reading.max_tokens)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        temperature = number(mapping(row.get("body", row)).get("temperature"), 1.0)
        asked[question.id] = _Asked(question=question, temperature=temperature)
    return asked


def _choices(asked: _Asked, body: Json) -> Iterator[Found]:
    choices = objects(body.get("choices"))
    if not choices:
        raise ValueError("no choices")
    spent = mapping(body.get("usage")).get("completion_tokens")
    for choice in choices:
        message = mapping(choice["message"])
        candidate, guessed = candidate_of(
            text_of(message.get("content")),
            # of several choices the usage is the sum
            tokens=spent if isinstance(spent, int) and len(choices) == 1 else None,
            finish_reason=str(choice.get("finish_reason") or "stop"),
            tool_calls=objects(message.get("tool_calls")),
            content=mapping(choice.get("logprobs")).get("content"),
        )
        yield Drawn(
            question=asked.question,
            candidate=candidate,
            correct=None,
            model=str(body.get("model") or "unknown"),
            temperature=asked.temperature,
            recorded=datetime.fromtimestamp(number(body.get("created"), 0.0), UTC).date().isoformat(),
            guessed=guessed,
        )
