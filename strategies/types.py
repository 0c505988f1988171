"""The data that flows between the stages, and the protocols that strategies are given.

Every type here is frozen: a later stage never changes what an earlier one made.

    HTTP body -> Query -> Features -> Predictions -> Allocation -> Candidates -> Answer -> HTTP body
                                                                        \\-> Outcome -> metrics, store

Terms follow "Latency and Token-Aware Test-Time Compute" (arXiv 2509.09864): a *query* x, a *strategy* s
(a method and its hyperparameters), and the utility U(s|x) = accuracy - token price * tokens - latency price * seconds.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from strategies.spec import StrategySpec
from strategies.stopping import ByPosterior, Stopping

Json = Mapping[str, Any]
CutShort = Literal["deadline", "tokens", "consensus", "verified", "price", "hopeless", "engine_error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What one request may spend. `max_total_tokens` counts completion tokens over all candidates."""

    max_total_tokens: int
    deadline: float  # seconds on the monotonic clock; the last byte is due by then
    strict: bool = False  # refuse when nothing fits, instead of cutting the smallest strategy to size


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Shadow prices of the utility. Both may be zero; neither may be negative."""

    token_price: float  # utility per 1,000 completion tokens (lambda_T)
    latency_price: float  # utility per second (lambda_L)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A chat-completion request as the later stages see it."""

    id: str
    model: str
    messages: Sequence[Json]
    sampling: Json  # body fields for the engine: temperature, top_p, stop, seed, response_format, unknown ones, ...
    budget: Budget
    prices: Prices
    tools: Sequence[Json] = ()
    max_tokens: int | None = None  # bound on one candidate; None while only the client's word counts
    prompt_estimate: int = 0  # prompt tokens, before the engine has counted them
    answers: int = 1  # OpenAI's n: how many answers the client wants back
    logprobs: bool = False  # the client wants the returned answer's logprobs
    top_logprobs: int = 0
    arrived: float = 0.0  # monotonic seconds
    requested: StrategySpec | None = None  # the strategy the client named, if any
    answer_pattern: str | None = None  # the client's own regular expression (RE2) for the answer in a text
    profile: str = "balanced"
    priority: int = 0  # in the engine's queue, lower is earlier

    @property
    def greedy(self) -> bool:
        """Temperature 0: every draw would be the same, so only `single` makes sense."""
        return self.sampling.get("temperature") == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One row of the allocator's table. Tokens and seconds are for the whole strategy, all candidates."""

    spec: StrategySpec
    accuracy: float  # probability that the final answer is right, 0 to 1
    tokens: float  # expected completion tokens
    tokens_upper: float  # upper quantile of the same
    seconds: float  # expected, under the load of now
    seconds_upper: float
    utility: float = 0.0
    feasible: bool = True
    reason: str = ""  # why it is not feasible, or not offered


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """The decision: what to run, and why."""

    spec: StrategySpec
    predictions: Sequence[Prediction]
    reason: str  # one sentence
    decided_by: str  # "model", "averages", "prior" or "client"
    model_version: str | None = None
    fits: bool = True  # False: nothing on the menu fits the budget, so the smallest is cut to size
    wave: int | None = None  # candidates asked for at first; None: all of them
    stopping: Stopping = field(default_factory=ByPosterior)  # what decides again while sampling
    familiar: bool | None = None  # whether the model was trained on queries like this one; None: there is no model

    @property
    def chosen(self) -> Prediction | None:
        return next((row for row in self.predictions if row.spec == self.spec), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogprobSummary:
    """Sums over the tokens of one generation, enough for every logprob-based score."""

    tokens: int = 0
    total: float = 0.0  # sum of the sampled tokens' log probabilities
    certainty: float = 0.0  # sum over tokens of the mean of -log p over the reported top tokens
    certain_tokens: int = 0  # tokens that came with top logprobs

    @property
    def mean(self) -> float:
        return self.total / self.tokens if self.tokens else float("-inf")

    def __add__(self, other: LogprobSummary) -> LogprobSummary:
        return LogprobSummary(
            tokens=self.tokens + other.tokens,
            total=self.total + other.total,
            certainty=self.certainty + other.certainty,
            certain_tokens=self.certain_tokens + other.certain_tokens,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """One piece of one choice, as it came from the engine."""

    index: int  # choice within the call
    text: str = ""
    reasoning: str = ""
    reasoning_name: str = "reasoning"  # what the engine calls it: reasoning, or reasoning_content
    refusal: str = ""
    tool_calls: Sequence[Json] = ()  # OpenAI tool-call deltas
    tokens: int = 0  # completion tokens in this piece
    logprobs: LogprobSummary | None = None
    logprob_content: Sequence[Json] = ()  # OpenAI's logprobs.content entries
    finish_reason: str | None = None  # set on the last piece
    stop_reason: str | int | None = None  # which stop string ended it (vLLM)
    prompt_tokens: int | None = None  # once per call, when the engine reports it
    total_tokens: int | None = None  # the engine's own final count for this choice, corrects `tokens`


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One generation, finished or cut."""

    index: int  # order of drawing within the request
    text: str
    tokens: int
    finish_reason: str | None  # None: cut before the engine finished it
    reasoning: str = ""
    reasoning_name: str = "reasoning"
    refusal: str = ""
    tool_calls: Sequence[Json] = ()
    logprobs: LogprobSummary | None = None
    logprob_content: Sequence[Json] = ()
    stop_reason: str | int | None = None
    score: float | None = None

    @property
    def finished(self) -> bool:
        """The engine ended it by itself: only these may vote. Cut by length is not finished."""
        return self.finish_reason is not None and self.finish_reason not in ("length", "abort", "repetition")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a strategy returns or publishes on the way: the winners, best first, and how sure the vote was."""

    winners: Sequence[Candidate]
    agreement: float | None = None  # share of the voting candidates that agree with the first winner
    confidence: float | None = None  # calibrated probability that the first winner is right, where that is known
    votes: Mapping[str, int] = field(default_factory=dict[str, int])  # answer -> candidates, largest first
    candidates: int = 0  # candidates seen when this was published
    cut_short: CutShort | None = None
    note: str = ""  # a sentence for the operator, e.g. a scorer that fell back to the vote
    scores: Mapping[int, float] = field(default_factory=dict[int, float])  # candidate's index -> its score


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What happened: what the metrics count, and the response tells."""

    query_id: str
    allocation: Allocation
    answer: Answer | None
    completion_tokens: int  # everything generated
    returned_tokens: int  # the part that was returned
    scoring_tokens: int = 0  # the part that a judge wrote
    cancelled_tokens: int  # the part of candidates that were stopped before their end
    prompt_tokens: int
    seconds: float
    first_token_seconds: float | None = None
    candidates: Sequence[Candidate] = ()  # finished and cut, in order of drawing
    error: str | None = None


class EngineError(Exception):
    """The engine refused or failed. Carries what the client should see.

    status: HTTP status for the client; body: the engine's OpenAI-shaped error object, if it sent one.
    """

    def __init__(
        self, message: str, *, status: int = 502, body: Json | None = None, retry_after: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = body
        self.retry_after = retry_after


class Engine(Protocol):
    """An inference server: vLLM, llama.cpp."""

    @property
    def max_n(self) -> int:
        """Sequences one call may ask for."""
        ...

    @property
    def context(self) -> int | None:
        """Tokens of one sequence, prompt and completion, where known."""
        ...

    @property
    def logprobs(self) -> bool:
        """Whether it returns logprobs when it is asked to."""
        ...

    @property
    def logprobs_with_tools(self) -> bool:
        """Whether it does so where tools may be called, too."""
        ...

    def sample(
        self,
        query: Query,
        *,
        n: int,
        max_tokens: int,
        prefix: str = "",
        stop: Sequence[str] = (),
        top_logprobs: int | None = None,
        seed_offset: int = 0,
    ) -> AsyncGenerator[Delta, None]:
        """Stream n choices in one call. Closing the generator stops the work on the engine.

        prefix: text the assistant has already said, to be continued. top_logprobs: None asks for no logprobs.
        Raises EngineError.
        """
        ...


class ScorerError(Exception):
    """A scorer failed or took too long, so the vote decides. Clients are told: no address, key or prompt in it."""


# When a scorer is called. at_once: with each candidate that comes, as it takes no time. each: the same, but beside the
# drawing of the others. together: once, when the last has come.
Pace = Literal["at_once", "each", "together"]


class Scorer(Protocol):
    """Ranks candidates: higher is better. Scores of one request are comparable with each other only."""

    needs_top_logprobs: int | None  # what sampling must ask the engine for; None: it can do without logprobs
    pace: Pace

    async def score(self, query: Query, candidates: Sequence[Candidate]) -> Sequence[float | None]:
        """One score a candidate, in their order; None: no opinion on this one. Raises ScorerError."""
        ...


@runtime_checkable
class Bounded(Protocol):
    """A scorer that can tell how much a partial solution may still score. Lets a beam search end early."""

    def bound(self, candidate: Candidate, *, tokens_left: int) -> float:
        """No continuation by up to so many tokens, nor the candidate as it is, scores more."""
        ...


class Sampler(Protocol):
    """An engine already metered against the request's budget: what strategies draw from."""

    def draw(
        self,
        query: Query,
        *,
        n: int,
        prefix: str = "",
        stop: Sequence[str] = (),
        max_tokens: int | None = None,
        top_logprobs: int | None = None,
    ) -> AsyncGenerator[Candidate, None]:
        """Yield candidates as they end. Fewer than n, or none, when the token budget allows no more."""
        ...

    @property
    def remaining(self) -> int:
        """Completion tokens that may still be reserved."""
        ...


class Equivalence(Protocol):
    """Whether answers that are spelled differently are equal: \\sqrt{8} and 2\\sqrt{2}."""

    async def same(self, answer: str, others: Sequence[str]) -> Sequence[bool | None]:
        """Of each of the others whether it equals the answer. None: not found out in time. Never raises."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What a strategy works with."""

    sampler: Sampler
    scorer: Scorer | None
    stopping: Stopping = field(default_factory=ByPosterior)
    borda_power: float = 1.0  # of the places in `borda`: 0 is the plain vote, large is the best score alone
    wave: int | None = None  # candidates asked for at first; None: all of them
    equivalence: Equivalence | None = None  # None: answers are equal if their canonical spellings are


Publish = Callable[[Answer], None]


class Strategy(Protocol):
    """A plain async function: publishes every better answer as it has one, returns the last."""

    async def __call__(self, query: Query, spec: StrategySpec, tools: Tools, publish: Publish) -> Answer: ...
