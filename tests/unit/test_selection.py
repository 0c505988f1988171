"""How scores become a winner."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.selection import places, select
from strategies.spec import Rule
from strategies.types import Candidate
from strategies.voting import Ballot


def rated(*scored: tuple[str, float | None]) -> list[Candidate]:
    return [
        Candidate(index=i, text=text, tokens=1, finish_reason="stop", score=score)
        for i, (text, score) in enumerate(scored)
    ]


def winner(candidates: Sequence[Candidate], rule: Rule, power: float = 1.0) -> str:
    return select(Ballot.of(candidates, form=None), rule=rule, power=power).winners[0].text


@pytest.mark.parametrize(
    ("rule", "power", "expected"),
    [
        ("naive", 1.0, "9"),
        ("weighted", 1.0, "9"),  # 100 > 4 + 3 > 2 + 1
        ("borda", 1.0, "7"),  # places 5, 4, 3, 2, 1: 9 has 5, 7 has 4 + 3, 8 has 2 + 1
        ("borda", 8.0, "9"),
    ],
)
def test_one_that_is_far_ahead_wins_by_its_score_and_not_by_its_place(rule: Rule, power: float, expected: str) -> None:
    drawn = rated(("7", 4.0), ("7", 3.0), ("8", 2.0), ("8", 1.0), ("9", 100.0))
    assert winner(drawn, rule, power) == expected


def test_borda_counts_places_from_the_worst_up() -> None:
    assert places(rated(("a", 0.1), ("b", 0.9), ("c", 0.5)), power=2.0) == {0: 1.0, 1: 9.0, 2: 4.0}


def test_equal_scores_share_their_places() -> None:
    """A verifier that knows only right and wrong gives many."""
    assert places(rated(("a", 1.0), ("b", 0.0), ("c", 1.0), ("d", 0.0)), power=1.0) == {0: 3.5, 1: 1.5, 2: 3.5, 3: 1.5}


def test_negative_scores_are_fine_for_naive_and_borda() -> None:
    drawn = rated(("7", -1.0), ("8", -2.0), ("8", -3.0))
    assert (winner(drawn, "naive"), winner(drawn, "borda", 2.0)) == ("7", "7")
    assert winner(drawn, "borda", 0.5) == "8"


@pytest.mark.parametrize("rule", ["naive", "weighted", "borda"])
def test_a_candidate_without_a_score_is_behind_every_one_that_has_one(rule: Rule) -> None:
    """Whatever the scale of the scores is."""
    assert winner(rated(("7", None), ("8", -5.0 if rule == "naive" else 0.1)), rule) == "8"


@given(scores=st.lists(st.floats(-10, 10), min_size=1, max_size=12), power=st.floats(0, 5))
def test_places_keep_the_order_of_the_scores_and_their_sum(scores: list[float], power: float) -> None:
    drawn = rated(*[("x", score) for score in scores])
    votes = places(drawn, power=power)
    assert sum(votes.values()) == pytest.approx(sum((i + 1) ** power for i in range(len(scores))))
    for one in drawn:
        for other in drawn:
            assert one.score is not None
            assert other.score is not None
            if one.score > other.score:
                assert votes[one.index] >= votes[other.index]


@given(st.lists(st.tuples(st.sampled_from(["7", "8", "9"]), st.floats(0.01, 1)), min_size=1, max_size=10, unique=True))
def test_borda_with_power_0_is_the_majority_vote(scored: list[tuple[str, float]]) -> None:
    ballot = Ballot.of(rated(*scored), form=None)
    chosen = select(ballot, rule="borda", power=0.0)
    assert chosen.votes[chosen.winners[0].text] == max(chosen.votes.values())
