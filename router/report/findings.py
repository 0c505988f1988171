"""What an evaluation amounts to: the counts, shares and shapes that its page puts into words and pictures."""

from __future__ import annotations

from dataclasses import dataclass

from router.evaluation import BEST_FIXED, ORACLE, AtPrice, Evaluation
from router.frontier import Saving

ADAPTIVE = "adaptive"
LOOKUP = "lookup"
LEARNED = "learned"
FIXED_VOTE = "fixed vote"
SAVING_TARGET = 0.45
COVERAGE_TOLERANCE = 0.02
# a difference that is printed as 0.00 points is called equal
_SHOWN = 0.00005


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Adaptive against the best fixed strategy in hindsight: every price is in one of above, equal, below. `clearly`:
    those of them whose interval excludes zero."""

    above: tuple[AtPrice, ...]
    equal: tuple[AtPrice, ...]
    below: tuple[AtPrice, ...]
    clearly_above: tuple[AtPrice, ...]
    clearly_below: tuple[AtPrice, ...]

    @property
    def prices(self) -> int:
        return len(self.above) + len(self.equal) + len(self.below)


def compare(result: Evaluation) -> Comparison:
    rows = [(at, at.row(ADAPTIVE)) for at in result.prices]
    return Comparison(
        above=tuple(at for at, row in rows if row.gain >= _SHOWN),
        equal=tuple(at for at, row in rows if abs(row.gain) < _SHOWN),
        below=tuple(at for at, row in rows if row.gain <= -_SHOWN),
        clearly_above=tuple(at for at, row in rows if row.low > 0),
        clearly_below=tuple(at for at, row in rows if row.high < 0),
    )


def against_lookup(result: Evaluation) -> tuple[int, int]:
    """At how many prices adaptive is above, and below, the fixed strategy that was best on the training questions."""
    ahead = [at.row(ADAPTIVE).utility - at.row(LOOKUP).utility for at in result.prices]
    return sum(gain >= _SHOWN for gain in ahead), sum(gain <= -_SHOWN for gain in ahead)


def ways(result: Evaluation) -> list[str]:
    """The ways of deciding that can be compared with the best fixed strategy, adaptive first."""
    names = [row.name for row in result.prices[0].rows]
    return [name for name in names if name != ORACLE and not name.startswith(BEST_FIXED)]


def saving(result: Evaluation, name: str, gap: float) -> Saving | None:
    return next((one for one in result.savings if one.name == name and one.gap == gap), None)


def gaps(result: Evaluation) -> list[float]:
    return list(dict.fromkeys(one.gap for one in result.savings))


def uncovered(result: Evaluation) -> dict[str, float]:
    """Strategies whose upper bounds hold more or less often than promised, beyond the tolerance."""
    off = {name: share for name, share in result.coverage.items() if abs(share - result.level) > COVERAGE_TOLERANCE}
    return dict(sorted(off.items()))
