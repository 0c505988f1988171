"""Areas under frontiers made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from router.areas import areas
from router.evaluation import Evaluation
from router.frontier import Frontier

BLOCKS = ["a", "b", "c", "d"]


def way(*settings: tuple[float, float], name: str = "made up") -> Frontier:
    """Settings with a cost and an accuracy, alike on four questions."""
    cost, accuracy = (np.repeat(np.array(column)[:, None], 4, axis=1) for column in zip(*settings, strict=True))
    return Frontier(name=name, cost=cost, accuracy=accuracy)


FIXED = way((1, 0.5), (100, 0.9), name="fixed")


def test_the_fixed_strategies_gain_nothing_on_themselves() -> None:
    (one,) = areas("tokens", FIXED, [FIXED], BLOCKS)
    assert (one.gain, one.low, one.high) == (0.0, 0.0, 0.0)
    assert (one.lowest, one.highest) == (1, 100)


def test_an_area_is_the_mean_accuracy_over_the_logarithm_of_the_cost() -> None:
    """The same accuracy everywhere is that accuracy, and a way a tenth above the fixed ones gains a tenth."""
    (one,) = areas("seconds", way((1, 0.6), (10, 0.6)), [way((1, 0.7), (10, 0.7))], BLOCKS)
    assert (one.area, one.fixed, one.gain) == pytest.approx((0.7, 0.6, 0.1))
    (steep,) = areas("tokens", FIXED, [way((1, 0.5), (10, 0.9))], BLOCKS)
    assert 0 < steep.gain < 0.4


def test_only_costs_that_both_can_do_are_compared() -> None:
    (one,) = areas("tokens", FIXED, [way((10, 0.9))], BLOCKS)
    assert (one.lowest, one.highest) == (10, 100)
    (dear,) = areas("tokens", way((1, 0.5), (2, 0.5)), [way((10, 0.9))], BLOCKS)
    assert (dear.lowest, dear.highest) == (10, 10)
    assert dear.gain == pytest.approx(0.4)


def test_questions_of_one_block_are_drawn_together_for_the_interval() -> None:
    right = np.array([[1.0, 1.0, 0.0, 0.0]])
    fixed = Frontier(name="", cost=np.ones((1, 4)), accuracy=np.full((1, 4), 0.5))
    mine = Frontier(name="", cost=np.ones((1, 4)), accuracy=right)
    spread = {}
    for blocks in ("aabb", "abab"):
        (one,) = areas("tokens", fixed, [mine], list(blocks))
        assert one.gain == pytest.approx(0)
        spread[blocks] = one.high - one.low
    assert spread["abab"] == pytest.approx(0)
    assert spread["aabb"] == pytest.approx(1)


def test_an_evaluation_has_the_area_of_every_level_of_deciding_in_tokens_and_in_seconds(evaluated: Evaluation) -> None:
    """Here adaptive is well above mixing fixed ones: easy questions need one sample, and hard ones are hopeless."""
    found = {(one.name, one.cost): one for one in evaluated.areas}
    assert {cost for _, cost in found} == {"tokens", "seconds"}
    assert {name for name, _ in found} == {"adaptive", "before sampling alone", "while sampling alone"}
    for one in found.values():
        assert one.low <= one.gain <= one.high
        assert one.lowest < one.highest
    assert found["adaptive", "tokens"].low > 0
