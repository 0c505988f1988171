"""Seconds that are kept right online: the correction of the speed model, and what others do on the engine."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.speed import Correction, Factors, Speed
from server.backends.load import STALE, EngineLoad, summed
from strategies.types import EngineError

PREDICTED = Speed(first_token=0.2, per_token=0.01)


def corrected(*factors: float, of: Correction | None = None) -> Correction:
    """One that has seen calls so many times slower than predicted."""
    correction = of or Correction()
    for factor in factors:
        correction.observe(PREDICTED, first_token=0.2 * factor, per_token=0.01 * factor)
    return correction


@given(before=st.floats(0.2, 5), step=st.sampled_from([1 / 3, 3.0]))
def test_a_lasting_change_is_followed_within_twenty_calls(before: float, step: float) -> None:
    correction = corrected(*[before] * 30)
    assert correction.factors.per_token == pytest.approx(before, rel=0.05)
    corrected(*[before * step] * 20, of=correction)
    assert correction.factors.per_token == pytest.approx(before * step, rel=0.1)
    assert correction.factors.first_token == pytest.approx(before * step, rel=0.1)


@given(outlier=st.floats(1e-6, 1e6))
def test_one_outlier_moves_it_little(outlier: float) -> None:
    correction = corrected(*[2.0] * 30, outlier)
    assert 2 / 1.2 < correction.factors.per_token < 2 * 1.2


@given(st.lists(st.floats(1e-9, 1e9), max_size=50))
def test_it_stays_within_bounds(factors: list[float]) -> None:
    found = corrected(*factors).factors
    assert 0.01 < found.first_token < 100
    assert 0.01 < found.per_token < 100


@given(factor=st.floats(0.05, 30))
def test_an_engine_never_seen_is_known_after_a_handful_of_calls(factor: float) -> None:
    assert corrected(*[factor] * 10).factors.per_token == pytest.approx(factor, rel=0.3)


def test_the_two_times_are_corrected_apart() -> None:
    correction = Correction()
    for _ in range(30):
        correction.observe(PREDICTED, first_token=0.8, per_token=None)
        correction.observe(PREDICTED, first_token=None, per_token=0.005)
    assert correction.factors.first_token == pytest.approx(4, rel=0.05)
    assert correction.factors.per_token == pytest.approx(0.5, rel=0.05)
    slowed = PREDICTED.slowed(Factors(first_token=2.0, per_token=3.0))
    assert (slowed.first_token, slowed.per_token) == (0.4, 0.03)


def test_what_can_not_be_is_no_observation() -> None:
    correction = corrected(2.0, 2.0)
    before = correction.factors
    correction.observe(PREDICTED, first_token=0.0, per_token=-1.0)
    correction.observe(Speed(first_token=0.0, per_token=0.0), first_token=1.0, per_token=1.0)
    assert correction.factors == before


# --- others on the engine

PAGE = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 5.0
vllm:num_requests_running{engine="1",model_name="m"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 1.0
vllm:num_requests_waiting_by_reason{engine="0"} 40.0
"""
NAMES = ("vllm:num_requests_running", "vllm:num_requests_waiting")


class Page:
    """An engine's metrics, which come at a time of its own."""

    def __init__(self) -> None:
        self.text: str | Exception = PAGE
        self.own = 3
        self.now = 100.0

    async def __call__(self) -> str:
        if isinstance(self.text, Exception):
            raise self.text
        return self.text


@pytest.fixture
def page() -> Page:
    return Page()


@pytest.fixture
def load(page: Page) -> EngineLoad:
    return EngineLoad(page, lambda: page.own, lambda: NAMES, clock=lambda: page.now)


def test_gauges_are_summed_over_their_series_and_no_others() -> None:
    assert summed(PAGE, NAMES) == 8.0
    assert summed(PAGE, ("llamacpp:requests_processing",)) is None
    assert summed("", NAMES) is None
    assert summed('vllm:num_requests_running{"broken\n', NAMES) is None


def test_what_is_not_ours_is_others(load: EngineLoad, page: Page) -> None:
    assert load.others == 0
    asyncio.run(load.read())
    assert load.others == 5
    page.own = 20
    asyncio.run(load.read())
    assert load.others == 0, "not below"


def test_a_reading_grows_old(load: EngineLoad, page: Page) -> None:
    asyncio.run(load.read())
    page.now += 1
    page.text = EngineError("gone", status=503)
    asyncio.run(load.read())
    assert load.age == 1
    assert load.others == 5
    page.now += STALE
    assert load.others == 0


def test_calls_that_begin_while_it_reads_are_not_taken_for_others(page: Page) -> None:
    own = iter((3, 8))
    load = EngineLoad(page, lambda: next(own), lambda: NAMES)
    asyncio.run(load.read())
    assert load.others == 0


def test_without_names_nothing_is_asked(page: Page) -> None:
    page.text = AssertionError("asked")
    load = EngineLoad(page, lambda: 0, lambda: ())
    asyncio.run(load.read())
    assert load.age is None
