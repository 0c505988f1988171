"""The settings: what there is to set, each with its default, its bounds and its description.

Every model is frozen. Reading files and variables, and speaking about errors, is `server.config`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    field_validator,
    model_validator,
)

from server.access.settings import Access, Key
from server.access.settings import conflicts as key_conflicts
from server.backends.settings import Engine
from server.maths.settings import Answers
from server.passthrough.settings import Passthrough
from server.scorers.settings import ScorerSettings
from server.scorers.settings import conflicts as scorer_conflicts
from server.section import Section, merge, split
from server.store.settings import Store
from strategies.scorers import SCORERS
from strategies.spec import StrategySpec

_EFFORT = "A profile, `auto` for the default one, or a strategy."
_PROFILE_NAME = re.compile(r"(?!(?:auto|single|v1)$)(?!.*__)[a-z][a-z0-9_-]{0,39}")


def _spec(value: Any) -> StrategySpec:
    if isinstance(value, StrategySpec):
        return value
    if not isinstance(value, str):
        raise ValueError("should be a strategy written as text, such as 'best_of_n@8'")
    return StrategySpec.parse(value)


def _distinct(menu: tuple[StrategySpec, ...]) -> tuple[StrategySpec, ...]:
    twice = sorted({str(spec) for spec in menu if menu.count(spec) > 1})
    if twice:
        raise ValueError(f"named twice: {', '.join(twice)}")
    return menu


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


Spec = Annotated[StrategySpec, PlainValidator(_spec), PlainSerializer(str)]
Marks = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
]
Menu = Annotated[tuple[Spec, ...], BeforeValidator(split), AfterValidator(_distinct), Field(min_length=1)]


class Server(Section):
    """The HTTP side."""

    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="Address to listen on; 0.0.0.0 for every interface.",
    )
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes any free one.")
    max_body_bytes: int = Field(
        default=8 * 1024 * 1024, ge=1024, le=1024**3, description="Largest request body; a larger one gets 413."
    )
    body_timeout_seconds: float = Field(
        default=10,
        gt=0,
        le=3600,
        description="Time in which a request's body has to arrive; a slower one gets 408. Its headers have as long, "
        "after which the connection is closed.",
    )
    max_in_flight: int = Field(
        default=256, ge=1, le=100_000, description="Requests served at once; more get 429 with Retry-After."
    )
    shutdown_grace_seconds: float = Field(
        default=10, ge=0, le=3600, description="Time running requests are given to end when the server is told to stop."
    )
    list_profiles: bool = Field(
        default=False,
        description="Whether `/v1/models` lists every model with each profile too, as `model:profile`, for programs "
        "in which nothing but the model can be chosen.",
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_lower)] = Field(
        default="info", description="Least severe message that is logged. Prompts and answers are never logged."
    )


class Budgets(Section):
    """What a request may spend when it does not say, and what it may ask for at most."""

    default_max_total_tokens: int = Field(
        default=8192, ge=1, description="Completion tokens over all candidates, when the request does not say."
    )
    cap_total_tokens: int = Field(default=32768, ge=1, description="Most completion tokens a request may be given.")
    default_deadline_ms: int = Field(
        default=60_000, ge=1, description="Milliseconds from arrival to the last byte, when the request does not say."
    )
    cap_deadline_ms: int = Field(
        default=600_000,
        ge=1,
        description="Longest deadline a request may be given, in milliseconds.",
    )
    max_answers: int = Field(
        default=16,
        ge=1,
        le=1024,
        description="Largest `n`, the answers a client may ask to get back.",
    )
    max_candidates: int = Field(
        default=64,
        ge=1,
        le=1024,
        description="Most sequences a strategy may draw at once; for beam search width x expansion.",
    )
    max_tokens_per_candidate: int = Field(
        default=2048, ge=1, description="Completion tokens of one candidate, when the client sets no `max_tokens`."
    )
    quantile: float = Field(
        default=0.9,
        ge=0.5,
        lt=1,
        description="Share of requests whose real cost should stay within what was predicted for them; "
        "`apportion train` fits the models' upper bounds to it.",
    )
    deadline_margin_ms: int = Field(
        default=30,
        ge=0,
        le=10_000,
        description="Milliseconds of the deadline kept for selecting and sending the answer.",
    )


class Strategies(Section):
    """How the strategies run."""

    sampling_temperature: float = Field(
        default=0.8,
        gt=0,
        le=2,
        description="Temperature when a strategy draws several candidates and the client set none.",
    )
    stop_threshold: float | None = Field(
        default=None,
        gt=0.5,
        le=1,
        description="Posterior probability at which a vote counts as settled, and the rest is not drawn, for everyone. "
        "Not set: the model decides, or else a threshold that follows the request's prices.",
    )
    borda_power: float = Field(
        default=1.0,
        ge=0,
        le=10,
        description="Power of the places in `borda`: 1 is the plain Borda count, towards 0 it becomes the majority "
        "vote, a large one the best score alone.",
    )
    beam_step_stop: Marks = Field(
        default=("\n\n",),
        max_length=8,
        description="Text that ends a step of beam search, such as a blank line or the model's own step mark, or a "
        "list of such texts; an empty list leaves only `beam_step_tokens`. A variable holds one text.",
    )
    beam_step_tokens: int = Field(
        default=32, ge=1, le=4096, description="Tokens that end a step of beam search, if the text did not."
    )
    beam_max_steps: int = Field(default=32, ge=1, le=1024, description="Steps after which beam search ends.")


class Profile(Section):
    """Prices and limits under one name, which a client can ask for."""

    token_price: float = Field(
        default=0.1, ge=0, le=1e6, description="Accuracy that 1,000 completion tokens are worth, as a share of 1."
    )
    latency_price: float = Field(
        default=0.01, ge=0, le=1e6, description="Accuracy that one second is worth, as a share of 1."
    )
    menu: Menu | None = Field(
        default=None,
        description="The strategies of `menu` this profile chooses from; all when not set.",
    )
    max_total_tokens: int | None = Field(
        default=None, ge=1, description="Instead of `budgets.default_max_total_tokens` for this profile."
    )
    deadline_ms: int | None = Field(
        default=None, ge=1, description="Instead of `budgets.default_deadline_ms` for this profile."
    )
    stop_threshold: float | None = Field(
        default=None, gt=0.5, le=1, description="Instead of `strategies.stop_threshold` for this profile."
    )
    priority: int = Field(
        default=0,
        ge=-1000,
        le=1000,
        description="Place in the queue of an engine that has priorities (vLLM's --scheduling-policy priority): lower "
        "is earlier. Not sent to others.",
    )


class Allocator(Section):
    """The models that decide."""

    models_dir: Annotated[Path, AfterValidator(Path.expanduser)] | None = Field(
        default=None,
        description="Folder of a trained allocator, relative to the working directory. Without one the prior decides.",
    )
    predictor: Literal["auto", "prior", "lightgbm"] = Field(
        default="auto",
        description="`lightgbm`: the trained models, and no start without them. `prior`: the documented prior. "
        "`auto`: the models if there are any.",
    )
    give_up_below: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Give up on a question whose chance of ever being answered rightly, as the model sees it while "
        "sampling, is under this: nothing more is drawn, and the response says so. 0: never.",
    )


class ReasoningEffort(Section):
    """What a request's `reasoning_effort` means when it names no profile and no strategy."""

    none: str = Field(default="single", description=_EFFORT)
    minimal: str = Field(default="fast", description=_EFFORT)
    low: str = Field(default="fast", description=_EFFORT)
    medium: str = Field(default="balanced", description=_EFFORT)
    high: str = Field(default="quality", description=_EFFORT)
    xhigh: str = Field(default="quality", description=_EFFORT)
    max: str = Field(default="quality", description=_EFFORT)

    def meaning(self, effort: str | None) -> str | None:
        """The profile or strategy for an effort; None for one that is the engine's own."""
        return getattr(self, effort) if effort in type(self).model_fields else None


class Metrics(Section):
    """Prometheus."""

    enabled: bool = Field(default=True, description="Serve `/metrics`.")


_MENU = tuple(
    StrategySpec.parse(text)
    for text in (
        "single",
        *(f"majority_vote@{n}" for n in (3, 5, 8, 16)),
        *(f"best_of_n@{n}" for n in (4, 8, 16)),
        *("best_of_n@8:self_certainty", "best_of_n@8:weighted", "best_of_n@16:weighted"),
        *("best_of_n@8:self_certainty:weighted", "beam_search@2x2", "beam_search@4x4"),
    )
)
_PROFILES: Mapping[str, Profile] = {
    "fast": Profile(token_price=0.5, latency_price=0.05),
    "balanced": Profile(token_price=0.1, latency_price=0.01),
    "quality": Profile(token_price=0.02, latency_price=0.002),
}


class Config(Section):
    """Everything the operator can set. Built without arguments it is the defaults: only `load_config` looks around."""

    server: Server = Field(default_factory=Server, description="The HTTP side.")
    engine: Engine = Field(default_factory=Engine, description="The inference server that does the generating.")
    budgets: Budgets = Field(
        default_factory=Budgets,
        description="What a request may spend when it does not say, and what it may ask for at most.",
    )
    menu: Menu = Field(default=_MENU, description="The strategies the allocator chooses from.")
    strategies: Strategies = Field(default_factory=Strategies, description="How the strategies run.")
    profiles: Mapping[str, Profile] = Field(
        default_factory=lambda: dict(_PROFILES),
        description="Prices and limits under a name a client can ask for. `fast`, `balanced` and `quality` are always "
        "there, and keep what is not set for them; further names start from the prices of `balanced`.",
    )
    default_profile: str = Field(default="balanced", description="The profile of a request that asks for none.")
    reasoning_effort: ReasoningEffort = Field(
        default_factory=ReasoningEffort,
        description="What a request's `reasoning_effort` means when it names no profile and no strategy.",
    )
    scorers: Mapping[str, ScorerSettings] = Field(
        default_factory=dict[str, ScorerSettings],
        description="Scorers beside the built-in ones, each under a name that strategies can use: see scorers.md.",
    )
    answers: Answers = Field(default_factory=Answers, description="When two answers count as the same.")
    keys: Mapping[str, Key] = Field(
        default_factory=dict[str, Key],
        description="API keys, each under a name of your own. Without any the API is open to everyone who "
        "reaches it: see authentication.md.",
    )
    access: Access = Field(default_factory=Access, description="What keys, limits and browsers share.")
    passthrough: Passthrough = Field(
        default_factory=Passthrough, description="What goes on to the engine as it came: see passthrough.md."
    )
    allocator: Allocator = Field(default_factory=Allocator, description="The models that decide.")
    store: Store = Field(
        default_factory=Store, description="Where outcomes are kept, to learn from: see outcomes.md. Off by default."
    )
    metrics: Metrics = Field(default_factory=Metrics, description="Prometheus.")

    @field_validator("profiles", mode="before")
    @classmethod
    def _built_in_profiles(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        known = {name: profile.model_dump(exclude_unset=True) for name, profile in _PROFILES.items()}
        return merge(known, cast(Mapping[str, Any], value))

    @property
    def scorer_names(self) -> tuple[str, ...]:
        """Every scorer there is, built in or configured."""
        return (*SCORERS, *self.scorers)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        problems = list(_conflicts(self))
        if problems:
            raise ValueError("\n".join(problems))
        return self


def _conflicts(config: Config) -> Iterator[str]:
    """Settings that are right one by one and wrong together."""
    budgets, most = config.budgets, config.budgets.max_candidates
    for path, value, cap_path, cap in (
        ("default_max_total_tokens", budgets.default_max_total_tokens, "cap_total_tokens", budgets.cap_total_tokens),
        ("default_deadline_ms", budgets.default_deadline_ms, "cap_deadline_ms", budgets.cap_deadline_ms),
        ("max_answers", budgets.max_answers, "max_candidates", most),
    ):
        if value > cap:
            yield f"budgets.{path}: {value} is more than budgets.{cap_path}, {cap}"
    if budgets.deadline_margin_ms >= budgets.default_deadline_ms:
        yield "budgets.deadline_margin_ms: leaves nothing of budgets.default_deadline_ms"
    yield from scorer_conflicts(config.scorers)
    yield from key_conflicts(config.keys, config.profiles)
    for spec in config.menu:
        if spec.scorer is not None and spec.scorer not in config.scorer_names:
            yield f"menu: {spec}: unknown scorer {spec.scorer[:40]!r}: known are {', '.join(config.scorer_names)}"
        if spec.draws > most:
            yield f"menu: {spec} draws {spec.draws} sequences at once, budgets.max_candidates is {most}"
    for name, profile in config.profiles.items():
        if not _PROFILE_NAME.fullmatch(name):  # clients write it where `auto`, `single` or `v1` can stand
            yield (
                f"profiles.{name[:60]}: not a name for a profile; accepted: a letter, then up to 39 of a-z, 0-9, - and "
                "single _; not 'auto', 'single' or 'v1'"
            )
        for spec in profile.menu or ():
            if spec not in config.menu:
                yield f"profiles.{name}.menu: {spec} is not on the menu: {', '.join(map(str, config.menu))}"
        if (profile.max_total_tokens or 0) > budgets.cap_total_tokens:
            yield f"profiles.{name}.max_total_tokens: more than budgets.cap_total_tokens, {budgets.cap_total_tokens}"
        if (profile.deadline_ms or 0) > budgets.cap_deadline_ms:
            yield f"profiles.{name}.deadline_ms: more than budgets.cap_deadline_ms, {budgets.cap_deadline_ms}"
    for effort, meaning in config.reasoning_effort:
        if meaning not in ("auto", *config.profiles):
            try:
                StrategySpec.parse(meaning)
            except ValueError as error:
                yield f"reasoning_effort.{effort}: no profile ({', '.join(config.profiles)}), and {error}"
    if config.default_profile not in config.profiles:
        yield f"default_profile: no profile {config.default_profile!r}; accepted: {', '.join(config.profiles)}"
    if config.engine.kind == "vllm" and config.engine.vllm.model is None:
        yield "engine.vllm.model: needed, because engine.kind is vllm"
    if config.allocator.predictor == "lightgbm" and config.allocator.models_dir is None:
        yield "allocator.models_dir: needed, because allocator.predictor is lightgbm"
