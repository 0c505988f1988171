"""What a budget buys, who gets more samples, and how long it still takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from router.pools import Pool, Sample
from router.questions import Question
from server.calibration.plan import Estimate, Plan, Progress, disagreement, estimate, next_round
from tests.fakes import menu_of

PLAN = Plan(samples=16, first=4)


def pool(name: str, answers: Sequence[str | None], *, tokens: int = 10) -> Pool:
    question = Question(
        id=name, family="f", messages=({"role": "user", "content": name},), reference="1", verifier="reference",
        max_tokens=100,
    )  # fmt: skip
    samples = tuple(
        Sample(text="", answer=answer, correct=0.0, tokens=tokens, mean_logprob=None, certainty=None)
        for answer in answers
    )
    return Pool(question=question, model="m", temperature=0.8, recorded="2026-01-01", samples=samples)


def plan_for(questions: int, budget: int | None, *, seen: int = 0, sweep: int = 0) -> Estimate:
    """seen: samples of ten tokens each that are there already."""
    asked = [pool(str(i), ()).question for i in range(questions)]
    return estimate(asked, [pool("seen", ["1"] * seen)], replace(PLAN, budget=budget), sweep=sweep)


@pytest.mark.parametrize(
    ("questions", "budget", "sweep", "opened", "further"),
    [
        (10, 400, 0, 10, 0),  # just the first samples
        (10, 1_000, 0, 10, 60),
        (10, 1_000, 300, 10, 30),  # the load sweep is paid first
        (10, 1_000_000, 0, 10, 120),  # 16 each, and no more
        (10, 250, 0, 6, 1),  # not for all questions
        (10, 39, 0, 0, 0),
        (10, 100, 200, 0, 0),
    ],
)
def test_what_a_budget_buys(questions: int, budget: int, sweep: int, opened: int, further: int) -> None:
    bought = plan_for(questions, budget, seen=8, sweep=sweep)
    assert (bought.opened, bought.further) == (opened, further)
    assert bought.samples == opened * 4 + further
    assert bought.samples * 10 + sweep <= max(budget, sweep)
    assert f"4 samples for {opened} of {questions} questions" in str(bought)


def test_before_anything_was_seen_the_most_that_a_sample_costs_is_reckoned_with() -> None:
    bought = plan_for(10, 4_000)
    assert bought.tokens == 100
    assert "buy at least 40 samples" in str(bought)
    assert "buy about 160 samples" in str(plan_for(10, 4_000, seen=1))


def test_without_a_budget_the_cost_is_told() -> None:
    asked = [pool(str(i), ()).question for i in range(10)]
    told = str(estimate(asked, [], replace(PLAN, runs=menu_of("beam_search@2x2"))))
    assert "10 questions x 16 samples: at most 16,000 tokens" in told
    assert told.endswith("the runs beam_search@2x2")
    often = str(estimate(asked, [], replace(PLAN, runs=menu_of("beam_search@2x2"), runs_each=4)))
    assert often.endswith("the runs beam_search@2x2, 4 times each")


@pytest.mark.parametrize(
    ("answers", "bits"),
    [(["1"] * 4, 0.0), (["1", "2"], 1.0), (["1", "2", "3", "4"], 2.0), (["1", None], 1.0), ([None, None], 0.0)],
)
def test_disagreement_is_the_entropy_of_the_answers(answers: Sequence[str | None], bits: float) -> None:
    """Not to answer is one way to answer: a question that half of the samples give up on is undecided."""
    assert disagreement(pool("q", answers).samples) == pytest.approx(bits)


def test_a_round_goes_to_those_that_disagree_most() -> None:
    """A quarter of them, but at least as many as are asked at once; of equals those with the fewest samples."""
    pools = [
        pool("sure", ["1"] * 4),
        pool("split", ["1", "1", "2", "2"]),
        pool("asked before", ["1", "2", "3", "4"] * 2),
        pool("scattered", ["1", "2", "3", "4"]),
    ]
    assert [each.question.id for each in next_round(pools, PLAN)] == ["scattered"]
    wide = next_round(pools, replace(PLAN, concurrency=3))
    assert [each.question.id for each in wide] == ["scattered", "asked before", "split"]


@pytest.mark.parametrize(("share", "left"), [(0.25, "about 3.0 min left"), (1.0, "about 0.0 min left")])
def test_progress_tells_the_time_left(share: float, left: str) -> None:
    """By the share of the work that took the time so far."""
    progress = Progress(
        done=3, total=9, started_with=1, samples=1200, tokens=34_000, share=share, seconds=60.0, last="f: 0.50 right"
    )
    assert left in str(progress)
    assert "3/9 questions, 1,200 samples, 34,000 tokens" in str(progress)
