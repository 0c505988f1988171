"""Whatever happens to the sequences, and in whatever order, the ledger's promise holds."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from strategies.ledger import CANCEL_SLACK, Lease, Ledger


class Interleavings(RuleBasedStateMachine):
    """Sequences are planned, reserved, counted, corrected and closed in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(1)
        self.open: list[Lease] = []
        self.ended: list[tuple[Lease, bool]] = []

    @initialize(capacity=st.integers(1, 500))
    def start(self, capacity: int) -> None:
        self.ledger = Ledger(capacity)

    @rule(n=st.integers(1, 12), at_most=st.integers(1, 200))
    def draw(self, n: int, at_most: int) -> None:
        allowed, limit = self.ledger.plan(n, at_most)
        assert 0 <= allowed <= n
        assert limit <= at_most
        assert allowed * limit <= self.ledger.remaining
        assert (allowed == 0) == (self.ledger.remaining == 0)
        self.open += [self.ledger.reserve(limit) for _ in range(allowed)]

    @precondition(lambda self: self.open)
    @rule(data=st.data(), tokens=st.integers(0, 300))
    def count(self, data: st.DataObject, tokens: int) -> None:
        data.draw(st.sampled_from(self.open)).count(tokens)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), total=st.integers(0, 300))
    def correct(self, data: st.DataObject, total: int) -> None:
        data.draw(st.sampled_from(self.open)).correct(total)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), cancelled=st.booleans(), twice=st.booleans())
    def close(self, data: st.DataObject, cancelled: bool, twice: bool) -> None:
        lease = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        lease.close(cancelled=cancelled)
        if twice:
            lease.close(cancelled=not cancelled)
        self.ended.append((lease, cancelled))

    @invariant()
    def the_engine_was_never_allowed_more_than_the_budget(self) -> None:
        """An open sequence may come to its limit; a cancelled one goes on for a moment; one that ended made no more."""
        may_come = sum(lease.limit for lease in self.open)
        came = sum(
            min(lease.limit, lease.seen + CANCEL_SLACK) if cancelled else lease.seen for lease, cancelled in self.ended
        )
        assert may_come + came + self.ledger.remaining == self.ledger.capacity
        assert self.ledger.remaining >= 0

    @invariant()
    def spent_is_what_was_seen(self) -> None:
        assert self.ledger.spent == sum(lease.seen for lease in [*self.open, *(lease for lease, _ in self.ended)])
        assert self.ledger.spent <= self.ledger.capacity


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=50, stateful_step_count=30)


@given(capacity=st.integers(1, 2000), n=st.integers(1, 64), at_most=st.integers(1, 512))
def test_a_plan_fits_and_wastes_no_more_than_rounding(capacity: int, n: int, at_most: int) -> None:
    allowed, limit = Ledger(capacity).plan(n, at_most)
    assert allowed * limit <= capacity
    assert limit == at_most or (allowed == n and capacity - allowed * limit < n) or capacity // allowed == limit
