"""Best-of-N with scorers that take their time, fail, or hang."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import pytest

from server.scorers.guard import Guarded
from strategies.anytime import run
from strategies.best_of_n import best_of_n
from strategies.ledger import Ledger
from strategies.sampling import MeteredSampler
from strategies.spec import StrategySpec
from strategies.types import Answer, Budget, Candidate, EngineError, Pace, Query, Scorer, ScorerError, Tools
from tests.fake_engine import until
from tests.fakes import FAR, Choice, Piece, ScriptedEngine, TextScorer, ask, says

pytestmark = pytest.mark.anyio
SCORES = {"\\boxed{7}": 0.2, "\\boxed{8}": 0.9}
Opinion = Callable[[str], Awaitable[float | None]]


@dataclass(slots=True, kw_only=True)
class Slow:
    """Implements Scorer: waits for whatever `opinion` waits for. Counts what it was asked, and what it never ended."""

    opinion: Opinion
    pace: Pace = "each"
    needs_top_logprobs: int | None = None
    asked: list[list[str]] = field(default_factory=list[list[str]])
    ended: int = 0

    async def score(self, query: Query, candidates: Sequence[Candidate]) -> Sequence[float | None]:
        self.asked.append([candidate.text for candidate in candidates])
        try:
            return [await self.opinion(candidate.text) for candidate in candidates]
        finally:
            self.ended += 1


async def known(text: str) -> float | None:
    await asyncio.sleep(0)
    return SCORES.get(text, 0.0)


async def never(text: str) -> float | None:
    await asyncio.Event().wait()
    return None


async def broken(text: str) -> float | None:
    raise ScorerError("it is broken")


def play(
    scorer: Scorer,
    engine: ScriptedEngine,
    *,
    written: str = "best_of_n@3",
    query: Query | None = None,
    deadline: float = FAR,
    published: list[Answer] | None = None,
) -> asyncio.Task[Answer]:
    sampler = MeteredSampler(engine, Ledger(10_000), default_max_tokens=100)
    kept = [] if published is None else published

    async def watched(query: Query, spec: StrategySpec, tools: Tools, publish: Callable[[Answer], None]) -> Answer:
        def note(answer: Answer) -> None:
            kept.append(answer)
            publish(answer)

        return await best_of_n(query, spec, tools, note)

    tools = Tools(sampler=sampler, scorer=scorer)
    spec = StrategySpec.parse(written)
    return asyncio.create_task(run(watched, query or ask(), spec, tools, sampler, deadline=deadline))


def three() -> ScriptedEngine:
    return ScriptedEngine([says("\\boxed{7}"), says("\\boxed{8}"), says("\\boxed{7}")])


@pytest.mark.parametrize("pace", ["at_once", "each", "together"])
async def test_the_best_score_wins_at_any_pace(pace: Pace) -> None:
    scorer = Slow(opinion=known, pace=pace)
    answer = await play(scorer, three())
    assert (answer.winners[0].text, answer.note, answer.scores) == ("\\boxed{8}", "", {0: 0.2, 1: 0.9, 2: 0.2})
    assert len(scorer.asked) == (1 if pace == "together" else 3)


async def test_candidates_are_drawn_while_scores_are_waited_for() -> None:
    """The third candidate comes only once the first is being scored, and the first's score only after the third."""
    third = asyncio.Event()
    scored_first = asyncio.Event()

    async def opinion(text: str) -> float | None:
        if text == "\\boxed{7}":
            third.set()
            await scored_first.wait()
            return 0.9
        if text == "\\boxed{9}":
            scored_first.set()
        return 0.1

    engine = ScriptedEngine([says("\\boxed{7}"), says("\\boxed{8}"), says("\\boxed{9}", after=third)])
    answer = await asyncio.wait_for(play(Slow(opinion=opinion), engine), 20)
    assert answer.winners[0].text == "\\boxed{7}"


@pytest.mark.parametrize("pace", ["each", "together"])
async def test_a_scorer_is_not_asked_while_all_answers_are_equal(pace: Pace) -> None:
    """It could not change the answer, and a judge's tokens are the client's."""
    scorer = Slow(opinion=known, pace=pace)
    answer = await play(scorer, ScriptedEngine([says("\\boxed{7}"), says("7"), says("It is \\boxed{7}")]))
    assert (answer.votes, answer.note, scorer.asked) == ({"7": 3}, "", [])


async def test_the_best_so_far_is_published_with_every_candidate_and_every_score() -> None:
    go = {"\\boxed{7}": asyncio.Event(), "\\boxed{8}": asyncio.Event()}

    async def opinion(text: str) -> float | None:
        await go[text].wait()
        return SCORES[text]

    published: list[Answer] = []
    engine = ScriptedEngine([says("\\boxed{7}"), says("\\boxed{8}")])
    task = play(Slow(opinion=opinion), engine, written="best_of_n@2", published=published)
    await until(lambda: len(published) == 2)
    assert published[-1].note == "no score had come yet, so the majority vote decided"
    for text in ("\\boxed{7}", "\\boxed{8}"):
        go[text].set()
        seen = len(published)
        await until(lambda seen=seen: len(published) > seen)
        assert (published[-1].winners[0].text, published[-1].note) == (text, "")
    await task


@pytest.mark.parametrize("pace", ["at_once", "each", "together"])
async def test_a_failing_scorer_leaves_the_vote_which_says_so(pace: Pace) -> None:
    answer = await play(Slow(opinion=broken, pace=pace), three())
    assert (answer.winners[0].text, answer.agreement, answer.cut_short) == ("\\boxed{7}", 2 / 3, None)
    assert answer.note == "it is broken, so the majority vote decided"


async def test_one_failure_ends_the_other_scores_and_asks_for_no_more() -> None:
    late = asyncio.Event()

    async def opinion(text: str) -> float | None:
        if text == "\\boxed{8}":
            raise ScorerError("it is broken")
        return await never(text)

    scorer = Slow(opinion=opinion)
    engine = ScriptedEngine([says("\\boxed{7}"), says("\\boxed{8}"), says("\\boxed{7}", after=late)])
    task = play(scorer, engine)
    await until(lambda: scorer.ended == 2)
    late.set()
    answer = await asyncio.wait_for(task, 20)
    assert (answer.winners[0].text, answer.candidates) == ("\\boxed{7}", 3)
    assert (len(scorer.asked), scorer.ended) == (2, 2)


async def test_what_can_not_win_is_not_scored() -> None:
    """A remote score costs something."""
    scorer = Slow(opinion=known)
    cut = says("\\boxed{6}", finish_reason="length")
    engine = ScriptedEngine([says(""), cut, says("\\boxed{7}"), says("\\boxed{8}")])
    answer = await play(scorer, engine, written="best_of_n@4")
    assert (answer.winners[0].text, scorer.asked) == ("\\boxed{8}", [["\\boxed{7}"], ["\\boxed{8}"]])


async def test_no_opinion_on_some_leaves_the_others_and_on_all_the_vote() -> None:
    async def some(text: str) -> float | None:
        return 0.1 if text == "\\boxed{8}" else None

    async def none(text: str) -> float | None:
        return None

    assert (await play(Slow(opinion=some), three())).winners[0].text == "\\boxed{8}"
    answer = await play(Slow(opinion=none), three())
    assert answer.winners[0].text == "\\boxed{7}"
    assert answer.note == "the scorer had no opinion, so the majority vote decided"


async def test_scores_from_logprobs_that_never_came_leave_the_vote() -> None:
    """An engine that ignores `logprobs` must not make every candidate equally good."""
    answer = await play(TextScorer(scores=SCORES, needs_top_logprobs=0), three())
    assert answer.winners[0].text == "\\boxed{7}"
    assert answer.note == "the engine sent no logprobs, so the majority vote decided"


async def test_at_the_deadline_scores_that_have_come_count() -> None:
    async def opinion(text: str) -> float | None:
        return 0.9 if text == "\\boxed{8}" else await never(text)

    scorer = Slow(opinion=opinion)
    answer = await play(scorer, three(), deadline=time.monotonic() + 0.05)
    assert (answer.winners[0].text, answer.cut_short) == ("\\boxed{8}", "deadline")
    assert scorer.ended == len(scorer.asked) == 3


async def test_at_the_deadline_without_a_score_the_vote_decides() -> None:
    answer = await play(Slow(opinion=never), three(), deadline=time.monotonic() + 0.05)
    assert (answer.winners[0].text, answer.cut_short) == ("\\boxed{7}", "deadline")
    assert answer.note == "no score had come yet, so the majority vote decided"


@pytest.mark.parametrize("pace", ["each", "together"])
async def test_scores_are_cancelled_with_the_request(pace: Pace) -> None:
    scorer, engine = Slow(opinion=never, pace=pace), three()
    task = play(scorer, engine)
    await until(lambda: len(scorer.asked) == (1 if pace == "together" else 3))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert scorer.ended == len(scorer.asked)
    assert engine.opened == engine.closed


async def test_what_was_drawn_before_the_engine_failed_is_scored_all_the_same() -> None:
    lost = Choice(pieces=[Piece()] * 5, fails=True)
    engine = ScriptedEngine([says("\\boxed{7}"), says("\\boxed{8}"), lost, lost])
    answer = await play(Slow(opinion=known), engine)
    assert (answer.winners[0].text, answer.cut_short, answer.note) == ("\\boxed{8}", "engine_error", "scripted failure")


@pytest.mark.parametrize("pace", ["at_once", "each", "together"])
async def test_candidates_drawn_in_the_place_of_lost_ones_are_ranked_with_the_others(pace: Pace) -> None:
    """And no score is asked for twice."""
    scorer = Slow(opinion=known, pace=pace)
    lost = Choice(pieces=[Piece()] * 5, fails=True)
    engine = ScriptedEngine([says("\\boxed{7}"), says("\\boxed{7}"), lost, says("\\boxed{8}")])
    answer = await play(scorer, engine)
    assert (answer.winners[0].text, answer.cut_short, answer.scores) == ("\\boxed{8}", None, {0: 0.2, 1: 0.2, 3: 0.9})
    assert [text for texts in scorer.asked for text in texts] == ["\\boxed{7}", "\\boxed{7}", "\\boxed{8}"]


@pytest.mark.parametrize("top", [0, 5])
async def test_the_logprobs_that_a_scorer_needs_are_asked_for_with_replacements_too(top: int) -> None:
    lost = Choice(pieces=[Piece()] * 5, fails=True)
    engine = ScriptedEngine([says("\\boxed{7}"), lost, says("\\boxed{8}")], max_n=1)
    await play(TextScorer(scores=SCORES, needs_top_logprobs=top), engine, written="best_of_n@2")
    assert [call.top_logprobs for call in engine.calls] == [top] * 3


# --- the guard


async def guarded(scorer: Scorer, *, timeout: float = 20.0, query: Query | None = None) -> str:
    candidate = Candidate(index=0, text="x", tokens=1, finish_reason="stop")
    with pytest.raises(ScorerError) as caught:
        await Guarded("mine", scorer, timeout=timeout).score(query or ask(), [candidate])
    return str(caught.value)


async def test_a_scorer_that_hangs_is_cut_at_its_own_time_limit() -> None:
    scorer = Slow(opinion=never)
    assert await guarded(scorer, timeout=0.02) == "the scorer mine gave no score within 0.02 s"
    assert scorer.ended == 1


async def test_and_never_later_than_the_requests_deadline() -> None:
    query = ask(budget=Budget(max_total_tokens=10, deadline=time.monotonic() + 0.02))
    assert "no score within" in await guarded(Slow(opinion=never), timeout=3600, query=query)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ScorerError("its server answered 503"), "the scorer mine failed: its server answered 503"),
        (EngineError("the engine broke off"), "the scorer mine failed: the engine broke off"),
        (TimeoutError(), "the scorer mine failed: TimeoutError"),
        (KeyError("a secret"), "the scorer mine failed: KeyError"),
    ],
)
async def test_whatever_a_scorer_raises_is_a_scorer_error(error: Exception, says: str) -> None:
    async def fails(text: str) -> float | None:
        raise error

    assert await guarded(Slow(opinion=fails)) == says
