"""Budgets and clean-up hold for any strategy, whatever the engine does and whenever the request ends."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.anytime import NothingYet, run
from strategies.beam_search import Steps
from strategies.ledger import Ledger
from strategies.registry import strategies
from strategies.sampling import MeteredSampler
from strategies.scorers import SCORERS
from strategies.spec import StrategySpec
from strategies.types import Answer, EngineError, LogprobSummary, Tools
from tests.fakes import FAR, Call, Choice, Piece, ScriptedEngine, ask

pytestmark = pytest.mark.anyio

SPECS = [
    StrategySpec.parse(text)
    for text in (
        "single",
        "majority_vote@5",
        "best_of_n@4",
        "best_of_n@4:self_certainty:weighted",
        "beam_search@2x2",
        "beam_search@3x1:self_certainty",
        "beam_search@3x2:diverse",
        "beam_search@2x2:lookahead",
        "beam_search@2x3:diverse:lookahead",
    )
]
STEPS = Steps(stop=("\n\n",), tokens=12, max_steps=5)

PIECES = st.builds(
    Piece,
    text=st.sampled_from(["", "a", "step one", "\\boxed{7}", "\\boxed{8}"]),
    tokens=st.integers(0, 9),
    logprobs=st.none()
    | st.just(LogprobSummary(tokens=1, total=-0.5, certainty=2.0, certain_tokens=1))
    | st.just(LogprobSummary()),
)
CHOICES = st.builds(
    Choice,
    pieces=st.lists(PIECES, max_size=6),
    finish_reason=st.sampled_from(["stop", "stop", "stop", "length", "abort", None]),
    stop_reason=st.sampled_from([None, "\n\n"]),
    total_tokens=st.none() | st.integers(0, 60),
    fails=st.sampled_from([False, False, False, True]),
)


@given(
    spec=st.sampled_from(SPECS),
    choices=st.lists(CHOICES, min_size=1, max_size=8),
    capacity=st.integers(1, 150),
    max_tokens=st.none() | st.integers(1, 60),
    answers=st.integers(1, 3),
    max_n=st.sampled_from([1, 2, 64]),
    honours_max_tokens=st.booleans(),
    cancel_after=st.none() | st.integers(0, 25),
    late=st.booleans(),
)
@settings(max_examples=100)
async def test_no_fault_breaks_the_budget_or_leaves_work_on_the_engine(
    spec: StrategySpec,
    choices: list[Choice],
    capacity: int,
    max_tokens: int | None,
    answers: int,
    max_n: int,
    honours_max_tokens: bool,
    cancel_after: int | None,
    late: bool,
) -> None:
    """An engine that fails or ignores max_tokens, a deadline that has passed, a client that goes away."""

    def script(call: Call, number: int) -> Choice:
        return choices[(call.seed_offset + number) % len(choices)]

    engine = ScriptedEngine(script, max_n=max_n, honours_max_tokens=honours_max_tokens)
    ledger = Ledger(capacity)
    sampler = MeteredSampler(engine, ledger, default_max_tokens=40)
    tools = Tools(sampler=sampler, scorer=SCORERS[spec.scorer] if spec.scorer else None)
    query = ask(max_tokens=max_tokens, answers=answers)
    deadline = time.monotonic() - 1 if late else FAR
    task = asyncio.create_task(run(strategies(STEPS)[spec.method], query, spec, tools, sampler, deadline=deadline))
    if cancel_after is not None:
        for _ in range(cancel_after):
            await asyncio.sleep(0)
        task.cancel()
    (result,) = await asyncio.gather(task, return_exceptions=True)

    assert engine.opened == engine.closed
    assert ledger.spent <= capacity
    assert ledger.spent == sum(candidate.tokens for candidate in sampler.candidates)
    if honours_max_tokens:
        assert engine.made <= capacity
    if isinstance(result, Answer):
        assert 1 <= len(result.winners) <= answers
        assert len({winner.index for winner in result.winners}) == len(result.winners)
    else:
        assert isinstance(result, EngineError | NothingYet | asyncio.CancelledError)


@given(
    method=st.sampled_from(["majority_vote", "best_of_n"]),
    lost=st.integers(0, 5),
    after=st.integers(0, 4),
    wave=st.integers(1, 6),
    max_n=st.sampled_from([1, 2, 64]),
)
@settings(max_examples=60)
async def test_no_single_failure_costs_a_request_any_of_its_candidates(
    method: str, lost: int, after: int, wave: int, max_n: int
) -> None:
    """Wherever it comes, and whatever had come before it."""

    def script(call: Call, number: int) -> Choice:
        drawn = call.seed_offset + number
        if drawn == lost:
            return Choice(pieces=[Piece()] * after, fails=True)
        return Choice(pieces=[Piece(text=f"\\boxed{{{drawn}}}")])

    engine = ScriptedEngine(script, max_n=max_n)
    spec = StrategySpec.parse(f"{method}@6")
    sampler = MeteredSampler(engine, Ledger(10_000), default_max_tokens=40)
    tools = Tools(sampler=sampler, scorer=SCORERS[spec.scorer] if spec.scorer else None, wave=wave)
    answer = await run(strategies(STEPS)[spec.method], ask(), spec, tools, sampler, deadline=FAR)
    assert (answer.candidates, len(answer.votes), answer.cut_short) == (6, 6, None)
    assert engine.opened == engine.closed


@given(
    lengths=st.lists(st.integers(1, 30), min_size=6, max_size=6),
    capacity=st.integers(1, 150),
    max_n=st.sampled_from([1, 4, 64]),
)
@settings(max_examples=40)
async def test_a_healthy_engine_is_paid_for_exactly_what_it_made(lengths: list[int], capacity: int, max_n: int) -> None:
    """What is reserved and not used goes back, so that it can be drawn again."""
    choices = [Choice(pieces=[Piece(text="a")] * length) for length in lengths]
    engine, ledger = ScriptedEngine(choices, max_n=max_n), Ledger(capacity)
    sampler = MeteredSampler(engine, ledger, default_max_tokens=30)
    drawn = [candidate async for candidate in sampler.draw(ask(), n=6)]
    assert ledger.spent == engine.made == sum(candidate.tokens for candidate in drawn)
    assert ledger.remaining == capacity - engine.made
    assert engine.finished == engine.opened
    assert (sampler.drew_fewer or sampler.drew_shorter) == (capacity < 6 * 30)
