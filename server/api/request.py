"""What a client may send to /v1/chat/completions, and the query it becomes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from server.config import Config, Profile
from server.errors import ApiError, InvalidRequest
from strategies.answers.pattern import compiled
from strategies.types import Budget, Prices, Query, StrategySpec

# Fields that the gateway answers for itself; everything else goes on to the engine as it came.
_OWN = {
    "model", "messages", "n", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n_predict",
    "logprobs", "top_logprobs", "tools", "apportion",
}  # fmt: skip
KEEP_ALIVE = 5.0  # seconds between signs of life in a stream while nothing else is sent
_READ_TIMEOUT_HEADER = "x-stainless-read-timeout"  # the OpenAI SDKs say how long they will wait, in seconds


class _Edge(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class StreamOptions(_Edge):
    include_usage: bool | None = None


class Options(_Edge):
    """The `apportion` object of the body. Every field is optional."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    strategy: str | None = None
    max_total_tokens: int | None = Field(default=None, ge=1)
    deadline_ms: int | None = Field(default=None, ge=1)
    token_price: float | None = Field(default=None, ge=0, le=1e6)
    latency_price: float | None = Field(default=None, ge=0, le=1e6)
    profile: str | None = None
    answer_pattern: str | None = None
    strict: bool | None = None
    include: list[Literal["predictions", "candidates", "features"]] | None = None
    progress: bool | None = None


class ChatRequest(_Edge):
    """A chat completion request. Unknown fields are kept and passed on."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    model: str | None = None
    messages: list[dict[str, Any]] = Field(min_length=1)
    n: int | None = Field(default=None, ge=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    n_predict: int | None = Field(default=None, ge=1)  # llama.cpp's word for it, which there goes over max_tokens
    temperature: float | None = Field(default=None, ge=0, le=2)
    stop: str | list[str] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63 - 1024)  # the engine's 64 bits, also for candidate i
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    tools: list[dict[str, Any]] | None = None
    apportion: Options | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _stop(cls, value: Any) -> Any:
        strings = cast("list[object]", value) if isinstance(value, list) else [value]
        if value is not None and not all(isinstance(string, str) for string in strings):
            raise ValueError("should be a string or a list of strings")
        return cast("object", value)

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def include(self) -> Sequence[str]:
        """Parts of the `apportion` object that are sent only when asked for."""
        return (self.apportion.include if self.apportion else None) or ()

    @property
    def progress(self) -> bool:
        """Whether a stream is to show how far a strategy of several candidates is."""
        return bool(self.apportion and self.apportion.progress)


def parse(body: object) -> ChatRequest:
    """Raises ApiError 400 that names the field."""
    if not isinstance(body, dict):
        raise InvalidRequest("the body must be a JSON object")
    try:
        request = ChatRequest.model_validate(body)
    except ValidationError as error:
        raise _explained(error) from None
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest("stream_options is only allowed when stream is true", param="stream_options")
    if request.top_logprobs and not request.logprobs:
        raise InvalidRequest("top_logprobs is only allowed when logprobs is true", param="top_logprobs")
    return request


def _explained(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_input=False)[0]
    param = ".".join(str(part) for part in first["loc"])[:100]
    if first["type"] == "extra_forbidden":
        known = ", ".join(Options.model_fields)
        return InvalidRequest(f"unknown field {param}: apportion knows {known}", param=param)
    return InvalidRequest(f"{param}: {first['msg'].removeprefix('Value error, ')}", param=param)


def to_query(
    request: ChatRequest, headers: Mapping[str, str], config: Config, *, id: str, default_model: str, arrived: float
) -> Query:
    """Body before header before model suffix before configuration. Raises ApiError 400."""
    options = request.apportion or Options()
    model, suffix = _model(request.model or default_model, config)
    name = options.profile or headers.get("x-apportion-profile") or suffix or config.default_profile
    profile = config.profiles.get(name)
    if profile is None:
        known = ", ".join(config.profiles)
        raise InvalidRequest(f"unknown profile {name[:60]!r}: known are {known}", param="apportion.profile")
    answers = request.n or 1
    if answers > config.budgets.max_answers:
        raise InvalidRequest(f"n is {answers}, the most is {config.budgets.max_answers}", param="n")
    extra = {**request.model_dump(exclude_none=True, exclude=_OWN)}
    return Query(
        id=id,
        model=model,
        messages=request.messages,
        sampling=extra,
        budget=_budget(options, headers, profile, config, arrived, streamed=bool(request.stream)),
        prices=Prices(
            token_price=profile.token_price if options.token_price is None else options.token_price,
            latency_price=profile.latency_price if options.latency_price is None else options.latency_price,
        ),
        tools=request.tools or (),
        max_tokens=request.max_completion_tokens or request.max_tokens or request.n_predict,
        answers=answers,
        logprobs=bool(request.logprobs),
        top_logprobs=request.top_logprobs or 0,
        arrived=arrived,
        requested=_strategy(options.strategy or headers.get("x-apportion-strategy"), config),
        answer_pattern=_pattern(options.answer_pattern),
        profile=name,
    )


def _model(name: str, config: Config) -> tuple[str, str | None]:
    base, _, suffix = name.rpartition(":")
    return (base, suffix) if base and suffix in config.profiles else (name, None)


def _pattern(pattern: str | None) -> str | None:
    if pattern is not None:
        try:
            compiled(pattern)
        except ValueError as error:
            raise InvalidRequest(f"answer_pattern {error}", param="apportion.answer_pattern") from None
    return pattern


def _strategy(text: str | None, config: Config) -> StrategySpec | None:
    if text is None or text == "auto":
        return None
    try:
        spec = StrategySpec.parse(text)
    except ValueError as error:
        raise InvalidRequest(str(error), param="apportion.strategy") from None
    if spec.scorer is not None and spec.scorer not in config.scorer_names:
        known = ", ".join(config.scorer_names)
        raise InvalidRequest(f"unknown scorer {spec.scorer[:40]!r}: known are {known}", param="apportion.strategy")
    if spec.draws > config.budgets.max_candidates:
        raise InvalidRequest(
            f"{spec} draws {spec.draws} sequences, the operator allows {config.budgets.max_candidates}",
            param="apportion.strategy",
        )
    return spec


def _budget(
    options: Options, headers: Mapping[str, str], profile: Profile, config: Config, arrived: float, *, streamed: bool
) -> Budget:
    budgets = config.budgets
    tokens = options.max_total_tokens or _header_int(headers, "x-apportion-max-total-tokens")
    deadline = options.deadline_ms or _header_int(headers, "x-apportion-deadline-ms")
    tokens = min(tokens or profile.max_total_tokens or budgets.default_max_total_tokens, budgets.cap_total_tokens)
    deadline = min(deadline or profile.deadline_ms or budgets.default_deadline_ms, budgets.cap_deadline_ms)
    seconds = deadline / 1000
    patience = _seconds(headers.get(_READ_TIMEOUT_HEADER))
    if patience is not None and not streamed:  # no work after the client has hung up
        seconds = min(seconds, patience)
    return Budget(max_total_tokens=tokens, deadline=arrived + seconds, strict=bool(options.strict))


def keep_alive(headers: Mapping[str, str]) -> float:
    """Seconds between signs of life in a stream: in time for a client whose patience between two of them is short."""
    return min(KEEP_ALIVE, (_seconds(headers.get(_READ_TIMEOUT_HEADER)) or math.inf) / 2)


def _header_int(headers: Mapping[str, str], name: str) -> int | None:
    text = headers.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 10 and int(text) > 0):
        raise InvalidRequest(f"{name} must be a whole number above 0", param=name)
    return int(text)


def _seconds(text: str | None) -> float | None:
    try:
        value = float(text) if text else None
    except ValueError:
        return None
    return value if value is not None and 0 < value < 86_400 else None
