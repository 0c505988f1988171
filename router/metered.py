"""One request under hard limits, its candidates taken from a recorded pool instead of an engine.

The token ledger, what picks the leader and what decides at the checkpoints are those of a real request. Waves end
whole, so nothing is cancelled; a candidate that the budget or the deadline cuts casts no vote.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

from router.pools import Run, Sample
from router.replay import leader_of
from router.vote_state import BY_VOTES, rule_of
from strategies.ledger import Ledger
from strategies.spec import RIGHT, StrategySpec
from strategies.stopping import Poll, Stopping, Vote

Speed = Callable[[int], tuple[float, float]]  # sequences of a wave -> seconds to the first token and for each after it
NO_LIMIT = 2**62  # tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    tokens: int = NO_LIMIT  # completion tokens over all candidates
    seconds: float = inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What came of one request."""

    accuracy: float
    tokens: float
    seconds: float


def sampled(
    samples: Sequence[Sample],
    votes: Sequence[Vote],
    spec: StrategySpec,
    limits: Limits,
    *,
    max_tokens: int,
    speed: Speed,
    wave: int | None = None,
    stopping: Stopping | None = None,
    borda_power: float = 1.0,
) -> Spent:
    """A strategy that draws candidates. samples: in the order in which they are drawn; votes: the same, as checkpoints
    see them. max_tokens: of one candidate. wave: candidates asked for at first, None: all. stopping: None draws all,
    or up to the first that a verifier calls right.
    """
    rule = rule_of(spec) or BY_VOTES
    ledger = Ledger(limits.tokens)
    drawn: list[Vote] = []
    right, clock, size, short = 0.0, 0.0, wave or spec.n, False
    while len(drawn) < spec.n and not short:
        asked = min(size, spec.n - len(drawn))
        allowed, limit = ledger.plan(asked, max_tokens)
        if not allowed:
            break
        first, each = speed(allowed)
        in_time = max(0.0, (limits.seconds - clock - first) / each)  # tokens that come before the deadline
        longest = 0
        for vote in votes[len(drawn) : len(drawn) + allowed]:
            lease = ledger.reserve(limit)
            seen = int(min(vote.tokens, limit, in_time))
            lease.count(seen)
            lease.close(cancelled=False)
            drawn.append(vote if seen == vote.tokens else Vote(answer=None, tokens=seen))
            longest = max(longest, seen)
        took = min(first + longest * each, limits.seconds - clock)
        clock += took
        left = limits.seconds - clock
        short = allowed < asked or left <= 0
        leader, right = leader_of(drawn, samples, rule, borda_power)
        short = short or (spec.verified and any(vote.score is not None and vote.score >= RIGHT for vote in drawn))
        if stopping is not None and not short and len(drawn) < spec.n:
            verdict = stopping.judge(
                Poll(votes=tuple(drawn), leader=leader, cap=spec.n, by_votes=not rule[0], verified=spec.verified)
            )
            short = verdict.stop is not None
            # another wave after the next would come too late
            size = spec.n if left < 2 * took else verdict.wave or size
    return Spent(accuracy=right, tokens=float(ledger.spent), seconds=clock)


def searched(runs: Sequence[Run], limits: Limits) -> Spent:
    """A strategy that was recorded as it ran. What a search makes of less than it took is not known: it counts as
    wrong, at the cost of the limit."""
    inside = [run.tokens <= limits.tokens and run.seconds <= limits.seconds for run in runs]
    count = len(runs)
    return Spent(
        accuracy=sum(run.correct for run, fits in zip(runs, inside, strict=True) if fits) / count,
        tokens=sum(min(run.tokens, limits.tokens) for run in runs) / count,
        seconds=sum(min(run.seconds, limits.seconds) for run in runs) / count,
    )
