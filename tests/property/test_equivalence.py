"""Laws of grouping by equivalence, whatever is equal and in whichever order it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from strategies.answers import comparable
from strategies.types import Candidate
from strategies.voting import Ballot

SPELLINGS = ["x+1", "1+x", "x+2-1", "x-3", "-3+x", "\\sqrt{x}", "x^2"]
PIECES = st.sampled_from([*"x1+-=(),[]{}<%/^_ ", "\\sqrt{", "\\frac{1}{", "\\{", "\\}", "\\pi", "\\cup", "12"])


class Pairs:
    """Any symmetric relation, not even a transitive one: that is what an algebra system with a time limit gives."""

    def __init__(self, pairs: frozenset[frozenset[str]]) -> None:
        self._pairs = pairs

    async def same(self, answer: str, others: Sequence[str]) -> Sequence[bool | None]:
        return [frozenset((answer, other)) in self._pairs for other in others]


PAIRS = st.frozensets(st.frozensets(st.sampled_from(SPELLINGS), min_size=2, max_size=2)).map(Pairs)


def groups(candidates: Sequence[Candidate], equivalence: Pairs, together: bool) -> object:
    async def vote() -> object:
        ballot = Ballot(form=None)
        for candidate in candidates:
            ballot.cast(candidate)
            if not together:
                await ballot.reconcile(equivalence)
        await ballot.reconcile(equivalence)
        return ballot.groups

    return asyncio.run(vote())


@given(answers=st.lists(st.sampled_from(SPELLINGS), max_size=10), pairs=PAIRS, data=st.data())
def test_groups_do_not_depend_on_the_order_of_arrival(answers: list[str], pairs: Pairs, data: st.DataObject) -> None:
    candidates = [
        Candidate(index=i, text=f"\\boxed{{{answer}}}", tokens=1, finish_reason="stop")
        for i, answer in enumerate(answers)
    ]
    shuffled = data.draw(st.permutations(candidates))
    assert groups(shuffled, pairs, data.draw(st.booleans())) == groups(candidates, pairs, True)


@given(one=st.lists(PIECES, max_size=12).map("".join), other=st.lists(PIECES, max_size=12).map("".join))
def test_what_is_comparable_is_so_both_ways(one: str, other: str) -> None:
    assert comparable(one, other) == comparable(other, one)
