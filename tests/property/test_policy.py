"""The decision, for any table of predictions.

Figures are multiples of powers of two, so that utilities are exact and a tie is a tie.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.policy import BudgetInfeasible, choose, utility
from strategies.spec import StrategySpec
from strategies.types import Allocation, Budget, Prediction, Prices, Query
from tests.fakes import ask

SPECS = [
    StrategySpec.parse(text)
    for text in (
        "single",
        "majority_vote@4",
        "majority_vote@8",
        "best_of_n@4",
        "best_of_n@4:weighted",
        "beam_search@2x2",
    )
]
PRICE = st.just(0.0) | st.integers(0, 64).map(lambda k: k / 16)
LIMIT = st.tuples(st.integers(1, 4000), st.integers(0, 64).map(lambda k: k / 8))


@st.composite
def tables(draw: st.DrawFn, *, refused: bool = True) -> list[Prediction]:
    specs = draw(st.lists(st.sampled_from(SPECS), min_size=1, unique=True))
    figure = st.integers(0, 16)
    rows: list[Prediction] = []
    for spec in specs:
        tokens, seconds = 125.0 * draw(figure), draw(figure) / 8
        rows.append(
            Prediction(
                spec=spec,
                accuracy=draw(st.integers(0, 16)) / 16,
                tokens=tokens,
                tokens_upper=tokens + draw(st.integers(0, 2000)) / 8,
                seconds=seconds,
                seconds_upper=seconds + draw(st.integers(0, 2048)) / 1024,
                reason=draw(st.sampled_from(["", "", "", "not for this query"])) if refused else "",
            )
        )
    return rows


def query(
    limit: tuple[int, float], *, token_price: float = 0.0, latency_price: float = 0.0, strict: bool = False
) -> Query:
    return ask(
        budget=Budget(max_total_tokens=limit[0], deadline=limit[1], strict=strict),
        prices=Prices(token_price=token_price, latency_price=latency_price),
    )


def decide(asked: Query, rows: list[Prediction]) -> Allocation:
    return choose(asked, rows, now=0.0, decided_by="model", model_version="v")


def fits(row: Prediction, limit: tuple[int, float]) -> bool:
    return not row.reason and row.tokens_upper <= limit[0] and row.seconds_upper <= limit[1]


@given(rows=tables(), limit=LIMIT, token_price=PRICE, latency_price=PRICE)
@settings(max_examples=100)
def test_the_best_of_what_fits_is_chosen_and_explained(
    rows: list[Prediction], limit: tuple[int, float], token_price: float, latency_price: float
) -> None:
    asked = query(limit, token_price=token_price, latency_price=latency_price)
    allocation = decide(asked, rows)
    feasible = [row for row in rows if fits(row, limit)]
    chosen = allocation.chosen
    assert chosen is not None
    assert allocation.fits == chosen.feasible == bool(feasible)
    if feasible:
        assert chosen.utility == max(utility(row, asked.prices) for row in feasible)
        tied = [row for row in feasible if utility(row, asked.prices) == chosen.utility]
        assert chosen.tokens == min(row.tokens for row in tied)
    assert allocation.reason
    assert [row.spec for row in allocation.predictions] == [row.spec for row in rows]
    for told, row in zip(allocation.predictions, rows, strict=True):
        assert told.feasible == fits(row, limit)
        assert bool(told.reason) != told.feasible
        assert told.utility == utility(row, asked.prices)
    assert (allocation.decided_by, allocation.model_version) == ("model", "v")
    assert allocation == decide(asked, rows)


@given(rows=tables(), limit=LIMIT, latency_price=PRICE, prices=st.tuples(PRICE, PRICE).map(sorted))
@settings(max_examples=100)
def test_dearer_tokens_never_buy_more_of_them(
    rows: list[Prediction], limit: tuple[int, float], latency_price: float, prices: list[float]
) -> None:
    cheap, dear = (decide(query(limit, token_price=p, latency_price=latency_price), rows).chosen for p in prices)
    assert cheap is not None
    assert dear is not None
    assert dear.tokens <= cheap.tokens


@given(rows=tables(), limit=LIMIT, token_price=PRICE, prices=st.tuples(PRICE, PRICE).map(sorted))
@settings(max_examples=100)
def test_dearer_seconds_never_buy_more_of_them(
    rows: list[Prediction], limit: tuple[int, float], token_price: float, prices: list[float]
) -> None:
    cheap, dear = (decide(query(limit, token_price=token_price, latency_price=p), rows).chosen for p in prices)
    assert cheap is not None
    assert dear is not None
    assert dear.seconds <= cheap.seconds


@given(rows=tables(), limit=LIMIT, more=LIMIT, token_price=PRICE, latency_price=PRICE)
@settings(max_examples=100)
def test_a_larger_budget_is_never_worth_less(
    rows: list[Prediction], limit: tuple[int, float], more: tuple[int, float], token_price: float, latency_price: float
) -> None:
    larger = (limit[0] + more[0], limit[1] + more[1])
    before, after = (
        decide(query(each, token_price=token_price, latency_price=latency_price), rows) for each in (limit, larger)
    )
    if before.fits:
        assert after.fits
        assert before.chosen is not None
        assert after.chosen is not None
        assert after.chosen.utility >= before.chosen.utility


@given(rows=tables(), limit=LIMIT)
@settings(max_examples=100)
def test_without_strict_the_smallest_on_offer_is_cut_to_size(rows: list[Prediction], limit: tuple[int, float]) -> None:
    allocation = decide(query(limit), rows)
    if not allocation.fits:
        offered = [row for row in rows if not row.reason] or rows
        chosen = allocation.chosen
        assert chosen is not None
        assert (chosen.seconds_upper, chosen.tokens_upper) == min((r.seconds_upper, r.tokens_upper) for r in offered)
        assert "cut to size" in allocation.reason


@given(rows=tables(refused=False), limit=LIMIT)
@settings(max_examples=100)
def test_strict_refuses_when_nothing_fits_and_names_a_budget_that_would_do(
    rows: list[Prediction], limit: tuple[int, float]
) -> None:
    asked = query(limit, strict=True)
    if any(fits(row, limit) for row in rows):
        assert decide(asked, rows) == decide(query(limit), rows)
        return
    with pytest.raises(BudgetInfeasible) as refusal:
        decide(asked, rows)
    assert str(refusal.value.smallest.spec) in str(refusal.value)
    named = re.search(r"max_total_tokens=(\d+) and deadline_ms=(\d+)", str(refusal.value))
    assert named is not None
    enough = (int(named[1]), int(named[2]) / 1000)
    assert decide(query(enough, strict=True), rows).fits


@given(rows=tables(), limit=LIMIT, requested=st.sampled_from(SPECS), token_price=PRICE)
@settings(max_examples=100)
def test_what_the_client_asks_for_is_what_runs(
    rows: list[Prediction], limit: tuple[int, float], requested: StrategySpec, token_price: float
) -> None:
    allocation = decide(replace(query(limit, token_price=token_price), requested=requested), rows)
    assert (allocation.spec, allocation.decided_by) == (requested, "client")
    assert str(requested) in allocation.reason
    assert len(allocation.predictions) == len(rows)
    row = next((row for row in rows if row.spec == requested), None)
    assert allocation.fits == (row is None or fits(row, limit))


def test_of_equal_utilities_the_fewer_tokens_win_and_then_the_menus_order() -> None:
    row = Prediction(spec=SPECS[0], accuracy=0.5, tokens=200, tokens_upper=200, seconds=1, seconds_upper=1)
    rows = [row, replace(row, spec=SPECS[1], tokens=100), replace(row, spec=SPECS[2], tokens=100)]
    assert decide(query((1000, 9.0)), rows).spec == SPECS[1]


def test_a_strict_budget_holds_for_what_the_client_asks_for() -> None:
    row = Prediction(spec=SPECS[1], accuracy=1, tokens=100, tokens_upper=200, seconds=1, seconds_upper=2)
    with pytest.raises(BudgetInfeasible, match="majority_vote@4"):
        decide(replace(query((150, 9.0), strict=True), requested=SPECS[1]), [row])


def test_an_empty_table_is_an_error() -> None:
    with pytest.raises(ValueError, match="offers nothing"):
        decide(query((1, 1.0)), [])
