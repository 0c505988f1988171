"""The judge: its verdicts, its knockout, and that the request's ledger pays for every word of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from server.scorers.judge import JudgeModel
from server.scorers.timing import Timing
from strategies.ledger import Ledger
from strategies.types import Candidate, ScorerError
from tests.fake_engine import until
from tests.fakes import Call, Choice, Piece, ScriptedEngine, ask, says

pytestmark = pytest.mark.anyio


def judge(engine: ScriptedEngine, compare: str = "pointwise", *, max_tokens: int = 50, places: int = 8) -> JudgeModel:
    assert compare in ("pointwise", "pairwise")
    return JudgeModel(
        engine=engine,
        model=None,
        compare=compare,
        max_tokens=max_tokens,
        places=asyncio.Semaphore(places),
        timing=Timing(limit=30),
    )


def written(*texts: str) -> list[Candidate]:
    return [Candidate(index=i, text=text, tokens=1, finish_reason="stop") for i, text in enumerate(texts)]


class Reader:
    """A judge's engine that really reads: marks by the answer it is shown, and the higher of two numbers."""

    def __init__(self, marks: dict[str, str]) -> None:
        self.marks = marks
        self.shown: list[str] = []
        self.engine = ScriptedEngine(self._verdict, prompt_tokens=11)
        sample = self.engine.sample

        def noted(query, **options):  # type: ignore[no-untyped-def]
            self.shown.append(query.messages[0]["content"])
            return sample(query, **options)

        self.engine.sample = noted  # type: ignore[method-assign]

    def _verdict(self, call: Call, number: int) -> Choice:
        prompt = self.shown[len(self.engine.calls) - 1]
        if "<answer_A>" in prompt:
            a, b = (prompt.partition(f"<answer_{x}>\n")[2].partition("\n</")[0] for x in "AB")
            return says(f"Better: {'A' if a > b else 'B'}", tokens=3)
        return says(self.marks[prompt.partition("<answer>\n")[2].partition("\n</")[0]], tokens=4)


async def test_marks_are_scores_and_what_can_not_be_read_is_no_opinion() -> None:
    reader = Reader({"7": "Score: 9", "8": "Score: 2", "9": "Hm."})
    ledger = Ledger(1000)
    bound = judge(reader.engine).for_request(ledger, candidates=3)
    assert await bound.score(ask(), written("7", "8", "9")) == [0.9, 0.2, None]
    assert (ledger.spent, bound.prompt_tokens) == (12, 33)
    assert ledger.remaining == 1000 - 12  # what was reserved and not used has gone back


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
async def test_a_knockout_of_n_takes_n_minus_1_comparisons_and_the_best_wins_most(size: int) -> None:
    reader = Reader({})
    texts = [str((3 * i + 1) % size) for i in range(size)] if size != 3 else ["1", "2", "0"]
    bound = judge(reader.engine, "pairwise").for_request(Ledger(1000), candidates=size)
    scores = await bound.score(ask(), written(*texts))
    assert len(reader.engine.calls) == size - 1
    assert max(range(size), key=lambda i: scores[i] or 0) == texts.index(max(texts))
    assert all(score is not None and 0 <= score <= 1 for score in scores)


async def test_a_judge_that_always_likes_the_first_does_not_decide_by_place_alone() -> None:
    """Who is shown first changes from round to round: the first of four wins the first round and loses the second."""
    engine = ScriptedEngine(lambda call, number: says("Better: A"))
    bound = judge(engine, "pairwise").for_request(Ledger(1000), candidates=4)
    assert await bound.score(ask(), written("a", "b", "c", "d")) == [0.5, 0.0, 1.0, 0.0]


async def test_equal_texts_are_not_compared() -> None:
    engine = ScriptedEngine(lambda call, number: says("Better: A"))
    bound = judge(engine, "pairwise").for_request(Ledger(1000), candidates=2)
    assert await bound.score(ask(), written("a", "a")) == [1.0, 0.0]
    assert not engine.calls


async def test_a_knockout_of_unreadable_verdicts_is_no_opinion() -> None:
    engine = ScriptedEngine(lambda call, number: says("Both are fine."))
    bound = judge(engine, "pairwise").for_request(Ledger(1000), candidates=3)
    assert await bound.score(ask(), written("a", "b", "c")) == [None, None, None]


async def test_verdicts_are_reserved_before_candidates_are_drawn_and_take_half_at_most() -> None:
    ledger = Ledger(1000)
    judge(ScriptedEngine([]), max_tokens=50).for_request(ledger, candidates=8)
    assert ledger.remaining == 600
    small = Ledger(400)
    judge(ScriptedEngine([]), max_tokens=50).for_request(small, candidates=8)
    assert small.remaining == 200


async def test_a_verdict_has_its_reservation_also_when_candidates_hold_everything_else() -> None:
    engine = ScriptedEngine(lambda call, number: says("Score: 5", tokens=6))
    ledger = Ledger(400)
    bound = judge(engine).for_request(ledger, candidates=8)
    ledger.reserve(ledger.remaining)
    assert await bound.score(ask(), written("a")) == [0.5]
    assert [call.max_tokens for call in engine.calls] == [25]


async def test_without_room_for_a_verdict_the_judge_says_so() -> None:
    ledger = Ledger(40)
    bound = judge(ScriptedEngine([])).for_request(ledger, candidates=8)
    ledger.reserve(40)
    with pytest.raises(ScorerError, match="left nothing for a verdict"):
        await bound.score(ask(), written("a"))


async def test_verdicts_at_once_are_bounded_over_all_requests() -> None:
    release = asyncio.Event()
    engine = ScriptedEngine(lambda call, number: says("Score: 5", after=release))
    model = judge(engine, places=2)

    async def one() -> Sequence[float | None]:
        return await model.for_request(Ledger(1000), candidates=3).score(ask(), written("a", "b", "c"))

    tasks = [asyncio.create_task(one()) for _ in range(2)]
    for _ in range(50):
        await asyncio.sleep(0)
    assert engine.opened == 2
    release.set()
    assert await asyncio.gather(*tasks) == [[0.5] * 3] * 2
    assert engine.closed == 6


async def test_a_failing_verdict_ends_the_others() -> None:
    def script(call: Call, number: int) -> Choice:
        first = len(engine.calls) == 1
        return Choice(pieces=[Piece()], fails=True) if first else says("x", after=asyncio.Event())

    engine = ScriptedEngine(script)
    ledger = Ledger(1000)
    bound = judge(engine).for_request(ledger, candidates=3)
    with pytest.raises(Exception, match="scripted failure"):
        await bound.score(ask(), written("a", "b", "c"))
    assert engine.opened == engine.closed == 3


@pytest.mark.parametrize("compare", ["pointwise", "pairwise"])
async def test_a_judge_of_steps_has_half_of_the_budget_and_then_says_so(compare: str) -> None:
    """Nobody knows how often a beam search will ask: without a bound of its own its judge took what was left."""
    verdicts = 0

    def script(call: Call, number: int) -> Choice:
        nonlocal verdicts
        verdicts += 1
        return says(f"Score: 5\nBetter: {'AB'[verdicts % 2]}", tokens=40)

    ledger = Ledger(400)
    bound = judge(ScriptedEngine(script), compare).for_request(ledger, candidates=1)

    async def every_step() -> None:
        for number in range(20):
            await bound.score(ask(), written(f"a{number}", f"b{number}"))

    with pytest.raises(ScorerError, match="its half of the token budget is used up"):
        await every_step()
    assert 4 <= verdicts <= 5
    assert ledger.spent <= 200


async def test_verdicts_asked_for_at_once_wait_for_what_others_give_back() -> None:
    """Half of the budget holds two reservations of 50 tokens, but eight verdicts of 5."""
    engine = ScriptedEngine(lambda call, number: says("Score: 5", tokens=5))
    ledger = Ledger(200)
    bound = judge(engine).for_request(ledger, candidates=1)
    assert await bound.score(ask(), written(*"abcdefgh")) == [0.5] * 8
    assert {call.max_tokens for call in engine.calls} == {50}
    assert (engine.closed, ledger.spent) == (8, 40)


async def test_a_cancelled_wait_for_tokens_leaves_nothing_behind() -> None:
    release = asyncio.Event()
    engine = ScriptedEngine(lambda call, number: says("Score: 5", tokens=5, after=release))
    ledger = Ledger(100)
    bound = judge(engine).for_request(ledger, candidates=1)
    first = asyncio.create_task(bound.score(ask(), written("a")))
    await until(lambda: engine.opened == 1)
    second = asyncio.create_task(bound.score(ask(), written("b")))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    release.set()
    assert await first == [0.5]
    assert await bound.score(ask(), written("c")) == [0.5]
    assert engine.opened == engine.closed == 2
