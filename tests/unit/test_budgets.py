"""Hard budgets in an evaluation: kept by everything that is compared, and what is compared is what it says."""

from __future__ import annotations

import pytest

from router.budgets import CUT, FITS, PRICES, SECONDS, TOKENS, AtBudget
from router.evaluation import Evaluation
from router.summary import table


def by_tokens(evaluated: Evaluation, pair: tuple[float, float]) -> list[AtBudget]:
    return [
        at for at in evaluated.budgets if at.max_total_tokens is not None and (at.token_price, at.latency_price) == pair
    ]


def test_every_budget_is_judged_at_every_pair_of_prices(evaluated: Evaluation) -> None:
    assert len(evaluated.budgets) == (len(TOKENS) + len(SECONDS)) * len(PRICES)
    assert {(at.max_total_tokens is None, at.deadline is None) for at in evaluated.budgets} == {
        (True, False),
        (False, True),
    }
    text = table(evaluated)
    assert all(f"{at.limit}, {at.token_price:g}" in text for at in evaluated.budgets)


def test_nothing_spends_more_than_the_budget_and_nothing_takes_longer(evaluated: Evaluation) -> None:
    for at in evaluated.budgets:
        for row in at.rows:
            assert row.tokens <= (at.max_total_tokens or row.tokens)
            assert row.seconds <= (at.deadline or row.seconds) + 1e-9


@pytest.mark.parametrize("pair", PRICES)
def test_the_more_there_is_the_more_fits(evaluated: Evaluation, pair: tuple[float, float]) -> None:
    feasible = [at.feasible for at in by_tokens(evaluated, pair)]
    assert feasible == sorted(feasible)
    assert feasible[0] < 1.0 == feasible[-1]
    tokens = [at.row("adaptive").tokens for at in by_tokens(evaluated, pair)]
    assert tokens == pytest.approx(sorted(tokens), rel=0.05)


def test_gains_are_over_the_best_that_fits_and_cutting_others_may_be_better(evaluated: Evaluation) -> None:
    for at in evaluated.budgets:
        fits, cut = at.row(FITS), at.row(CUT)
        assert fits.gain == 0
        assert cut.gain >= 0
        assert at.row("adaptive").gain == pytest.approx(at.row("adaptive").utility - fits.utility)


def test_a_fixed_strategy_that_may_need_more_than_there_is_does_not_fit(evaluated: Evaluation) -> None:
    """Easy questions take 10 tokens a sample and hard ones 40: with 38, nine of ten of no strategy's outcomes fit."""
    tight, wide = by_tokens(evaluated, PRICES[0])[0], by_tokens(evaluated, PRICES[0])[-1]
    assert tight.row(FITS).name.endswith("single")
    assert not wide.row(FITS).name.endswith("single")


def test_with_room_for_everything_a_budget_changes_nothing(evaluated: Evaluation) -> None:
    wide = by_tokens(evaluated, PRICES[0])[-1]
    free = next(at for at in evaluated.prices if (at.token_price, at.latency_price) == PRICES[0])
    assert wide.mix == free.mix
    assert wide.row("adaptive").accuracy == pytest.approx(free.row("adaptive").accuracy, abs=0.05)
