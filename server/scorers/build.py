"""From the configuration to the scorers of a running gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from router.scoring import ScoringCost
from server.backends.openai import EngineSettings, OpenAIEngine
from server.scorers.client import Client
from server.scorers.endpoint import Endpoint
from server.scorers.function import Function
from server.scorers.guard import Guarded
from server.scorers.judge import Judge, JudgeModel
from server.scorers.outcome_reward import OutcomeReward
from server.scorers.process_reward import ProcessReward
from server.scorers.settings import ScorerSettings
from server.scorers.timing import Timing
from server.section import base_url
from strategies.ledger import Ledger
from strategies.scorers import SCORERS
from strategies.spec import StrategySpec
from strategies.types import Engine, Scorer

# What a judge writes of what it may: it is asked to think briefly. Unlike its seconds this is not measured.
_USED_OF_VERDICT = 1 / 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorers:
    """All scorers by name. Built inside the running event loop, closed with `aclose`."""

    shared: Mapping[str, Scorer]
    judges: Mapping[str, tuple[JudgeModel, float]] = field(default_factory=dict[str, tuple[JudgeModel, float]])
    settings: Mapping[str, ScorerSettings] = field(default_factory=dict[str, ScorerSettings])
    timings: Mapping[str, Timing] = field(default_factory=dict[str, Timing])
    closing: tuple[Callable[[], Awaitable[None]], ...] = ()

    @property
    def costs(self) -> Mapping[str, ScoringCost]:
        """What a call of each configured scorer costs, by what is known now."""
        return {name: _cost(self.settings[name], timing) for name, timing in self.timings.items()}

    def bound(self, spec: StrategySpec, ledger: Ledger) -> tuple[Scorer | None, Judge | None]:
        """The scorer of one request, and the judge in it if it is one: its prompts are the request's too.

        A judge reserves from the ledger what it will need, so bind it before anything is drawn.
        """
        if spec.scorer is None:
            return None, None
        if spec.scorer not in self.judges:
            return self.shared[spec.scorer], None
        model, timeout = self.judges[spec.scorer]
        # beam search scores steps, nobody knows how many: its judge takes what is there, up to its half
        judge = model.for_request(ledger, candidates=spec.n if spec.method == "best_of_n" else 1)
        return Guarded(spec.scorer, judge, timeout=timeout), judge

    async def aclose(self) -> None:
        for close in self.closing:
            await close()


def build(settings: Mapping[str, ScorerSettings], engine: Engine) -> Scorers:
    """engine: the judge where no other is configured."""
    shared: dict[str, Scorer] = dict(SCORERS)
    timings = {name: Timing(limit=scorer.timeout_seconds) for name, scorer in settings.items()}
    judges: dict[str, tuple[JudgeModel, float]] = {}
    closing: list[Callable[[], Awaitable[None]]] = []
    for name, scorer in settings.items():
        if scorer.kind == "judge":
            judge_engine = engine
            if scorer.url is not None:
                judge_engine = _engine(scorer)
                closing.append(judge_engine.aclose)
            judges[name] = _judge(scorer, judge_engine, timings[name]), scorer.timeout_seconds
        else:
            made, close = _made(scorer)
            closing.append(close)
            shared[name] = Guarded(name, made, timeout=scorer.timeout_seconds, timing=timings[name])
    return Scorers(shared=shared, judges=judges, settings=settings, timings=timings, closing=tuple(closing))


def _cost(scorer: ScorerSettings, timing: Timing) -> ScoringCost:
    verdict = scorer.max_tokens if scorer.kind == "judge" else 0
    return ScoringCost(
        seconds=timing.usual,
        seconds_upper=timing.upper,
        tokens=verdict * _USED_OF_VERDICT,
        tokens_upper=verdict,
        knockout=scorer.kind == "judge" and scorer.compare == "pairwise",
    )


def _made(scorer: ScorerSettings) -> tuple[Scorer, Callable[[], Awaitable[None]]]:
    if scorer.kind == "python":
        function = Function(scorer.function or "", together=scorer.together, processes=scorer.concurrency)
        return function, function.aclose
    url = scorer.url or ""
    if scorer.kind == "http":
        client = _client(scorer, url)
        return Endpoint(client, together=scorer.together), client.aclose
    if scorer.kind == "process_reward":
        client = _client(scorer, f"{base_url(url)}/pooling")
        reward = ProcessReward(client, model=scorer.model, aggregation=scorer.aggregation, step_mark=scorer.step_mark)
        return reward, client.aclose
    client = _client(scorer, f"{base_url(url)}/classify")
    return OutcomeReward(client, model=scorer.model, good_class=scorer.good_class), client.aclose


def _client(scorer: ScorerSettings, url: str) -> Client:
    return Client(url, api_key=_key(scorer), concurrency=scorer.concurrency)


def _judge(scorer: ScorerSettings, engine: Engine, timing: Timing) -> JudgeModel:
    return JudgeModel(
        engine=engine,
        model=scorer.model,
        compare=scorer.compare,
        max_tokens=scorer.max_tokens,
        places=asyncio.Semaphore(scorer.concurrency),
        timing=timing,
    )


def _engine(scorer: ScorerSettings) -> OpenAIEngine:
    return OpenAIEngine(
        EngineSettings(
            url=base_url(scorer.url or ""),
            api_key=_key(scorer),
            max_n=1,
            first_token_timeout=scorer.timeout_seconds,
            idle_timeout=scorer.timeout_seconds,
            max_connections=scorer.concurrency,
        )
    )


def _key(scorer: ScorerSettings) -> str | None:
    return scorer.api_key.get_secret_value() if scorer.api_key else None
