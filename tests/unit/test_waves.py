"""How many samples of a vote are asked for at once."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.waves import _SHARES, expected_waves, wave_size
from strategies.stopping import settled
from strategies.types import Prices

PRICE = st.floats(0, 10)


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
    assert expected_waves(n, few, 0.95)[0] <= expected_waves(n, many, 0.95)[0] + 1e-9


@pytest.mark.parametrize(("n", "wave"), [(8, 1), (8, 3), (16, 4), (5, 5)])
def test_the_expectation_is_what_drawing_comes_to(n: int, wave: int) -> None:
    """Against 20,000 simulated votes of each kind of query."""
    rng = Random(5)
    samples = waves = 0
    votes = 20_000
    for vote in range(votes):
        first, second = _SHARES[vote % len(_SHARES)]
        counts = [0, 0]
        drawn = 0
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
            waves += 1
            if settled(sorted(counts, reverse=True), n - drawn, 0.95):
                break
    expected = expected_waves(n, wave, 0.95)
    assert samples / votes == pytest.approx(expected[0], rel=0.02)
    assert waves / votes == pytest.approx(expected[1], rel=0.02)
