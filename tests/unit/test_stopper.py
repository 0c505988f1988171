"""What the learned stopping model says at a checkpoint, and for whom it speaks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import lightgbm as lgb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.boosted import Boosted, features_of
from router.clusters import Place
from router.features import FEATURE_NAMES
from router.learning import Trained
from router.stopper import Learned, Stopper, blend, pays
from router.stopping import ByPrice, Spending
from router.vote_state import BY_VOTES
from strategies.spec import StrategySpec
from strategies.stopping import ByPosterior, Poll, Verdict, Vote, cannot_change
from tests.pools import POOLS

VOTE, BEST = StrategySpec.parse("majority_vote@16"), StrategySpec.parse("best_of_n@16")
CHEAP = Spending(token=1e-5, wait=1e-3)
WEIGHTS = st.sampled_from([0.0, 0.25, 0.5, 1.0])
SPENDINGS = st.builds(
    Spending, token=st.sampled_from([0.0, 1e-6, 1e-5, 1e-4, 1e-3]), wait=st.sampled_from([0.0, 1e-4, 1e-2, 1.0])
)


@pytest.fixture(scope="module")
def stopper(trained: Trained) -> Stopper:
    assert trained.model.stopper is not None
    return trained.model.stopper


@st.composite
def polls(draw: st.DrawFn, *, by_votes: bool | None = None, left: int = 1) -> Poll:
    """Of a vote or of best-of-N."""
    answers = draw(st.lists(st.one_of(st.none(), st.integers(0, 3)), min_size=1, max_size=20))
    counted = draw(st.booleans()) if by_votes is None else by_votes
    votes = [
        Vote(
            answer=answer,
            tokens=draw(st.integers(1, 60)),
            score=None if counted or answer is None else draw(st.floats(0.01, 1)),
        )
        for answer in answers
    ]
    known = [answer for answer in answers if answer is not None]
    scored = [vote for vote in votes if vote.score is not None]
    leader = max(known, key=lambda answer: (known.count(answer), -known.index(answer))) if known else None
    if scored:
        leader = max(scored, key=lambda vote: vote.score or 0.0).answer
    more = draw(st.integers(left, 20))
    return Poll(
        votes=votes, leader=leader, cap=len(votes) + more, under_way=draw(st.integers(0, more)), by_votes=counted
    )


def learned(stopper: Stopper, poll: Poll, spending: Spending, weight: float, **fields: float) -> Learned:
    """For a query like the recorded ones, with the model believed so far."""
    place = Place(statistics=stopper.clusters.general, distance=0.0, familiar=True)
    spec = VOTE if poll.by_votes else BEST
    model = replace(stopper, weights=dict.fromkeys(stopper.weights, weight))
    found = model.for_request(spec, place, spending, **fields)
    assert found is not None
    return found


@given(poll=polls(left=0), spending=SPENDINGS, weight=WEIGHTS)
def test_a_verdict_asks_for_no_more_than_are_left_and_tells_a_probability(
    stopper: Stopper, poll: Poll, spending: Spending, weight: float
) -> None:
    verdict = learned(stopper, poll, spending, weight).judge(poll)
    assert (verdict.confidence is None) == (poll.leader is None)
    assert 0 <= (verdict.confidence or 0) <= 1
    assert verdict.stop is None or verdict.wave is None
    if not poll.left:
        assert (verdict.stop, verdict.wave) == (None, None)
    elif weight or poll.by_votes:
        assert verdict.stop is not None or verdict.wave is not None
    assert verdict.wave is None or 1 <= verdict.wave <= poll.left


@given(poll=polls(), spending=SPENDINGS, dearer=st.floats(1, 1000), weight=WEIGHTS)
def test_dearer_tokens_never_turn_a_stop_into_going_on(
    stopper: Stopper, poll: Poll, spending: Spending, dearer: float, weight: float
) -> None:
    higher = replace(spending, token=spending.token * dearer)
    here = learned(stopper, poll, spending, weight).judge(poll)
    there = learned(stopper, poll, higher, weight).judge(poll)
    assert here.stop is None or there.stop is not None
    assert here.confidence == there.confidence  # how sure an answer is has nothing to do with its price


def test_at_some_price_it_goes_on_and_at_some_price_it_stops(stopper: Stopper) -> None:
    """So that the property above is not empty."""
    poll = Poll(votes=[Vote(answer=0, tokens=40), Vote(answer=1, tokens=40)], leader=0, cap=16)
    verdicts = [learned(stopper, poll, Spending(token=token, wait=0.0), 1.0).judge(poll) for token in (1e-7, 1.0)]
    assert [verdict.stop is None for verdict in verdicts] == [True, False]


@given(poll=polls(by_votes=True), spending=SPENDINGS)
def test_unbelieved_it_says_what_the_price_says_and_how_sure_the_answer_is(
    stopper: Stopper, poll: Poll, spending: Spending
) -> None:
    verdict = learned(stopper, poll, spending, 0.0).judge(poll)
    assert replace(verdict, confidence=None) == ByPrice(spending=spending).judge(poll)
    assert (verdict.confidence is None) == (poll.leader is None)


@given(second=st.integers(0, 9), lead=st.integers(2, 9), left=st.integers(1, 8), weight=WEIGHTS)
def test_a_vote_that_can_not_change_is_over_whatever_the_model_hopes(
    stopper: Stopper, second: int, lead: int, left: int, weight: float
) -> None:
    votes = [Vote(answer=0, tokens=1)] * (second + lead) + [Vote(answer=1, tokens=1)] * second
    poll = Poll(votes=votes, leader=0, cap=len(votes) + min(left, lead - 1))
    assert cannot_change(poll.counts(), poll.left)
    assert learned(stopper, poll, CHEAP, weight).judge(poll).stop == "consensus"


def test_best_of_n_is_not_over_because_the_vote_is(stopper: Stopper) -> None:
    """Nine equal answers of ten: the last could still have the best score."""
    votes = [Vote(answer=0, tokens=1, score=0.5)] * 9
    poll = Poll(votes=votes, leader=0, cap=10, by_votes=False)
    free = Spending(token=0.0, wait=0.0)
    assert learned(stopper, poll, free, 0.0).judge(poll).stop is None


@given(poll=polls(), weight=WEIGHTS)
def test_what_has_too_small_a_chance_is_given_up_and_told_as_hopeless(
    stopper: Stopper, poll: Poll, weight: float
) -> None:
    verdict = learned(stopper, poll, CHEAP, weight, give_up_below=2.5).judge(poll)
    over = poll.by_votes and cannot_change(poll.counts(), poll.left)
    assert verdict.stop == ("consensus" if over else "hopeless")


@given(poll=polls(), spending=SPENDINGS, weight=WEIGHTS)
def test_nothing_is_given_up_unless_the_operator_says_so(
    stopper: Stopper, poll: Poll, spending: Spending, weight: float
) -> None:
    assert learned(stopper, poll, spending, weight).judge(poll).stop != "hopeless"


def test_only_what_is_below_the_chance_is_given_up(stopper: Stopper) -> None:
    """By what the answer's own chance and the gain come to."""
    poll = Poll(votes=[Vote(answer=i, tokens=40) for i in range(4)], leader=0, cap=16)
    free = Spending(token=0.0, wait=0.0)
    chance = learned(stopper, poll, free, 1.0).judge(poll).confidence
    assert chance is not None
    assert chance > 0.01
    stops = [learned(stopper, poll, free, 1.0, give_up_below=below).judge(poll).stop for below in (chance / 2, 1.99)]
    assert stops == [None, "hopeless"]


@given(poll=polls(), threshold=st.floats(0.5, 1.0))
def test_a_threshold_decides_instead_of_the_price_and_the_confidence_is_told_all_the_same(
    stopper: Stopper, poll: Poll, threshold: float
) -> None:
    """At a price that would stop everything."""
    rule = learned(stopper, poll, Spending(token=1.0, wait=0.0), 1.0, threshold=threshold)
    verdict = rule.judge(poll)
    assert rule.by == "threshold"
    assert replace(verdict, confidence=None) == ByPosterior(threshold=threshold).judge(poll)
    assert (verdict.confidence is None) == (poll.leader is None)


def test_another_temperature_than_the_recorded_ones_makes_a_query_unfamiliar(stopper: Stopper) -> None:
    """Other samples agree otherwise. Who names none gets the one it was recorded at."""
    vector = np.array(features_of(POOLS[0].question).vector())
    warmth = FEATURE_NAMES.index("temperature")
    assert stopper.place_of(vector).familiar
    for temperature, familiar in ((0.6, True), (1.0, True), (0.0, False), (2.0, False)):
        vector[warmth] = temperature
        assert stopper.place_of(vector).familiar == familiar
    vector[warmth], vector[FEATURE_NAMES.index("temperature_absent")] = 0.0, 1.0
    assert stopper.place_of(vector).familiar


def test_it_speaks_for_rules_and_queries_that_it_was_trained_on_and_for_no_others(stopper: Stopper) -> None:
    near = Place(statistics=stopper.clusters.general, distance=0.0, familiar=True)
    found = stopper.for_request(VOTE, near, CHEAP)
    assert found is not None
    assert found.by == "model"
    assert stopper.for_request(StrategySpec.parse("single"), near, CHEAP) is not None  # for its confidence
    assert stopper.for_request(VOTE, replace(near, familiar=False), CHEAP) is None
    for unknown in ("best_of_n@8:self_certainty", "best_of_n@8:weighted", "best_of_n@8:my_prm", "beam_search@2x2"):
        assert stopper.for_request(StrategySpec.parse(unknown), near, CHEAP) is None


def test_a_recorded_question_is_familiar_and_a_letter_is_not(stopper: Stopper) -> None:
    recorded = POOLS[1].question
    letter = "Dear Sir,\n\nplease find attached our offer. We'd be glad to hear from you, and remain\n\nyours truly"
    strange = replace(recorded, messages=({"role": "user", "content": letter},))
    assert [stopper.place(features_of(asked)).familiar for asked in (recorded, strange)] == [True, False]


def test_an_answer_that_many_gave_is_likelier_right_than_one_that_few_did(stopper: Stopper) -> None:
    """On these pools: right ones agree, wrong ones are scattered."""

    def confidence(*answers: int) -> float:
        votes = [Vote(answer=answer, tokens=20) for answer in answers]
        poll = Poll(votes=votes, leader=0, cap=16)
        found = learned(stopper, poll, CHEAP, 1.0).judge(poll).confidence
        assert found is not None
        return found

    assert confidence(0, 0, 0, 0) > 0.8 > 0.5 > confidence(0, 1, 2, 3)


def test_a_model_that_was_saved_says_the_same_when_it_is_loaded(trained: Trained, tmp_path: Path) -> None:
    trained.model.save(tmp_path)
    loaded, original = Boosted.load(tmp_path).stopper, trained.model.stopper
    assert loaded is not None
    assert original is not None
    assert loaded.weights == original.weights
    place = original.place(features_of(POOLS[0].question))
    assert np.array_equal(loaded.place(features_of(POOLS[0].question)).statistics, place.statistics)
    for answers in ((0,), (0, 1), (0, 0, 1), (0, 1, 2, 3), (0,) * 6):
        poll = Poll(votes=[Vote(answer=answer, tokens=20) for answer in answers], leader=0, cap=16)
        one, other = (model.for_request(VOTE, place, CHEAP) for model in (original, loaded))
        assert one is not None
        assert other is not None
        assert one.judge(poll) == other.judge(poll)
    assert {*loaded.courses.table} == {*original.courses.table}


def test_a_model_of_other_features_is_refused(stopper: Stopper) -> None:
    def booster(name: str) -> lgb.Booster:
        return {"stop_gain": stopper.gain, "stop_right": stopper.right}[name]

    data = {**stopper.to_json(), "state_features": [*stopper.to_json()["state_features"]]}
    assert [*Stopper.load(data, booster).weights] == [*stopper.weights]
    with pytest.raises(ValueError, match="other features"):
        Stopper.load({**data, "state_features": ["drawn"]}, booster)
    with pytest.raises(KeyError):
        Stopper.load({name: value for name, value in data.items() if name != "weights"}, booster)


@given(
    gains=st.lists(st.floats(-1, 1), min_size=1, max_size=5),
    prior=st.floats(1e-6, 1e6),
    weight=st.floats(0, 1),
)
def test_what_model_and_prior_say_is_blended_between_them(gains: list[float], prior: float, weight: float) -> None:
    ratio = pays(np.array(gains), np.full(len(gains), 0.1))
    assert ratio == pytest.approx(max(1e-6, *gains, 1e-6) / 0.1)
    both = float(blend(ratio, np.array(prior), weight))
    low, high = sorted((float(ratio), prior))
    assert low * (1 - 1e-9) <= both <= high * (1 + 1e-9)
    assert blend(ratio, np.array(prior), 1.0) == pytest.approx(ratio)
    assert blend(ratio, np.array(prior), 0.0) == pytest.approx(prior)


def test_the_models_rules_are_those_of_the_menu(stopper: Stopper) -> None:
    assert {*stopper.weights} == {BY_VOTES, (1.0, 0.0)}
    assert all(0 <= weight <= 1 for weight in stopper.weights.values())


def test_with_nothing_left_it_only_tells_how_sure_the_answer_is(stopper: Stopper) -> None:
    poll = Poll(votes=[Vote(answer=0, tokens=20)], leader=0, cap=1)
    verdict = learned(stopper, poll, CHEAP, 1.0, give_up_below=2.0).judge(poll)
    assert verdict == Verdict(confidence=verdict.confidence)
    assert verdict.confidence is not None
