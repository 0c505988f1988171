"""When a strategy has seen enough: what a checkpoint sees, what it says, and the plain rule. Pure."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Literal, Protocol, get_args

logger = logging.getLogger("apportion")
SETTLED = 0.95  # posterior probability at which a vote counts as settled, if nobody says otherwise
Stop = Literal["consensus", "verified", "price", "hopeless"]
STOPS: tuple[Stop, ...] = get_args(Stop)
By = Literal["threshold", "prior", "model"]  # what a request's checkpoints go by


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """One candidate as a checkpoint sees it."""

    answer: int | None  # equal answers have equal numbers; None: it cast no vote
    tokens: int
    score: float | None = None  # by the strategy's scorer


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """A strategy at a checkpoint: its candidates in the order they came."""

    votes: Sequence[Vote]
    leader: int | None  # the answer that would be returned now; None: none has voted
    cap: int  # candidates that may be drawn in all
    under_way: int = 0  # candidates asked for that have not come yet
    by_votes: bool = True  # the leader is the answer with the most votes, not the one with the best scores
    verified: bool = False  # the first candidate that is right ends the drawing, so that none is there yet

    @property
    def left(self) -> int:
        """Candidates that could still come, those under way included."""
        return max(0, self.cap - len(self.votes))

    def counts(self) -> tuple[int, int]:
        """Votes of the leader, and of the largest answer beside it."""
        counts = Counter(vote.answer for vote in self.votes if vote.answer is not None)
        if self.leader is None:
            return 0, 0
        others = [count for answer, count in counts.items() if answer != self.leader]
        return counts[self.leader], max(others, default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a checkpoint says."""

    stop: Stop | None = None  # why no more are worth drawing
    wave: int | None = None  # else: how many to ask for next; None: as many as before
    confidence: float | None = None  # calibrated probability that the leader is right, where that is known


class Stopping(Protocol):
    """Decides at every checkpoint of one request: after each candidate that comes."""

    @property
    def by(self) -> By: ...

    def judge(self, poll: Poll) -> Verdict: ...


def verdict_of(stopping: Stopping, poll: Poll) -> Verdict:
    """What the checkpoint says. One that fails says nothing, and what is left is drawn at once: an answer is worth more
    than what stopping saves."""
    try:
        return stopping.judge(poll)
    except Exception:
        logger.exception("a checkpoint failed: the strategy goes on without")
        return Verdict(wave=poll.left)


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
    if not counts or not counts[0]:
        return False
    second = counts[1] if len(counts) > 1 else 0
    return cannot_change(counts, outstanding) or lead_posterior(counts[0], second) >= threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class ByPosterior:
    """Adaptive consistency: a vote is over when it is settled. Says nothing where scores decide. Implements `Stopping`.

    threshold: posterior probability at which a vote counts as settled.
    """

    threshold: float = SETTLED
    by: By = "threshold"

    def judge(self, poll: Poll) -> Verdict:
        if poll.by_votes and poll.left and settled(poll.counts(), poll.left, self.threshold):
            return Verdict(stop="consensus")
        return Verdict(wave=None if poll.by_votes or poll.verified else poll.left or None)
