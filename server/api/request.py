"""What a client may send to /v1/chat/completions, and the query it becomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from server.access.caller import ANYONE, Caller
from server.api.controls import Options, Words, model_and_suffix, settle
from server.api.fields import MOST_TOOLS, SENT_ON, wanted
from server.api.rewriting import rewritten, with_role
from server.config import Config
from server.errors import ApiError, InvalidRequest
from server.passthrough.steering import refuse_steering
from strategies.answers.pattern import compiled
from strategies.types import Json, Query


class Edge(BaseModel):
    """What comes in."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class StreamOptions(Edge):
    model_config = ConfigDict(frozen=True, extra="forbid")

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    continuous_usage_stats: bool | None = None

    @field_validator("continuous_usage_stats")
    @classmethod
    def _at_the_end(cls, value: bool | None) -> bool | None:
        if value:
            raise ValueError("is not supported: the usage is known at the end")
        return value


class ChatRequest(Edge):
    """A chat completion request: the fields that are honoured, and as extras those that only go on to the engine."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    model: str | None = None
    messages: list[dict[str, Any]] = Field(min_length=1)
    n: int | None = Field(default=None, ge=1)
    best_of: int | None = Field(default=None, ge=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    n_predict: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    stop: str | list[str] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63 - 1024)  # the engine's 64 bits, also for candidate i
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    tools: list[dict[str, Any]] | None = Field(default=None, max_length=MOST_TOOLS)
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    continue_final_message: bool | None = None
    reasoning_effort: str | None = None
    apportion: Options | None = None

    @field_validator("stop", "tool_choice", mode="before")
    @classmethod
    def _plain(cls, value: Any, info: ValidationInfo) -> Any:
        """One sentence for what pydantic would say in one for each member of the union."""
        if info.field_name == "tool_choice":
            if not isinstance(value, str | dict | None):
                raise ValueError("should be a string or an object")
        elif value is not None and not (isinstance(value, str) or _all_text(value)):
            raise ValueError("should be a string or a list of strings")
        return cast("object", value)

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def obfuscated(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_obfuscation)


def _all_text(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(part, str) for part in cast("list[object]", value))


def parse(body: object) -> ChatRequest:
    """Raises ApiError 400 that names the field."""
    if not isinstance(body, dict):
        raise InvalidRequest("the body must be a JSON object")
    refuse_steering(cast("Json", body))
    fields = rewritten({name: value for name, value in cast("Json", body).items() if wanted(name, value)})
    try:
        request = ChatRequest.model_validate(fields)
    except ValidationError as error:
        raise explained(error, {"apportion": Options, "stream_options": StreamOptions}) from None
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest("stream_options is only allowed when stream is true", param="stream_options")
    if request.top_logprobs and not request.logprobs:
        raise InvalidRequest("top_logprobs is only allowed when logprobs is true", param="top_logprobs")
    if request.best_of is not None and request.best_of < (request.n or 1):
        raise InvalidRequest(f"best_of is {request.best_of}, but n is {request.n}", param="best_of")
    _check_choice(request)
    return request


def _check_choice(request: ChatRequest) -> None:
    """`tool_choice` against `tools`, as OpenAI does."""
    choice = request.tool_choice
    if not request.tools:
        if choice not in (None, "none", "auto"):
            raise InvalidRequest("tool_choice is only allowed when tools are given", param="tool_choice")
        return
    if isinstance(choice, str) and choice not in ("none", "auto", "required"):
        raise InvalidRequest(
            "tool_choice: known are none, auto, required, or the name of a function", param="tool_choice"
        )
    if isinstance(choice, dict) and choice.get("type") == "function":
        name: Any = choice.get("function")
        name = cast("Json", name).get("name") if isinstance(name, Mapping) else None
        offered: list[Any] = [tool.get("function") for tool in request.tools]
        if not any(isinstance(each, Mapping) and cast("Json", each).get("name") == name for each in offered):
            raise InvalidRequest("tool_choice names a function that is not among the tools", param="tool_choice")


def explained(error: ValidationError, parts: Mapping[str, type[BaseModel]]) -> ApiError:
    """The first thing that is wrong. parts: of the request, those that know all their fields."""
    first = error.errors(include_url=False, include_input=False)[0]
    param = ".".join(str(part) for part in first["loc"])[:100]
    if first["type"] == "extra_forbidden":
        where = str(first["loc"][0])
        known = ", ".join(parts[where].model_fields)
        return InvalidRequest(f"unknown field {param}: {where} knows {known}", param=param)
    return InvalidRequest(f"{param}: {first['msg'].removeprefix('Value error, ')}", param=param)


def to_query(
    request: ChatRequest,
    headers: Mapping[str, str],
    config: Config,
    *,
    id: str,
    models: Sequence[str],
    arrived: float,
    path: str | None = None,
    caller: Caller = ANYONE,
) -> tuple[Query, Options]:
    """models: the engine's, the default first; path: the word before /v1. Raises ApiError 400, 403."""
    model, suffix = model_and_suffix(request.model or next(iter(models), "default"), config, models)
    words = Words(path=path, suffix=suffix, best_of=request.best_of, effort=request.reasoning_effort)
    controls = settle(
        request.apportion or Options(),
        headers,
        words,
        config,
        caller=caller,
        arrived=arrived,
        streamed=bool(request.stream),
    )
    answers = request.n or 1
    if answers > config.budgets.max_answers:
        raise InvalidRequest(f"n is {answers}, the most is {config.budgets.max_answers}", param="n")
    query = Query(
        id=id,
        model=model,
        messages=with_role(request.messages, config.engine.developer_role),
        sampling=_sampling(request),
        budget=controls.budget,
        prices=controls.prices,
        tools=request.tools or (),
        max_tokens=request.max_completion_tokens or request.max_tokens or request.n_predict,
        answers=answers,
        logprobs=bool(request.logprobs),
        top_logprobs=request.top_logprobs or 0,
        arrived=arrived,
        requested=controls.requested,
        answer_pattern=_pattern(controls.options.answer_pattern),
        profile=controls.profile,
        priority=config.profiles[controls.profile].priority,
    )
    return query, controls.options


def _sampling(request: ChatRequest) -> dict[str, Any]:
    """What goes on to the engine: fields that it honours too, and those that only it knows."""
    sent = {name: value for name in SENT_ON if (value := getattr(request, name)) is not None}
    if not request.tools:
        sent.pop("tool_choice", None)  # says nothing without tools, and vLLM answers 400 to it
        sent.pop("parallel_tool_calls", None)
    return {**sent, **(request.model_extra or {})}


def _pattern(pattern: str | None) -> str | None:
    if pattern is not None:
        try:
            compiled(pattern)
        except ValueError as error:
            raise InvalidRequest(f"answer_pattern {error}", param="apportion.answer_pattern") from None
    return pattern
