"""How many samples of a vote are asked for at once."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.waves import _SHARES, expected_waves, in_waves, wave_size
from strategies.spec import StrategySpec
from strategies.stopping import settled
from strategies.types import Prediction, Prices

PRICE = st.just(0.0) | st.floats(1e-9, 10)  # below that differences drown in rounding


def size(n: int, *, token_price: float, latency_price: float) -> int:
    return wave_size(
        n,
        tokens=100,
        seconds=1,
        prices=Prices(token_price=token_price, latency_price=latency_price),
        threshold=0.95,
    )


def test_free_tokens_or_dear_seconds_draw_all_at_once_and_free_seconds_one_by_one() -> None:
    assert size(16, token_price=0, latency_price=0) == 16
    assert size(16, token_price=0, latency_price=1) == 16
    assert size(16, token_price=1, latency_price=0) == 1


def test_between_the_two_a_wave_is_between_them() -> None:
    assert 1 < size(16, token_price=1, latency_price=0.1) < 16


@given(n=st.integers(1, 80), token_price=PRICE, latency_price=PRICE)
def test_a_wave_is_never_empty_and_never_more_than_the_vote(n: int, token_price: float, latency_price: float) -> None:
    assert 1 <= size(n, token_price=token_price, latency_price=latency_price) <= n


@given(n=st.integers(1, 40), cheap=PRICE, more=PRICE, latency_price=PRICE)
def test_dearer_tokens_never_make_larger_waves_dearer_in_samples(
    n: int, cheap: float, more: float, latency_price: float
) -> None:
    few = size(n, token_price=cheap + more, latency_price=latency_price)
    many = size(n, token_price=cheap, latency_price=latency_price)
    assert expected_waves(n, few, 0.95).samples <= expected_waves(n, many, 0.95).samples + 1e-9


@pytest.mark.parametrize(("n", "wave"), [(8, 1), (8, 3), (16, 4), (5, 5), (64, 6)])
def test_the_expectation_is_what_drawing_comes_to(n: int, wave: int) -> None:
    """Against 20,000 simulated votes, as many of each kind of query."""
    rng = Random(5)
    samples = waves = within = 0
    votes = 20_000
    for vote in range(votes):
        first, second = _SHARES[vote % len(_SHARES)]
        counts = [0, 0]
        drawn = took = 0
        while drawn < n:
            step = min(wave, n - drawn)
            for _ in range(step):
                at = rng.random()
                if at < first:
                    counts[0] += 1
                elif at < first + second:
                    counts[1] += 1
            drawn += step
            samples += step
            took += 1
            if settled(sorted(counts, reverse=True), n - drawn, 0.95):
                break
        waves += took
        within += took <= expected_waves(n, wave, 0.95).waves_upper
    expected = expected_waves(n, wave, 0.95)
    assert samples / votes == pytest.approx(expected.samples, rel=0.03)
    assert waves / votes == pytest.approx(expected.waves, rel=0.03)
    assert within / votes >= 0.88


def test_an_upper_bound_of_waves_is_not_simply_all_of_them() -> None:
    assert expected_waves(64, 4, 0.95).waves < expected_waves(64, 4, 0.95).waves_upper < 64 / 4


@pytest.mark.parametrize("n", [65, 100, 1024])
@pytest.mark.parametrize("wave", [1, 6, 64])
def test_a_vote_past_what_is_looked_at_goes_on_in_the_same_waves(n: int, wave: int) -> None:
    """Some are taken never to settle, so a larger vote costs more, and never more than everything."""
    shorter, course = expected_waves(64, wave, 0.95), expected_waves(n, wave, 0.95)
    assert shorter.samples < course.samples < n
    assert max(course.waves, course.waves_upper) <= -(-n // wave)


def vote(n: int) -> Prediction:
    """Predicted as drawn all at once: 100 tokens a sample, one to two seconds."""
    return Prediction(
        spec=StrategySpec.parse(f"majority_vote@{n}"),
        accuracy=0.5,
        tokens=100.0 * n,
        tokens_upper=150.0 * n,
        seconds=1.0,
        seconds_upper=2.0,
    )


DEAR_TOKENS = Prices(token_price=1.0, latency_price=0.01)


def test_a_vote_in_waves_costs_their_seconds_and_saves_their_tokens() -> None:
    row = in_waves(vote(16), prices=DEAR_TOKENS, threshold=0.95, seconds_left=1000.0)
    course = expected_waves(16, row.wave, 0.95)
    assert row.wave < 16
    assert (row.seconds, row.seconds_upper) == (course.waves, 2 * course.waves_upper)
    assert row.tokens == pytest.approx(100 * course.samples)
    assert row.tokens_upper == vote(16).tokens_upper  # it may never settle


def test_a_vote_all_at_once_costs_what_was_predicted_for_that() -> None:
    row = in_waves(vote(16), prices=Prices(token_price=0, latency_price=1), threshold=0.95, seconds_left=1000.0)
    assert (row.wave, row.tokens, row.seconds, row.seconds_upper) == (16, 1600.0, 1.0, 2.0)


@given(n=st.integers(1, 64), seconds_left=st.floats(-1, 100), token_price=PRICE, latency_price=PRICE)
def test_waves_never_make_a_vote_late_that_would_be_in_time_at_once(
    n: int, seconds_left: float, token_price: float, latency_price: float
) -> None:
    prices = Prices(token_price=token_price, latency_price=latency_price)
    row = in_waves(vote(n), prices=prices, threshold=0.95, seconds_left=seconds_left)
    assert row.seconds_upper <= max(seconds_left, 2.0)


def test_without_time_for_two_waves_a_vote_is_drawn_at_once() -> None:
    """With time for two, one wave can be tried: the vote itself draws what is left at once when time gets short."""
    waves = {left: in_waves(vote(16), prices=DEAR_TOKENS, threshold=0.95, seconds_left=left) for left in (3.9, 4.0)}
    assert (waves[3.9].wave, waves[3.9].seconds_upper) == (16, 2.0)
    assert waves[4.0].wave == size(16, token_price=1, latency_price=0.01)
    assert waves[4.0].seconds <= waves[4.0].seconds_upper <= 4.0
