"""What a request that is passed on may cost, as far as its body tells. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, cast

import orjson

from server.errors import InvalidRequest
from server.passthrough.steering import refuse_steering

_CHARACTERS_A_TOKEN = 4  # of a prompt whose length nobody has told yet
_OPEN_ENDED = 1024  # tokens expected of a choice that the client has not bounded
# The most tokens that one choice may have, and the number of choices: OpenAI's names for it, and llama.cpp's. Which of
# several an engine heeds differs, so the largest counts.
_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict")
_CHOICES = ("n", "best_of", "n_cmpl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """In tokens; the prompt is an estimate."""

    model: str = ""
    prompt: int = 0
    completion: int = 0  # at most, as far as the client has bounded it
    choices: int = 1
    bounded: bool = True  # by the client; else by the engine's default, if it has one
    an_event: int = 1  # tokens in one event of a stream, as far as the client has a say in it

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
    refuse_steering(body)
    read = Cost(model=str(body.get("model") or ""), prompt=len(content) // _CHARACTERS_A_TOKEN)
    return _written(read, body, cap) if generates else read


def _written(read: Cost, body: Mapping[str, Any], cap: int) -> Cost:
    """With what is written. Raises InvalidRequest when it may be more than the cap."""
    of_each = max(1, *(_number(body.get(name)) for name in _CHOICES))
    choices = of_each * _several(body.get("prompt")) * _several(body.get("messages"))
    name, each = max(((name, _number(body.get(name))) for name in _LIMITS), key=itemgetter(1))
    if each * choices > cap:
        over = f" for {choices} choices comes to {each * choices} tokens" if choices > 1 else f" is {each}"
        raise InvalidRequest(f"{name}{over}: the most is {cap}", param=name)
    return replace(
        read,
        completion=each * choices or min(_OPEN_ENDED * choices, cap),
        choices=choices,
        bounded=each > 0 and not any(_is_below_0(body.get(name)) for name in _LIMITS),  # llama.cpp's -1: no limit
        an_event=max(1, _number(body.get("stream_interval"))),  # vLLM's
    )


def limited(content: bytes, expected: Cost, *, cap: int) -> bytes:
    """A body that bounds no choice, with a bound that keeps all of them within the cap. Raises InvalidRequest."""
    if expected.choices > cap:
        raise InvalidRequest(f"{expected.choices} choices have more tokens than allowed: the most is {cap}", param="n")
    body = json_object(content) or {}
    unbounded = {name: value for name, value in body.items() if name not in _LIMITS}
    return orjson.dumps({**unbounded, "max_tokens": cap // expected.choices})


def json_object(content: bytes) -> Mapping[str, Any] | None:
    """The fields of a body; None when it is no JSON object."""
    try:
        body: object = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    return cast("dict[str, Any]", body) if isinstance(body, dict) else None


def is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _number(value: object) -> int:
    """What an engine may take for a number above 0: pydantic, which vLLM reads with, takes 5.0 and "5" too. 0: none."""
    if is_count(value):
        return cast("int", value)
    try:
        return max(0, int(float(value))) if isinstance(value, str | float) else 0
    except (OverflowError, ValueError):
        return 0


def _is_below_0(value: object) -> bool:
    try:
        return isinstance(value, str | int | float) and float(value) < 0
    except (OverflowError, ValueError):
        return False


def _several(asked: object) -> int:
    """How many texts are asked for at once: prompts are texts or lists of tokens, where a list of tokens alone is one;
    conversations are lists of messages, where a list of messages alone is one (vLLM's /v1/chat/completions/batch)."""
    items = cast("list[object]", asked) if isinstance(asked, list) else []
    return max(1, sum(isinstance(each, str | list) for each in items))
