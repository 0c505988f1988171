"""The token ledger, step by step."""

from __future__ import annotations

import pytest

from strategies.ledger import CANCEL_SLACK, MIN_USEFUL_TOKENS, Ledger


def test_what_is_reserved_is_not_there_for_others() -> None:
    ledger = Ledger(100)
    ledger.reserve(60)
    assert (ledger.remaining, ledger.spent) == (40, 0)
    with pytest.raises(ValueError, match="41 tokens asked, 40 left"):
        ledger.reserve(41)


def test_what_was_not_used_goes_back_when_a_sequence_ends() -> None:
    ledger = Ledger(100)
    lease = ledger.reserve(60)
    lease.count(10)
    lease.close(cancelled=False)
    assert (ledger.remaining, ledger.spent) == (90, 10)


def test_a_cancelled_sequence_stays_charged_for_what_the_engine_may_still_make() -> None:
    ledger = Ledger(100)
    lease = ledger.reserve(60)
    lease.count(10)
    lease.close(cancelled=True)
    assert (ledger.remaining, ledger.spent) == (90 - CANCEL_SLACK, 10)


def test_a_cancelled_sequence_is_never_charged_more_than_its_reservation() -> None:
    ledger = Ledger(100)
    lease = ledger.reserve(12)
    lease.count(10)
    lease.close(cancelled=True)
    assert ledger.remaining == 88


def test_closing_twice_gives_back_once() -> None:
    ledger = Ledger(100)
    lease = ledger.reserve(60)
    lease.close(cancelled=False)
    lease.close(cancelled=True)
    assert ledger.remaining == 100


def test_an_engine_that_makes_too_much_is_held_to_the_reservation() -> None:
    ledger = Ledger(100)
    lease = ledger.reserve(10)
    lease.count(8)
    lease.count(8)
    assert (lease.seen, ledger.spent) == (10, 10)
    lease.correct(500)
    assert (lease.seen, ledger.spent) == (10, 10)


def test_the_engines_own_count_corrects_ours() -> None:
    ledger = Ledger(100)
    lease = ledger.reserve(50)
    lease.count(8)
    lease.correct(5)
    assert (lease.seen, ledger.spent) == (5, 5)
    lease.correct(9)
    lease.close(cancelled=False)
    assert (ledger.spent, ledger.remaining) == (9, 91)


@pytest.mark.parametrize(
    ("capacity", "n", "at_most", "plan"),
    [
        (1000, 4, 100, (4, 100)),  # all fits
        (200, 4, 100, (4, 50)),  # shorter
        (40, 4, 100, (2, 20)),  # fewer, because a quarter would be no answer
        (5, 4, 100, (1, 5)),  # never none while there is one token
        (3, 8, 1, (3, 1)),
        (100, 0, 10, (0, 0)),
    ],
)
def test_a_plan_makes_sequences_shorter_and_then_fewer(
    capacity: int, n: int, at_most: int, plan: tuple[int, int]
) -> None:
    assert MIN_USEFUL_TOKENS == 16
    assert Ledger(capacity).plan(n, at_most) == plan


def test_nothing_is_planned_when_nothing_is_left() -> None:
    ledger = Ledger(10)
    ledger.reserve(10)
    assert ledger.plan(1, 1) == (0, 0)


def test_a_budget_is_at_least_one_token() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Ledger(0)
