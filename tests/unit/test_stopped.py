"""Choosing among strategies that are stopped, on held-out questions: nothing about a question comes from itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from router.boosted import features_of
from router.replay import CHECKPOINTS, Replay, replay
from router.stopped import BELIEFS, Stops
from router.stopping_training import HeldOut, played
from router.vote_state import BY_VOTES
from router.world import Predicted, World
from strategies.types import Prices
from tests.fakes import menu_of
from tests.pools import random_pool

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
MENU = menu_of("single", "majority_vote@8", "beam_search@2x2")
SINGLE, VOTE, SEARCH = range(3)
COUNT = 24
PARTS = [list(range(k, COUNT, 3)) for k in range(3)]
PRICES = Prices(token_price=0.3, latency_price=0.01)
POOLS = [random_pool(seed, 8, answers=("8", "9") if seed % 2 else ("7",)) for seed in range(COUNT)]
VECTORS = np.array([features_of(pool.question).vector() for pool in POOLS])
DATA = replay(POOLS, BY_VOTES, orders=4)
SEARCHES = np.arange(COUNT) % 2 == 1  # the questions on which the search is right, and no sample is


def at_once(question: Ints, size: Ints) -> tuple[Floats, Floats]:
    return np.full(len(question), 0.1), np.full(len(question), 0.01)


def held(data: Replay = DATA, *, familiar: bool = True) -> HeldOut:
    """A stopping model that knows of no gain."""
    count = len(CHECKPOINTS)
    gains = np.where(np.isfinite(data.right)[:, None, :], 0.0, -np.inf) * np.ones((len(data), count, count))
    gains = np.where(np.arange(count)[:, None] < np.arange(count), gains, -np.inf)
    confidence = np.where(np.isfinite(data.right), 0.5, np.nan)
    return HeldOut(data=data, gains=gains, confidence=confidence, familiar=np.full(len(data), familiar))


def world(search: Floats) -> World:
    """What everything came to that was never stopped. search: its accuracy on every question."""
    one = DATA.by_question(DATA.right[:, 0], COUNT)
    all_eight = DATA.by_question(DATA.right[:, CHECKPOINTS.index(8)], COUNT)
    tokens = DATA.by_question(DATA.tokens.sum(axis=1), COUNT)
    return World(
        menu=MENU,
        accuracy=np.column_stack([one, all_eight, search]),
        tokens=np.column_stack([tokens / 8, tokens, tokens / 2]),
        seconds=np.full((COUNT, 3), 0.5),
    )


TRUTH = world(SEARCHES.astype(float))


def stops(*, truth: World = TRUTH, predicted: World = TRUTH, found: HeldOut | None = None) -> Stops:
    foretold = Predicted(
        menu=predicted.menu,
        accuracy=predicted.accuracy,
        tokens=predicted.tokens,
        seconds=predicted.seconds,
        tokens_upper=predicted.tokens,
        seconds_upper=predicted.seconds,
    )
    return Stops([found or held()], parts=PARTS, world=truth, predicted=foretold, speeds=at_once, vectors=VECTORS)


@pytest.fixture(scope="module")
def foresight() -> Stops:
    """The text says exactly what will become of every strategy."""
    return stops()


def mistaken() -> World:
    """The text says of every question what is true of the other kind."""
    return replace(TRUTH, accuracy=TRUTH.accuracy[np.arange(COUNT) ^ 1])


def test_a_lookup_table_chooses_by_the_other_folds(foresight: Stops) -> None:
    utility = np.random.default_rng(1).normal(size=(COUNT, 3))
    choice = foresight.best_elsewhere(utility)
    for part in PARTS:
        others = np.setdiff1d(np.arange(COUNT), part)
        assert {*choice[part].tolist()} == {int(utility[others].mean(axis=0).argmax())}


@pytest.mark.parametrize("fold", range(3))
def test_what_became_of_a_fold_does_not_change_what_a_lookup_table_chooses_for_it(foresight: Stops, fold: int) -> None:
    rng = np.random.default_rng(fold)
    utility = rng.normal(size=(COUNT, 3))
    other = utility.copy()
    other[PARTS[fold]] = 100 * rng.normal(size=(len(PARTS[fold]), 3))
    before, after = foresight.best_elsewhere(utility), foresight.best_elsewhere(other)
    assert np.array_equal(before[PARTS[fold]], after[PARTS[fold]])
    other[:, 0] = 1e6  # while that of the others does
    assert not foresight.best_elsewhere(other).any()


def test_a_lookup_table_of_some_strategies_chooses_among_those(foresight: Stops) -> None:
    utility = np.random.default_rng(1).normal(size=(COUNT, 3))
    utility[:, SINGLE] = 99.0
    assert {*foresight.best_elsewhere(utility, [VOTE, SEARCH]).tolist()} <= {VOTE, SEARCH}


def test_what_became_of_a_fold_changes_neither_what_is_expected_nor_what_is_chosen_for_it(foresight: Stops) -> None:
    """All its strategies come out right, the vote of its questions after the third candidate only."""
    part = PARTS[1]
    accuracy = TRUTH.accuracy.copy()
    accuracy[part] = 1.0
    rows = np.isin(DATA.question, part)
    late = np.where(np.isfinite(DATA.right), np.arange(len(CHECKPOINTS)) > 2, np.nan)
    right = np.where(rows[:, None], late, DATA.right)
    data = replace(DATA, right=right)
    turned = stops(truth=replace(TRUTH, accuracy=accuracy), found=held(data))
    assert turned.beliefs()[1] == foresight.beliefs()[1]
    for belief in BELIEFS:
        one, other = (each.expected(PRICES, np.full(COUNT, belief)) for each in (foresight, turned))
        for before, after in ((one.accuracy, other.accuracy), (one.tokens, other.tokens), (one.seconds, other.seconds)):
            assert np.array_equal(before[part], after[part])
        before, after = (each.chosen(PRICES, [belief] * 3)[part] for each in (foresight, turned))
        assert np.array_equal(before, after)
    others = np.setdiff1d(np.arange(COUNT), part)
    assert not np.array_equal(
        foresight.expected(PRICES, np.full(COUNT, 0.0)).accuracy[others],
        turned.expected(PRICES, np.full(COUNT, 0.0)).accuracy[others],
    )


def test_what_the_text_says_is_believed_where_it_earns_something(foresight: Stops) -> None:
    """Searching is right where sampling is not, and no sample would tell which."""
    assert foresight.belief() > 0
    assert min(foresight.beliefs()) > 0
    assert (foresight.chosen(PRICES, [1.0] * 3) == SEARCH).tolist() == SEARCHES.tolist()


def test_what_the_text_says_is_not_believed_where_it_is_wrong() -> None:
    confused = stops(predicted=mistaken())
    assert confused.belief() == 0
    assert confused.beliefs() == [0, 0, 0]


@pytest.mark.parametrize("fold", range(3))
def test_how_far_the_text_is_believed_on_a_fold_follows_from_the_others(fold: int) -> None:
    mine = np.isin(np.arange(COUNT), PARTS[fold])[:, None]
    wrong_here = np.where(mine, mistaken().accuracy, TRUTH.accuracy)
    wrong_elsewhere = np.where(mine, TRUTH.accuracy, mistaken().accuracy)
    assert stops(predicted=replace(TRUTH, accuracy=wrong_here)).beliefs()[fold] > 0
    assert stops(predicted=replace(TRUTH, accuracy=wrong_elsewhere)).beliefs()[fold] == 0


def test_of_very_many_questions_the_gate_asks_some(foresight: Stops, monkeypatch: pytest.MonkeyPatch) -> None:
    everyone = foresight.belief()
    monkeypatch.setattr("router.stopped._GATED", COUNT // 2)
    assert foresight.belief() == everyone > 0
    assert len(foresight.beliefs()) == len(PARTS)


def test_what_the_text_says_of_queries_that_the_model_does_not_know_is_not_looked_at() -> None:
    strange = stops(found=held(familiar=False))
    assert strange.belief() == 0
    assert np.array_equal(strange.chosen(PRICES, [1.0] * 3), strange.chosen(PRICES, [0.0] * 3))


def test_unbelieved_every_question_of_a_fold_is_expected_to_come_to_what_the_other_folds_did(foresight: Stops) -> None:
    expected = foresight.expected(PRICES, np.full(COUNT, 0.0))
    for part in PARTS:
        others = np.setdiff1d(np.arange(COUNT), part)
        for column in (SINGLE, SEARCH):  # which can't be stopped
            assert expected.accuracy[part, column] == pytest.approx(
                np.full(len(part), TRUTH.accuracy[others, column].mean())
            )


def test_believed_every_question_is_expected_to_come_to_what_was_predicted(foresight: Stops) -> None:
    expected = foresight.expected(PRICES, np.full(COUNT, 1.0))
    for column in (SINGLE, SEARCH):
        assert expected.accuracy[:, column] == pytest.approx(np.clip(TRUTH.accuracy[:, column], 1e-3, 1 - 1e-3))
        assert np.array_equal(expected.tokens[:, column], TRUTH.tokens[:, column])
    assert (expected.tokens[:, VOTE] < TRUTH.tokens[:, VOTE]).all()  # it is stopped


def test_what_can_not_be_stopped_comes_to_what_it_did(foresight: Stops) -> None:
    outcomes = foresight.outcomes(PRICES, learned=True)
    for column in (SINGLE, SEARCH):
        for name in ("accuracy", "tokens", "seconds"):
            assert np.array_equal(getattr(outcomes, name)[:, column], getattr(TRUTH, name)[:, column])


def test_what_is_stopped_comes_to_what_its_rule_makes_of_it(foresight: Stops) -> None:
    """By the price alone: as it is played at the request's own prices, a wave of each question as long as predicted."""
    outcomes = foresight.outcomes(PRICES, learned=False)
    wait = PRICES.latency_price * TRUTH.seconds[DATA.question, VOTE]
    each = TRUTH.tokens[DATA.question, VOTE] / 8
    result = played(held(), token=PRICES.token_price / 1000, wait=wait, weight=0.0, cap=8, each=each, speeds=at_once)
    assert outcomes.accuracy[:, VOTE].tolist() == DATA.by_question(result.right, COUNT).tolist()
    assert outcomes.tokens[:, VOTE].tolist() == DATA.by_question(result.tokens, COUNT).tolist()
    assert outcomes.seconds[:, VOTE].tolist() == DATA.by_question(result.seconds, COUNT).tolist()
    assert (outcomes.tokens[:, VOTE] < TRUTH.tokens[:, VOTE]).any()


def test_queries_that_the_model_does_not_know_are_stopped_by_the_price() -> None:
    strange = stops(found=held(familiar=False))
    one, other = (strange.outcomes(PRICES, learned=learned) for learned in (True, False))
    assert np.array_equal(one.tokens, other.tokens)
