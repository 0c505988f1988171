"""What a client may send to /v1/responses, and the chat it becomes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

import orjson
from pydantic import Field, ValidationError, field_validator

from server.api.controls import Options
from server.api.fields import MOST_TOOLS, wanted
from server.api.request import ChatRequest, Edge, explained, parse
from server.api.responses.fields import FIELDS, SENT_ON
from server.api.responses.items import messages
from server.api.responses.tools import tools_of
from server.errors import ApiError, InvalidRequest

LOGPROBS = "message.output_text.logprobs"
ENCRYPTED = "reasoning.encrypted_content"
_INCLUDABLE = (
    LOGPROBS,
    ENCRYPTED,
    # of built-in tools, and of inputs that are read again
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "web_search_call.action.sources",
    "web_search_call.results",
)
_NAMES = {  # of a chat's fields here
    "max_completion_tokens": "max_output_tokens",
    "messages": "input",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
    "verbosity": "text.verbosity",
}
_DEEP = 4  # levels of a response and its event around what is repeated in it
Summary = Literal["auto", "concise", "detailed"]


class Reasoning(Edge, extra="forbid"):
    effort: str | None = None
    summary: Summary | None = None
    generate_summary: Summary | None = None  # the older name of the same
    context: Literal["auto", "all_turns"] | None = None  # all of it goes to the engine
    mode: Literal["standard"] | None = None


class Text(Edge, extra="forbid"):
    format: dict[str, Any] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ResponseStreamOptions(Edge, extra="forbid"):
    include_obfuscation: bool | None = None


class ResponsesRequest(Edge, extra="allow"):
    """A request for a response: the fields that are repeated in it, and as extras what only the chat has."""

    model: str | None = None
    input: str | list[dict[str, Any]] = Field(min_length=1)
    instructions: str | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    max_tool_calls: int | None = Field(default=None, ge=1)
    metadata: dict[str, str] | None = Field(default=None, max_length=16)
    parallel_tool_calls: bool | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None
    reasoning: Reasoning | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    text: Text | None = None
    tool_choice: str | dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = Field(default=None, max_length=MOST_TOOLS)
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    top_p: float | None = Field(default=None, ge=0, le=1)
    truncation: Literal["disabled"] | None = None
    user: str | None = None
    include: list[str] | None = None
    apportion: Options | None = None

    @field_validator("input", mode="before")
    @classmethod
    def _input(cls, value: Any) -> Any:
        items = cast("list[object]", value) if isinstance(value, list) else []
        if not isinstance(value, str | list) or not all(isinstance(item, dict) for item in items):
            raise ValueError("should be a string or a list of objects")
        return cast("object", value)

    @field_validator("tool_choice", mode="before")
    @classmethod
    def _tool_choice(cls, value: Any) -> Any:
        if not isinstance(value, str | dict | None):
            raise ValueError("should be a string or an object")
        return cast("object", value)

    @property
    def obfuscated(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_obfuscation)

    @property
    def logprobs(self) -> int | None:
        """Alternatives to every token of the answer; None: no logprobs are wanted."""
        return (self.top_logprobs or 0) if LOGPROBS in (self.include or ()) else None

    @property
    def encrypted(self) -> bool:
        return ENCRYPTED in (self.include or ())

    @property
    def summary(self) -> Summary | None:
        return (self.reasoning.summary or self.reasoning.generate_summary) if self.reasoning else None

    @property
    def effort(self) -> str | None:
        return self.reasoning.effort if self.reasoning else None


_PARTS = {"apportion": Options, "reasoning": Reasoning, "stream_options": ResponseStreamOptions, "text": Text}


def read(body: object) -> ResponsesRequest:
    """Raises ApiError 400 that names the field."""
    if not isinstance(body, dict):
        raise InvalidRequest("the body must be a JSON object")
    given = cast("dict[str, Any]", body)
    try:
        request = ResponsesRequest.model_validate(
            {name: value for name, value in given.items() if wanted(name, value, FIELDS)}
        )
    except ValidationError as error:
        raise explained(error, _PARTS) from None
    for value in request.include or ():
        if value not in _INCLUDABLE:
            known = ", ".join(_INCLUDABLE)
            raise InvalidRequest(f"{value[:60]!r} can't be included: known are {known}", param="include")
    if request.top_logprobs and request.logprobs is None:
        raise InvalidRequest(f"top_logprobs is only allowed with {LOGPROBS} in include", param="top_logprobs")
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest("stream_options is only allowed when stream is true", param="stream_options")
    _check_depth(request)
    return request


def as_chat(request: ResponsesRequest) -> ChatRequest:
    """The same request as a chat. Raises ApiError 400 that names the field as it is named here."""
    tools, choice = tools_of(request.tools or (), request.tool_choice)
    chat: dict[str, Any] = {
        **(request.model_extra or {}),
        **{name: getattr(request, name) for name in SENT_ON},
        "model": request.model,
        "messages": messages(request.instructions, request.input),
        "max_completion_tokens": request.max_output_tokens,
        "reasoning_effort": request.effort,
        "response_format": _response_format(request.text.format) if request.text else None,
        "stream": request.stream,
        "tool_choice": choice,
        "tools": tools or None,
        "verbosity": request.text.verbosity if request.text else None,
        "apportion": request.apportion,
    }
    if request.logprobs is not None:
        chat |= {"logprobs": True, "top_logprobs": request.logprobs}
    try:
        return parse(chat)
    except ApiError as error:
        error.param = _NAMES.get(error.param or "", error.param)
        raise


def _response_format(given: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A chat's, in which a schema has an object of its own."""
    if given is None or given.get("type") == "text":
        return None
    if given.get("type") == "json_object":
        return {"type": "json_object"}
    if given.get("type") != "json_schema":
        raise InvalidRequest(
            f"the type {str(given.get('type'))[:40]!r} is not known: known are text, json_object and json_schema",
            param="text.format.type",
        )
    if not isinstance(given.get("name"), str):
        raise InvalidRequest("a schema needs a name", param="text.format.name")
    if not isinstance(given.get("schema"), dict):
        raise InvalidRequest("schema should be an object", param="text.format.schema")
    schema = {key: value for key, value in given.items() if key != "type" and value is not None}
    return {"type": "json_schema", "json_schema": schema}


def _check_depth(request: ResponsesRequest) -> None:
    """Refuse what could be read but not be written again when the response repeats it."""
    repeated: Any = [
        request.tools,
        request.tool_choice,
        request.prompt_cache_options,
        request.text and request.text.format,
    ]
    for _ in range(_DEEP):
        repeated = [repeated]
    try:
        orjson.dumps(repeated)
    except orjson.JSONEncodeError:
        raise InvalidRequest("the request is nested too deeply") from None
