"""From a query to an allocation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from router.allocator import Allocator
from router.courses import as_stopped
from router.features import Features, extract
from router.learning import Trained as Learning
from router.policy import BudgetInfeasible
from router.predictors import Prior
from router.scoring import Scoring, ScoringCost
from router.speed import Load, Speed
from router.stopper import Stopper
from router.waves import Waved, expected_waves
from strategies.spec import StrategySpec
from strategies.stopping import Poll, Vote
from strategies.types import Allocation, Budget, Prediction, Prices, Query
from tests.fakes import FAR, ask, menu_of

MENU = menu_of("single", "majority_vote@4", "best_of_n@4", "beam_search@2x2")
SINGLE = StrategySpec.parse("single")
VOTE = StrategySpec.parse("majority_vote@4")
SCORING = Scoring(
    costs={
        "judge": ScoringCost(seconds=1.0, seconds_upper=3.0, tokens=80.0, tokens_upper=250.0),
        "knockout": ScoringCost(seconds=1.0, seconds_upper=3.0, tokens=80.0, tokens_upper=250.0, knockout=True),
        "mine": ScoringCost(seconds=1.0, seconds_upper=3.0),
    },
    step_tokens=32,
)


@dataclass(frozen=True)
class Trained:
    """A predictor that was trained on some strategies only, as the LightGBM one is."""

    known: Sequence[StrategySpec]
    name: str = "model"
    version: str | None = "2026-01"
    stopper: Stopper | None = None

    def predict(
        self, features: Features, specs: Sequence[StrategySpec], load: Load, *, max_tokens: int
    ) -> Sequence[Prediction]:
        rows = Prior().predict(features, specs, load, max_tokens=max_tokens)
        empty = {"accuracy": 0.0, "tokens": 0.0, "tokens_upper": 0.0, "seconds": 0.0, "seconds_upper": 0.0}
        return [row if row.spec in self.known else replace(row, **empty, reason="never recorded") for row in rows]

    def speeds(self, calls: Sequence[tuple[float, int, int]]) -> Sequence[Speed]:
        return Prior().speeds(calls)


def allocate(
    query: Query, menu: Sequence[StrategySpec] = MENU, *, known: Sequence[StrategySpec] | None = None
) -> Allocation:
    allocator = Allocator(
        predictor=Prior() if known is None else Trained(known),
        fallback=Prior(),
        max_candidates=16,
        default_max_tokens=300,
    )
    return allocator.explain(query, menu, Load(), now=0.0, stop_threshold=0.95, scoring=SCORING)[1]


def small(tokens: int, *, strict: bool = False) -> Budget:
    return Budget(max_total_tokens=tokens, deadline=FAR, strict=strict)


def test_every_menu_entry_is_explained_in_the_menus_order() -> None:
    allocation = allocate(ask())
    assert [row.spec for row in allocation.predictions] == list(MENU)
    assert allocation.spec in MENU
    assert allocation.decided_by == "prior"
    assert allocation.reason
    assert allocation.fits


def test_the_decision_comes_with_the_features_it_was_made_on() -> None:
    allocator = Allocator(predictor=Prior(), fallback=Prior(), max_candidates=16, default_max_tokens=300)
    features, allocation = allocator.explain(ask(), MENU, Load(), now=0.0, stop_threshold=0.95, scoring=SCORING)
    assert features == extract(ask())
    assert allocation == allocate(ask())


def test_free_compute_buys_more_than_one_candidate_and_dear_compute_does_not() -> None:
    assert allocate(ask()).spec != SINGLE
    assert allocate(ask(prices=Prices(token_price=10.0, latency_price=0.0))).spec == SINGLE
    assert allocate(ask(prices=Prices(token_price=0.0, latency_price=10.0))).spec == SINGLE


def test_open_text_is_not_voted_on_while_only_the_prior_decides() -> None:
    """Nothing in it can agree: three poems would cost three times as much and none of them would win."""
    assert allocate(ask("Write a poem about autumn.")).spec == SINGLE


def test_temperature_0_gets_single_and_every_other_row_says_why() -> None:
    allocation = allocate(ask(sampling={"temperature": 0}))
    assert allocation.spec == SINGLE
    assert all("temperature 0" in row.reason for row in allocation.predictions if row.spec != SINGLE)


def test_a_strategy_asked_for_at_temperature_0_is_single_instead_and_the_reason_says_so() -> None:
    allocation = allocate(ask(sampling={"temperature": 0}, requested=VOTE))
    assert allocation.spec == SINGLE
    assert allocation.reason.startswith("single instead of majority_vote@4: temperature 0")
    assert allocation.fits  # that the budget was too small would be untrue


def test_what_can_not_work_is_no_matter_of_a_strict_budget() -> None:
    """The error would name a budget, and no budget would do."""
    roomy = small(100_000, strict=True)
    assert allocate(ask(sampling={"temperature": 0}, requested=VOTE, budget=roomy)).spec == SINGLE
    assert allocate(ask(sampling={"temperature": 0}, budget=roomy), [VOTE]).spec == SINGLE


@pytest.mark.parametrize("sampling", [{"temperature": 0}, {}])
def test_a_menu_that_can_offer_nothing_still_gets_single_with_figures(sampling: dict[str, Any]) -> None:
    menu = [VOTE] if sampling else menu_of("majority_vote@32")
    allocation = allocate(ask(sampling=sampling), menu)
    assert (allocation.spec, allocation.fits) == (SINGLE, True)
    assert "nothing on the menu can be offered" in allocation.reason
    assert [row.spec for row in allocation.predictions] == [*menu, SINGLE]
    assert allocation.chosen is not None
    assert allocation.chosen.tokens > 0


def test_a_strict_budget_holds_for_the_single_that_stands_in() -> None:
    query = ask(sampling={"temperature": 0}, requested=VOTE, answers=3, budget=small(2, strict=True))
    with pytest.raises(BudgetInfeasible, match="single"):
        allocate(query)


def test_tools_rule_out_beam_search_only() -> None:
    allocation = allocate(ask(tools=[{"type": "function", "function": {"name": "f"}}]))
    refused = [str(row.spec) for row in allocation.predictions if not row.feasible]
    assert refused == ["beam_search@2x2"]


def test_n_answers_cost_n_draws_of_single_and_rule_out_what_draws_fewer() -> None:
    one, three = allocate(ask()).predictions[0], allocate(ask(answers=3)).predictions
    assert (three[0].tokens, three[0].tokens_upper) == (3 * one.tokens, 3 * one.tokens_upper)
    assert [str(row.spec) for row in three if row.reason] == ["beam_search@2x2"]


def test_a_budget_under_what_one_answer_may_need_is_said_to_be_too_small() -> None:
    """`single` runs all the same, cut to the budget; strictly it is refused with the tokens that would do."""
    allocation = allocate(ask(budget=small(50)))
    assert (allocation.spec, allocation.fits) == (SINGLE, False)
    assert "cut to size" in allocation.reason
    with pytest.raises(BudgetInfeasible, match="max_total_tokens=300"):
        allocate(ask(budget=small(50, strict=True)))
    assert allocate(ask(budget=small(300, strict=True))).fits


def test_what_the_client_asks_for_runs_although_it_is_not_on_the_menu() -> None:
    asked = StrategySpec.parse("best_of_n@8:self_certainty")
    allocation = allocate(ask(requested=asked))
    assert (allocation.spec, allocation.decided_by) == (asked, "client")
    assert [row.spec for row in allocation.predictions] == [*MENU, asked]
    assert allocation.chosen is not None


def test_what_the_client_asks_for_has_figures_although_the_model_knows_nothing_of_it() -> None:
    asked = StrategySpec.parse("best_of_n@8")
    allocation = allocate(ask(requested=asked), known=[SINGLE])
    assert (allocation.spec, allocation.fits) == (asked, True)
    assert allocation.chosen is not None
    assert allocation.chosen.tokens > 0


def test_the_model_does_not_choose_what_it_knows_nothing_of() -> None:
    allocation = allocate(ask(), known=[SINGLE, VOTE])
    assert (allocation.spec, allocation.decided_by, allocation.model_version) == (VOTE, "model", "2026-01")
    unknown = [row for row in allocation.predictions if row.spec not in (SINGLE, VOTE)]
    assert [(row.feasible, row.reason) for row in unknown] == [(False, "never recorded")] * 2


def test_a_model_that_knows_nothing_on_offer_leaves_single() -> None:
    """Its empty rows cost nothing on paper, which must not make them the smallest."""
    menu = menu_of("beam_search@2x2", "single", "majority_vote@4")
    allocation = allocate(ask(sampling={"temperature": 0}), menu, known=[VOTE])
    assert (allocation.spec, allocation.fits) == (SINGLE, True)
    assert allocation.chosen is not None
    assert allocation.chosen.tokens > 0


def predicted(written: str, **asked: Any) -> Prediction:
    row = allocate(ask(**asked), menu_of(written)).chosen
    assert row is not None
    return row


# what each adds to drawing: expected tokens, their upper bound, expected seconds, their upper bound
@pytest.mark.parametrize(
    ("scorer", "added"),
    [
        ("judge", (8 * 80, 8 * 250, 1, 3)),  # while one judges, the others are drawn: the last one's call is waited for
        ("knockout", (7 * 80, 7 * 250, 3, 9)),  # three rounds of half as many each
        ("mine", (0, 0, 1, 3)),
        ("self_certainty", (0, 0, 0, 0)),
    ],
)
def test_scores_are_part_of_what_best_of_n_is_predicted_to_cost(scorer: str, added: tuple[float, ...]) -> None:
    bare, row = predicted("best_of_n@8"), predicted(f"best_of_n@8:{scorer}")
    differences = (
        row.tokens - bare.tokens,
        row.tokens_upper - bare.tokens_upper,
        row.seconds - bare.seconds,
        row.seconds_upper - bare.seconds_upper,
    )
    assert differences == pytest.approx(added)
    assert row.accuracy == bare.accuracy


def test_a_beam_search_is_scored_after_every_step() -> None:
    """100 tokens a beam are 3.1 steps of 32, and at most 300 tokens are 9.4."""
    bare, row = predicted("beam_search@2x2"), predicted("beam_search@2x2:judge", budget=small(100_000))
    assert bare.tokens == 4 * 100
    assert row.tokens - bare.tokens == pytest.approx(100 / 32 * 4 * 80)
    assert row.tokens_upper == pytest.approx(2 * 300 / 32 * 4 * 250)  # the judge gets half of a budget at most
    assert row.seconds - bare.seconds == pytest.approx(100 / 32)
    assert row.seconds_upper - bare.seconds_upper == pytest.approx(3 * 300 / 32)


def test_a_judge_that_leaves_no_room_for_its_candidates_does_not_fit_and_a_strict_budget_says_what_would() -> None:
    asked = StrategySpec.parse("best_of_n@8:judge")
    with pytest.raises(BudgetInfeasible, match="max_total_tokens=4000"):
        allocate(ask(max_tokens=100, requested=asked, budget=small(800, strict=True)))
    assert not allocate(ask(max_tokens=100, requested=asked, budget=small(3999))).fits  # verdicts get half at most
    assert allocate(ask(max_tokens=100, requested=asked, budget=small(4000, strict=True))).fits


def test_what_is_not_offered_costs_nothing() -> None:
    row = predicted("best_of_n@32:judge", requested=None)
    assert row.spec == SINGLE
    refused = allocate(ask(), menu_of("best_of_n@32:judge")).predictions[0]
    assert (refused.feasible, "over the operator's limit" in refused.reason) == (False, True)


@pytest.mark.parametrize("known", [None, [SINGLE, StrategySpec.parse("majority_vote@16")]], ids=["prior", "model"])
def test_a_vote_is_predicted_in_the_waves_that_its_prices_make_of_it(known: Sequence[StrategySpec] | None) -> None:
    def row(**prices: float) -> Waved:
        query = ask(prices=Prices(**prices), requested=StrategySpec.parse("majority_vote@16"))
        chosen = allocate(query, menu_of("majority_vote@16"), known=known).chosen
        assert isinstance(chosen, Waved)
        return chosen

    at_once = row(token_price=0.0, latency_price=1.0)
    few = row(token_price=1.0, latency_price=0.001)
    assert at_once.wave == 16
    assert few.wave < 16
    assert few.seconds == pytest.approx(at_once.seconds * expected_waves(16, few.wave, 0.95).waves)
    assert few.seconds_upper > at_once.seconds_upper
    assert few.tokens < at_once.tokens


# --- what decides while sampling

MODEL_MENU = menu_of("single", "majority_vote@4", "best_of_n@4", "beam_search@2x2")
LETTER = "Dear Sir,\n\nplease find attached our offer. We'd be glad to hear from you, and remain\n\nyours truly"
MIDDLE = Prices(token_price=1.0, latency_price=0.01)


@pytest.fixture(scope="module")
def learned(trained: Learning) -> Allocator:
    return Allocator(predictor=trained.model, fallback=Prior(), max_candidates=16, default_max_tokens=64)


def decided(
    allocator: Allocator, content: str = "3 + 4 = ?", *, stop_threshold: float | None = None, **fields: Any
) -> Allocation:
    query = ask(content, **{"prices": MIDDLE, "sampling": {"temperature": 0.8}, "max_tokens": 64, **fields})
    return allocator.explain(query, MODEL_MENU, Load(), now=0.0, scoring=SCORING, stop_threshold=stop_threshold)[1]


def by_spec(allocation: Allocation) -> dict[str, Prediction]:
    return {str(row.spec): row for row in allocation.predictions}


def test_the_rows_of_what_can_be_stopped_tell_their_wave_and_what_stopping_makes_of_them(learned: Allocator) -> None:
    """By the courses of the model, for best-of-N as well as for votes; the others are as they were predicted."""
    allocation = decided(learned)
    stopper = learned.predictor.stopper
    assert stopper is not None
    bare = learned.predictor.predict(extract(ask("3 + 4 = ?", max_tokens=64)), MODEL_MENU, Load(), max_tokens=64)
    for before, row in zip(bare, allocation.predictions, strict=True):
        if before.spec.method in ("majority_vote", "best_of_n"):
            stopped = as_stopped(before, stopper.courses, prices=MIDDLE, seconds_left=FAR)
            assert isinstance(row, Waved)
            assert stopped is not None
            assert (row.wave, row.accuracy, row.tokens, row.seconds) == (
                stopped.wave,
                stopped.accuracy,
                stopped.tokens,
                stopped.seconds,
            )
            assert row.tokens <= before.tokens
        else:
            assert not isinstance(row, Waved)
            assert (row.accuracy, row.tokens, row.seconds) == (before.accuracy, before.tokens, before.seconds)


def test_the_first_wave_is_the_one_of_the_row_that_was_chosen(learned: Allocator) -> None:
    for prices in (MIDDLE, Prices(token_price=0.0, latency_price=0.0), Prices(token_price=0.1, latency_price=0.0)):
        allocation = decided(learned, prices=prices)
        chosen = allocation.chosen
        assert allocation.wave == (chosen.wave if isinstance(chosen, Waved) else None)


def test_a_query_that_the_model_knows_is_left_to_the_model(learned: Allocator) -> None:
    allocation = decided(learned)
    assert (allocation.stopping.by, allocation.familiar) == ("model", True)


def test_a_query_that_the_model_does_not_know_is_left_to_the_price(learned: Allocator) -> None:
    """And to what the price alone makes of a vote; nothing is known of best-of-N, so that it is drawn whole."""
    allocation = decided(learned, LETTER)
    assert (allocation.stopping.by, allocation.familiar, allocation.decided_by) == ("prior", False, "averages")
    rows = by_spec(allocation)
    assert isinstance(rows["majority_vote@4"], Waved)
    assert not isinstance(rows["best_of_n@4"], Waved)


def test_without_a_model_the_price_decides_and_nothing_is_said_of_what_is_familiar() -> None:
    allocator = Allocator(predictor=Prior(), fallback=Prior(), max_candidates=16, default_max_tokens=64)
    allocation = decided(allocator)
    assert (allocation.stopping.by, allocation.familiar) == ("prior", None)


@pytest.mark.parametrize("content", ["3 + 4 = ?", LETTER], ids=["known", "unknown"])
def test_the_operators_threshold_decides_whatever_the_model_or_the_price_says(learned: Allocator, content: str) -> None:
    dear = Prices(token_price=50.0, latency_price=0.0)
    allocation = decided(learned, content, stop_threshold=0.9, prices=dear, sampling={"temperature": 0.8})
    assert allocation.stopping.by == "threshold"
    assert not isinstance(by_spec(allocation)["best_of_n@4"], Waved)
    votes = [Vote(answer=0, tokens=50)]
    stops = [allocation.stopping.judge(Poll(votes=votes * drawn, leader=0, cap=16)).stop for drawn in (1, 2, 3)]
    assert stops == [None, None, "consensus"]  # .75, .875, .9375: at this price the first one would have been enough


def test_a_vote_that_was_asked_for_by_name_is_settled_at_95_percent_whatever_it_costs(learned: Allocator) -> None:
    """Who names a strategy wants what it is known for. The model still tells how sure the answer is."""
    dear = Prices(token_price=50.0, latency_price=0.0)
    allocation = decided(learned, prices=dear, requested=VOTE)
    assert (str(allocation.spec), allocation.stopping.by) == ("majority_vote@4", "threshold")
    votes = [Vote(answer=0, tokens=50)]
    verdicts = [allocation.stopping.judge(Poll(votes=votes * drawn, leader=0, cap=16)) for drawn in (3, 4)]
    assert [verdict.stop for verdict in verdicts] == [None, "consensus"]
    assert all(verdict.confidence is not None for verdict in verdicts)


def test_what_is_given_up_is_what_the_operator_says(learned: Allocator) -> None:
    poll = Poll(votes=[Vote(answer=i, tokens=50) for i in range(3)], leader=0, cap=16)
    for below, stop in ((0.0, None), (1.99, "hopeless")):
        allocation = decided(replace(learned, give_up_below=below), prices=Prices(token_price=0.0, latency_price=0.0))
        assert allocation.stopping.judge(poll).stop == stop


def test_single_is_told_how_sure_its_answer_is(learned: Allocator) -> None:
    allocation = decided(learned, requested=SINGLE)
    assert allocation.spec == SINGLE
    confidence = allocation.stopping.judge(Poll(votes=[Vote(answer=0, tokens=10)], leader=0, cap=1)).confidence
    assert confidence is not None
    assert 0 < confidence < 1


def test_the_dearer_tokens_are_the_fewer_are_expected_of_a_vote_that_is_stopped(learned: Allocator) -> None:
    tokens = [
        by_spec(decided(learned, prices=Prices(token_price=price, latency_price=0.0)))["majority_vote@4"].tokens
        for price in (0.0, 1.0, 100.0)
    ]
    assert tokens == sorted(tokens, reverse=True)
    assert tokens[0] > 1.5 * tokens[-1]
