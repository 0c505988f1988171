"""One request from decision to outcome: allocation -> strategy -> selection -> outcome."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from router.allocator import Allocator
from router.features import Features
from router.speed import Correction, Load
from server.config import Config
from server.telemetry.metrics import Metrics
from strategies.anytime import run
from strategies.beam_search import Steps
from strategies.ledger import Ledger
from strategies.registry import strategies
from strategies.sampling import Listener, MeteredSampler
from strategies.scorers import SCORERS
from strategies.types import Allocation, Answer, Candidate, Delta, Engine, Outcome, Query, StrategySpec, Tools


@dataclass(slots=True, kw_only=True)
class Pipeline:
    """What every request shares. Holds no state of any one request."""

    config: Config
    engine: Engine
    allocator: Allocator
    metrics: Metrics
    correction: Correction = field(default_factory=Correction)

    def menu(self, profile: str) -> Sequence[StrategySpec]:
        """The strategies a profile chooses from."""
        return self.config.profiles[profile].menu or self.config.menu

    def allocate(self, query: Query, *, running: int) -> tuple[Features, Allocation]:
        """Decide. Raises BudgetInfeasible."""
        started = time.perf_counter()
        load = Load(running=running, correction=self.correction.factor)
        # what is kept for selecting and sending the answer is not there for sampling
        now = time.monotonic() + self.config.budgets.deadline_margin_ms / 1000
        features, allocation = self.allocator.explain(query, self.menu(query.profile), load, now=now)
        self.metrics.overhead.labels(allocation.decided_by).observe(time.perf_counter() - started)
        self.metrics.allocations.labels(self.metrics.strategy(allocation.spec), allocation.decided_by).inc()
        return features, allocation

    async def execute(self, query: Query, allocation: Allocation, listener: Listener | None = None) -> Outcome:
        """Run the chosen strategy within the budget. The outcome is counted whatever happens.

        Raises EngineError when the engine failed before any answer, NothingYet when the deadline came first.
        """
        budgets = self.config.budgets
        ledger = Ledger(query.budget.max_total_tokens)
        first = _FirstToken(query.arrived, listener)
        sampler = MeteredSampler(
            self.engine, ledger, default_max_tokens=budgets.max_tokens_per_candidate, listener=first
        )
        started = time.monotonic()
        answer: Answer | None = None
        error: str | None = "cancelled"
        try:
            answer = await self._run(query, allocation.spec, sampler)
            error = None
        except Exception as failure:
            error = type(failure).__name__
            raise
        finally:
            outcome = Outcome(
                query_id=query.id,
                allocation=allocation,
                answer=answer,
                completion_tokens=ledger.spent,
                returned_tokens=sum(c.tokens for c in answer.winners) if answer else 0,
                prompt_tokens=sampler.prompt_tokens,
                seconds=time.monotonic() - query.arrived,
                first_token_seconds=first.seconds,
                candidates=tuple(sampler.candidates),
                error=error,
            )
            self._learn(outcome, time.monotonic() - started)
            self.metrics.done(
                outcome,
                model=query.model,
                max_total_tokens=query.budget.max_total_tokens,
                deadline_seconds=max(query.budget.deadline - query.arrived, 1e-3),
            )
        return outcome

    async def _run(self, query: Query, spec: StrategySpec, sampler: MeteredSampler) -> Answer:
        settings = self.config.strategies
        if (spec.draws > 1 or query.answers > 1) and query.sampling.get("temperature") is None:
            query = replace(query, sampling={**query.sampling, "temperature": settings.sampling_temperature})
        steps = Steps(stop=settings.beam_step_stop, tokens=settings.beam_step_tokens, max_steps=settings.beam_max_steps)
        tools = Tools(
            sampler=sampler,
            scorer=SCORERS[spec.scorer] if spec.scorer else None,
            stop_threshold=settings.stop_threshold,
        )
        deadline = query.budget.deadline - self.config.budgets.deadline_margin_ms / 1000
        return await run(strategies(steps)[spec.method], query, spec, tools, sampler, deadline=deadline)

    def _learn(self, outcome: Outcome, seconds: float) -> None:
        """Correct the speed model by what really happened; cut and failed requests would teach it nonsense."""
        row = outcome.allocation.chosen
        if row is None or outcome.answer is None or outcome.answer.cut_short is not None or not row.tokens:
            return
        # compare at the length that came out: a wrong guess of the length is not the engine's speed
        longest = max((c.tokens for c in outcome.candidates), default=0)
        expected = max(row.tokens / row.spec.draws, 1.0)
        self.correction.observe(predicted=row.seconds * min(max(longest / expected, 0.2), 5.0), actual=seconds)


class _FirstToken:
    """Notes when the first token came, and passes everything on."""

    def __init__(self, arrived: float, listener: Listener | None) -> None:
        self._arrived = arrived
        self._listener = listener
        self.seconds: float | None = None

    async def __call__(self, event: Delta | Candidate) -> None:
        if self.seconds is None:
            self.seconds = time.monotonic() - self._arrived
        if self._listener is not None:
            await self._listener(event)
