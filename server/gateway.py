"""What one running gateway consists of, and how it starts and stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

from router.allocator import Allocator
from router.boosted import Boosted
from router.coverage import Coverage
from router.menu import lacking
from router.predictors import Predictor, Prior
from server.access.middleware import Gate
from server.backends.calls import CallStats
from server.backends.launch import Launched
from server.backends.openai import EngineSettings, OpenAIEngine
from server.backends.own import own_engine
from server.backends.profile import EngineProfile
from server.config import Config
from server.errors import Overloaded
from server.maths.client import MathsEquivalence, available
from server.pipeline import Pipeline
from server.scorers.build import build
from server.store.recorder import Recorder
from server.telemetry.metrics import Metrics
from strategies.spec import StrategySpec
from strategies.types import EngineError

logger = logging.getLogger("apportion")
_PROBE_AGAIN = 2.0  # seconds between two questions to an engine that does not answer yet


def load_predictor(config: Config) -> Predictor:
    """The trained model, or the prior. Raises ModelError when a model is demanded, or there but unusable."""
    prior = Prior(step_tokens=config.strategies.beam_step_tokens)
    directory = config.allocator.models_dir
    if config.allocator.predictor == "prior" or directory is None:
        return prior
    if config.allocator.predictor == "auto" and not Path(directory).is_dir():
        logger.warning("no models in %s: the prior decides", directory)
        return prior
    model = Boosted.load(Path(directory))
    if model.calibration.level != config.budgets.quantile:
        logger.warning(
            "budgets.quantile is %g, but the upper bounds in %s were trained for %g, which they keep",
            config.budgets.quantile,
            directory,
            model.calibration.level,
        )
    return model


def engine_settings(config: Config, url: str) -> EngineSettings:
    engine = config.engine
    return EngineSettings(
        url=url,
        api_key=engine.api_key.get_secret_value() if engine.api_key else None,
        max_n=engine.max_n,
        model=engine.model,
        capabilities=engine.capabilities.model_dump(exclude_none=True),
        probe_calls=engine.probe_calls,
        probe_timeout=engine.probe_timeout_seconds,
        connect_timeout=engine.connect_timeout_seconds,
        first_token_timeout=engine.first_token_timeout_seconds,
        idle_timeout=engine.idle_timeout_seconds,
        max_connections=engine.max_connections,
        retries=engine.retries,
    )


def start_maths(config: Config) -> MathsEquivalence | None:
    """The algebra for answers, warming up beside everything else, if it is wanted and installed."""
    if config.answers.maths == "never" or not available():
        return None
    equivalence = MathsEquivalence(seconds=config.answers.maths_timeout_ms / 1000)
    equivalence.start()
    return equivalence


def start_store(config: Config, metrics: Metrics) -> Recorder | None:
    """What keeps outcomes, if they are to be kept. Raises Unusable."""
    recorder = Recorder.start(
        config.store, sampling_temperature=config.strategies.sampling_temperature, counted=metrics.stored
    )
    if recorder is not None:
        metrics.store_waiting.set_function(lambda: float(recorder.writer.waiting))
        metrics.store_down.set_function(lambda: float(recorder.writer.down is not None))
    return recorder


@dataclass(slots=True)
class Gateway:
    """One engine, one allocator, and the requests in flight."""

    config: Config
    engine: OpenAIEngine
    pipeline: Pipeline
    metrics: Metrics
    gate: Gate
    launched: Launched | None = None  # the vLLM that belongs to it
    recorder: Recorder | None = None  # None: outcomes are not kept
    ready: bool = False
    in_flight: int = 0

    @property
    def default_model(self) -> str:
        return self.config.engine.model or next(iter(self.engine.profile.models), "default")

    @property
    def off_the_menu(self) -> Mapping[StrategySpec, str]:
        """The configured strategies that the engine can't do, whatever the query, and why."""
        config, abilities = self.config, self.engine.abilities
        specs = dict.fromkeys([*config.menu, *(s for profile in config.profiles.values() for s in profile.menu or ())])
        return {spec: why for spec in specs if (why := lacking(spec, abilities))}

    @contextlib.contextmanager
    def admit(self) -> Generator[None]:
        """A place among the requests in flight. Raises Overloaded when all are taken: no queue, no waiting."""
        if self.in_flight >= self.config.server.max_in_flight:
            raise Overloaded
        self.in_flight += 1
        self.metrics.in_flight.set(self.in_flight)
        try:
            yield
        finally:
            self.in_flight -= 1
            self.metrics.in_flight.set(self.in_flight)

    async def probe(self) -> None:
        """Find out what the engine can do as soon as it answers, and again whenever it was away.

        What keeps it from answering is logged when it changes; what it can do, when that does.
        """
        known: EngineProfile | None = None
        told = ""
        while True:
            try:
                profile = await self.engine.probe()
            except EngineError as error:
                if told != (told := str(error)):
                    logger.warning("%s; asking again every %g s", error, _PROBE_AGAIN)
                await asyncio.sleep(_PROBE_AGAIN)
                continue
            told = ""
            self.metrics.know_models(profile.models)
            self.ready = True
            if profile is not known:
                off = "; ".join(f"{spec} ({why})" for spec, why in self.off_the_menu.items())
                logger.info("engine %s%s", profile, f"; off the menu: {off}" if off else "")
                known = profile
            await self.engine.lost.wait()
            await asyncio.sleep(_PROBE_AGAIN)  # one that comes and goes is not asked more often


@contextlib.asynccontextmanager
async def running(config: Config, *, progress: Callable[[str], None] = logger.info) -> AsyncGenerator[Gateway, None]:
    """A started gateway. Raises ModelError, EmbeddedEngineError, LaunchError, LimitsUnavailable, Unusable."""
    predictor = load_predictor(config)
    async with own_engine(config.engine, progress) as (url, launched), _running(config, predictor, url) as gateway:
        gateway.launched = launched
        yield gateway


@contextlib.asynccontextmanager
async def _running(config: Config, predictor: Predictor, url: str) -> AsyncGenerator[Gateway, None]:
    metrics = Metrics(models=(), menu=config.menu)
    gate = Gate.of(config.keys, config.access, refused=metrics.no_access)
    recorder = start_store(config, metrics)

    def observe(call: CallStats) -> None:
        metrics.call(call)
        pipeline.observe(call)
        if recorder is not None:
            recorder.observe(call)

    engine = OpenAIEngine(engine_settings(config, url), observe=observe)
    metrics.engine_running.set_function(lambda: float(engine.running))
    metrics.engine_others.set_function(lambda: float(engine.load.others))
    allocator = Allocator(
        predictor=predictor,
        fallback=Prior(step_tokens=config.strategies.beam_step_tokens),
        max_candidates=config.budgets.max_candidates,
        default_max_tokens=config.budgets.max_tokens_per_candidate,
        abilities=lambda: engine.abilities,
        give_up_below=config.allocator.give_up_below,
    )
    scorers = build(config.scorers, engine)
    equivalence = start_maths(config)
    pipeline = Pipeline(
        config=config, engine=engine, allocator=allocator, metrics=metrics, scorers=scorers, equivalence=equivalence,
        coverage=Coverage(config.budgets.quantile), record=recorder.record if recorder else None,
    )  # fmt: skip
    gateway = Gateway(config=config, engine=engine, pipeline=pipeline, metrics=metrics, gate=gate, recorder=recorder)
    background = [asyncio.create_task(gateway.probe())]
    if config.engine.load_poll_seconds:
        background.append(asyncio.create_task(engine.load.poll(config.engine.load_poll_seconds)))
    try:
        yield gateway
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        if equivalence is not None:
            await equivalence.aclose()
        await scorers.aclose()
        await gate.quota.aclose()
        await engine.aclose()
        if recorder is not None:
            await recorder.aclose()
