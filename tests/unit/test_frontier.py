"""What a vote costs at a given accuracy, on frontiers made by hand."""

from __future__ import annotations

from math import isnan

import numpy as np
import pytest

from router.frontier import GAPS, Frontier, frontiers, savings
from router.replay import CHECKPOINTS, replay
from router.stopping_training import HeldOut
from router.vote_state import BY_VOTES
from tests.pools import random_pool

EVEN = np.full(4, 0.25)


def way(*settings: tuple[float, float], name: str = "made up") -> Frontier:
    """Settings with a cost and an accuracy, alike on four questions."""
    cost, accuracy = (np.repeat(np.array(column)[:, None], 4, axis=1) for column in zip(*settings, strict=True))
    return Frontier(name=name, cost=cost, accuracy=accuracy)


@pytest.mark.parametrize(
    ("accuracy", "cost"),
    [
        (0.4, 1.0),  # the cheapest reaches it
        (0.5, 1.0),
        (0.6, 2.0),  # one in three of the dear one
        (0.75, 3.5),
        (0.8, 4.0),
    ],
)
def test_settings_are_mixed_for_an_accuracy_between_theirs(accuracy: float, cost: float) -> None:
    assert way((1, 0.5), (4, 0.8)).cost_at(accuracy, EVEN) == pytest.approx(cost)


def test_a_setting_under_the_line_between_others_costs_nobody_anything() -> None:
    """The one of 3 at 0.55 is left out: one in six of the dear one does as well."""
    assert way((1, 0.5), (3, 0.55), (4, 0.8)).cost_at(0.55, EVEN) == pytest.approx(1.5)


def test_a_setting_above_the_line_is_used() -> None:
    assert way((1, 0.5), (2, 0.75), (4, 0.8)).cost_at(0.6, EVEN) == pytest.approx(1.4)


def test_a_dearer_setting_that_is_worse_is_never_mixed_in() -> None:
    assert way((9, 0.1), (2, 0.7)).cost_at(0.5, EVEN) == 2.0


def test_an_accuracy_that_no_setting_reaches_has_no_cost() -> None:
    assert isnan(way((1, 0.5), (4, 0.8)).cost_at(0.81, EVEN))


def test_questions_count_by_their_weights() -> None:
    one = Frontier(name="", cost=np.array([[1.0, 3.0]]), accuracy=np.array([[1.0, 1.0]]))
    assert one.cost_at(0.5, np.array([0.75, 0.25])) == 1.5
    assert one.points() == [(2.0, 1.0)]


BLOCKS = ["a", "b", "c", "d"]  # every question by itself
FIXED = way((1, 0.5), (8, 0.8), name="fixed")


def saved(*ways: Frontier) -> dict[tuple[str, float], tuple[float, float, float]]:
    return {(one.name, one.gap): (one.saved, one.low, one.high) for one in savings([FIXED, *ways], BLOCKS)}


def test_a_way_that_is_the_fixed_votes_own_saves_nothing() -> None:
    found = saved(way((1, 0.5), (8, 0.8), name="the same"))
    assert found == {("the same", gap): (0.0, 0.0, 0.0) for gap in GAPS}


def test_a_way_at_half_the_price_saves_half() -> None:
    for one in saved(way((0.5, 0.5), (4, 0.8), name="half")).values():
        assert one == pytest.approx((0.5, 0.5, 0.5))


def test_a_way_that_never_gets_near_the_full_vote_saves_nothing_that_could_be_told() -> None:
    assert all(isnan(one) for found in saved(way((1, 0.5), name="one")).values() for one in found)


def test_savings_are_those_at_the_full_votes_accuracy_less_the_gap() -> None:
    exact = saved(way((2, 0.8 - GAPS[0]), name="near"))
    assert exact["near", GAPS[0]][0] == pytest.approx(1 - 2 / FIXED.cost_at(0.8 - GAPS[0], EVEN))


def test_questions_of_one_block_are_drawn_together_for_the_interval() -> None:
    """Two easy and two hard ones: as two blocks they are all there is to be unsure about, as one there is nothing."""
    accuracy = np.array([[1.0, 1.0, 1.0, 1.0]])
    fixed = Frontier(name="fixed", cost=np.full((1, 4), 8.0), accuracy=accuracy)
    early = Frontier(name="early", cost=np.array([[2.0, 2.0, 8.0, 8.0]]), accuracy=accuracy)
    spread = {
        blocks: next(one.high - one.low for one in savings([fixed, early], list(blocks)))
        for blocks in ("aaaa", "aabb", "abab", "abcd")
    }
    assert spread["aaaa"] == spread["abab"] == 0  # every block has one of each
    assert spread["aabb"] == pytest.approx(0.75)
    assert 0 < spread["abcd"] <= 0.75


def unanimous(size: int) -> HeldOut:
    """A question whose candidates all agree, without any model."""
    data = replay([random_pool(0, size, answers=("7",))], BY_VOTES, orders=3)
    count = len(CHECKPOINTS)
    return HeldOut(
        data=data,
        gains=np.full((len(data), count, count), -np.inf),
        confidence=np.full((len(data), count), np.nan),
        familiar=np.zeros(len(data), dtype=bool),
    )


def test_the_frontiers_are_the_ways_of_the_papers_and_the_learned_one() -> None:
    found = {one.name: one for one in frontiers(unanimous(8), 1)}
    assert [*found] == [
        "fixed vote",
        "adaptive consistency",
        "window agrees",
        "threshold by price",
        "learned",
        "learned, half prior",
    ]
    assert found["fixed vote"].cost[:, 0].tolist() == [1, 2, 3, 4, 5, 6, 8]
    # 0.75, 0.875, 0.9375, 0.96875 after one to four, and from five on the rest can't change it
    assert {*found["adaptive consistency"].cost[:, 0].tolist()} == {1, 2, 3, 4, 5}
    assert found["window agrees"].cost[:, 0].tolist() == [2, 3, 4, 8]
    assert all((one.accuracy == 1).all() for one in found.values())


def test_a_query_that_the_model_does_not_know_is_stopped_by_the_price() -> None:
    found = {one.name: one for one in frontiers(unanimous(8), 1)}
    assert np.array_equal(found["learned"].cost, found["threshold by price"].cost)
