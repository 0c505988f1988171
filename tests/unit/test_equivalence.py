"""Which answers are compared by algebra, how often, and what comes of what is not found out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from strategies.answers import comparable
from strategies.equivalence import MOST
from strategies.types import Candidate
from strategies.voting import Ballot


class Told:
    """An equivalence that is told what is equal, and notes what it was asked."""

    def __init__(self, equal: Callable[[str, str], bool | None]) -> None:
        self._equal = equal
        self.asked: list[tuple[str, str]] = []

    async def same(self, answer: str, others: Sequence[str]) -> Sequence[bool | None]:
        self.asked += [(answer, other) for other in others]
        await asyncio.sleep(0)
        return [self._equal(answer, other) for other in others]


def boxed(*answers: str, finish: str = "stop") -> list[Candidate]:
    return [
        Candidate(index=i, text=f"\\boxed{{{answer}}}", tokens=1, finish_reason=finish)
        for i, answer in enumerate(answers)
    ]


async def grouped(candidates: Sequence[Candidate], equivalence: Told) -> list[list[int]]:
    ballot = Ballot(form=None)
    for candidate in candidates:
        ballot.cast(candidate)
        await ballot.reconcile(equivalence)
    return [[c.index for c in g.members] for g in ballot.groups]


@pytest.mark.parametrize(
    ("one", "other", "worth"),
    [
        ("\\sqrt{8}", "2\\sqrt{2}", True),
        ("2sqrt(2)", "\\sqrt{8}", True),
        ("12", "\\sqrt{144}", True),
        ("x+1", "1+x", True),
        ("x+y=1", "y+x=1", True),
        ("[0,\\frac{\\pi}{2}]", "[0,\\pi/2]", True),
        ("1", "2", False),  # the canonical spelling of numbers says all
        ("(1,2)", "(2,1)", False),
        ("1/2", "50%", False),
        ("\\frac{1}{3}", "33\\%", False),
        ("x+1", "y+1", False),
        ("(1,x)", "\\{1,x\\}", False),
        ("(1,x]", "(1,x)", False),
        ("x=y", "x-y", False),
        ("x,2", "2,x", False),  # a bare list may be ordered or not
        ("101_2", "101_3", False),
        ("1/2x", "\\frac{x}{2}", False),  # reads in two ways
        ("the sum of x", "x", False),
        ("\\sqrt{8", "2\\sqrt{2}", False),
        ("x" + "+1" * 200, "x", False),
        ("", "x", False),
    ],
)
def test_only_what_could_be_equal_is_worth_the_algebra(one: str, other: str, worth: bool) -> None:
    assert comparable(one, other) is comparable(other, one) is worth


@pytest.mark.anyio
async def test_equal_answers_are_one_group_under_the_first_ones_spelling() -> None:
    told = Told(lambda one, other: True)
    ballot = Ballot.of(boxed("3\\pi", "\\sqrt{8}", "2\\sqrt{2}", "7"), form=None)
    assert len(ballot.groups) == 4
    await ballot.reconcile(told)
    assert len(ballot.groups) == 1
    ballot = Ballot.of(boxed("\\sqrt{8}", "7", "2\\sqrt{2}"), form=None)
    await ballot.reconcile(Told(lambda one, other: "7" not in (one, other)))
    assert ballot.vote().votes == {"\\sqrt{8}": 2, "7": 1}


@pytest.mark.anyio
async def test_no_pair_is_asked_twice_and_no_known_one_at_all() -> None:
    told = Told(lambda one, other: True)
    candidates = boxed(*["x+1", "1+x", "x+2-1", "x+1", "1+x"] * 3)
    assert len(await grouped(candidates, told)) == 1
    assert told.asked == [("1+x", "x+1"), ("x+2-1", "x+1"), ("x+2-1", "1+x")]


@pytest.mark.anyio
async def test_what_is_not_found_out_is_different_and_ends_the_asking() -> None:
    told = Told(lambda one, other: None)
    assert len(await grouped(boxed("x+1", "1+x", "x+2-1", "x+3-2"), told)) == 4
    assert len(told.asked) == 1


@pytest.mark.anyio
async def test_numbers_prose_and_unmarked_answers_are_never_asked_about() -> None:
    told = Told(lambda one, other: True)
    texts = ["\\boxed{1}", "\\boxed{2}", "The answer is Paris.", "Answer: London", "x+1", "1+x", "7"]
    candidates = [Candidate(index=i, text=t, tokens=1, finish_reason="stop") for i, t in enumerate(texts)]
    await grouped(candidates, told)
    assert told.asked == []
    assert len(await grouped(boxed("x+1", "1+x", finish="length"), told)) == 0


@pytest.mark.anyio
async def test_the_spellings_of_one_request_are_bounded() -> None:
    told = Told(lambda one, other: False)
    await grouped(boxed(*(f"x+{i}" for i in range(64))), told)
    assert len(told.asked) == MOST * (MOST - 1) // 2


@pytest.mark.anyio
async def test_a_cancelled_comparison_is_taken_up_again() -> None:
    told = Told(lambda one, other: True)
    ballot = Ballot.of(boxed("x+1", "1+x"), form=None)
    task = asyncio.create_task(ballot.reconcile(told))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await ballot.reconcile(told)
    assert len(ballot.groups) == 1


@pytest.mark.anyio
async def test_scores_keep_what_was_found_equal() -> None:
    ballot = Ballot.of(boxed("x+1", "1+x"), form=None)
    await ballot.reconcile(Told(lambda one, other: True))
    assert len(ballot.scored({0: 1.0}).groups) == 1
