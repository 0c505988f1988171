"""Upper bounds keep their share of misses although what they bound drifts."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.coverage import Coverage, Widths, most_tokens, widened
from strategies.spec import StrategySpec
from strategies.types import Prediction

LEVEL = 0.9
ROW = Prediction(
    spec=StrategySpec.parse("best_of_n@4"), accuracy=0.5, tokens=40, tokens_upper=60, seconds=1.0, seconds_upper=1.6
)


def misses(scale: float, *, adaptive: bool, seed: int, requests: int = 4000) -> float:
    """Share of requests past their bound while the engine gets slower and faster between 1 and `scale`."""
    chance, coverage, missed = random.Random(seed), Coverage(LEVEL), 0
    for k in range(requests):
        drift = scale ** (0.5 + 0.5 * (-1) ** (k // 500)) if scale else 1.0
        seconds = drift * chance.lognormvariate(0.0, 0.4)
        row = widened(ROW, coverage.widths(), most_tokens=1e9) if adaptive else ROW
        missed += seconds > row.seconds_upper
        coverage.observe(row, tokens=None, seconds=seconds)
    return missed / requests


def test_bounds_stay_above_what_is_expected() -> None:
    """An engine twice as fast as predicted is the correction's matter; bounds may then be missed more seldom."""
    assert misses(0.5, adaptive=True, seed=1) < 1 - LEVEL


@pytest.mark.parametrize("scale", [1.0, 2.0, 5.0])
def test_the_share_of_misses_stays_at_the_level_asked_for(scale: float) -> None:
    assert misses(scale, adaptive=True, seed=1) == pytest.approx(1 - LEVEL, abs=0.02)


@pytest.mark.parametrize("scale", [2.0, 5.0])
def test_without_it_it_would_not(scale: float) -> None:
    assert misses(scale, adaptive=False, seed=1) > 0.2


def test_tokens_are_covered_likewise() -> None:
    chance, coverage, missed = random.Random(2), Coverage(LEVEL), 0
    for _ in range(3000):
        row = widened(ROW, coverage.widths(), most_tokens=1e9)
        tokens = chance.lognormvariate(4.5, 0.5)
        missed += tokens > row.tokens_upper
        coverage.observe(row, tokens=tokens, seconds=None)
    assert missed / 3000 == pytest.approx(1 - LEVEL, abs=0.02)


def test_methods_are_apart() -> None:
    coverage = Coverage(LEVEL)
    for _ in range(50):
        coverage.observe(ROW, tokens=1e9, seconds=1e9)
    vote = replace(ROW, spec=StrategySpec.parse("majority_vote@4"))
    widths = coverage.widths()
    assert widened(vote, widths, most_tokens=1e9) == vote
    assert widened(ROW, widths, most_tokens=1e9).seconds_upper > 3 * ROW.seconds_upper


@given(tokens=st.floats(0.5, 20), seconds=st.floats(0.5, 20), most=st.floats(40, 1000))
def test_a_bound_stays_possible(tokens: float, seconds: float, most: float) -> None:
    row = widened(ROW, {"best_of_n": Widths(tokens=tokens, seconds=seconds)}, most_tokens=most)
    assert row.tokens <= row.tokens_upper <= max(most, row.tokens)
    assert row.seconds <= row.seconds_upper


def test_of_what_is_not_offered_there_is_nothing_to_bound() -> None:
    refused = replace(ROW, feasible=False, reason="no logprobs")
    assert widened(refused, {"best_of_n": Widths(tokens=9.0, seconds=9.0)}, most_tokens=1e9) == refused


def test_the_most_that_candidates_can_have() -> None:
    assert most_tokens(StrategySpec.parse("best_of_n@4"), limit=10, answers=1) == 40
    assert most_tokens(StrategySpec.parse("single"), limit=10, answers=3) == 30
