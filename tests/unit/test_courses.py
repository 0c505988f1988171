"""What stopping makes of a strategy, before it is run: the table, what is read between its points, and the row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from router.courses import PRICES, WAITS, Course, Courses, as_stopped, measure
from router.odds import log_odds
from router.replay import CHECKPOINTS, Played, play, replay
from router.stopping import FREE, wave_of
from router.vote_state import BY_VOTES
from strategies.spec import StrategySpec
from strategies.types import Prediction, Prices
from tests.pools import random_pool

VOTE, BEST = StrategySpec.parse("majority_vote@8"), StrategySpec.parse("best_of_n@8")
COLUMNS = ("gain", "samples", "length", "waves", "waves_upper")
AT_WILL = np.random.default_rng(3).uniform(-1, 1, size=(len(PRICES), len(WAITS), len(COLUMNS)))
TABLE = Courses(table={VOTE: AT_WILL})


def row(course: Course | None) -> list[float]:
    assert course is not None
    return [getattr(course, name) for name in COLUMNS]


@pytest.mark.parametrize("i", range(len(PRICES)))
@pytest.mark.parametrize("j", range(len(WAITS)))
def test_at_a_point_of_the_grid_a_course_is_what_was_measured_there(i: int, j: int) -> None:
    assert row(TABLE.at(VOTE, price=PRICES[i], wait=WAITS[j] * PRICES[i])) == pytest.approx(AT_WILL[i, j].tolist())


@given(i=st.integers(0, len(PRICES) - 2), j=st.integers(0, len(WAITS) - 2), x=st.floats(0, 1), y=st.floats(0, 1))
def test_between_points_a_course_lies_between_its_neighbours(i: int, j: int, x: float, y: float) -> None:
    price = PRICES[i] ** (1 - x) * PRICES[i + 1] ** x
    wait = price * ((1 + WAITS[j]) ** (1 - y) * (1 + WAITS[j + 1]) ** y - 1)
    corners = AT_WILL[i : i + 2, j : j + 2].reshape(4, -1)
    here = np.array(row(TABLE.at(VOTE, price=price, wait=max(0.0, wait))))
    assert (here >= corners.min(axis=0) - 1e-9).all()
    assert (here <= corners.max(axis=0) + 1e-9).all()


def test_half_way_in_the_logarithm_a_course_is_the_mean_of_its_neighbours() -> None:
    price = (PRICES[2] * PRICES[3]) ** 0.5
    assert row(TABLE.at(VOTE, price=price, wait=0.0)) == pytest.approx(AT_WILL[2:4, 0].mean(axis=0).tolist())


def test_beyond_the_grid_a_course_is_that_of_its_edge() -> None:
    assert row(TABLE.at(VOTE, price=0.0, wait=0.0)) == pytest.approx(AT_WILL[0, 0].tolist())
    assert row(TABLE.at(VOTE, price=9.0, wait=9e9)) == pytest.approx(AT_WILL[-1, -1].tolist())


def test_a_strategy_that_was_not_measured_has_no_course() -> None:
    assert TABLE.at(BEST, price=1e-3, wait=0.0) is None


def test_a_table_that_was_written_is_read_as_it_was_but_for_rounding() -> None:
    again = Courses.from_json(TABLE.to_json())
    assert [*again.table] == [VOTE]
    assert again.table[VOTE] == pytest.approx(AT_WILL, abs=1e-5)


def test_a_table_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="another shape"):
        Courses.from_json({str(VOTE): AT_WILL[:-1].tolist()})


def predicted(spec: StrategySpec = VOTE, *, upper: float = 3.0) -> Prediction:
    """As drawn all at once: 100 tokens a candidate, two seconds."""
    return Prediction(spec=spec, accuracy=0.7, tokens=800.0, tokens_upper=1200.0, seconds=2.0, seconds_upper=upper)


def constant(**columns: float) -> Courses:
    usual = {"gain": 0.0, "samples": 0.5, "length": 1.5, "waves": 2.0, "waves_upper": 3.0, **columns}
    grid = np.broadcast_to([usual[name] for name in COLUMNS], AT_WILL.shape)
    return Courses(table={VOTE: np.array(grid)})


PRICE = Prices(token_price=0.1, latency_price=0.005)  # a candidate 0.01, a wave 0.01


def test_a_stopped_strategy_costs_the_share_it_draws_and_the_waves_one_after_another() -> None:
    stopped = as_stopped(predicted(), constant(), prices=PRICE, seconds_left=1000.0)
    assert stopped is not None
    assert (stopped.accuracy, stopped.tokens, stopped.tokens_upper) == (pytest.approx(0.7), 400.0, 1200.0)
    assert (stopped.seconds, stopped.seconds_upper, stopped.wave_seconds) == pytest.approx((3.0, 9.0, 2.0))
    assert stopped.wave == wave_of(8, price=0.01, wait=0.01) == 3


def test_what_stopping_costs_in_accuracy_is_taken_off_in_log_odds() -> None:
    stopped = as_stopped(predicted(), constant(gain=-0.5), prices=PRICE, seconds_left=1000.0)
    assert stopped is not None
    assert log_odds(np.array(stopped.accuracy)) == pytest.approx(log_odds(np.array(0.7)) - 0.5)


@pytest.mark.parametrize(("left", "wave", "upper"), [(5.9, 8, 3.0), (6.0, 3, 6.0), (7.0, 3, 7.0), (1000.0, 3, 9.0)])
def test_without_time_for_two_waves_everything_is_drawn_at_once(left: float, wave: int, upper: float) -> None:
    """With time for more, a request that gets short of it ends by its deadline all the same."""
    stopped = as_stopped(predicted(), constant(), prices=PRICE, seconds_left=left)
    assert stopped is not None
    assert (stopped.wave, stopped.seconds_upper) == (wave, pytest.approx(upper))
    assert stopped.seconds <= stopped.seconds_upper


def test_drawn_at_once_it_has_the_course_of_a_wait_that_nothing_could_pay() -> None:
    grid = np.array(constant().table[VOTE])
    grid[:, -1, COLUMNS.index("samples")] = 0.9
    courses = Courses(table={VOTE: grid})
    hurried, unhurried = (as_stopped(predicted(), courses, prices=PRICE, seconds_left=left) for left in (5.0, 1000.0))
    assert hurried is not None
    assert unhurried is not None
    assert (hurried.tokens, unhurried.tokens) == (pytest.approx(720.0), pytest.approx(400.0))


def test_what_was_not_measured_is_left_as_it_was_predicted() -> None:
    assert as_stopped(predicted(BEST), constant(), prices=PRICE, seconds_left=1000.0) is None


def run_to(drawn: int) -> Played:
    data = replay([random_pool(seed, 8) for seed in range(4)], BY_VOTES, orders=4)

    def decide(at: NDArray[np.intp], rows: NDArray[np.intp]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        return np.array(CHECKPOINTS)[at] >= drawn, np.ones(len(rows))

    return play(data, decide, first=np.ones(len(data)), cap=8)


def test_a_strategy_that_never_stops_is_measured_as_losing_and_saving_nothing() -> None:
    """One wave at a time, its waves' longest one after another are longer than the longest of all."""
    data = replay([random_pool(seed, 8) for seed in range(4)], BY_VOTES, orders=4)
    grid = measure(data, 8, lambda price, wait: run_to(8))
    assert grid.shape == AT_WILL.shape
    gain, samples, length, waves, upper = grid[0, 0]
    assert (gain, samples, waves, upper) == (pytest.approx(0.0), pytest.approx(1.0), 7.0, 7.0)
    assert length > 1
    gain, samples, length, waves, upper = measure(data, 8, lambda price, wait: run_to(1))[0, 0]
    assert (waves, upper) == (1.0, 1.0)
    assert samples == pytest.approx(data.tokens[:, 0].sum() / data.tokens.sum())
    assert gain == pytest.approx(
        log_odds(data.right[:, 0].mean()) - log_odds(data.right[:, CHECKPOINTS.index(8)].mean())
    )


def test_every_point_of_the_grid_is_played_at_its_own_price_and_wait() -> None:
    asked: list[tuple[float, float]] = []

    def note(price: float, wait: float) -> Played:
        asked.append((price, wait))
        return run_to(1)

    measure(replay([random_pool(0, 8)], BY_VOTES, orders=2), 8, note)
    assert asked == [(price, waits * price) for price in PRICES for waits in WAITS]
    assert PRICES[0] == FREE
