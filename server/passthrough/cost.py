"""What a request that is passed on may cost, as far as its body tells. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import orjson

from server.errors import InvalidRequest

_CHARACTERS_A_TOKEN = 4  # of a prompt whose length nobody has told yet
_OPEN_ENDED = 1024  # tokens expected of a choice that the client has not bounded
# The most tokens that one choice may have: OpenAI's names for it, and llama.cpp's
_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """In tokens; the prompt is an estimate."""

    model: str = ""
    prompt: int = 0
    completion: int = 0  # at most, as far as the client has bounded it

    @property
    def total(self) -> int:
        return self.prompt + self.completion


def cost(content: bytes, *, generates: bool, cap: int) -> Cost:
    """generates: whether the engine writes text for it.

    Raises InvalidRequest when more than the cap is asked for, or what is asked for can't be read: an engine might.
    """
    body = json_object(content)
    if body is None:
        if content and generates:
            raise InvalidRequest("the body must be a JSON object", code="invalid_json")
        return Cost()
    return Cost(
        model=str(body.get("model") or ""),
        prompt=len(content) // _CHARACTERS_A_TOKEN,
        completion=_most(body, cap) if generates else 0,
    )


def json_object(content: bytes) -> Mapping[str, Any] | None:
    """The fields of a body; None when it is no JSON object."""
    try:
        body: object = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    return cast("dict[str, Any]", body) if isinstance(body, dict) else None


def is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _most(body: Mapping[str, Any], cap: int) -> int:
    choices = (_number(body.get("n")) or 1) * _prompts(body.get("prompt"))
    name, most = next(((name, most) for name in _LIMITS if (most := _number(body.get(name)))), ("", 0))
    if not name:
        return min(_OPEN_ENDED * choices, cap)
    if most * choices > cap:
        over = f" for {choices} choices comes to {most * choices} tokens" if choices > 1 else f" is {most}"
        raise InvalidRequest(f"{name}{over}: the most is {cap}", param=name)
    return most * choices


def _number(value: object) -> int:
    """What an engine may take for a number above 0: pydantic, which vLLM reads with, takes 5.0 and "5" too. 0: none."""
    if is_count(value):
        return cast("int", value)
    try:
        return max(0, int(float(value))) if isinstance(value, str | float) else 0
    except (OverflowError, ValueError):
        return 0


def _prompts(prompt: object) -> int:
    """How many there are: texts, or lists of tokens; a list of tokens alone is one."""
    several = cast("list[object]", prompt) if isinstance(prompt, list) else []
    return max(1, sum(isinstance(each, str | list) for each in several))
