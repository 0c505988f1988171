"""The client's own regular expression, at a bounded price.

RE2 instead of Python's `re`: a pattern comes from outside, and `re` can backtrack for ever on one. RE2 has no
backtracking, so one search is linear in the text times the compiled pattern, and both are bounded here. Many matches
can still be quadratic, so they share a time: a text that uses it up abstains. In all tens of milliseconds at worst.
"""

from __future__ import annotations

import time
from functools import lru_cache
from importlib import import_module
from typing import Any

_re2: Any = import_module("re2")  # it carries no types

LONGEST = 200  # characters of a pattern
SEARCHED = 8192  # characters of a text, from its end: that is where answers stand
_INSTRUCTIONS = 500  # of a compiled pattern
_MEMORY = 1 << 18  # bytes a search may use before RE2 falls back to a slower way
_SECONDS = 0.01  # for all matches but the last begun


@lru_cache(maxsize=256)
def compiled(pattern: str) -> Any:
    """Raises ValueError that says what is wrong with the pattern."""
    if not pattern:
        raise ValueError("is empty")
    if len(pattern) > LONGEST:
        raise ValueError(f"has {len(pattern)} characters, the most is {LONGEST}")
    options: Any = _re2.Options()
    options.log_errors = False
    options.max_mem = _MEMORY
    try:
        made: Any = _re2.compile(pattern.encode(), options)
    except _re2.error as error:
        reason: Any = error.args[0]
        said = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise ValueError(f"is no regular expression of RE2's syntax: {said}") from None
    except UnicodeEncodeError:
        raise ValueError("is no valid Unicode") from None
    if made.programsize > _INSTRUCTIONS:
        raise ValueError(f"is too large: it needs {made.programsize} instructions, the most is {_INSTRUCTIONS}")
    return made


def find(pattern: str, text: str) -> str | None:
    """The first group of the last match that has any text in it, or the whole match if the pattern has no group."""
    expression = compiled(pattern)
    last: bytes | None = None
    until = time.perf_counter() + _SECONDS
    for match in expression.finditer(text[-SEARCHED:].encode(errors="replace")):
        if (found := match.group(1 if expression.groups else 0)) and found.strip():
            last = found
        if time.perf_counter() > until:
            return None
    return last.decode(errors="replace") if last is not None else None
