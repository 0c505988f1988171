"""Reads how many tokens a passed-on response was worth, without keeping more of it than its end."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, cast

import orjson

_TAIL = 16 * 1024  # bytes; usage stands at the end of OpenAI's and Anthropic's objects, and in a stream's last event
_USAGE = re.compile(rb'"usage"\s*:\s*(\{)')
_DATA = re.compile(rb"^data:", re.MULTILINE)
_DEEPEST = 4  # objects inside usage
_MOST_TOKENS = 10**9  # what is more is no count


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    prompt: int
    completion: int


class Tail:
    """The end of a response, and how many events went before it."""

    def __init__(self) -> None:
        self._end = b""
        self.events = 0  # about: one that is split between two pieces may be missed

    def see(self, piece: bytes) -> None:
        self.events += len(_DATA.findall(piece))
        self._end = (self._end + piece)[-_TAIL:] if len(piece) < _TAIL else piece[-_TAIL:]

    @property
    def between_events(self) -> bool:
        """Whether a further event could follow here."""
        return self._end.endswith((b"\n\n", b"\r\n\r\n", b"\r\r"))

    def usage(self) -> Usage | None:
        """The last usage there is; None when the response tells none."""
        for match in reversed(list(_USAGE.finditer(self._end))):
            counts = _object_at(self._end, match.start(1))
            if counts is not None:
                prompt = _count(counts, "prompt_tokens", "input_tokens")
                completion = _count(counts, "completion_tokens", "output_tokens")
                if prompt is not None or completion is not None:
                    return Usage(prompt=prompt or 0, completion=completion or 0)
        return None


def _object_at(text: bytes, start: int) -> dict[str, Any] | None:
    depth = 0
    for at in range(start, len(text)):
        depth += (text[at] == 0x7B) - (text[at] == 0x7D)
        if depth > _DEEPEST:
            return None
        if depth == 0:
            try:
                return cast("dict[str, Any]", orjson.loads(text[start : at + 1]))
            except orjson.JSONDecodeError:
                return None
    return None


def _count(counts: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = counts.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_TOKENS:
            return value
    return None
