"""The benchmark on games of 24: what it reckons is what counting out gives, on games made up."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest

from benchmarks.game24 import (
    AT_WORK,
    SAMPLES,
    SIZES,
    Games,
    Plan,
    crossing,
    follow,
    longest,
    none_right,
    outcomes,
    plan,
)


def games(*right: int, found: float = 1.0, searched: float = 5000.0) -> Games:
    """Games with so many right samples, which are 1 to 100 tokens long."""
    count = len(right)
    return Games(
        right=np.array(right, dtype=float),
        lengths=np.tile(np.arange(1.0, SAMPLES + 1), (count, 1)),
        found=np.full(count, found),
        first=np.full(count, found),
        searched=np.full(count, searched),
    )


def test_chances_and_lengths_are_those_of_drawing_without_replacement() -> None:
    assert none_right(games(0, 1, 40, 100), 2) == pytest.approx([1.0, 0.98, comb(60, 2) / comb(100, 2), 0.0])
    pairs = [max(pair) for pair in combinations(range(1, SAMPLES + 1), 2)]
    assert longest(games(0), 2) == pytest.approx([np.mean(pairs)])
    assert longest(games(0), SAMPLES) == pytest.approx([100.0])


def test_a_plan_that_draws_all_at_once_or_only_searches_is_the_fixed_strategy() -> None:
    some = games(0, 3, 60, found=0.7)
    accuracy, tokens, seconds = outcomes(some, AT_WORK)
    for column, steps in ((SIZES.index(8), Plan(waves=(8,), search=False)), (-1, Plan(waves=(), search=True))):
        right, spent, took, _ = follow(some, steps, AT_WORK)
        assert right == pytest.approx(accuracy[:, column])
        assert spent == pytest.approx(tokens[:, column])
        assert took == pytest.approx(seconds[:, column])


@pytest.mark.parametrize(("token", "second"), [(0.0, 0.0), (1e-5, 0.001), (1e-5, 0.01), (2e-5, 0.05), (1e-4, 0.5)])
def test_a_plan_is_the_best_of_all_there_are(token: float, second: float) -> None:
    some = games(0, 0, 1, 5, 30, found=0.6)

    def worth(steps: Plan) -> float:
        right, tokens, seconds, _ = follow(some, steps, AT_WORK)
        return float((right - token * tokens - second * seconds).mean())

    every = [
        Plan(waves=waves, search=search)
        for size in range(len(SIZES) + 1)
        for waves in combinations(SIZES, size)
        for search in (True, False)
        if waves or search
    ]
    assert worth(plan(some, token, second, AT_WORK)) == pytest.approx(max(map(worth, every)))


def test_a_search_pays_until_its_seconds_cost_more_than_it_is_better() -> None:
    """It is always right, samples never: the price of its seconds beyond those of one sample is at most 1."""
    some = games(0, 0)
    seconds = outcomes(some, AT_WORK)[2].mean(axis=0)
    found = crossing(some, 0.0, AT_WORK)
    assert found["price"] == pytest.approx(1 / (seconds[-1] - seconds[0]), rel=0.02)
    assert found["low"] == found["high"] == found["price"]
    assert crossing(games(100, 100), 0.0, AT_WORK)["price"] == 0.0
