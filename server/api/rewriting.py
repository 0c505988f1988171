"""Fields of older APIs, rewritten into those that are honoured. Pure; a body with none of them is returned as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from server.api.fields import MOST_TOOLS
from server.errors import InvalidRequest
from strategies.types import Json

_GUIDED = "guided_"
_GUIDES = ("json", "regex", "choice", "grammar", "whitespace_pattern")


def rewritten(body: Json) -> Json:
    """Raises InvalidRequest for an old and a new name of one thing, and for what can't be rewritten."""
    return _messages(_functions(_guided(body)))


def by_old_names(body: object) -> bool:
    """Whether tools are asked for as functions, and so are to be answered."""
    return isinstance(body, dict) and cast("Json", body).get("functions") is not None


def _guided(body: Json) -> Json:
    """vLLM's guided_*: the names of `structured_outputs` before 0.12."""
    guides = {name: body[key] for name in _GUIDES if body.get(key := _GUIDED + name) is not None}
    if not guides:
        return body
    first = _GUIDED + next(iter(guides))
    if body.get("structured_outputs") is not None:
        raise InvalidRequest(f"{first} is the old name of structured_outputs: send one of them", param=first)
    rest = {key: value for key, value in body.items() if key.removeprefix(_GUIDED) not in guides}
    return {**rest, "structured_outputs": guides}


def _functions(body: Json) -> Json:
    """OpenAI's functions and function_call: tools and tool_choice before there were several calls at once."""
    functions, call = body.get("functions"), body.get("function_call")
    if functions is None and call is None:
        return body
    old = "functions" if functions is not None else "function_call"
    if body.get("tools") is not None or body.get("tool_choice") is not None:
        raise InvalidRequest(f"{old} is the old name of tools: send one of them", param=old)
    if functions is None:
        raise InvalidRequest("function_call is only allowed when functions are given", param="function_call")
    if not isinstance(functions, list):
        raise InvalidRequest("functions should be a list", param="functions")
    if len(given := cast("list[Any]", functions)) > MOST_TOOLS:
        raise InvalidRequest(f"functions: {len(given)} are more than {MOST_TOOLS}", param="functions")
    rest = {key: value for key, value in body.items() if key not in ("functions", "function_call")}
    tools = [{"type": "function", "function": function} for function in given]
    choice = {"type": "function", "function": cast("Any", call)} if isinstance(call, Mapping) else call
    new: dict[str, Any] = {"tools": tools, "parallel_tool_calls": False}
    return {**rest, **new, **({} if choice is None else {"tool_choice": choice})}


def _messages(body: Json) -> Json:
    """Calls and results of functions in the conversation so far."""
    given: Any = body.get("messages")
    if not isinstance(given, list):
        return body
    messages = cast("list[Any]", given)
    if not any(_is_old(message) for message in messages):
        return body
    new: list[Any] = []
    caller = 0  # the message that a result belongs to: the last call before it
    for number, message in enumerate(messages):
        if _is_old(message) and message.get("role") != "function":
            caller = number
        new.append(_message(message, f"call_{caller}") if _is_old(message) else message)
    return {**body, "messages": new}


def _is_old(message: Any) -> bool:
    if not isinstance(message, Mapping):
        return False
    fields = cast("Json", message)
    return fields.get("role") == "function" or (
        isinstance(fields.get("function_call"), Mapping) and not fields.get("tool_calls")
    )


def _message(message: Json, id: str) -> Json:
    """A call, or the result of one, as a tool's."""
    if message.get("role") == "function":
        return {**message, "role": "tool", "tool_call_id": id}
    call = {"id": id, "type": "function", "function": message["function_call"]}
    return {**{key: value for key, value in message.items() if key != "function_call"}, "tool_calls": [call]}


def answered_by_old_names(choice: dict[str, Any], part: str) -> dict[str, Any]:
    """A choice, or a chunk's, with its call as `function_call`. part: message or delta."""
    said = choice[part]
    if calls := said.get("tool_calls"):
        call = {key: value for key, value in calls[0]["function"].items() if value is not None}
        said = {**{key: value for key, value in said.items() if key != "tool_calls"}, "function_call": call}
    reason = choice["finish_reason"]
    return {**choice, part: said, "finish_reason": "function_call" if reason == "tool_calls" else reason}


def with_role(messages: Sequence[Json], role: str) -> Sequence[Json]:
    """Messages of the role `developer` under the role that the engine's template knows."""
    if not any(message.get("role") == "developer" for message in messages):
        return messages
    return [{**message, "role": role} if message.get("role") == "developer" else message for message in messages]
