"""How long a scorer's calls are taken to be."""

from __future__ import annotations

import asyncio

import pytest

from server.scorers.timing import Timing

pytestmark = pytest.mark.anyio


def test_until_a_call_has_been_seen_the_time_limit_stands_for_it() -> None:
    timing = Timing(limit=30)
    assert (timing.usual, timing.upper) == pytest.approx((1.0, 3.0))


@pytest.mark.parametrize("seconds", [0.02, 0.5, 20.0])
def test_calls_of_equal_length_are_soon_believed(seconds: float) -> None:
    timing = Timing(limit=30)
    for _ in range(60):
        timing.observe(seconds)
    assert timing.usual == pytest.approx(seconds, rel=0.1)
    assert timing.upper == pytest.approx(seconds, rel=0.3)


def test_most_calls_stay_under_the_upper_figure_when_they_differ() -> None:
    timing, calls = Timing(limit=30), [0.1, 0.2, 0.4, 0.8, 1.6] * 20
    for seconds in calls:
        timing.observe(seconds)
    assert timing.usual < timing.upper
    assert 0.75 <= sum(seconds <= timing.upper for seconds in calls) / len(calls) <= 1


def test_a_scorer_that_has_become_slow_is_soon_taken_to_be() -> None:
    timing = Timing(limit=30)
    for seconds in [0.1] * 100 + [5.0] * 30:
        timing.observe(seconds)
    assert timing.usual > 3


def test_a_call_of_no_time_at_all_is_no_error() -> None:
    timing = Timing(limit=30)
    timing.observe(0.0)
    assert 0 < timing.usual < 1


def test_a_failed_call_tells_nothing() -> None:
    timing = Timing(limit=30)
    with pytest.raises(KeyError), timing.watch():
        raise KeyError
    assert timing.usual == pytest.approx(1.0)
    with timing.watch():
        pass
    assert timing.usual < 1


@pytest.mark.parametrize(("limit", "longer"), [(3600, False), (1e-6, True)])
async def test_a_call_that_is_given_up_tells_only_that_it_takes_longer(limit: float, longer: bool) -> None:
    timing = Timing(limit=limit)
    before = timing.usual

    async def call() -> None:
        with timing.watch():
            await asyncio.Event().wait()

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert timing.usual > before if longer else timing.usual == before
