"""Who is right: the question's reference, its tool calls, or what most of its own samples say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from router.outcomes import agreed, judged, sample_of
from router.pools import Pool
from router.questions import Question
from strategies.types import Candidate, LogprobSummary

ADD = {"type": "function", "function": {"name": "add"}}


def question(verifier: str, reference: str = "", **fields: Any) -> Question:
    asked = ({"role": "user", "content": "How much is 3 + 4?"},)
    given: dict[str, Any] = {"messages": asked, "max_tokens": 8, "family": "f", **fields}
    return Question(id="q", reference=reference, verifier=verifier, **given)


def says(text: str, *, mean: float | None = None, finish_reason: str = "stop", **fields: Any) -> Candidate:
    logprobs = None if mean is None else LogprobSummary(tokens=2, total=2 * mean)
    return Candidate(index=0, text=text, tokens=2, finish_reason=finish_reason, logprobs=logprobs, **fields)


def pool_of(asked: Question, *candidates: Candidate) -> Pool:
    samples = tuple(sample_of(asked, candidate) for candidate in candidates)
    return judged(Pool(question=asked, model="m", temperature=0.8, recorded="2026-01-01", samples=samples))


def verdicts(pool: Pool) -> list[float]:
    return [sample.correct for sample in pool.samples]


def test_without_a_reference_the_majority_is_right() -> None:
    """Spellings of one answer vote together; whoever gives none is wrong."""
    pool = pool_of(question("agreement"), says("7"), says("\\boxed{7.0}"), says("8"), says("", finish_reason="length"))
    assert verdicts(pool) == [1.0, 1.0, 0.0, 0.0]
    assert [agreed(pool, answer) for answer in ("7", "8", None)] == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(("means", "expected"), [((-2.0, -1.0), [0.0, 1.0]), ((None, None), [1.0, 0.0])])
def test_a_tie_goes_to_the_surer_then_to_the_earlier(means: tuple[float | None, ...], expected: list[float]) -> None:
    """As in the gateway's own vote."""
    pool = pool_of(question("agreement"), says("7", mean=means[0]), says("8", mean=means[1]))
    assert verdicts(pool) == expected


def test_where_nobody_answers_nobody_is_right() -> None:
    assert verdicts(pool_of(question("agreement"), says(""), says(""))) == [0.0, 0.0]


def test_a_reference_is_not_outvoted() -> None:
    assert verdicts(pool_of(question("reference", "7"), says("8"), says("8"), says("7"))) == [0.0, 0.0, 1.0]


def test_tool_calls_are_compared_with_those_of_the_reference() -> None:
    asked = question("reference", '[{"name": "add", "arguments": {"b": 4, "a": 3}}]', tools=(ADD,))

    def calls(arguments: str) -> Candidate:
        call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": arguments}}
        return says("", finish_reason="tool_calls", tool_calls=(call,))

    assert verdicts(pool_of(asked, calls('{"a": 3, "b": 4}'), calls('{"a": 3}'), says("7"))) == [1.0, 0.0, 0.0]


def test_someone_elses_verdict_counts_only_for_an_answer() -> None:
    """A cut sample can't win a vote, so that it is right helps nobody."""
    asked = question("function")
    assert sample_of(asked, says("7"), correct=0.5).correct == 0.5
    assert sample_of(asked, says("7", finish_reason="length"), correct=1.0).correct == 0.0
    with pytest.raises(ValueError, match="judged by function"):
        sample_of(asked, says("7"))


def test_what_the_engine_does_not_tell_is_not_known() -> None:
    sample = sample_of(question("reference", "7"), says("7"))
    assert (sample.mean_logprob, sample.certainty) == (None, None)
    assert sample_of(question("reference", "7"), says("7", mean=-0.5)).mean_logprob == -0.5
    assert replace(sample, mean_logprob=None) == sample
