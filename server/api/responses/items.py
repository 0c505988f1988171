"""Input items of the Responses API as the messages of a chat.

A chat message of the assistant can span several items: its reasoning, its text and its calls. Each of them starts a new
message only when the one before it can't take it any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from server.api.responses.carried import unpacked
from server.errors import InvalidRequest
from strategies.types import Json

_ROLES = ("user", "assistant", "system", "developer")
_TEXT_PARTS = ("input_text", "output_text", "text")


def messages(instructions: str | None, given: str | Sequence[Json]) -> list[dict[str, Any]]:
    """The chat. Raises ApiError 400 that names the item which a chat has no place for."""
    chat: list[dict[str, Any]] = [{"role": "system", "content": instructions}] if instructions else []
    if isinstance(given, str):
        return [*chat, {"role": "user", "content": given}]
    for place, item in enumerate(given):
        _add(chat, item, f"input[{place}]")
    return chat


def _add(chat: list[dict[str, Any]], item: Json, where: str) -> None:
    kind = item.get("type") or ("message" if "role" in item else None)
    match kind:
        case "message":
            _add_message(chat, item, where)
        case "function_call":
            _plain(item, where)
            call = {
                "id": _text(item, "call_id", where),
                "type": "function",
                "function": {"name": _text(item, "name", where), "arguments": _text(item, "arguments", where)},
            }
            _turn(chat, without=()).setdefault("tool_calls", []).append(call)
        case "function_call_output":
            _plain(item, where)
            content = _content(item.get("output"), f"{where}.output")
            chat.append({"role": "tool", "tool_call_id": _text(item, "call_id", where), "content": content})
        case "reasoning":
            if said := _reasoning(item, where):  # vLLM's name for it and llama.cpp's
                turn = _turn(chat, without=("reasoning", "content", "tool_calls"))
                turn |= {"reasoning": said, "reasoning_content": said}
        case "item_reference":
            raise InvalidRequest(
                "item_reference needs stored responses, and this server stores none: send the items themselves (in "
                "clients that send references by themselves, set 'store' to false)",
                param=f"{where}.type",
                code="unsupported_value",
            )
        case _:
            raise InvalidRequest(
                f"items of the type {_shown(kind)} are not supported: known are message, function_call, "
                "function_call_output and reasoning",
                param=f"{where}.type",
                code="unsupported_value",
            )


def _add_message(chat: list[dict[str, Any]], item: Json, where: str) -> None:
    role = item.get("role")
    if role not in _ROLES:
        raise InvalidRequest(f"{_shown(role)} is no role: known are {', '.join(_ROLES)}", param=f"{where}.role")
    content = _content(item.get("content"), f"{where}.content")
    if role != "assistant":
        chat.append({"role": role, "content": content})
        return
    if not isinstance(content, str):  # the parts of one text, as `output_text` of the SDKs joins them
        if not all(part["type"] == "text" for part in content):
            raise InvalidRequest("an assistant's message has text only", param=f"{where}.content")
        content = "".join(part["text"] for part in content)
    _turn(chat, without=("content", "tool_calls"))["content"] = content


def _turn(chat: list[dict[str, Any]], *, without: Sequence[str]) -> dict[str, Any]:
    """The assistant's message at the end of the chat, or a new one where that has said such a thing already."""
    if not chat or chat[-1]["role"] != "assistant" or any(chat[-1].get(name) is not None for name in without):
        chat.append({"role": "assistant", "content": None})
    return chat[-1]


def _reasoning(item: Json, where: str) -> str:
    """What was thought: in full where it is there, else its summary; nothing where only its place is left."""
    if said := _texts(item.get("content"), f"{where}.content"):
        return said
    if (content := item.get("encrypted_content")) and (said := unpacked(content)) is None:
        raise InvalidRequest(
            "encrypted reasoning can be read only by the service that made it", param=f"{where}.encrypted_content"
        )
    return said or _texts(item.get("summary"), f"{where}.summary")


def _texts(parts: Any, where: str) -> str:
    if parts is None:
        return ""
    return "\n\n".join(_text(part, "text", f"{where}[{i}]") for i, part in enumerate(_objects(parts, where)))


def _content(value: Any, where: str) -> str | list[dict[str, Any]]:
    """A text alone stays a text, so that the engine gets the chat that a client of its own would have sent."""
    if isinstance(value, str):
        return value
    parts = [_part(part, f"{where}[{i}]") for i, part in enumerate(_objects(value, where))]
    return cast("str", parts[0]["text"]) if len(parts) == 1 and parts[0]["type"] == "text" else parts


def _part(part: Json, where: str) -> dict[str, Any]:
    kind = part.get("type")
    if kind in _TEXT_PARTS:
        return {"type": "text", "text": _text(part, "text", where)}
    if kind == "refusal":
        return {"type": "text", "text": _text(part, "refusal", where)}
    if kind == "input_image":
        _no_files(part, where)
        detail = {"detail": part["detail"]} if part.get("detail") else {}
        return {"type": "image_url", "image_url": {"url": _text(part, "image_url", where), **detail}}
    if kind == "input_audio":
        return {"type": "input_audio", "input_audio": part.get("input_audio")}
    if kind == "input_file":
        _no_files(part, where)
        name = {"filename": part["filename"]} if part.get("filename") else {}
        return {"type": "file", "file": {"file_data": _text(part, "file_data", where), **name}}
    raise InvalidRequest(
        f"content of the type {_shown(kind)} is not supported: known are input_text, input_image, input_audio, "
        "input_file, output_text and refusal",
        param=f"{where}.type",
        code="unsupported_value",
    )


def _no_files(part: Json, where: str) -> None:
    """What stands for content that this server would have to store or fetch."""
    for name in ("file_id", "file_url"):
        if part.get(name) is not None:
            raise InvalidRequest(
                f"{name} is not supported: send the content itself", param=f"{where}.{name}", code="unsupported_value"
            )


def _plain(item: Json, where: str) -> None:
    """Refuse a call in a namespace: a chat's tools have none."""
    if item.get("namespace") is not None:
        raise InvalidRequest(
            "namespaces of tools are not supported", param=f"{where}.namespace", code="unsupported_value"
        )


def _text(item: Json, name: str, where: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise InvalidRequest(f"{name} should be a string", param=f"{where}.{name}")
    return value


def _objects(value: Any, where: str) -> list[Json]:
    if not isinstance(value, list) or not all(isinstance(part, dict) for part in cast("list[object]", value)):
        raise InvalidRequest("should be a string or a list of objects", param=where)
    return cast("list[Json]", value)


def _shown(value: object) -> str:
    return repr(value)[:60]
