"""When a vote is settled."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.stopping import cannot_change, lead_posterior, settled

COUNT = st.integers(0, 60)


@pytest.mark.parametrize(
    ("leader", "second", "posterior"),
    [(0, 0, 0.5), (1, 0, 0.75), (3, 0, 0.9375), (4, 0, 0.96875), (2, 2, 0.5), (5, 1, 0.9375), (7, 2, 0.9453125)],
)
def test_the_posterior_has_its_known_values(leader: int, second: int, posterior: float) -> None:
    """1 - I_1/2(leader + 1, second + 1): a binomial tail, exact in binary."""
    assert lead_posterior(leader, second) == posterior


@given(leader=COUNT, second=COUNT)
def test_the_posterior_rises_with_the_leader_and_falls_with_the_second(leader: int, second: int) -> None:
    here = lead_posterior(leader, second)
    assert 0 < here <= 1
    assert lead_posterior(leader + 1, second) >= here >= lead_posterior(leader, second + 1)
    assert here + lead_posterior(second, leader) == pytest.approx(1)


@pytest.mark.parametrize(
    ("counts", "outstanding", "certain"),
    [((), 1, False), ((2,), 1, True), ((2,), 2, False), ((3, 1), 1, True), ((3, 1), 2, False), ((2, 2, 1), 0, False)],
)
def test_a_vote_cannot_change_when_the_rest_could_not_even_tie(
    counts: tuple[int, ...], outstanding: int, certain: bool
) -> None:
    assert cannot_change(counts, outstanding) is certain


@given(leader=COUNT, second=COUNT, outstanding=COUNT, later=st.data())
def test_what_cannot_change_does_not(leader: int, second: int, outstanding: int, later: st.DataObject) -> None:
    second = min(leader, second)
    if cannot_change((leader, second), outstanding):
        assert leader > second + later.draw(st.integers(0, outstanding))
        assert settled((leader, second), outstanding, threshold=1.1)


def test_a_vote_is_settled_at_the_threshold_even_if_it_could_change() -> None:
    assert not settled([3], 5, 0.95)
    assert settled([4], 4, 0.95)
    assert not settled([4, 1], 3, 0.95)
    assert not settled([], 0, 0.95)
