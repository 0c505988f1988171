"""Prometheus metrics: prefix `apportion_`, seconds and tokens, closed label sets.

Never a label: key, user, request id, raw path, error text, prompt or answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

from server import VERSION
from server.backends.calls import CallStats
from server.passthrough.rules import family
from strategies.spec import StrategySpec
from strategies.stopping import STOPS
from strategies.types import Outcome

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 100000)
_RATIOS = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2, 4)
_CANDIDATES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)


class Metrics:
    """One registry an application, so that several can live in one process."""

    def __init__(self, *, models: Sequence[str], menu: Sequence[StrategySpec]) -> None:
        self.registry = CollectorRegistry()
        self._models = frozenset(models)
        self._menu = frozenset(menu)
        r = self.registry
        self.requests = Counter(
            "apportion_requests", "Chat completions answered, by outcome.", ["model", "strategy", "outcome"], registry=r
        )
        self.duration = Histogram(
            "apportion_request_duration_seconds",
            "Arrival to the last byte.",
            ["model", "strategy"],
            buckets=_SECONDS,
            registry=r,
        )
        self.first_token = Histogram(
            "apportion_time_to_first_token_seconds",
            "Arrival to the engine's first token.",
            ["model", "strategy"],
            buckets=_SECONDS,
            registry=r,
        )
        self.overhead = Histogram(
            "apportion_overhead_seconds",
            "Time spent deciding: features, predictions, choice.",
            ["decided_by"],
            buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05),
            registry=r,
        )
        self.candidates_per_request = Histogram(
            "apportion_candidates_per_request",
            "Candidates begun.",
            ["model", "strategy"],
            buckets=_CANDIDATES,
            registry=r,
        )
        self.candidates = Counter(
            "apportion_candidates", "Candidates by how they ended.", ["model", "strategy", "result"], registry=r
        )
        self.tokens = Counter(
            "apportion_tokens",
            "Tokens: prompt read, completion returned, completion of others that finished or were cancelled; and of "
            "what was passed on.",
            ["model", "kind"],
            registry=r,
        )
        self.tokens_per_request = Histogram(
            "apportion_tokens_per_request",
            "Completion tokens over all candidates.",
            ["model", "strategy"],
            buckets=_TOKENS,
            registry=r,
        )
        self.budget_used = Histogram(
            "apportion_budget_used_ratio",
            "Share of the budget used.",
            ["strategy", "budget"],
            buckets=_RATIOS,
            registry=r,
        )
        self.exhausted = Counter(
            "apportion_budget_exhausted",
            "Requests cut or refused by a budget.",
            ["strategy", "budget", "action"],
            registry=r,
        )
        self.early_stops = Counter(
            "apportion_early_stops",
            "Requests that ended before all their candidates.",
            ["strategy", "reason"],
            registry=r,
        )
        self.allocations = Counter(
            "apportion_allocations", "Decisions, by who decided.", ["strategy", "decided_by"], registry=r
        )
        self.prediction_ratio = Histogram(
            "apportion_actual_over_predicted_ratio",
            "Actual tokens or seconds over the prediction.",
            ["quantity"],
            buckets=(0.1, 0.25, 0.5, 0.8, 1.0, 1.25, 2, 4, 10),
            registry=r,
        )
        self.within_upper = Counter(
            "apportion_prediction_intervals",
            "Whether the actual value stayed under the predicted upper bound.",
            ["quantity", "covered"],
            registry=r,
        )
        self.agreement = Histogram(
            "apportion_agreement_ratio",
            "Share of the votes that the winner got.",
            ["strategy"],
            buckets=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
            registry=r,
        )
        self.engine_requests = Counter(
            "apportion_engine_requests", "Calls to the engine, by how they ended.", ["status"], registry=r
        )
        self.engine_duration = Histogram(
            "apportion_engine_duration_seconds", "One call to the engine.", buckets=_SECONDS, registry=r
        )
        self.passed_requests = Counter(
            "apportion_passed_requests",
            "Requests passed on to the engine, by endpoint and by how they ended.",
            ["endpoint", "outcome"],
            registry=r,
        )
        self.passed_duration = Histogram(
            "apportion_passed_duration_seconds",
            "Requests passed on: arrival to the last byte.",
            ["endpoint"],
            buckets=_SECONDS,
            registry=r,
        )
        self.access_refused = Counter(
            "apportion_access_refused",
            "Requests refused for their key, or for its limit of requests or tokens.",
            ["reason"],
            registry=r,
        )
        self.store_outcomes = Counter(
            "apportion_store_outcomes",
            "Outcomes written to the store, dropped because its queue was full, refused by it.",
            ["result"],
            registry=r,
        )
        self.store_waiting = Gauge("apportion_store_waiting", "Outcomes waiting to be written.", registry=r)
        self.store_down = Gauge("apportion_store_down", "1 while the store can't be used.", registry=r)
        self.feedback_given = Counter(
            "apportion_feedback", "Feedback on responses; replaced: an earlier one.", ["strategy", "result"], registry=r
        )
        self.feedback_score = Counter(
            "apportion_feedback_score",
            "Sum of the scores given, where accuracy was predicted.",
            ["strategy"],
            registry=r,
        )
        self.feedback_expected = Counter(
            "apportion_feedback_expected",
            "Sum of what was expected of the same: the confidence, else the predicted accuracy.",
            ["strategy"],
            registry=r,
        )
        self.feedback_compared = Counter(
            "apportion_feedback_compared", "Feedback in the two sums.", ["strategy"], registry=r
        )
        self.engine_running = Gauge(
            "apportion_engine_running_sequences", "Sequences this gateway has in work on the engine.", registry=r
        )
        self.engine_others = Gauge(
            "apportion_engine_other_sequences",
            "Sequences of others on the engine, in work or waiting, by its own metrics; 0 where it has none.",
            registry=r,
        )
        self.in_flight = Gauge("apportion_requests_in_flight", "Requests being served.", registry=r)
        self.build = Info("apportion_build", "Version and models.", registry=r)
        self.build.info({"version": VERSION})

    def strategy(self, spec: StrategySpec | None) -> str:
        """A label from a closed set: menu entries by name, what clients ask for otherwise by method."""
        if spec is None:
            return "none"
        return str(spec) if spec in self._menu else spec.method

    def model(self, name: str) -> str:
        return name if name in self._models else "other"

    def know_models(self, models: Sequence[str]) -> None:
        self._models = frozenset(models)

    def call(self, stats: CallStats) -> None:
        """One engine call has ended."""
        self.engine_requests.labels(stats.status).inc()
        self.engine_duration.observe(stats.seconds)

    def passed(self, path: str, outcome: str, seconds: float) -> None:
        """A passed-on request has ended. outcome: 2xx to 5xx, cancelled by the client, cut by time or the engine."""
        endpoint = family(path)
        self.passed_requests.labels(endpoint, outcome).inc()
        self.passed_duration.labels(endpoint).observe(seconds)

    def passed_tokens(self, model: str, *, prompt: int, completion: int) -> None:
        """What the engine says a passed-on request was worth."""
        self.tokens.labels(self.model(model), "passed_prompt").inc(prompt)
        self.tokens.labels(self.model(model), "passed_completion").inc(completion)

    def stored(self, result: str, number: int) -> None:
        """Outcomes were "written", "dropped" or "refused"."""
        if number:
            self.store_outcomes.labels(result).inc(number)

    def feedback(self, strategy: str, *, replaced: bool, score: float | None, expected: float | None) -> None:
        """A response was judged. score: the first that it was given; both sums count a response once."""
        label = self.strategy(StrategySpec.parse(strategy))
        self.feedback_given.labels(label, "replaced" if replaced else "new").inc()
        if score is not None and expected is not None:
            self.feedback_score.labels(label).inc(score)
            self.feedback_expected.labels(label).inc(expected)
            self.feedback_compared.labels(label).inc()

    def no_access(self, reason: str) -> None:
        """A request was refused for its key, or for what the key may use: "key", "requests" or "tokens"."""
        self.access_refused.labels(reason).inc()

    def refused(self, status: int) -> None:
        """A request ended without a decision, and so without a model."""
        self.requests.labels(self.model(""), "none", f"refused_{status}").inc()

    def done(self, outcome: Outcome, *, model: str, max_total_tokens: int, deadline_seconds: float) -> None:
        """A request with a decision has ended, answered or not."""
        model = self.model(model)
        strategy = self.strategy(outcome.allocation.spec)
        answer = outcome.answer
        failed = outcome.error if outcome.error in ("cancelled", "deadline") else "error"
        ended = failed if answer is None else (answer.cut_short or "ok")
        self.requests.labels(model, strategy, "ok" if ended in STOPS else ended).inc()
        self.duration.labels(model, strategy).observe(outcome.seconds)
        if outcome.first_token_seconds is not None:
            self.first_token.labels(model, strategy).observe(outcome.first_token_seconds)
        self.candidates_per_request.labels(model, strategy).observe(len(outcome.candidates))
        for candidate in outcome.candidates:
            result = "finished" if candidate.finished else ("length" if candidate.finish_reason else "cancelled")
            self.candidates.labels(model, strategy, result).inc()
        self.tokens.labels(model, "prompt").inc(outcome.prompt_tokens)
        self.tokens.labels(model, "completion_returned").inc(outcome.returned_tokens)
        others = outcome.completion_tokens - outcome.returned_tokens - outcome.cancelled_tokens
        self.tokens.labels(model, "completion_not_returned").inc(max(0, others))
        self.tokens.labels(model, "completion_cancelled").inc(outcome.cancelled_tokens)
        self.tokens_per_request.labels(model, strategy).observe(outcome.completion_tokens)
        self.budget_used.labels(strategy, "tokens").observe(outcome.completion_tokens / max_total_tokens)
        self.budget_used.labels(strategy, "deadline").observe(outcome.seconds / deadline_seconds)
        if ended in ("deadline", "tokens"):
            self.exhausted.labels(strategy, ended, "cut" if answer is not None else "refused").inc()
        if answer is not None and answer.cut_short is not None:
            self.early_stops.labels(strategy, answer.cut_short).inc()
        if answer is not None and answer.agreement is not None:
            self.agreement.labels(strategy).observe(answer.agreement)
        self._compare(outcome)

    def _compare(self, outcome: Outcome) -> None:
        row = outcome.allocation.chosen
        if row is None or outcome.answer is None or outcome.answer.cut_short in ("deadline", "engine_error"):
            return
        for quantity, actual, predicted, upper in (
            ("tokens", float(outcome.completion_tokens), row.tokens, row.tokens_upper),
            ("seconds", outcome.seconds, row.seconds, row.seconds_upper),
        ):
            if predicted > 0:
                self.prediction_ratio.labels(quantity).observe(actual / predicted)
                self.within_upper.labels(quantity, "yes" if actual <= upper else "no").inc()

    def render(self) -> bytes:
        return generate_latest(self.registry)
