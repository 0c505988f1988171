"""The prior: rules of thumb, but sane ones."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.features import extract
from router.predictors import SPEC_FEATURES, Prior, spec_vector
from router.speed import Factors, Load
from strategies.spec import StrategySpec
from strategies.types import Prediction
from tests.fakes import ask

FEATURES = extract(ask())
METHODS = ["majority_vote@{n}", "best_of_n@{n}", "best_of_n@{n}:weighted", "beam_search@{n}x2"]


def rows(*written: str, max_tokens: int = 300, load: Load | None = None) -> list[Prediction]:
    specs = [StrategySpec.parse(text) for text in written]
    return list(Prior().predict(FEATURES, specs, load or Load(), max_tokens=max_tokens))


def test_it_says_that_it_is_the_prior() -> None:
    assert (Prior().name, Prior().version) == ("prior", None)


@given(
    n=st.integers(1, 64),
    method=st.sampled_from(METHODS),
    max_tokens=st.integers(1, 8192),
    running=st.integers(0, 500),
    correction=st.floats(0.05, 50),
)
@settings(max_examples=60)
def test_a_row_is_possible(n: int, method: str, max_tokens: int, running: int, correction: float) -> None:
    load = Load(running=running, correction=Factors(first_token=correction, per_token=correction))
    (row,) = rows(method.format(n=n), max_tokens=max_tokens, load=load)
    assert 0 <= row.accuracy <= 1
    assert 0 < row.tokens <= row.tokens_upper <= max_tokens * row.spec.draws
    assert 0 < row.seconds <= row.seconds_upper
    assert not row.reason


@pytest.mark.parametrize("method", METHODS)
def test_more_candidates_cost_more_and_are_right_more_often(method: str) -> None:
    got = rows("single", *(method.format(n=n) for n in (2, 4, 8, 16, 32)))
    for fewer, more in pairwise(got):
        assert fewer.tokens < more.tokens
        assert fewer.tokens_upper < more.tokens_upper
        assert fewer.seconds < more.seconds
        assert fewer.accuracy < more.accuracy


def test_each_doubling_adds_less_than_the_one_before() -> None:
    got = [row.accuracy for row in rows("single", *(f"majority_vote@{n}" for n in (2, 4, 8, 16)))]
    gains = [more - fewer for fewer, more in pairwise(got)]
    assert gains == sorted(gains, reverse=True)


def test_a_busy_or_slow_engine_takes_longer() -> None:
    idle = rows("majority_vote@4")[0].seconds
    assert rows("majority_vote@4", load=Load(running=32))[0].seconds > idle
    assert rows("majority_vote@4", load=Load(others=32)) == rows("majority_vote@4", load=Load(running=32))
    assert rows("majority_vote@4", load=Load(correction=Factors(first_token=2.0, per_token=2.0)))[
        0
    ].seconds == pytest.approx(2 * idle)


def test_a_spec_is_as_many_numbers_as_their_names_and_no_two_are_the_same() -> None:
    written = ["single", *(method.format(n=n) for method in METHODS for n in (2, 4)), "best_of_n@2:self_certainty"]
    vectors = [tuple(spec_vector(StrategySpec.parse(text))) for text in written]
    assert {len(vector) for vector in vectors} == {len(SPEC_FEATURES)}
    assert len(set(vectors)) == len(written)
