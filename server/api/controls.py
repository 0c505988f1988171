"""How a request says what may be spent on it and how: the body, headers, the path, the model's suffix, the effort.

Each control is taken from the most exact place that names it: the body's `apportion` object, then a header, then the
path, then the suffix of the model, then `best_of`, then `reasoning_effort`, then the configuration.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from server.access.caller import ANYONE, Caller
from server.config import Config, Profile
from server.errors import InvalidRequest, NotPermitted
from strategies.spec import StrategySpec
from strategies.types import Budget, Prices

HEADER = "x-apportion-"
KEEP_ALIVE = 5.0  # seconds between signs of life in a stream while nothing else is sent
_SIZED = re.compile(r"[a-z_]+@[0-9]")  # begins a strategy that draws several
_LONGEST_NAME = 256  # characters of a model's name that is looked at for a suffix
# The OpenAI SDKs say how long they will wait, in seconds: the Python one its read timeout, the Node one its timeout.
_PATIENCE = ("x-stainless-read-timeout", "x-stainless-timeout")


class Options(BaseModel):
    """The `apportion` object of the body, and the headers: `deadline_ms` is `x-apportion-deadline-ms`."""

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

    def over(self, other: Options) -> Options:
        """What is set here, and what is only set in the other."""
        return other.model_copy(update={name: value for name, value in self if value is not None})


def in_headers(headers: Mapping[str, str]) -> Options:
    """The options that headers give. A header that none is of is refused: a typing error must not mean no limit."""
    given: dict[str, str | list[str]] = {}
    for header, value in headers.items():
        if header.startswith(HEADER):
            name = header.removeprefix(HEADER).replace("-", "_")
            given[name] = [part.strip() for part in value.split(",")] if name == "include" else value.strip()
    if not given:
        return Options()
    try:
        return Options.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        header = HEADER + str(first["loc"][0]).replace("_", "-")[:80]
        if first["type"] == "extra_forbidden":
            known = ", ".join(HEADER + name.replace("_", "-") for name in Options.model_fields)
            raise InvalidRequest(f"unknown header {header}: known are {known}", param=header) from None
        raise InvalidRequest(f"{header}: {first['msg']}", param=header) from None


def strategy_named(text: str, config: Config) -> StrategySpec | None:
    """None for `auto`: the gateway decides. Raises ValueError for what is no strategy, or is not allowed."""
    if text == "auto":
        return None
    spec = StrategySpec.parse(text)
    if spec.scorer is not None and spec.scorer not in config.scorer_names:
        raise ValueError(f"unknown scorer {spec.scorer[:40]!r}: known are {', '.join(config.scorer_names)}")
    if (most := config.budgets.max_candidates) < spec.draws:
        raise ValueError(f"{spec} draws {spec.draws} sequences, the operator allows {most}")
    return spec


def check_word(text: str, config: Config) -> None:
    """Raises ValueError for what is neither a profile nor a strategy."""
    if text not in config.profiles:
        try:
            strategy_named(text, config)
        except ValueError as error:
            known = ", ".join(config.profiles)
            raise ValueError(
                f"{text[:80]!r} is neither a profile ({known}) nor 'auto' nor a strategy: {error}"
            ) from None


def model_and_suffix(name: str, config: Config, models: Sequence[str]) -> tuple[str, str | None]:
    """The engine's model, and the profile or strategy after its colon. A name that the engine has is all model."""
    if name not in models and len(name) <= _LONGEST_NAME:
        for at in (at for at, char in enumerate(name) if char == ":" and at):
            suffix = name[at + 1 :]
            if suffix in config.profiles or suffix in ("auto", "single") or _SIZED.match(suffix):
                return name[:at], suffix
    return name, None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """What one place of a request names. at: the place, for errors; {} stands for what is named."""

    at: str
    profile: str | None = None
    strategy: str | None = None

    @classmethod
    def word(cls, at: str, text: str | None, config: Config) -> _Place:
        """A place with room for one word: a profile or a strategy."""
        return cls(at=at, profile=text) if text in config.profiles else cls(at=at, strategy=text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What a request says of strategy and profile outside of the options."""

    path: str | None = None  # before /v1
    suffix: str | None = None  # of the model
    best_of: int | None = None
    effort: str | None = None  # reasoning_effort


@dataclass(frozen=True, slots=True, kw_only=True)
class Controls:
    """What was settled on."""

    options: Options
    profile: str
    requested: StrategySpec | None
    budget: Budget
    prices: Prices


def settle(
    body: Options,
    headers: Mapping[str, str],
    words: Words,
    config: Config,
    *,
    caller: Caller = ANYONE,
    arrived: float,
    streamed: bool,
) -> Controls:
    """Raises InvalidRequest that names the place of what can not be, NotPermitted."""
    header = in_headers(headers)
    options = body.over(header)
    name, requested = _chosen(body, header, words, config, caller)
    profile = config.profiles[name]
    return Controls(
        options=options,
        profile=name,
        requested=requested,
        budget=_budget(options, headers, profile, config, caller, arrived, streamed=streamed),
        prices=Prices(
            token_price=profile.token_price if options.token_price is None else options.token_price,
            latency_price=profile.latency_price if options.latency_price is None else options.latency_price,
        ),
    )


def _chosen(
    body: Options, header: Options, words: Words, config: Config, caller: Caller
) -> tuple[str, StrategySpec | None]:
    """The profile, and the strategy if one is asked for: each by the most exact place that names it."""
    best_of = None if words.best_of is None else f"best_of_n@{words.best_of}" if words.best_of > 1 else "single"
    places = [
        _Place(at="apportion.{}", profile=body.profile, strategy=body.strategy),
        _Place(at=f"{HEADER}{{}}", profile=header.profile, strategy=header.strategy),
        _Place.word("path", words.path, config),
        _Place.word("model", words.suffix, config),
        _Place(at="best_of", strategy=best_of),
    ]
    if not any(place.profile or place.strategy for place in places):
        effort = _Place.word("reasoning_effort", config.reasoning_effort.meaning(words.effort), config)
        if caller.may(effort.profile):  # clients send an effort unasked: it is a wish, not a demand
            places.append(effort)
    default = caller.default_profile(config.default_profile)
    at, name = next(((p.at, p.profile) for p in places if p.profile is not None), ("", default))
    if name not in config.profiles:
        known = ", ".join(config.profiles)
        raise InvalidRequest(f"unknown profile {name[:60]!r}: known are {known}", param=at.format("profile"))
    if not caller.may(name):
        allowed = ", ".join(caller.profiles or ())
        raise NotPermitted(f"this key may not ask for {name!r}, it may for {allowed}", param=at.format("profile"))
    at, text = next(((p.at, p.strategy) for p in places if p.strategy is not None), ("", "auto"))
    try:
        return name, strategy_named(text, config)
    except ValueError as error:
        raise InvalidRequest(str(error), param=at.format("strategy")) from None


def _budget(
    options: Options,
    headers: Mapping[str, str],
    profile: Profile,
    config: Config,
    caller: Caller,
    arrived: float,
    *,
    streamed: bool,
) -> Budget:
    budgets = config.budgets
    tokens = options.max_total_tokens or profile.max_total_tokens or budgets.default_max_total_tokens
    deadline_ms = options.deadline_ms or profile.deadline_ms or budgets.default_deadline_ms
    seconds = min(deadline_ms, caller.capped_deadline(budgets.cap_deadline_ms)) / 1000
    if not streamed:  # no work after the client has hung up
        seconds = min(seconds, patience(headers))
    return Budget(
        max_total_tokens=min(tokens, caller.capped_tokens(budgets.cap_total_tokens)),
        deadline=arrived + seconds,
        strict=bool(options.strict),
    )


def keep_alive(headers: Mapping[str, str]) -> float:
    """Seconds between signs of life in a stream: in time for a client whose patience between two of them is short."""
    return min(KEEP_ALIVE, patience(headers) / 2)


def patience(headers: Mapping[str, str]) -> float:
    """Seconds that the client will wait, infinite where it does not say."""
    return min((_seconds(headers[name]) for name in _PATIENCE if name in headers), default=math.inf)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return math.inf
    return value if 0 < value < 86_400 else math.inf
