"""One request from decision to outcome: allocation -> strategy -> selection -> outcome."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, inf

from router.allocator import Allocator
from router.coverage import Coverage
from router.features import Features
from router.scoring import Scoring
from router.sharing import Arrivals
from router.speed import Correction, Load
from server.access.caller import account
from server.backends.calls import CallStats
from server.config import Config
from server.scorers.build import Scorers
from server.telemetry.metrics import Metrics
from strategies.anytime import NothingYet, run
from strategies.beam_search import Steps
from strategies.ledger import MIN_USEFUL_TOKENS, Ledger
from strategies.registry import strategies
from strategies.sampling import Listener, MeteredSampler
from strategies.spec import StrategySpec
from strategies.types import (
    Allocation,
    Answer,
    Candidate,
    Delta,
    Engine,
    Equivalence,
    Outcome,
    Publish,
    Query,
    Scorer,
    Tools,
)

_PROMPT_ERROR = 1.3  # how far the estimate of a prompt's length is trusted against the engine's context
_TELLING = 4  # tokens of a call's longest sequence, from which on it tells of the time per token
_HELD = 0.2  # share of a call that may be spent waiting for its reader

Record = Callable[[Query, Features | None, Outcome], None]


@dataclass(slots=True, kw_only=True)
class Pipeline:
    """What every request shares. Holds no state of any one request."""

    config: Config
    engine: Engine
    allocator: Allocator
    metrics: Metrics
    scorers: Scorers
    equivalence: Equivalence | None = None
    coverage: Coverage
    correction: Correction = field(default_factory=Correction)
    arrivals: Arrivals = field(default_factory=Arrivals)
    record: Record | None = None  # where outcomes are kept; must not wait

    def menu(self, profile: str) -> Sequence[StrategySpec]:
        """The strategies a profile chooses from."""
        return self.config.profiles[profile].menu or self.config.menu

    def allocate(self, query: Query, *, running: int, others: int = 0) -> tuple[Features, Allocation]:
        """Decide. running, others: sequences on the engine, this gateway's and those of others.

        Raises BudgetInfeasible.
        """
        started = time.perf_counter()
        now = time.monotonic()
        load = Load(
            running=running,
            others=others,
            arrivals=self.arrivals.rate(now),
            correction=self.correction.factors,
            widths=self.coverage.widths,
        )
        self.arrivals.observe(now)
        features, allocation = self.allocator.explain(
            query,
            self.menu(query.profile),
            load,
            # what is kept for selecting and sending the answer is not there for sampling
            now=now + self.config.budgets.deadline_margin_ms / 1000,
            stop_threshold=self._stop_threshold(query),
            scoring=Scoring(costs=self.scorers.costs, step_tokens=self.config.strategies.beam_step_tokens),
        )
        self.metrics.overhead.labels(allocation.decided_by).observe(time.perf_counter() - started)
        self.metrics.allocations.labels(self.metrics.strategy(allocation.spec), allocation.decided_by).inc()
        return features, allocation

    def bounded(self, query: Query, features: Features) -> Query:
        """The query with what the client left open: the tokens of one candidate, and about how long its prompt is."""
        prompt = ceil(features.values["prompt_tokens"])
        limit = query.max_tokens
        if limit is None:
            limit = self.config.budgets.max_tokens_per_candidate
            if (context := self.engine.context) is not None:  # engines refuse what might not fit
                limit = max(MIN_USEFUL_TOKENS, min(limit, context - ceil(prompt * _PROMPT_ERROR)))
        return replace(query, max_tokens=limit, prompt_estimate=prompt)

    def observe(self, call: CallStats) -> None:
        """Correct the speed model by how long an engine call really took, cut ones included: leaving the slow ones out
        would teach it that the engine is fast."""
        if call.status == "error" or call.first_token_seconds is None:
            return
        if call.held_seconds > _HELD * call.seconds:  # a slow reader's time, not the engine's
            return
        after = call.seconds - call.held_seconds - call.first_token_seconds
        self.correction.observe(
            self.allocator.predictor.speeds([(call.prompt_tokens, call.running + call.others, call.added)])[0],
            # a text that is gone on with is in the engine's cache as a rule
            first_token=None if call.continued else call.first_token_seconds,
            per_token=after / (call.longest - 1) if call.longest >= _TELLING else None,
        )

    async def execute(
        self,
        query: Query,
        allocation: Allocation,
        listener: Listener | None = None,
        better: Publish | None = None,
        *,
        features: Features | None = None,
    ) -> Outcome:
        """Run the chosen strategy within the budget. The outcome is counted whatever happens.

        listener: told of every piece and candidate; better: of every answer that is better than the one before.
        features: of the query, to be kept with the outcome.

        Raises EngineError when the engine failed before any answer, NothingYet when the deadline came first.
        """
        budgets = self.config.budgets
        chosen = allocation.chosen
        likely = None if chosen is None else query.prompt_estimate + ceil(chosen.tokens_upper)
        await account().reserve(_most_tokens(query, allocation.spec), likely=likely)
        ledger = Ledger(query.budget.max_total_tokens)
        scorer, judge = self.scorers.bound(allocation.spec, ledger)
        first = _FirstToken(query.arrived, listener)
        sampler = MeteredSampler(
            self.engine, ledger, default_max_tokens=budgets.max_tokens_per_candidate, listener=first
        )
        answer: Answer | None = None
        error: str | None = "cancelled"
        try:
            answer = await self._run(query, allocation, sampler, scorer, better)
            error = None
        except NothingYet:
            error = "deadline"
            raise
        except Exception as failure:
            error = type(failure).__name__
            raise
        finally:
            candidates = tuple(
                replace(c, score=answer.scores.get(c.index) if answer else None) for c in sampler.candidates
            )
            returned = answer.winners if answer else ()
            kept = {candidate.index for candidate in returned}
            outcome = Outcome(
                query_id=query.id,
                allocation=allocation,
                answer=answer,
                completion_tokens=ledger.spent,
                cancelled_tokens=sum(c.tokens for c in candidates if c.finish_reason is None and c.index not in kept),
                scoring_tokens=ledger.spent - sum(c.tokens for c in candidates),
                returned_tokens=sum(c.tokens for c in returned),
                prompt_tokens=(sampler.prompt_tokens or query.prompt_estimate) + (judge.prompt_tokens if judge else 0),
                seconds=time.monotonic() - query.arrived,
                first_token_seconds=first.seconds,
                candidates=candidates,
                error=error,
            )
            account().spend(outcome.prompt_tokens + outcome.completion_tokens)
            self.metrics.done(
                outcome,
                model=query.model,
                max_total_tokens=query.budget.max_total_tokens,
                deadline_seconds=max(query.budget.deadline - query.arrived, 1e-3),
            )
            self._cover(outcome)
            if self.record is not None:
                self.record(query, features, outcome)
        return outcome

    def _cover(self, outcome: Outcome) -> None:
        """Whether the upper bounds held. Of a request that was cut at its deadline it is known that they did not, if
        they were within it; nothing is known of others that did not come to their end."""
        row = outcome.allocation.chosen
        if row is None:
            return
        cut = outcome.answer.cut_short if outcome.answer is not None else None
        if outcome.error == "deadline" or cut == "deadline":
            if row.feasible:
                self.coverage.observe(row, tokens=None, seconds=inf)
        elif outcome.error is None and cut not in ("tokens", "engine_error"):
            self.coverage.observe(row, tokens=float(outcome.completion_tokens), seconds=outcome.seconds)

    async def _run(
        self,
        query: Query,
        allocation: Allocation,
        sampler: MeteredSampler,
        scorer: Scorer | None,
        better: Publish | None,
    ) -> Answer:
        settings, spec = self.config.strategies, allocation.spec
        if (spec.draws > 1 or query.answers > 1) and query.sampling.get("temperature") is None:
            query = replace(query, sampling={**query.sampling, "temperature": settings.sampling_temperature})
        steps = Steps(stop=settings.beam_step_stop, tokens=settings.beam_step_tokens, max_steps=settings.beam_max_steps)
        tools = Tools(
            sampler=sampler,
            scorer=scorer,
            stopping=allocation.stopping,
            borda_power=settings.borda_power,
            wave=allocation.wave,
            equivalence=self.equivalence,
        )
        deadline = query.budget.deadline - self.config.budgets.deadline_margin_ms / 1000
        return await run(strategies(steps)[spec.method], query, spec, tools, sampler, deadline=deadline, better=better)

    def _stop_threshold(self, query: Query) -> float | None:
        """The operator's word on when a vote is settled, if there is one."""
        return self.config.profiles[query.profile].stop_threshold or self.config.strategies.stop_threshold


def _most_tokens(query: Query, spec: StrategySpec) -> int:
    """What a request may come to: the prompt, and every candidate as long as it may be, within the budget."""
    most = query.budget.max_total_tokens
    if query.max_tokens is not None and spec.method != "beam_search":
        most = min(most, max(spec.draws, query.answers) * query.max_tokens)
    return query.prompt_estimate + most


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
