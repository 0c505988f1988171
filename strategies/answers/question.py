"""Which form of answer a request asks for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from strategies.types import Query

_OPTION = re.compile(r"(?<![\w(])\(?([A-Z])\)\*{0,2}(?=\s)|^[ \t>*-]{0,8}([A-Z])\.\*{0,2}(?=\s)", re.MULTILINE)
_CODE = re.compile(
    r"(?i)\b(?:write|implement|complete|create|code|program|fix|refactor)\b[^.?!\n]{0,60}?"
    r"\b(?:function|program|script|method|class|code|snippet|query|regex|sql|python|javascript|java|c\+\+|rust|bash)\b"
)
_EDGE = 8_000  # characters read at either end of a long question: options and instructions stand there
PATTERN = "pattern:"  # begins the form of a request with an `answer_pattern`, which follows it


def _question(messages: Sequence[Mapping[str, Any]]) -> str:
    content: Any = next((m.get("content") for m in reversed(messages) if m.get("role") == "user"), "")
    if not isinstance(content, list | tuple):
        return content if isinstance(content, str) else ""
    parts = [cast("Mapping[str, Any]", part) for part in cast("Sequence[Any]", content) if isinstance(part, Mapping)]
    return "\n".join(text for part in parts if isinstance(text := part.get("text"), str))


def read_of(messages: Sequence[Mapping[str, Any]]) -> str:
    """The part of a conversation that `expected_form` reads, without images and never long."""
    return _edges(_question(messages))


def _edges(text: str) -> str:
    """All of it would hold up every other request: seconds for megabytes."""
    return text if len(text) <= 2 * _EDGE else f"{text[:_EDGE]}\n{text[-_EDGE:]}"


def expected_form(query: Query) -> str | None:
    """The form of answer a request asks for, None if it does not say.

    "pattern:..." is the client's own `answer_pattern`; "json" by response_format or structured_outputs; "choice" by
    lettered options in the last user message: "A) ... B) ..." or "(A) ... (B) ..." anywhere, or "A. ..." and "B. ..."
    at the start of lines; "code" if that message asks to write some. Tools on offer say nothing: whether a candidate
    called one is seen from the candidate. Of a very long message the beginning and the end are read.
    """
    if query.answer_pattern is not None:
        return PATTERN + query.answer_pattern
    wanted: Any = query.sampling.get("response_format")
    if isinstance(wanted, Mapping) and cast("Any", wanted).get("type") in ("json_object", "json_schema"):
        return "json"
    structured: Any = query.sampling.get("structured_outputs")
    if isinstance(structured, Mapping) and any(
        cast("Any", structured).get(key) not in (None, False) for key in ("json", "json_object")
    ):
        return "json"
    question = read_of(query.messages)
    if _offers_letters(question):
        return "choice"
    return "code" if _CODE.search(question) else None


def _offers_letters(question: str) -> bool:
    after_a = -1
    for option in _OPTION.finditer(question):
        letter = option[1] or option[2]
        if letter == "A" and after_a < 0:
            after_a = option.end()
        elif letter == "B" and after_a >= 0:
            # "points (A) and (B)" offers nothing to choose
            return question[after_a : option.start()].strip(" ,;*") not in ("", "and", "or", "to")
    return False
