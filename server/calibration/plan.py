"""What is to be recorded, what a budget buys of it, and how far it is. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from router.pools import Pool, Sample
from router.questions import Question
from strategies.beam_search import Steps
from strategies.spec import StrategySpec

PILOT = 8  # questions that are asked before a budget is planned
_ROUND = 4  # one of so many open questions is asked on in a round


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to record for each question."""

    samples: int = 16
    first: int = 4  # samples that every question gets before those that disagree get more; only under a budget
    budget: int | None = None  # completion tokens of the whole recording, what earlier runs of it spent included
    concurrency: int = 1  # questions asked at once
    runs: tuple[StrategySpec, ...] = ()  # strategies that can't be derived from samples
    runs_each: int = 1  # how often each of them is run on a question
    sampling: Mapping[str, Any] = field(default_factory=lambda: {"temperature": 0.8})
    steps: Steps = field(default_factory=Steps)
    model: str = ""

    @property
    def opening(self) -> int:
        """Samples of every question before it is seen which get more."""
        return self.samples if self.budget is None else min(self.first, self.samples)

    @property
    def temperature(self) -> float:
        return float(self.sampling.get("temperature", 1.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What the tokens buy, reckoned with the mean of the samples there are, or else with the most they can cost."""

    questions: int
    plan: Plan
    tokens: float  # of one sample
    seen: int  # samples that is the mean of; 0: it is the questions' max_tokens
    sweep: int = 0  # tokens kept for the load sweep

    @property
    def opened(self) -> int:
        """Questions that get their first samples."""
        if self.plan.budget is None:
            return self.questions
        return min(self.questions, int(self._left(0) // self.plan.opening))

    @property
    def further(self) -> int:
        """Samples after the first ones."""
        if self.plan.budget is None:
            return 0
        opened = self.opened
        room = opened * (self.plan.samples - self.plan.opening)
        return min(room, int(self._left(opened * self.plan.opening)))

    @property
    def samples(self) -> int:
        return self.opened * self.plan.opening + self.further

    def _left(self, samples: float) -> float:
        """Samples that can still be paid after so many."""
        budget = (self.plan.budget or 0) - self.sweep
        return max(0.0, (budget - samples * self.tokens) / max(self.tokens, 1.0))

    def __str__(self) -> str:
        plan, opened = self.plan, self.opened
        if self.seen:
            price, about = f"{self.tokens:.0f} tokens a sample (mean of {self.seen})", "about"
        else:
            about = "at most" if plan.budget is None else "at least"
            price = f"at most {self.tokens:.0f} tokens a sample (max_tokens: none has been seen)"
        if plan.budget is None:
            lines = [
                f"plan, with {price}:",
                f"  {opened:,} questions x {plan.samples} samples: {about} {self.samples * self.tokens:,.0f} tokens",
            ]
            if plan.runs:
                often = f", {plan.runs_each} times each" if plan.runs_each > 1 else ""
                lines.append(f"  and on each question the runs {', '.join(map(str, plan.runs))}{often}")
        else:
            lines = [
                f"plan, with {price}: {plan.budget:,} tokens buy {about} {self.samples:,} samples",
                f"  {plan.opening} samples for {opened:,} of {self.questions:,} questions: {opened * plan.opening:,}",
                f"  more where answers disagree most, up to {plan.samples} a question: {self.further:,}",
                f"  kept for the load sweep: {self.sweep:,} tokens" if self.sweep else "  no load sweep",
            ]
        return "\n".join(lines)


def estimate(questions: Sequence[Question], recorded: Iterable[Pool], plan: Plan, *, sweep: int = 0) -> Estimate:
    """recorded: the pools that are there already."""
    seen = [sample.tokens for pool in recorded for sample in pool.samples]
    most = [question.max_tokens for question in questions]
    tokens = sum(seen) / len(seen) if seen else sum(most) / len(most)
    return Estimate(questions=len(questions), plan=plan, tokens=tokens, seen=len(seen), sweep=sweep)


def disagreement(samples: Sequence[Sample]) -> float:
    """Entropy of the answers, in bits; to give none counts as an answer."""
    counts = Counter(sample.answer for sample in samples).values()
    return sum(-count / len(samples) * math.log2(count / len(samples)) for count in counts)


def next_round(pools: Sequence[Pool], plan: Plan) -> list[Pool]:
    """Which of the open questions are asked on: those whose answers disagree most, then those with fewest samples."""
    ranked = sorted(pools, key=lambda pool: (-disagreement(pool.samples), len(pool.samples)))
    return ranked[: max(plan.concurrency, math.ceil(len(ranked) / _ROUND))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a recording is. What earlier runs of it recorded is part of `done`, `samples` and `tokens`."""

    done: int  # questions that have samples
    total: int
    started_with: int  # questions that were there already
    samples: int
    tokens: int
    share: float  # of this run's work, 0 to 1
    seconds: float
    last: str  # what was recorded last

    def __str__(self) -> str:
        left = self.seconds * (1 / self.share - 1) if self.share else 0.0
        return (
            f"{self.done}/{self.total} questions, {self.samples:,} samples, {self.tokens:,} tokens, "
            f"{self.seconds:.0f} s, about {left / 60:.1f} min left ({self.last})"
        )
