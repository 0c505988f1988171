"""When a vote is settled. Pure functions of the counts."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb


def cannot_change(counts: Sequence[int], outstanding: int) -> bool:
    """True if no outcome of the outstanding candidates can depose the leader. `counts`: votes, largest first."""
    leader = counts[0] if counts else 0
    second = counts[1] if len(counts) > 1 else 0
    return leader - second > outstanding


def lead_posterior(leader: int, second: int) -> float:
    """P(the leader is the more frequent of the top two answers), under a uniform prior.

    The Beta criterion of adaptive consistency (Aggarwal et al., 2023): 1 - I_{1/2}(leader + 1, second + 1), exact for
    whole counts. A stopping signal; *not* the probability that the leader is right.
    """
    trials = leader + second + 1
    return sum(comb(trials, k) for k in range(leader + 1)) / 2**trials


def settled(counts: Sequence[int], outstanding: int, threshold: float) -> bool:
    """The vote cannot change, or its leader stays ahead with at least the threshold's posterior probability."""
    if not counts:
        return False
    second = counts[1] if len(counts) > 1 else 0
    return cannot_change(counts, outstanding) or lead_posterior(counts[0], second) >= threshold
