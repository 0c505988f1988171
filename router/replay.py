"""Recorded pools played through again: what a strategy would have seen at every checkpoint, and what came of stopping.

Every pool is put in several random orders, without replacement; in each, the votes at every checkpoint are those that
a request would have had which drew its candidates in that order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from router.labels import places
from router.pools import Pool, Sample
from router.stopping import FREE
from router.vote_state import STATE_FEATURES, VERIFIED, Rule, rule_of, vote_state
from strategies.spec import StrategySpec
from strategies.stopping import Poll, Vote

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
CHECKPOINTS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 48, 64)
_AT: Ints = np.array(CHECKPOINTS, dtype=np.intp)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """Orders of pools under one rule. Rows are orders; T checkpoints, of which a small pool reaches the first few."""

    rule: Rule
    question: Ints  # (rows,) index into the pools
    reached: Ints  # (rows,) checkpoints that the pool is large enough for
    states: Floats  # (rows, T, features), nan beyond `reached`
    right: Floats  # (rows, T) correctness of the leader
    tokens: Floats  # (rows, CHECKPOINTS[-1]) of each candidate in order, 0 beyond the pool
    answers: Ints  # (rows, CHECKPOINTS[-1]) of the same, equal numbers for equal answers, -1 for none

    def __len__(self) -> int:
        return len(self.question)

    def rows_of(self, questions: NDArray[np.bool_]) -> Ints:
        """Rows of the questions that are marked. questions: (pools,)."""
        return np.flatnonzero(questions[self.question])

    def take(self, rows: Ints) -> Replay:
        return Replay(
            rule=self.rule,
            question=self.question[rows],
            reached=self.reached[rows],
            states=self.states[rows],
            right=self.right[rows],
            tokens=self.tokens[rows],
            answers=self.answers[rows],
        )

    def spent(self) -> Floats:
        """Tokens of all candidates up to each checkpoint, (rows, T)."""
        return np.cumsum(self.tokens, axis=1)[:, _AT - 1]

    def by_question(self, values: Floats, questions: int) -> Floats:
        """Means over each question's orders, (questions,)."""
        sums = np.bincount(self.question, weights=values, minlength=questions)
        return sums / np.maximum(1, np.bincount(self.question, minlength=questions))


def replay(pools: Sequence[Pool], rule: Rule, *, orders: int, borda_power: float = 1.0) -> Replay:
    """Deterministic: a pool's orders follow from its question's id. rule: see `rule_of`.

    Pools that lack the rule's scores have no rows: whom it would have picked is not known.
    """
    question: list[int] = []
    reached: list[int] = []
    states: list[list[list[float]]] = []
    right: list[list[float]] = []
    tokens: list[list[float]] = []
    answers: list[list[int]] = []
    blank = [float("nan")] * len(STATE_FEATURES)
    for i, pool in enumerate(pools):
        if not _scored(pool, rule):
            continue
        rng = np.random.default_rng(crc32(pool.question.id.encode()))
        number = numbers_of(pool)
        counted = [at for at in CHECKPOINTS if at <= len(pool.samples)]
        for _ in range(orders):
            order: list[int] = rng.permutation(len(pool.samples))[: CHECKPOINTS[-1]].tolist()
            drawn = [pool.samples[k] for k in order]
            votes = [vote_of(sample, number, rule) for sample in drawn]
            seen = [leader_of(votes[:at], drawn, rule, borda_power) for at in counted]
            rows = [
                vote_state(Poll(votes=votes[:at], leader=leader, cap=len(drawn), by_votes=not rule[0]), rule)
                for at, (leader, _) in zip(counted, seen, strict=True)
            ]
            beyond = len(CHECKPOINTS) - len(counted)
            question.append(i)
            reached.append(len(counted))
            states.append(rows + [blank] * beyond)
            right.append([correct for _, correct in seen] + [float("nan")] * beyond)
            unused = CHECKPOINTS[-1] - len(drawn)
            tokens.append([float(vote.tokens) for vote in votes] + [0.0] * unused)
            answers.append([-1 if vote.answer is None else vote.answer for vote in votes] + [-1] * unused)
    return Replay(
        rule=rule,
        question=np.array(question, dtype=np.intp),
        reached=np.array(reached, dtype=np.intp),
        states=np.array(states),
        right=np.array(right),
        tokens=np.array(tokens),
        answers=np.array(answers, dtype=np.intp),
    )


def playable(spec: StrategySpec, pools: Sequence[Pool]) -> Rule | None:
    """The rule of a strategy whose course follows from the pools' samples."""
    rule = rule_of(spec)
    if rule is None or spec.method == "single":
        return None
    tells = (_scored(pool, rule) and any(sample.answer is not None for sample in pool.samples) for pool in pools)
    return rule if any(tells) else None


def _scored(pool: Pool, rule: Rule) -> bool:
    """Whether all that votes has the rule's score. That samples agree says nothing of what a verifier would say."""
    if rule == VERIFIED:
        return pool.label != "agreement"
    return not rule[0] or all(_score(sample, rule) is not None for sample in pool.samples if sample.answer is not None)


def _score(sample: Sample, rule: Rule) -> float | None:
    """As the scorers of these names do. The verifier is taken to say what the recording's judge said."""
    if not rule[0]:
        return None
    if rule == VERIFIED:
        return sample.correct
    if rule[1]:
        return sample.certainty
    return None if sample.mean_logprob is None else float(np.exp(sample.mean_logprob))


def numbers_of(pool: Pool) -> dict[str, int]:
    """A number for every answer of a pool."""
    return {a: k for k, a in enumerate(dict.fromkeys(s.answer for s in pool.samples)) if a is not None}


def vote_of(sample: Sample, number: Mapping[str, int], rule: Rule) -> Vote:
    """A sample as a checkpoint sees it. number: see `numbers_of`."""
    if sample.answer is None:  # best-of-N scores only what can win
        return Vote(answer=None, tokens=sample.tokens)
    return Vote(answer=number[sample.answer], tokens=sample.tokens, score=_score(sample, rule))


def leader_of(
    votes: Sequence[Vote], samples: Sequence[Sample], rule: Rule, borda_power: float
) -> tuple[int | None, float]:
    """The answer that the rule picks, and how right it is. Of equal ones the one that `strategies.answers.group` has
    first: of votes, which are drawn without logprobs, the first to come."""
    members: dict[int, list[int]] = {}
    for i, vote in enumerate(votes):
        if vote.answer is not None:
            members.setdefault(vote.answer, []).append(i)
    if not members:
        return None, 0.0
    if rule[0] == 1.0:
        best = max((i for own in members.values() for i in own), key=lambda i: votes[i].score or 0.0)
        return votes[best].answer, samples[best].correct
    worth = np.ones(len(votes))
    if rule[0]:
        worth = np.array([vote.score or 0.0 for vote in votes])
        if rule[0] == 3.0:
            voters = [i for own in members.values() for i in own]
            worth[voters] = places(worth[voters]) ** borda_power

    def standing(answer: int) -> tuple[float, int, float, int]:
        own = members[answer]
        means = [mean for i in own if rule[0] and (mean := samples[i].mean_logprob) is not None]
        return sum(worth[i] for i in own), len(own), max(means, default=float("-inf")), -own[0]

    first = max(members, key=standing)
    return first, float(np.mean([samples[i].correct for i in members[first]]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What came of a policy, by row."""

    at: Ints  # the checkpoint it stopped at
    right: Floats
    tokens: Floats
    drawn: Floats
    waves: Floats
    longest: Floats  # tokens of the waves' longest candidates, summed
    seconds: Floats


# (rows' questions, wave sizes) -> seconds to the first token and for each after it
Speeds = Callable[[Ints, Ints], tuple[Floats, Floats]]
# (checkpoint's index by row, rows) -> whether to stop, and how many more to ask for otherwise
Decide = Callable[[Ints, Ints], tuple[NDArray[np.bool_], Floats]]


def play(data: Replay, decide: Decide, *, first: Floats, cap: int, speeds: Speeds | None = None) -> Played:
    """Play every row from its first wave until it stops or has drawn `cap`.

    first: size of the first wave by row. Waves end at checkpoints, the nearest to what was asked for: only there are
    the votes known.
    """
    rows = np.arange(len(data))
    last = np.minimum(data.reached, int(np.searchsorted(_AT, cap, side="right"))) - 1
    spent = data.spent()
    at = np.minimum(nearest(first), last)
    waves = np.ones(len(data))
    longest, seconds = np.zeros(len(data)), np.zeros(len(data))
    wait = partial(_wait, longest, seconds, data, speeds)
    wait(rows, np.full(len(data), -1), at)
    live = rows[at < last]
    while len(live):
        stop, more = decide(at[live], live)
        live = live[~stop]
        before = at[live]
        at[live] = np.minimum(np.maximum(before + 1, nearest(_AT[before] + more[~stop])), last[live])
        waves[live] += 1
        wait(live, before, at[live])
        live = live[at[live] < last[live]]
    return Played(
        at=at,
        right=data.right[rows, at],
        tokens=spent[rows, at],
        drawn=_AT[at].astype(float),
        waves=waves,
        longest=longest,
        seconds=seconds,
    )


def nearest(sizes: Floats) -> Ints:
    """Index of the nearest checkpoint, in the logarithm."""
    between = np.sqrt(_AT[1:] * _AT[:-1])
    return np.searchsorted(between, np.asarray(sizes, dtype=float), side="left")


def _wait(
    longest: Floats, seconds: Floats, data: Replay, speeds: Speeds | None, rows: Ints, before: Ints, after: Ints
) -> None:
    """Add one wave of each row: its longest candidate, and the time of that."""
    place: Ints = np.arange(data.tokens.shape[1], dtype=np.intp)
    start = np.where(before >= 0, _AT[before], 0)
    inside = (place >= start[:, None]) & (place < _AT[after][:, None])
    tokens = np.where(inside, data.tokens[rows], 0.0).max(axis=1)
    longest[rows] += tokens
    if speeds is not None:
        to_first, each = speeds(data.question[rows], _AT[after] - start)
        seconds[rows] += to_first + tokens * each


def price_of(states: Floats, token: float) -> Floats:
    """What a candidate costs in utility, by the tokens of those seen. states: (rows, features)."""
    return np.maximum(token * np.expm1(states[:, STATE_FEATURES.index("log_tokens")]), FREE)
