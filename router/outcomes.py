"""From candidates, drawn now or read from a log, to the samples of a pool."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from router.pools import Pool, Sample
from router.questions import Question, form_of, judge
from strategies.answers import answer_of
from strategies.types import Candidate


def sample_of(question: Question, candidate: Candidate, *, correct: float | None = None) -> Sample:
    """correct: the verdict of whoever judges, None for the question itself. Without an answer it counts as wrong."""
    found = answer_of(candidate, form=form_of(question))
    logprobs = candidate.logprobs
    if found is None or question.verifier == "agreement":  # the others have to be heard first: `judged`
        correct = 0.0
    elif correct is None:
        correct = judge(question, found.value)
    return Sample(
        text=candidate.text,
        answer=found.value if found is not None else None,
        correct=correct,
        tokens=candidate.tokens,
        mean_logprob=round(logprobs.mean, 5) if logprobs and logprobs.tokens else None,
        certainty=round(logprobs.certainty / logprobs.certain_tokens, 5)
        if logprobs and logprobs.certain_tokens
        else None,
    )


def judged(pool: Pool) -> Pool:
    """The pool with the verdicts that follow from all its samples together, if that is how it is judged."""
    if pool.label != "agreement":
        return pool
    leader = _leader(pool.samples)
    samples = (replace(each, correct=float(each.answer is not None and each.answer == leader)) for each in pool.samples)
    return replace(pool, samples=tuple(samples))


def agreed(pool: Pool, answer: str | None) -> float:
    """1 if an answer is the one that a vote of all the pool's samples elects, else 0."""
    return float(answer is not None and answer == _leader(pool.samples))


def _leader(samples: Iterable[Sample]) -> str | None:
    """The answer that a vote of all of them elects: most votes, then the best mean logprob, then the earlier draw."""
    votes: dict[str, list[float]] = {}
    for sample in samples:
        if sample.answer is not None:
            mean = sample.mean_logprob
            votes.setdefault(sample.answer, []).append(float("-inf") if mean is None else mean)
    return max(votes, key=lambda answer: (len(votes[answer]), max(votes[answer])), default=None)


def accuracy(samples: Sequence[Sample]) -> float:
    """Mean correctness of one sample."""
    return sum(sample.correct for sample in samples) / len(samples)
