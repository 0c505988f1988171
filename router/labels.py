"""What each strategy would have done on a recorded pool: accuracy, tokens and longest branch, by resampling.

Many random orders of the pool, without replacement, follow the strategies' own rules: blank and cut answers never
vote. Nothing stops early here: what that saves depends on the prices, and is measured by `router.replay`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from router.pools import Pool
from strategies.spec import VERIFIER, StrategySpec

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
ORDERS = 200  # random orders a pool: standard error of a label under 0.02 after ties and repetitions


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """One strategy on one question, over the random orders."""

    accuracy: float  # mean success rate: a soft label, not one 0/1 draw
    tokens: Floats  # completion tokens of each order, shape (orders,)
    longest: Floats  # tokens of the longest sequence of each order, shape (orders,)

    @property
    def mean_tokens(self) -> float:
        return float(self.tokens.mean())

    @property
    def mean_longest(self) -> float:
        return float(self.longest.mean())


class PoolLabels:
    """Labels of one pool. Deterministic: the orders follow from the question's id."""

    def __init__(self, pool: Pool, *, orders: int = ORDERS, borda_power: float = 1.0) -> None:
        samples = pool.samples
        self.pool = pool
        self.size = len(samples)
        self._borda_power = borda_power
        self._correct = np.array([sample.correct for sample in samples])
        self._tokens = np.array([float(sample.tokens) for sample in samples])
        names = {answer: i for i, answer in enumerate(dict.fromkeys(s.answer for s in samples if s.answer is not None))}
        self._answers = np.array([-1 if s.answer is None else names[s.answer] for s in samples])
        self._kinds = max(1, len(names))
        means = self._known([sample.mean_logprob for sample in samples])
        certainties = self._known([sample.certainty for sample in samples])
        self._means = np.zeros(self.size) if means is None else np.exp(means)
        self._scores: dict[str, Floats] = {}  # of the scorers whose choice is known
        if means is not None:
            self._scores["mean_logprob"] = self._means
        if certainties is not None:
            self._scores["self_certainty"] = certainties
        if pool.label != "agreement":
            self._scores[VERIFIER] = self._correct
        rng = np.random.default_rng(crc32(pool.question.id.encode()))
        self._orders = np.array([rng.permutation(self.size) for _ in range(orders)])

    def label(self, spec: StrategySpec) -> Label | None:
        """None when the pool can't tell: more candidates than samples, or a strategy that was not run on it."""
        if spec.method == "beam_search":
            return self._recorded(spec)
        if spec.n > self.size or (spec.scorer is not None and spec.scorer not in self._scores):
            return None
        if spec.method == "single":
            return Label(accuracy=float(self._correct.mean()), tokens=self._tokens, longest=self._tokens)
        drawn = self._orders[:, : spec.n]
        tokens = self._tokens[drawn]
        winner = self._vote(drawn) if spec.method == "majority_vote" else self._best(spec, drawn)
        return Label(accuracy=float(winner.mean()), tokens=tokens.sum(axis=1), longest=tokens.max(axis=1))

    def _known(self, values: Sequence[float | None]) -> Floats | None:
        """None when a sample that votes has none: whom a scorer would have chosen is then not known."""
        if any(value is None and answer >= 0 for value, answer in zip(values, self._answers, strict=True)):
            return None
        return np.array([0.0 if value is None else value for value in values])

    def _recorded(self, spec: StrategySpec) -> Label | None:
        runs = self.pool.runs_of(spec)
        if not runs:
            return None
        tokens = np.array([float(run.tokens) for run in runs])
        return Label(accuracy=float(np.mean([run.correct for run in runs])), tokens=tokens, longest=tokens / spec.draws)

    def _vote(self, drawn: Ints) -> Floats:
        """Correctness of the winner of each order; of equal answers, their mean. drawn: (orders, n)."""
        counts, first, _ = self._groups(drawn)
        most = counts.max(axis=1, keepdims=True)
        tied = (counts == most) & (most > 0)
        return (first * tied).sum(axis=1) / np.maximum(1, tied.sum(axis=1))

    def _best(self, spec: StrategySpec, drawn: Ints) -> Floats:
        """The same of the best-scored."""
        everyone = np.arange(len(drawn))
        votes = self._answers[drawn] >= 0
        scores = np.where(votes, self._scores[spec.scorer or "mean_logprob"][drawn], -np.inf)
        if spec.rule == "naive":
            best = drawn[everyone, scores.argmax(axis=1)]
            return np.where(votes.any(axis=1), self._correct[best], 0.0)
        counts, first, means = self._groups(drawn)
        worth = scores
        if spec.rule == "borda":  # those that cast no vote have the lowest places, and they don't count
            place = np.argsort(np.argsort(scores, axis=1, kind="stable"), axis=1, kind="stable") + 1.0
            worth = np.maximum(place - (~votes).sum(axis=1, keepdims=True), 0) ** self._borda_power
        bins = (everyone[:, None] * self._kinds + self._answers[drawn])[votes]
        sums = np.bincount(bins, weights=worth[votes], minlength=counts.size).reshape(counts.shape)
        sums = np.where(counts > 0, sums, -np.inf)
        if spec.rule == "borda":  # sums of places are often equal; then as in `strategies.answers.group`
            tied = sums >= sums.max(axis=1, keepdims=True) - 1e-9
            held = np.where(tied, counts, -1)
            sums = np.where(held == held.max(axis=1, keepdims=True), means, -np.inf)
        return np.where(votes.any(axis=1), first[everyone, sums.argmax(axis=1)], 0.0)

    def _groups(self, drawn: Ints) -> tuple[Floats, Floats, Floats]:
        """Of every order and answer, (orders, answers): its votes, how right the first of them is, and their highest
        mean probability."""
        shape = (len(drawn), self._kinds)
        counts, first, means = np.zeros(shape), np.zeros(shape), np.full(shape, -np.inf)
        for sample in drawn.T[::-1]:  # backwards, so that the first is what stays
            rows = np.flatnonzero(self._answers[sample] >= 0)
            at = (rows, self._answers[sample[rows]])
            counts[at] += 1
            first[at] = self._correct[sample[rows]]
            means[at] = np.maximum(means[at], self._means[sample[rows]])
        return counts, first, means


def places(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """N for the best of N, 1 for the last. Measured scores are hardly ever equal."""
    place = np.empty(len(scores))
    place[np.argsort(scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return place


def label_table(
    pools: Sequence[Pool], menu: Sequence[StrategySpec], *, borda_power: float = 1.0
) -> list[dict[StrategySpec, Label]]:
    """For every pool the strategies it has outcomes for. borda_power: as configured."""
    table: list[dict[StrategySpec, Label]] = []
    for pool in pools:
        labels = PoolLabels(pool, borda_power=borda_power)
        row = {spec: labels.label(spec) for spec in menu}
        table.append({spec: label for spec, label in row.items() if label is not None})
    return table
