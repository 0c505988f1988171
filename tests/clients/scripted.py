"""What the scripted engine behind the clients' suites does: it goes by the last message of the prompt.

So a suite in any language writes its script with nothing but its prompts. What is asked for by a schema (a tool's
arguments, structured output) is made up from that schema.

| the prompt has | the engine |
|---|---|
| tools, and no tool's result yet | calls the first of them, or the one that `tool_choice` names |
| a `response_format` | answers with JSON that fits |
| `echo` | answers with the request as it came, without the messages |
| `refuse with 418` | answers with that status |
| `busy at first NAME` | answers 503 with Retry-After once for each NAME, then as usual |
| `say nothing` | never answers |
| `break off` | begins the answer and ends the connection |
| `think` | reasons before it answers |
| anything else | answers `The answer is \\boxed{7}` |
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tests.fake_engine import Act, Exchange, Json, Piece, Reply, drops, hangs, refuses, streams, vllm_error, words

MODEL = "tiny"
ANSWER = "The answer is \\boxed{7}"
_BUSY = vllm_error(503, "scripted overload", "ServiceUnavailableError")


class ByPrompt:
    """An act for every chat request. Remembers only which names it has been busy for."""

    def __init__(self) -> None:
        self._busy: set[str] = set()

    async def __call__(self, exchange: Exchange) -> None:
        await self._act(exchange.request.body)(exchange)

    def _act(self, body: Json) -> Act:
        prompt = _last_text(body["messages"])
        if found := re.search(r"refuse with (\d{3})", prompt):
            return refuses(int(found[1]))
        if (found := re.search(r"busy at first (\S+)", prompt)) and found[1] not in self._busy:
            self._busy.add(found[1])
            return refuses(503, _BUSY, headers={"retry-after": "0"})
        if "say nothing" in prompt:
            return hangs
        if "break off" in prompt:
            return streams(words(ANSWER), events=3, then=drops)
        return streams(*[_reply(body, prompt)] * int(body.get("n") or 1))


def _reply(body: Json, prompt: str) -> Reply:
    format = body.get("response_format") or {}
    tools = body.get("tools") or []
    if tools and body.get("tool_choice") != "none" and body["messages"][-1]["role"] != "tool":
        return _call(_chosen(tools, body.get("tool_choice")))
    if format.get("type") == "json_schema":
        return _json(example(format["json_schema"]["schema"]))
    if format.get("type") == "json_object":
        return _json({"answer": 7})
    if "echo" in prompt:
        return _json({name: value for name, value in body.items() if name != "messages"})
    if "think" in prompt:
        return Reply(pieces=[Piece(reasoning="Three and four"), Piece(reasoning=" make seven."), *words(ANSWER).pieces])
    return words(ANSWER)


def _json(value: Any) -> Reply:
    return words(json.dumps(value))


def _chosen(tools: Sequence[Json], choice: Any) -> Json:
    name = choice.get("function", {}).get("name") if isinstance(choice, dict) else None
    functions = [tool["function"] for tool in tools]
    return next((function for function in functions if function["name"] == name), functions[0])


def _call(function: Json) -> Reply:
    """A call in three deltas, as engines stream it: the name, and the arguments in two parts."""
    arguments = json.dumps(example(function.get("parameters") or {}))
    half = len(arguments) // 2
    head = {
        "index": 0,
        "id": "call_scripted",
        "type": "function",
        "function": {"name": function["name"], "arguments": ""},
    }
    parts = [{"index": 0, "function": {"arguments": part}} for part in (arguments[:half], arguments[half:])]
    return Reply(pieces=[Piece(tool_calls=[delta]) for delta in (head, *parts)], finish_reason="tool_calls")


def example(schema: Mapping[str, Any], root: Mapping[str, Any] | None = None) -> Any:
    """The smallest value that fits a JSON schema, as far as the clients' schemas go."""
    root = schema if root is None else root
    if "$ref" in schema:
        target: Any = root
        for step in schema["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        return example(target, root)
    for either in ("anyOf", "allOf"):
        if either in schema:
            return example(schema[either][0], root)
    if "enum" in schema:
        return schema["enum"][0]
    if "const" in schema:
        return schema["const"]
    match schema.get("type"):
        case "object":
            properties = schema.get("properties", {})
            return {name: example(properties[name], root) for name in schema.get("required", properties)}
        case "array":
            return [example(schema["items"], root)]
        case "integer" | "number":
            return 7
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return "Paris"


def _last_text(messages: Sequence[Json]) -> str:
    """Of the last user: the words, also where they come in parts."""
    content = next((message["content"] for message in reversed(messages) if message["role"] == "user"), "")
    parts = [{"text": content}] if isinstance(content, str) else content
    return " ".join(part.get("text", "") for part in parts)
