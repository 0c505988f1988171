"""What a strategy does with what its checkpoints say: goes on, with how many, or stops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.stopping import By, ByPosterior, Poll, Stop, Stopping, Verdict, Vote, settled
from strategies.types import Answer, Pace, Query
from tests.fakes import Call, Choice, ScriptedEngine, TextScorer, ask, says
from tests.unit.test_strategies import Played

pytestmark = pytest.mark.anyio

DISTINCT = [says(f"\\boxed{{{i}}}", mean=-1.0) for i in range(12)]
SAMPLED = pytest.mark.parametrize("written", ["majority_vote@8", "best_of_n@8"])


@dataclass(kw_only=True)
class Told:
    """Implements `Stopping`: says what it was told to, and notes what it was asked."""

    say: Callable[[Poll], Verdict]
    by: By = "model"
    polls: list[Poll] = field(default_factory=list[Poll])

    def judge(self, poll: Poll) -> Verdict:
        self.polls.append(poll)
        return self.say(poll)


def stop_at(drawn: int, why: Stop = "price") -> Told:
    return Told(say=lambda poll: Verdict(stop=why if len(poll.votes) >= drawn else None))


def played(
    written: str,
    script: Sequence[Choice] | Callable[[Call, int], Choice],
    stopping: Stopping,
    query: Query | None = None,
    *,
    wave: int | None = 1,
    scorer: TextScorer | None = None,
    equivalence: Equal | None = None,
) -> Played:
    one = Played(written, ScriptedEngine(script), query, wave=wave, scorer=scorer)
    one.tools = replace(one.tools, stopping=stopping, equivalence=equivalence)
    return one


def asked(one: Played) -> list[int]:
    return [call.n for call in one.engine.calls]


@SAMPLED
@pytest.mark.parametrize("why", ["price", "consensus", "hopeless"])
async def test_a_verdict_ends_the_drawing_and_the_answer_tells_why(written: str, why: Stop) -> None:
    one = played(written, DISTINCT, stop_at(3, why))
    answer = await one.run()
    assert (answer.candidates, answer.cut_short, asked(one)) == (3, why, [1, 1, 1])


@SAMPLED
async def test_what_is_under_way_at_a_stop_is_cut_on_the_engine(written: str) -> None:
    """All eight were asked for; the verdict comes with the first, and the others are never finished."""
    script = [says("\\boxed{1}", mean=-1.0), *[says("\\boxed{2}", tokens=50, mean=-1.0)] * 7]
    one = played(written, script, stop_at(1), wave=None)
    answer = await one.run()
    assert (answer.candidates, answer.cut_short) == (1, "price")
    assert one.engine.finished == 0
    assert one.engine.made < 8 * 3


@SAMPLED
async def test_the_last_verdict_of_a_wave_says_how_many_the_next_one_asks_for(written: str) -> None:
    sizes = {1: 3, 4: 2}
    one = played(written, DISTINCT, Told(say=lambda poll: Verdict(wave=sizes.get(len(poll.votes)))))
    answer = await one.run()
    assert asked(one) == [1, 3, 2, 2]  # a verdict that names none leaves it as it was
    assert (answer.candidates, answer.cut_short) == (8, None)


@given(sizes=st.lists(st.integers(1, 20), min_size=8, max_size=8), first=st.integers(1, 20))
async def test_whatever_waves_are_named_no_more_is_drawn_than_allowed(sizes: list[int], first: int) -> None:
    one = played(
        "majority_vote@8", DISTINCT, Told(say=lambda poll: Verdict(wave=sizes[len(poll.votes) - 1])), wave=first
    )
    answer = await one.run()
    assert answer.candidates == 8
    assert sum(asked(one)) == 8
    assert asked(one)[0] == min(first, 8)
    ends = [sum(asked(one)[: i + 1]) for i in range(len(asked(one)))]
    assert all(size == min(sizes[end - 1], 8 - end) for end, size in zip(ends, asked(one)[1:], strict=False))


@SAMPLED
async def test_a_checkpoint_sees_every_candidate_and_what_is_still_under_way(written: str) -> None:
    told = Told(say=lambda poll: Verdict())
    await played(written, DISTINCT, told, wave=4).run()
    assert [len(poll.votes) for poll in told.polls] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [poll.under_way for poll in told.polls] == [3, 2, 1, 0, 3, 2, 1, 0]
    assert [poll.left for poll in told.polls] == [7, 6, 5, 4, 3, 2, 1, 0]
    assert {poll.by_votes for poll in told.polls} == {written.startswith("majority")}
    assert all((vote.score is None) == written.startswith("majority") for poll in told.polls for vote in poll.votes)


@SAMPLED
async def test_the_confidence_of_the_last_verdict_is_on_the_answer(written: str) -> None:
    """And the one of its own checkpoint on every answer published on the way, for who stops at the deadline."""
    told = Told(say=lambda poll: Verdict(confidence=len(poll.votes) / 10))
    one = played(written, DISTINCT, told)
    answer = await one.run()
    assert answer.confidence == 0.8
    assert [each.confidence for each in one.published] == [i / 10 for i in range(1, 9)]


@SAMPLED
async def test_the_confidence_of_the_verdict_that_stops_is_on_the_answer(written: str) -> None:
    told = Told(say=lambda poll: Verdict(stop="price" if len(poll.votes) == 2 else None, confidence=0.25))
    assert (await played(written, DISTINCT, told).run()).confidence == 0.25


async def test_single_is_told_its_confidence_too() -> None:
    told = Told(say=lambda poll: Verdict(confidence=0.4))
    answer = await played("single", [says("\\boxed{7}")], told).run()
    assert (answer.confidence, answer.cut_short) == (0.4, None)
    assert [(len(poll.votes), poll.left) for poll in told.polls] == [(1, 0)]


async def test_of_several_answers_of_single_the_confidence_is_the_firsts() -> None:
    """Whichever ends first: here it is the last one."""
    told = Told(say=lambda poll: Verdict(confidence=poll.votes[0].tokens / 10))
    script = [says("\\boxed{7}", tokens=3), says("\\boxed{8}", tokens=2), says("\\boxed{9}", tokens=1)]
    answer = await played("single", script, told, ask(answers=3)).run()
    assert [c.tokens for c in answer.winners] == [3, 2, 1]
    assert answer.confidence == 0.3


@SAMPLED
async def test_as_many_answers_as_were_asked_for_are_drawn_whatever_a_checkpoint_says(written: str) -> None:
    one = played(written, DISTINCT, stop_at(1), ask(answers=3))
    answer = await one.run()
    assert (len(answer.winners), answer.candidates, answer.cut_short) == (3, 3, "price")


@pytest.mark.parametrize(("pace", "asks"), [("at_once", 8), ("each", 0), ("together", 0)])
async def test_best_of_n_asks_only_where_the_scores_are_there_at_once(pace: Pace, asks: int) -> None:
    """Others may change the leader long after the last candidate has come."""
    told = Told(say=lambda poll: Verdict(stop="price" if len(poll.votes) > 7 else None, confidence=0.5))
    scorer = TextScorer(scores={"\\boxed{3}": 1.0}, pace=pace)
    answer = await played("best_of_n@8", DISTINCT, told, scorer=scorer).run()
    assert len(told.polls) == asks
    assert answer.winners[0].text == "\\boxed{3}"
    assert (answer.candidates, answer.confidence) == (8, 0.5 if asks else None)


async def test_best_of_n_whose_scorer_has_failed_asks_no_more() -> None:
    """What a checkpoint is told of is a ranking by scores; there is none, and the vote's is not one."""
    told = stop_at(4)
    script = [*DISTINCT[:2], says("\\boxed{1}"), *DISTINCT[3:]]  # the third comes without logprobs
    answer = await played("best_of_n@8", script, told).run()
    assert [len(poll.votes) for poll in told.polls] == [1, 2]
    assert (answer.candidates, answer.confidence) == (8, None)
    assert answer.winners[0].text == "\\boxed{1}"


async def test_best_of_n_tells_a_checkpoint_who_leads_by_score_and_scores_no_blank() -> None:
    told = Told(say=lambda poll: Verdict())
    script = [
        says("\\boxed{7}", mean=-2.0),
        says("", mean=-0.1),
        says("\\boxed{7}", mean=-1.0),
        says("\\boxed{8}", mean=-0.5),
    ]
    await played("best_of_n@4", script, told).run()
    last = told.polls[-1]
    seven, blank, again, eight = last.votes
    assert (seven.answer, last.leader) == (again.answer, eight.answer)
    assert (blank.answer, blank.score) == (None, None)
    assert last.counts() == (1, 2)
    assert eight.score is not None
    assert again.score is not None
    assert eight.score > again.score


@dataclass(kw_only=True)
class Equal:
    """Implements `Equivalence`: everything is equal. Notes how much had been published when it was asked."""

    published: Callable[[], Sequence[Answer]] = list
    seen: list[int] = field(default_factory=list[int])

    async def same(self, answer: str, others: Sequence[str]) -> Sequence[bool | None]:
        self.seen.append(len(self.published()))
        return [True] * len(others)


@pytest.mark.parametrize("written", ["majority_vote@2", "best_of_n@2"])
async def test_an_answer_is_published_before_algebra_is_asked_about_it(written: str) -> None:
    """Which may take longer than there is time for. The checkpoint sees what it found."""
    equal, told = Equal(), Told(say=lambda poll: Verdict())
    script = [says("\\boxed{x+1}", mean=-1.0), says("\\boxed{1+x}", mean=-1.0)]
    one = played(written, script, told, equivalence=equal)
    equal.published = lambda: one.published
    answer = await one.run()
    assert equal.seen == [3]  # both candidates' own answers, and the first one's after algebra
    assert [vote.answer for vote in told.polls[-1].votes] == [0, 0]
    assert answer.agreement == 1.0


def poll_of(*answers: int | None, leader: int | None = 0, cap: int = 8, by_votes: bool = True) -> Poll:
    votes = [Vote(answer=answer, tokens=10) for answer in answers]
    return Poll(votes=votes, leader=leader, cap=cap, by_votes=by_votes)


@pytest.mark.parametrize(
    ("poll", "counts"),
    [
        (poll_of(0, 0, 1, None), (2, 1)),
        (poll_of(0, 1, 1, 2), (1, 2)),  # the leader need not be the largest: scores decide
        (poll_of(0, 0), (2, 0)),
        (poll_of(None, None, leader=None), (0, 0)),
    ],
)
def test_a_poll_counts_the_leader_and_the_largest_beside_it(poll: Poll, counts: tuple[int, int]) -> None:
    assert poll.counts() == counts


@given(
    answers=st.lists(st.one_of(st.none(), st.integers(0, 3)), min_size=1, max_size=12),
    more=st.integers(0, 12),
    threshold=st.floats(0.5, 1),
)
def test_the_posterior_stops_a_vote_exactly_when_it_is_settled_and_candidates_are_left(
    answers: list[int | None], more: int, threshold: float
) -> None:
    votes = [Vote(answer=answer, tokens=1) for answer in answers]
    given_answers = [answer for answer in answers if answer is not None]
    leader = max(given_answers, key=given_answers.count) if given_answers else None
    poll = Poll(votes=votes, leader=leader, cap=len(votes) + more)
    verdict = ByPosterior(threshold=threshold).judge(poll)
    over = more > 0 and leader is not None and settled(poll.counts(), more, threshold)
    assert verdict == Verdict(stop="consensus" if over else None)


def test_the_posterior_says_nothing_where_scores_decide() -> None:
    assert ByPosterior().judge(poll_of(*[0] * 7)) == Verdict(stop="consensus")
    asked = poll_of(*[0] * 7, by_votes=False)
    assert ByPosterior().judge(asked) == Verdict(wave=asked.left)  # nothing will stop it: all at once


def test_candidates_left_are_never_fewer_than_none() -> None:
    assert [poll_of(0, 1, 2, cap=cap).left for cap in (5, 3, 2)] == [2, 0, 0]


class Broken:
    """A checkpoint that can't do what it is for."""

    by: By = "model"

    def judge(self, poll: Poll) -> Verdict:
        raise ValueError("23 features, not 24")


@pytest.mark.parametrize("written", ["single", "majority_vote@8", "best_of_n@8"])
async def test_a_checkpoint_that_fails_costs_no_answer(written: str) -> None:
    """What is left is drawn at once."""
    one = played(written, DISTINCT, Broken(), wave=None if written == "single" else 2)
    answer = await one.run()
    assert answer.winners
    assert (answer.confidence, answer.cut_short) == (None, None)
    assert answer.candidates == (1 if written == "single" else 8)


async def test_best_of_n_is_drawn_at_once_where_nothing_could_stop_it() -> None:
    one = played("best_of_n@8", DISTINCT, ByPosterior(), wave=1)
    await one.run()
    assert asked(one) == [1, 7]
