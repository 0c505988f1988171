"""The token ledger: one per request, so that a budget is a promise.

Tokens are *reserved* before the engine is asked for them, as the `max_tokens` of every sequence, and what was not
used goes back when the sequence ends. Whatever fails, retries or is cancelled in between, the engine was never
allowed to make more than the budget.
"""

from __future__ import annotations

# A cancelled sequence goes on for a moment before the engine notices. That many of its reserved tokens stay charged,
# so that the promise holds for what the engine made and not only for what reached us.
CANCEL_SLACK = 32

# Below this a sequence is hardly an answer: draw fewer of them instead of cutting all of them shorter.
MIN_USEFUL_TOKENS = 16


class Ledger:
    """Counts completion tokens against a capacity. Not thread-safe: one event loop owns it."""

    __slots__ = ("_held", "_spent", "_written_off", "capacity")

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError("a token budget must be at least 1")
        self.capacity = capacity
        self._spent = 0  # seen
        self._held = 0  # reserved by open leases, including what they have spent
        self._written_off = 0  # charged to cancelled sequences beyond what was seen of them

    @property
    def spent(self) -> int:
        """Completion tokens seen so far."""
        return self._spent

    @property
    def remaining(self) -> int:
        """Tokens that may still be reserved."""
        return max(0, self.capacity - self._held - self._written_off)

    def plan(self, n: int, at_most: int) -> tuple[int, int]:
        """How many of n sequences, of up to how many tokens each, the budget allows now. (0, 0): none."""
        room = self.remaining
        if room < 1 or n < 1:
            return 0, 0
        if room // n < min(at_most, MIN_USEFUL_TOKENS):
            n = max(1, min(n, room // min(at_most, MIN_USEFUL_TOKENS)))
        return n, max(1, min(at_most, room // n))

    def reserve(self, limit: int) -> Lease:
        """Reserve one sequence of up to `limit` tokens. Raises ValueError past the capacity: ask `plan` first."""
        if not 0 < limit <= self.remaining:
            raise ValueError(f"{limit} tokens asked, {self.remaining} left")
        self._held += limit
        return Lease(self, limit)

    def count(self, tokens: int) -> None:
        """For leases: tokens seen."""
        self._spent += tokens

    def settle(self, lease: Lease, *, charged: int) -> None:
        """For leases: turn a reservation into what was spent, and what a cancelled sequence may still have made."""
        self._held -= lease.limit
        self._held += lease.seen
        self._written_off += charged - lease.seen


class Lease:
    """One sequence's reservation."""

    __slots__ = ("_closed", "_ledger", "limit", "seen")

    def __init__(self, ledger: Ledger, limit: int) -> None:
        self._ledger = ledger
        self.limit = limit
        self.seen = 0
        self._closed = False

    def count(self, tokens: int) -> None:
        """Tokens that came in. An engine that overshoots its own max_tokens is held to the reservation."""
        tokens = min(tokens, self.limit - self.seen)
        self.seen += tokens
        self._ledger.count(tokens)

    def correct(self, total: int) -> None:
        """The engine's own final count for this sequence."""
        total = max(0, min(total, self.limit))
        self._ledger.count(total - self.seen)
        self.seen = total

    def close(self, *, cancelled: bool) -> None:
        """Give back what was not used. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        charged = min(self.limit, self.seen + CANCEL_SLACK) if cancelled else self.seen
        self._ledger.settle(self, charged=charged)
