"""What the votes of one request look like at a checkpoint, as numbers. Pure.

The same function makes the features that a model is trained on and those that it is asked with, so the two can't drift
apart. It costs about a microsecond a candidate.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from math import log, log1p, sqrt

from strategies.spec import VERIFIER, StrategySpec
from strategies.stopping import Poll, Vote, lead_posterior

STATE_FEATURES = (
    "drawn",  # candidates so far
    "leading",  # share of them that give the leader's answer
    "second",  # share of the largest answer beside it
    "margin",  # the difference of the two, as a share and as votes
    "margin_votes",
    "posterior",  # that the leader is the more frequent of the two; see `lead_posterior`
    "distinct",  # answers, as a share of the candidates
    "alone",  # answers that one candidate gave
    "entropy",  # of the answers, in nats
    "blank",  # share of candidates that cast no vote
    "latest",  # share of the last third that gives the leader's answer
    "log_tokens",  # of the mean candidate
    "spread_tokens",  # standard deviation over mean
    "leader_tokens",  # the leader's mean over the mean of all
    "score",  # the leader's best, and what it is ahead of the others' best and of the mean
    "score_ahead",
    "score_above_mean",
    "by_score",  # 0: by votes; 1: the best score; 2: scores summed; 3: places summed
    "scored_by",  # 0: mean log probability; 1: self-certainty; 2: the verifier
)
# going on is worth less where the lead is larger: what is known is not learned again from noise
FALLING = frozenset(("posterior", "margin", "margin_votes"))
Rule = tuple[float, float]
_RULES = {"naive": 1.0, "weighted": 2.0, "borda": 3.0}
SCORED_BY = {"mean_logprob": 0.0, "self_certainty": 1.0, VERIFIER: 2.0}
BY_VOTES = (0.0, 0.0)  # the rule of a majority vote
VERIFIED = (_RULES["naive"], SCORED_BY[VERIFIER])  # the first that is right
_UNKNOWN = float("nan")


def only_by_model(rule: Rule) -> bool:
    """Whether nothing else stops it early: scores decide over all that may be drawn, and no verifier ends it."""
    return rule[0] > 0 and rule != VERIFIED


def rule_of(spec: StrategySpec) -> Rule | None:
    """How the strategy picks its leader: the last two features. Strategies of equal rules differ in n alone. None for
    scores that pools don't hold, and for strategies that are no sampling."""
    if spec.method in ("single", "majority_vote"):
        return BY_VOTES
    scored_by = SCORED_BY.get(spec.scorer or "")
    if spec.method != "best_of_n" or scored_by is None or (spec.scorer == VERIFIER and not spec.verified):
        return None
    return _RULES[spec.rule], scored_by


def vote_state(poll: Poll, rule: Rule) -> list[float]:
    """Features in STATE_FEATURES' order; nan where there are no scores. rule: see `rule_of`."""
    votes = poll.votes
    drawn = len(votes)
    groups: dict[int, list[Vote]] = defaultdict(list)
    for vote in votes:
        if vote.answer is not None:
            groups[vote.answer].append(vote)
    sizes = {answer: len(members) for answer, members in groups.items()}
    voters = sum(sizes.values())
    leader = groups.get(poll.leader, []) if poll.leader is not None else []
    first = len(leader)
    second = max((size for answer, size in sizes.items() if answer != poll.leader), default=0)
    total = sum(vote.tokens for vote in votes)
    mean = total / drawn
    spread = sqrt(max(0.0, sum(vote.tokens**2 for vote in votes) / drawn - mean * mean))
    latest = votes[-max(1, drawn // 3) :]
    return [
        float(drawn),
        first / drawn,
        second / drawn,
        (first - second) / drawn,
        float(first - second),
        _posterior(first, second),
        len(groups) / drawn,
        sum(size == 1 for size in sizes.values()) / drawn,
        -sum(size / voters * log(size / voters) for size in sizes.values()) if voters else 0.0,
        1 - voters / drawn,
        sum(vote.answer is not None and vote.answer == poll.leader for vote in latest) / len(latest),
        log1p(mean),
        spread / max(mean, 1.0),
        sum(vote.tokens for vote in leader) / first / max(mean, 1.0) if first else 1.0,
        *_scores(votes, poll.leader, scored=rule[0] > 0),
        *rule,
    ]


def _scores(votes: Sequence[Vote], leader: int | None, *, scored: bool) -> tuple[float, float, float]:
    """Votes that a rule decides have none, though the engine may have sent what some could be made of."""
    known = [(vote.answer, vote.score) for vote in votes if vote.score is not None]
    own = [score for answer, score in known if answer == leader]
    if not scored or not own:
        return _UNKNOWN, _UNKNOWN, _UNKNOWN
    others = [score for answer, score in known if answer != leader]
    best = max(own)
    ahead = best - max(others) if others else _UNKNOWN
    return best, ahead, best - sum(score for _, score in known) / len(known)


@lru_cache(maxsize=8192)
def _posterior(leader: int, second: int) -> float:
    return lead_posterior(leader, second)
