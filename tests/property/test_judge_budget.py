"""A judge never takes a request past its budget, whatever it, the engine and the client do."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.scorers.guard import Guarded
from server.scorers.judge import JudgeModel
from server.scorers.timing import Timing
from strategies.anytime import NothingYet, run
from strategies.beam_search import Steps
from strategies.ledger import Ledger
from strategies.registry import strategies
from strategies.sampling import MeteredSampler
from strategies.spec import StrategySpec
from strategies.types import Answer, EngineError, Tools
from tests.fakes import FAR, Call, Choice, Piece, ScriptedEngine, ask

pytestmark = pytest.mark.anyio

STEPS = Steps(stop=("\n\n",), tokens=12, max_steps=3)


def choices(*texts: str) -> st.SearchStrategy[Choice]:
    pieces = st.builds(Piece, text=st.sampled_from(texts), tokens=st.integers(0, 9))
    return st.builds(
        Choice,
        pieces=st.lists(pieces, max_size=6),
        finish_reason=st.sampled_from(["stop", "stop", "stop", "length", None]),
        fails=st.sampled_from([False, False, False, True]),
    )


@given(
    written=st.sampled_from(["best_of_n@4:j", "best_of_n@3:j:weighted", "best_of_n@6:j:borda", "beam_search@2x2:j"]),
    compare=st.sampled_from(["pointwise", "pairwise"]),
    drawn=st.lists(choices("a", "\\boxed{7}", "\\boxed{8}"), min_size=1, max_size=6),
    judged=st.lists(choices("Score: 7", "Score: 2", "Better: A", "hm"), min_size=1, max_size=6),
    capacity=st.integers(1, 400),
    verdict_tokens=st.integers(1, 60),
    honours_max_tokens=st.booleans(),
    cancel_after=st.none() | st.integers(0, 40),
)
@settings(max_examples=150)
async def test_candidates_and_verdicts_together_stay_within_the_budget(
    written: str,
    compare: str,
    drawn: list[Choice],
    judged: list[Choice],
    capacity: int,
    verdict_tokens: int,
    honours_max_tokens: bool,
    cancel_after: int | None,
) -> None:
    def script(of: list[Choice]):  # type: ignore[no-untyped-def]
        def choice(call: Call, number: int) -> Choice:
            return of[(call.seed_offset + number) % len(of)]

        return choice

    engine = ScriptedEngine(script(drawn), honours_max_tokens=honours_max_tokens)
    other = ScriptedEngine(script(judged), honours_max_tokens=honours_max_tokens)
    assert compare in ("pointwise", "pairwise")
    model = JudgeModel(
        engine=other,
        model=None,
        compare=compare,
        max_tokens=verdict_tokens,
        places=asyncio.Semaphore(3),
        timing=Timing(limit=30),
    )
    spec, ledger = StrategySpec.parse(written), Ledger(capacity)
    judge = model.for_request(ledger, candidates=spec.n if spec.method == "best_of_n" else 1)
    sampler = MeteredSampler(engine, ledger, default_max_tokens=40)
    tools = Tools(sampler=sampler, scorer=Guarded("j", judge, timeout=20))
    task = asyncio.create_task(run(strategies(STEPS)[spec.method], ask(), spec, tools, sampler, deadline=FAR))
    if cancel_after is not None:
        for _ in range(cancel_after):
            await asyncio.sleep(0)
        task.cancel()
    (result,) = await asyncio.gather(task, return_exceptions=True)

    assert ledger.spent <= capacity
    assert engine.opened == engine.closed
    assert other.opened == other.closed
    if honours_max_tokens:
        assert engine.made + other.made <= capacity
        assert other.made <= capacity // 2
    # a failing judge never fails the request
    assert isinstance(result, Answer | EngineError | NothingYet | asyncio.CancelledError)
    if isinstance(result, EngineError):
        assert not sampler.candidates
