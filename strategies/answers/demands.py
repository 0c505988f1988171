"""What a request demands of every candidate's form: valid JSON, a schema, certain tools. Pure.

A candidate that breaks a demand never wins while one that keeps them all exists.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from strategies.answers.reading import whole
from strategies.answers.schema import Schema
from strategies.types import Candidate, Json, Query

_ANYTHING = Schema(True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Demands:
    """The demands of one request."""

    tools: Mapping[str, Schema] | None = None  # the arguments of each that may be called; None: nobody says
    call: bool | None = None  # whether there has to be a call; None: as the model likes
    one_call: bool = False
    json: bool = False  # the text is to be JSON
    schema: Schema | None = None  # what that JSON is to fit
    choice: Sequence[str] | None = None  # the texts there may be

    def broken(self, candidate: Candidate) -> str | None:
        """What a finished candidate breaks, in words for the client; None: nothing, as far as can be told."""
        if candidate.tool_calls:
            return self._broken_by_calls(candidate.tool_calls)
        if self.call:
            return "no tool is called"
        if self.choice is not None and candidate.text.strip() not in self.choice:
            return "the text is none of the choices"
        return self._broken_by_text(candidate.text) if self.json else None

    def _broken_by_calls(self, calls: Sequence[Json]) -> str | None:
        if self.call is False:
            return "a tool is called"
        if self.one_call and len(calls) > 1:
            return "several tools are called"
        for call in calls:
            name = _name(call)
            if name is None or (self.tools is not None and name not in self.tools):
                return "a tool is called that may not be"
            given: Any = call["function"].get("arguments") or "{}"
            arguments: Any = parsed(given) if isinstance(given, str) else given
            if not isinstance(arguments, Mapping):
                return "a tool's arguments are not a JSON object"
            if self.tools is not None and self.tools[name].fits(cast("Any", arguments)) is False:
                return "a tool's arguments break its schema"
        return None

    def _broken_by_text(self, text: str) -> str | None:
        value = parsed(text)
        if value is _NOT_JSON:
            return "the text is not JSON"
        if self.schema is None:
            return None if isinstance(value, dict) else "the text is not a JSON object"
        return "the JSON breaks the schema" if self.schema.fits(value) is False else None


_NOT_JSON = object()


def parsed(text: Any) -> Any:
    """The JSON value of a text, `_NOT_JSON` where it is none."""
    try:
        return json.loads(text, parse_float=whole, parse_constant=_refuse)
    except (ValueError, TypeError, RecursionError):
        return _NOT_JSON


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def demands_of(query: Query) -> Demands:
    """What a request says of the form, in OpenAI's fields and in vLLM's `structured_outputs`."""
    form, schema = _schema(query.sampling)
    choice: Any = _structured(query.sampling).get("choice")
    read = [_tool(tool) for tool in query.tools]
    tools = {name: schema for each in read for name, schema in each}
    told = read and all(read)  # a tool of another kind could have any name
    choice_of_tool: Any = query.sampling.get("tool_choice")
    call = {"none": False, "required": True}.get(choice_of_tool) if isinstance(choice_of_tool, str) else None
    if isinstance(choice_of_tool, Mapping) and (name := _name(cast("Json", choice_of_tool))) in tools:
        tools, call = {name: tools[name]}, True
    return Demands(
        tools=tools if told else None,
        call=call if query.tools else None,
        one_call=query.sampling.get("parallel_tool_calls") is False,
        json=form,
        schema=schema,
        choice=[str(text) for text in cast("list[Any]", choice)] if isinstance(choice, list) else None,
    )


def _schema(sampling: Json) -> tuple[bool, Schema | None]:
    """Whether the text is to be JSON, and the schema for it; JSON without one is to be an object."""
    wanted: Any = sampling.get("response_format")
    if isinstance(wanted, Mapping):
        kind, described = cast("Json", wanted).get("type"), cast("Json", wanted).get("json_schema")
        if kind == "json_object":
            return True, None
        if kind == "json_schema":
            return True, Schema(cast("Json", described).get("schema")) if isinstance(described, Mapping) else _ANYTHING
    structured = _structured(sampling)
    schema: Any = structured.get("json")
    if schema is None:
        return bool(structured.get("json_object")), None
    return True, Schema(parsed(schema) if isinstance(schema, str) else schema)


def _structured(sampling: Json) -> Json:
    structured: Any = sampling.get("structured_outputs")
    return cast("Json", structured) if isinstance(structured, Mapping) else {}


def _tool(tool: Json) -> Sequence[tuple[str, Schema]]:
    """A function's name and the schema of its arguments; nothing for what is none."""
    name = _name(tool)
    parameters = tool["function"].get("parameters") if name else None
    return [(name, _ANYTHING if parameters is None else Schema(parameters))] if name else ()


def _name(described: Json) -> str | None:
    """Of the function in a tool, a choice of one or a call."""
    function: Any = described.get("function")
    name: Any = cast("Json", function).get("name") if isinstance(function, Mapping) else None
    return name if isinstance(name, str) else None
