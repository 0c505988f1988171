"""Tools of the Responses API as a chat's: flat there, in an object `function` here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from server.errors import InvalidRequest
from strategies.types import Json

Choice = str | Json | None
_NOT_HERE = ("async", "defer_loading")
_APART = ("type", "allowed_callers", *_NOT_HERE)


def tools_of(tools: Sequence[Json], choice: Choice) -> tuple[list[Json], Choice]:
    """The functions, and which of them is to be called. Raises ApiError 400 for what is not a function.

    A choice of allowed tools leaves the others out: engines know no such choice.
    """
    functions = dict(_function(tool, f"tools[{place}]") for place, tool in enumerate(tools))
    if len(functions) < len(tools):
        raise InvalidRequest("functions need different names", param="tools")
    if choice is None or isinstance(choice, str):
        return list(functions.values()), choice
    match choice.get("type"):
        case "function":
            return list(functions.values()), {"type": "function", "function": {"name": choice.get("name")}}
        case "allowed_tools":
            allowed, mode = choice.get("tools"), choice.get("mode")
            if mode not in ("auto", "required") or not isinstance(allowed, list) or not allowed:
                raise _no_choice("allowed_tools needs a mode, 'auto' or 'required', and tools")
            named = [_named(tool, functions) for tool in cast("list[object]", allowed)]
            return [functions[name] for name in dict.fromkeys(named)], mode
        case kind:
            raise _no_choice(f"the type {str(kind)[:40]!r} is not supported: known are function and allowed_tools")


def _function(tool: Json, where: str) -> tuple[str, Json]:
    """Its name, and the chat's tool."""
    if (kind := tool.get("type")) != "function":
        raise InvalidRequest(
            f"tools of the type {str(kind)[:40]!r} are not supported: only functions are, which the client runs itself",
            param=f"{where}.type",
            code="unsupported_value",
        )
    name = tool.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidRequest("a function needs a name", param=f"{where}.name")
    for field in _NOT_HERE:
        if tool.get(field):
            raise InvalidRequest(f"{field} is not supported", param=f"{where}.{field}", code="unsupported_value")
    callers = tool.get("allowed_callers")
    if callers is not None and "direct" not in cast("list[object]", callers if isinstance(callers, list) else []):
        raise InvalidRequest(
            "functions are called directly only", param=f"{where}.allowed_callers", code="unsupported_value"
        )
    return name, {
        "type": "function",
        "function": {key: value for key, value in tool.items() if key not in _APART and value is not None},
    }


def _named(tool: object, functions: Mapping[str, Any]) -> str:
    """The function that is meant. Raises ApiError 400 when there is none."""
    name = cast("Json", tool).get("name") if isinstance(tool, Mapping) else None
    if not isinstance(name, str) or name not in functions:
        raise InvalidRequest(f"{str(name)[:60]!r} is none of the functions in tools", param="tool_choice.tools")
    return name


def _no_choice(why: str) -> InvalidRequest:
    return InvalidRequest(why, param="tool_choice", code="unsupported_value")
