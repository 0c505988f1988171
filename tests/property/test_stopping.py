"""When one more candidate is worth its price, whatever the votes and the prices are."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite, isnan

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from router.stopping import (
    FREE,
    ByPrice,
    Spending,
    costs,
    mean_tokens,
    price_at,
    stop_reason,
    threshold_at,
    thresholds_at,
    wave_of,
)
from router.vote_state import BY_VOTES, STATE_FEATURES, Rule, rule_of, vote_state
from strategies.spec import StrategySpec
from strategies.stopping import Poll, Verdict, Vote, cannot_change
from strategies.types import Prices

PRICE = st.floats(1e-6, 1.0)
RULES: list[Rule] = [BY_VOTES, (1.0, 0.0), (2.0, 0.0), (3.0, 1.0)]


@st.composite
def votes(draw: st.DrawFn, *, scored: bool = False) -> list[Vote]:
    answers = draw(st.lists(st.one_of(st.none(), st.integers(0, 4)), min_size=1, max_size=20))
    return [
        Vote(
            answer=answer,
            tokens=draw(st.integers(0, 2000)),
            score=draw(st.floats(0, 5)) if scored and answer is not None else None,
        )
        for answer in answers
    ]


def plurality(cast: list[Vote]) -> int | None:
    answers = [vote.answer for vote in cast if vote.answer is not None]
    return max(answers, key=lambda answer: (answers.count(answer), -answers.index(answer))) if answers else None


@st.composite
def polls(draw: st.DrawFn) -> Poll:
    """Of a majority vote, with candidates to come."""
    cast = draw(votes())
    left = draw(st.integers(1, 20))
    return Poll(votes=cast, leader=plurality(cast), cap=len(cast) + left, under_way=draw(st.integers(0, left)))


@st.composite
def spendings(draw: st.DrawFn) -> Spending:
    return Spending(token=draw(st.sampled_from([0.0, 1e-6, 1e-5, 1e-4, 1e-3])), wait=draw(st.floats(0, 1)))


# --- the table


@given(one=PRICE, other=PRICE)
def test_the_threshold_never_rises_with_the_price(one: float, other: float) -> None:
    cheap, dear = sorted((one, other))
    assert 0.5 <= threshold_at(dear) <= threshold_at(cheap) <= 0.95


def test_where_candidates_cost_nothing_95_percent_settle_a_vote_and_where_they_are_dear_anything_does() -> None:
    assert threshold_at(0.0) == threshold_at(1e-4) == 0.95
    assert threshold_at(0.1) == 0.5


@given(price=st.floats(1.01e-4, 2.49e-2))
def test_the_price_at_a_threshold_is_the_one_that_has_it(price: float) -> None:
    assert price_at(thresholds_at(np.array(price))) == pytest.approx(price, rel=1e-6)


@given(posterior=st.floats(0, 1), price=st.floats(1.01e-4, 2.49e-2))
def test_a_vote_is_settled_from_its_own_price_on(posterior: float, price: float) -> None:
    """Both ways of asking agree: the posterior against the price's threshold, the price against the posterior's."""
    own = float(price_at(np.array(posterior)))
    assume(abs(own / price - 1) > 1e-6)
    assert (posterior >= threshold_at(price)) == (price >= own)


def test_beyond_the_table_a_vote_is_settled_at_any_price_or_at_none() -> None:
    assert price_at(np.array([0.96, 0.4])).tolist() == [FREE / 2, 1.0]


# --- waves and costs


@given(left=st.integers(1, 200), price=PRICE, wait=st.floats(0, 10))
def test_a_wave_asks_for_one_at_least_and_for_no_more_than_are_left(left: int, price: float, wait: float) -> None:
    assert 1 <= wave_of(left, price=price, wait=wait) <= left


@given(left=st.integers(1, 200), price=PRICE, dearer=st.floats(1, 100), wait=st.floats(0, 10), longer=st.floats(1, 100))
def test_a_wave_grows_with_the_wait_and_shrinks_with_the_price(
    left: int, price: float, dearer: float, wait: float, longer: float
) -> None:
    here = wave_of(left, price=price, wait=wait)
    assert wave_of(left, price=price, wait=wait * longer) >= here >= wave_of(left, price=price * dearer, wait=wait)


def test_a_wave_is_one_where_waiting_is_free_and_everything_where_only_waiting_costs() -> None:
    assert wave_of(40, price=1e-3, wait=0.0) == 1
    assert wave_of(40, price=FREE, wait=0.0) == 40  # who pays for neither is not kept waiting
    assert wave_of(40, price=0.0, wait=1.0) == 40
    assert wave_of(16, price=0.01, wait=0.01) == 4  # the square root of 16 * 0.01 / 0.01


@given(candidate=PRICE, wait=st.floats(0, 1), under_way=st.integers(0, 30))
def test_more_candidates_never_cost_less(candidate: float, wait: float, under_way: int) -> None:
    each = costs(np.arange(1.0, 40.0), candidate=candidate, wait=wait, under_way=under_way)
    assert (np.diff(each) > 0).all()
    assert (each > 0).all()


@given(candidate=PRICE, wait=st.floats(0, 1), under_way=st.integers(1, 30))
def test_candidates_under_way_cost_less_than_such_as_have_to_be_asked_for(
    candidate: float, wait: float, under_way: int
) -> None:
    more = np.arange(1.0, 40.0)
    coming = costs(more, candidate=candidate, wait=wait, under_way=under_way)
    asked = costs(more, candidate=candidate, wait=wait, under_way=0)
    assert (coming < asked).all()
    beyond = more > under_way
    assert asked[beyond] - coming[beyond] == pytest.approx(np.full(beyond.sum(), 0.5 * candidate * under_way))


def test_a_candidate_costs_its_tokens_and_never_nothing() -> None:
    spending = Spending.of(Prices(token_price=2.0, latency_price=0.5), seconds=3.0)
    assert (spending.candidate(100), spending.wait) == (pytest.approx(0.2), 1.5)
    assert Spending.of(Prices(token_price=0.0, latency_price=0.0), seconds=3.0).candidate(100) == FREE


# --- adaptive consistency by the price


@given(poll=polls(), spending=spendings(), dearer=st.floats(1, 1000))
def test_what_stops_at_a_price_of_tokens_stops_at_every_higher_one(
    poll: Poll, spending: Spending, dearer: float
) -> None:
    higher = replace(spending, token=spending.token * dearer)
    here, there = ByPrice(spending=spending).judge(poll), ByPrice(spending=higher).judge(poll)
    assert here.stop is None or there.stop is not None
    assert here.wave is None or there.wave is None or there.wave <= here.wave


@given(poll=polls(), spending=spendings())
def test_the_price_never_stops_where_nobody_has_voted_nor_asks_for_more_than_are_left(
    poll: Poll, spending: Spending
) -> None:
    verdict = ByPrice(spending=spending).judge(poll)
    assert verdict.stop is None or poll.leader is not None
    assert (verdict.stop is None) == (verdict.wave is not None)
    assert verdict.wave is None or 1 <= verdict.wave <= poll.left


@given(second=st.integers(0, 9), lead=st.integers(2, 9), left=st.integers(1, 8), spending=spendings())
def test_a_vote_that_can_not_change_is_over_at_every_price(
    second: int, lead: int, left: int, spending: Spending
) -> None:
    left = min(left, lead - 1)
    cast = [Vote(answer=0, tokens=10)] * (second + lead) + [Vote(answer=1, tokens=10)] * second
    poll = Poll(votes=cast, leader=0, cap=len(cast) + left)
    assert cannot_change(poll.counts(), poll.left)
    assert ByPrice(spending=spending).judge(poll) == Verdict(stop="consensus")


@given(poll=polls(), spending=spendings())
def test_the_price_says_nothing_where_scores_decide_or_nothing_is_left(poll: Poll, spending: Spending) -> None:
    assert ByPrice(spending=spending).judge(replace(poll, by_votes=False)) == Verdict(wave=poll.left or None)
    assert ByPrice(spending=spending).judge(replace(poll, cap=len(poll.votes), under_way=0)) == Verdict()


def test_the_dearer_candidates_are_the_fewer_agree_before_a_vote_is_over() -> None:
    """100 tokens each, all of one mind, of 16."""

    def agreeing(token_price: float) -> int:
        rule = ByPrice(spending=Spending.of(Prices(token_price=token_price, latency_price=0.0), seconds=1.0))
        polls = [Poll(votes=[Vote(answer=0, tokens=100)] * drawn, leader=0, cap=16) for drawn in range(1, 17)]
        return next(len(poll.votes) for poll in polls if rule.judge(poll).stop)

    assert [agreeing(price) for price in (0.0, 0.005, 0.02, 0.3)] == [4, 3, 2, 1]


def test_candidates_under_way_are_waited_for_where_new_ones_would_not_be_asked_for() -> None:
    cast = [Vote(answer=0, tokens=100), Vote(answer=0, tokens=100), Vote(answer=1, tokens=100)]
    rule = ByPrice(spending=Spending(token=6e-5, wait=0.0))
    alone = Poll(votes=cast, leader=0, cap=8)
    assert rule.judge(alone).stop == "price"
    assert rule.judge(replace(alone, under_way=4)).stop is None


def test_a_stop_is_told_as_consensus_only_where_the_vote_is_settled() -> None:
    split = Poll(votes=[Vote(answer=0, tokens=1), Vote(answer=1, tokens=1)], leader=0, cap=8)
    agreed = Poll(votes=[Vote(answer=0, tokens=1)] * 4, leader=0, cap=8)
    assert [stop_reason(poll) for poll in (split, agreed, replace(agreed, by_votes=False))] == [
        "price",
        "consensus",
        "price",
    ]


def test_the_mean_candidate_of_none_has_no_tokens() -> None:
    assert mean_tokens(Poll(votes=[], leader=None, cap=3)) == 0.0
    assert mean_tokens(Poll(votes=[Vote(answer=0, tokens=3), Vote(answer=None, tokens=6)], leader=0, cap=3)) == 4.5


# --- the state of the votes


def named(state: list[float]) -> dict[str, float]:
    return dict(zip(map(str, STATE_FEATURES), state, strict=True))


@given(cast=votes(scored=True), rule=st.sampled_from(RULES))
def test_a_state_has_a_number_for_every_feature_and_only_scores_may_be_unknown(cast: list[Vote], rule: Rule) -> None:
    state = vote_state(Poll(votes=cast, leader=plurality(cast), cap=32, by_votes=not rule[0]), rule)
    assert len(state) == len(STATE_FEATURES)
    known = named(state)
    scores = {"score", "score_ahead", "score_above_mean"}
    assert all(isfinite(value) for name, value in known.items() if name not in scores)
    if not rule[0]:
        assert all(isnan(known[name]) for name in scores)
    assert known["drawn"] == len(cast)
    assert (known["by_score"], known["scored_by"]) == rule


@given(cast=votes(scored=True), names=st.permutations(range(10, 15)), rule=st.sampled_from(RULES))
def test_the_numbers_that_stand_for_answers_make_no_difference(cast: list[Vote], names: list[int], rule: Rule) -> None:
    leader = plurality(cast)
    renamed = [replace(vote, answer=None if vote.answer is None else names[vote.answer]) for vote in cast]
    one = vote_state(Poll(votes=cast, leader=leader, cap=32), rule)
    two = vote_state(Poll(votes=renamed, leader=None if leader is None else names[leader], cap=32), rule)
    assert two == pytest.approx(one, nan_ok=True)


@given(cast=votes(scored=True), data=st.data(), rule=st.sampled_from(RULES))
def test_of_the_order_of_the_candidates_only_the_latest_share_knows(
    cast: list[Vote], data: st.DataObject, rule: Rule
) -> None:
    leader = plurality(cast)
    other = data.draw(st.permutations(cast))
    one, two = (vote_state(Poll(votes=order, leader=leader, cap=32), rule) for order in (cast, other))
    latest = STATE_FEATURES.index("latest")
    assert [*two[:latest], *two[latest + 1 :]] == pytest.approx(
        [*one[:latest], *one[latest + 1 :]], nan_ok=True, abs=1e-6
    )


@given(cast=votes(), rule=st.sampled_from(RULES))
def test_shares_are_shares(cast: list[Vote], rule: Rule) -> None:
    state = named(vote_state(Poll(votes=cast, leader=plurality(cast), cap=32), rule))
    for name in ("leading", "second", "margin", "posterior", "distinct", "alone", "blank", "latest"):
        assert -1e-9 <= state[name] <= 1 + 1e-9, name


def test_a_state_counts_what_was_cast() -> None:
    cast = [
        Vote(answer=0, tokens=10, score=0.5),
        Vote(answer=1, tokens=20, score=0.9),
        Vote(answer=0, tokens=30, score=0.7),
        Vote(answer=None, tokens=40),
    ]
    state = named(vote_state(Poll(votes=cast, leader=0, cap=8, by_votes=False), (1.0, 0.0)))
    wanted = {
        "drawn": 4.0,
        "leading": 0.5,
        "second": 0.25,
        "margin": 0.25,
        "margin_votes": 1.0,
        "distinct": 0.5,
        "alone": 0.25,
        "blank": 0.25,
        "latest": 0.0,
        "leader_tokens": 20 / 25,
        "score": 0.7,
        "score_ahead": pytest.approx(-0.2),
        "score_above_mean": pytest.approx(0.0),
    }
    assert {name: state[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("written", "rule"),
    [
        ("single", (0.0, 0.0)),
        ("majority_vote@8", (0.0, 0.0)),
        ("best_of_n@8", (1.0, 0.0)),
        ("best_of_n@4:self_certainty:weighted", (2.0, 1.0)),
        ("best_of_n@4:borda", (3.0, 0.0)),
        ("best_of_n@8:my_prm", None),
        ("beam_search@2x2", None),
    ],
)
def test_strategies_that_differ_in_n_alone_have_one_rule_and_what_pools_can_not_tell_has_none(
    written: str, rule: Rule | None
) -> None:
    assert rule_of(StrategySpec.parse(written)) == rule
