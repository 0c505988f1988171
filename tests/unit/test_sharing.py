"""What all could have: a strategy that one request could have at the load of now, and not every one that comes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.sharing import Arrivals, shared
from router.speed import Load, Speed
from strategies.spec import StrategySpec
from strategies.types import Prediction

NAMES = ("single", "majority_vote@4", "majority_vote@8", "best_of_n@16")
TOKENS = 100.0  # of one candidate
ROOM = 32  # sequences with which the engine is half as fast as with none


def speeds(calls: Sequence[tuple[int, int]]) -> Sequence[Speed]:
    return [Speed(first_token=0.0, per_token=0.01 * (1 + (running + added) / ROOM)) for running, added in calls]


def rows(load: Load, names: Sequence[str] = NAMES) -> list[Prediction]:
    specs = [StrategySpec.parse(name) for name in names]
    found = speeds([(load.sequences, spec.draws) for spec in specs])
    return [
        Prediction(
            spec=spec,
            accuracy=0.5,
            tokens=TOKENS * spec.draws,
            tokens_upper=TOKENS * spec.draws,
            seconds=TOKENS * speed.per_token,
            seconds_upper=TOKENS * speed.per_token,
        )
        for spec, speed in zip(specs, found, strict=True)
    ]


def left(load: Load, *, seconds_left: float, names: Sequence[str] = NAMES) -> set[str]:
    """What all could have."""
    return {
        str(row.spec) for row in shared(rows(load, names), load, speeds, seconds_left=seconds_left) if not row.reason
    }


def test_alone_there_is_nobody_to_share_with() -> None:
    assert left(Load(), seconds_left=1.6) == set(NAMES)
    assert left(Load(arrivals=0.5), seconds_left=1.6) == set(NAMES), "one at a time"


def test_the_more_come_the_less_each_gets() -> None:
    kept = [len(left(Load(arrivals=rate), seconds_left=4.0)) for rate in (0.0, 1.0, 2.0, 4.0, 8.0, 100.0)]
    assert kept == sorted(kept, reverse=True)
    assert kept[0] == len(NAMES)
    assert kept[-1] == 1
    assert len(set(kept)) >= 3, "little by little"


def test_the_fixed_point_is_found() -> None:
    """1.25 s at once, and x = (2 * 100 * 0.01 * (1 + (x + 8) / 32) - 1) * 8 has its solution at x = 24: 2 s."""
    eight = ["single", "majority_vote@8"]
    assert left(Load(arrivals=2.0), seconds_left=2.05, names=eight) == set(eight)
    assert left(Load(arrivals=2.0), seconds_left=1.9, names=eight) == {"single"}


def test_it_is_told_why() -> None:
    load = Load(arrivals=20.0)
    *_, row = shared(rows(load), load, speeds, seconds_left=2.0)
    assert row.reason.startswith("may take ")
    assert row.reason.endswith(" s of 2.00 s if all requests get it")


def test_what_is_not_offered_keeps_its_reason() -> None:
    load = Load(arrivals=20.0)
    first, *rest = rows(load)
    judged = shared([first, *(replace(row, reason="off") for row in rest)], load, speeds, seconds_left=2.0)
    assert [row.reason for row in judged] == ["", "off", "off", "off"]


def test_what_fits_by_itself_is_not_given_up_for_a_smaller_one_that_does_not() -> None:
    load = Load(arrivals=1000.0)
    slow, *rest = rows(load, ["beam_search@2x2", "majority_vote@8", "best_of_n@16"])
    judged = shared([replace(slow, seconds_upper=9.0), *rest], load, speeds, seconds_left=2.0)
    assert [bool(row.reason) for row in judged] == [False, False, True], "the first is the deadline's to judge"


@given(
    rate=st.floats(0, 1e4),
    running=st.integers(0, 10_000),
    others=st.integers(0, 10_000),
    seconds_left=st.floats(-10, 1000),
    names=st.lists(st.sampled_from(NAMES), min_size=1, unique=True),
)
def test_the_smallest_is_always_left(
    rate: float, running: int, others: int, seconds_left: float, names: Sequence[str]
) -> None:
    load = Load(running=running, others=others, arrivals=rate)
    kept = left(load, seconds_left=seconds_left, names=names)
    assert min(names, key=lambda name: StrategySpec.parse(name).draws) in kept
    assert left(load, seconds_left=inf, names=names) == set(names)


def test_arrivals_are_counted_and_forgotten() -> None:
    arrivals = Arrivals()
    assert arrivals.rate(100.0) == 0.0
    for i in range(400):
        arrivals.observe(100.0 + i / 10)
    assert arrivals.rate(140.0) == pytest.approx(10, rel=0.1)
    assert arrivals.rate(170.0) < 0.1
    assert arrivals.rate(139.0) <= 10.5, "a clock that goes back makes no requests"
