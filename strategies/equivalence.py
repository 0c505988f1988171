"""Which spellings of an answer are equal, within one request: asked for pair by pair, and remembered.

A spelling is compared with those before it that it is not yet known to equal, and equality is passed on: what is found
does not depend on the order in which candidates come. Costs are bounded: only marked mathematics, only pairs that could
be equal, only the first `MOST` spellings, and nothing more after the first question that stayed without an answer.
"""

from __future__ import annotations

from strategies.answers import Extracted, comparable
from strategies.types import Equivalence

MOST = 12  # spellings, and so 66 pairs


class Spellings:
    def __init__(self) -> None:
        self._stands: dict[str, str] = {}  # spelling -> the one that stands for all that are equal
        self._compared: list[str] = []
        self._new: dict[str, None] = {}
        self._over = False

    @property
    def stands(self) -> dict[str, str]:
        return self._stands

    def add(self, answer: Extracted) -> None:
        value = answer.value
        if not self._over and value not in self._stands and len(self._stands) < MOST and answer.mathematical:
            self._stands[value] = value
            self._new[value] = None

    async def settle(self, equivalence: Equivalence) -> None:
        """Compare what has been added since. Cancelled half-way, it goes on from there the next time."""
        while self._new and not self._over:
            value = next(iter(self._new))
            others = [
                other
                for other in self._compared
                if self._stands[other] != self._stands[value] and comparable(value, other)
            ]
            for other, equal in zip(others, await equivalence.same(value, others) if others else (), strict=True):
                self._over = self._over or equal is None
                if equal:
                    self._merge(self._stands[value], self._stands[other])
            self._compared.append(value)
            del self._new[value]

    def _merge(self, one: str, other: str) -> None:
        for spelling, standing in self._stands.items():
            if standing == one:
                self._stands[spelling] = other
