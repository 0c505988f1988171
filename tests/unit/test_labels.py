"""Labels from recorded pools are what the real strategies would have done on the same samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations

import pytest

from router.labels import PoolLabels, label_table
from router.pools import Pool, Run, Sample
from strategies.anytime import run
from strategies.ledger import Ledger
from strategies.majority_vote import majority_vote
from strategies.sampling import MeteredSampler
from strategies.scorers import SCORERS
from strategies.selection import select
from strategies.spec import StrategySpec
from strategies.stopping import By, Poll, Verdict
from strategies.types import Candidate, Tools
from strategies.voting import Ballot
from tests.fakes import FAR, ScriptedEngine, ask, menu_of, says
from tests.pools import RIGHT, logprobs_of, pool_of, random_pool, sample

pytestmark = pytest.mark.anyio

SEEDS = range(6)


async def drawn(samples: Sequence[Sample], scorer: str | None) -> list[Candidate]:
    """The samples as the strategies see them; the ones without an answer were cut by their length."""
    candidates = [
        Candidate(
            index=i,
            text=each.text,
            tokens=each.tokens,
            finish_reason="length" if each.answer is None else "stop",
            logprobs=logprobs_of(each) if scorer else None,  # a vote is drawn without logprobs
        )
        for i, each in enumerate(samples)
    ]
    if scorer is None:
        return candidates
    scores = await SCORERS[scorer].score(ask(), candidates)
    return [
        Candidate(
            index=c.index, text=c.text, tokens=c.tokens, finish_reason=c.finish_reason, logprobs=c.logprobs, score=score
        )
        for c, score in zip(candidates, scores, strict=True)
    ]


async def chosen(samples: Sequence[Sample], spec: StrategySpec) -> float:
    """Whether the real strategy's choice among just these samples, drawn in this order, is right."""
    candidates = await drawn(samples, spec.scorer)
    if spec.method == "majority_vote":
        answer = Ballot.of(candidates, form=None).vote()
    else:
        answer = select(Ballot.of(candidates, form=None), rule=spec.rule)
    winner = answer.winners[0]
    return samples[winner.index].correct if winner.finished else 0.0


async def expected(pool: Pool, spec: StrategySpec) -> float:
    """Exact: over all orders, or where the order makes no difference, all subsets."""
    each = permutations if spec.method == "majority_vote" else combinations
    results = [await chosen(drawing, spec) for drawing in each(pool.samples, spec.n)]
    return sum(results) / len(results)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "written",
    [
        "majority_vote@3",
        "best_of_n@4",
        "best_of_n@4:weighted",
        "best_of_n@4:borda",
        "best_of_n@4:self_certainty:borda",
        "best_of_n@4:self_certainty",
        "best_of_n@4:self_certainty:weighted",
    ],
)
async def test_accuracy_is_what_the_strategies_choose_on_the_same_subsets(written: str, seed: int) -> None:
    spec, pool = StrategySpec.parse(written), random_pool(seed, 6)
    label = PoolLabels(pool, orders=800).label(spec)
    assert label is not None
    assert label.accuracy == pytest.approx(await expected(pool, spec), abs=0.07)  # 4 standard errors at the worst


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "written", ["majority_vote@4", "best_of_n@4", "best_of_n@4:weighted", "best_of_n@4:self_certainty:weighted"]
)
async def test_a_strategy_that_takes_the_whole_pool_is_simulated_exactly(written: str, seed: int) -> None:
    """A vote's tie counts each of its answers alike, as it does over all orders of drawing."""
    spec, pool = StrategySpec.parse(written), random_pool(seed, 4, answers=(RIGHT, "8", "9", None))
    label = PoolLabels(pool, orders=10).label(spec)
    assert label is not None
    assert label.accuracy == pytest.approx(await expected(pool, spec))


@dataclass(frozen=True, kw_only=True)
class Never:
    """Implements `Stopping`: everything is drawn, as labels take it to be."""

    by: By = "prior"

    def judge(self, poll: Poll) -> Verdict:
        return Verdict()


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_vote_that_is_never_stopped_costs_what_the_real_one_does(seed: int) -> None:
    """Early stopping's cost follows from the prices: `test_replay` compares that."""
    pool = random_pool(seed, 8, answers=(RIGHT, RIGHT, RIGHT, RIGHT, "8", None))
    spec = StrategySpec.parse("majority_vote@8")
    label = PoolLabels(pool, orders=3).label(spec)
    assert label is not None
    choices = [
        says(each.text, tokens=each.tokens, finish_reason="length" if each.answer is None else "stop")
        for each in pool.samples
    ]
    ledger = Ledger(100_000)
    sampler = MeteredSampler(ScriptedEngine(choices), ledger, default_max_tokens=100)
    tools = Tools(sampler=sampler, scorer=None, stopping=Never())
    answer = await run(majority_vote, ask(), spec, tools, sampler, deadline=FAR)
    assert (answer.candidates, answer.cut_short) == (8, None)
    assert label.mean_tokens == ledger.spent
    assert label.mean_longest == max(candidate.tokens for candidate in sampler.candidates)


def test_single_is_the_mean_of_the_pool() -> None:
    pool = pool_of([sample(a, tokens=t) for a, t in [(RIGHT, 10), ("8", 20), (None, 30), (RIGHT, 40)]])
    label = PoolLabels(pool).label(StrategySpec.parse("single"))
    assert label is not None
    assert (label.accuracy, label.mean_tokens, label.mean_longest) == (0.5, 25.0, 25.0)


def test_best_of_n_pays_for_every_candidate_and_waits_for_the_longest() -> None:
    pool = pool_of([sample(RIGHT, tokens=t) for t in (10, 20, 30, 40)])
    label = PoolLabels(pool).label(StrategySpec.parse("best_of_n@4"))
    assert label is not None
    assert (label.mean_tokens, label.mean_longest) == (100.0, 40.0)


@pytest.mark.parametrize("written", ["majority_vote@4", "best_of_n@4", "best_of_n@4:weighted"])
def test_a_pool_without_any_answer_is_never_right(written: str) -> None:
    label = PoolLabels(pool_of([sample(None)] * 4)).label(StrategySpec.parse(written))
    assert label is not None
    assert label.accuracy == 0.0


def test_a_pool_can_not_tell_about_more_candidates_than_it_has_or_runs_it_has_not() -> None:
    labels = PoolLabels(random_pool(0, 4))
    assert [labels.label(spec) for spec in menu_of("majority_vote@5", "best_of_n@5", "beam_search@2x2")] == [None] * 3


def test_beam_search_is_what_was_recorded() -> None:
    runs = [
        Run(spec="beam_search@2x2", correct=1.0, tokens=80, seconds=1.0),
        Run(spec="beam_search@2x2", correct=0.0, tokens=40, seconds=1.0),
        Run(spec="beam_search@4x4", correct=0.0, tokens=999, seconds=9.0),
    ]
    label = PoolLabels(pool_of([sample(RIGHT)] * 2, runs=runs)).label(StrategySpec.parse("beam_search@2x2"))
    assert label is not None
    assert (label.accuracy, label.mean_tokens, label.mean_longest) == (0.5, 60.0, 15.0)


def test_the_same_pool_gives_the_same_labels() -> None:
    spec = StrategySpec.parse("majority_vote@3")
    one, two = (PoolLabels(random_pool(1, 6)).label(spec) for _ in range(2))
    assert one is not None
    assert two is not None
    assert (one.accuracy, one.tokens.tolist()) == (two.accuracy, two.tokens.tolist())


def test_a_table_holds_what_each_pool_can_tell() -> None:
    menu = menu_of("single", "majority_vote@3", "majority_vote@6")
    small, large = label_table([random_pool(0, 4), random_pool(1, 8)], menu)
    assert ([str(spec) for spec in small], list(large)) == (["single", "majority_vote@3"], list(menu))


async def test_a_pool_does_not_know_what_a_configured_scorer_would_have_said() -> None:
    assert PoolLabels(pool_of([sample(RIGHT)] * 4)).label(StrategySpec.parse("best_of_n@4:my_prm")) is None
    assert PoolLabels(pool_of([sample(RIGHT)] * 4)).label(StrategySpec.parse("best_of_n@4:tail_confidence")) is None


def test_without_logprobs_only_the_best_of_n_is_unknown() -> None:
    """Whom a scorer of logprobs would have chosen is not known, and 0 is no stand-in for it; votes need none."""
    spoken = [sample(RIGHT), sample("8"), sample(RIGHT), sample("9")]
    silent = [replace(each, mean_logprob=None, certainty=None) for each in spoken]
    menu = menu_of("single", "majority_vote@4", "best_of_n@4", "best_of_n@4:borda", "best_of_n@4:self_certainty")
    (known, unknown) = label_table([pool_of(spoken), pool_of(silent)], menu)
    assert set(known) == set(menu)
    assert set(unknown) == set(menu[:2])
    assert unknown[menu[1]].accuracy == known[menu[1]].accuracy


def test_one_voter_without_a_score_leaves_the_scorer_unknown() -> None:
    samples = [sample(RIGHT), replace(sample("8"), certainty=None)]
    menu = menu_of("best_of_n@2", "best_of_n@2:self_certainty")
    assert set(label_table([pool_of(samples)], menu)[0]) == {menu[0]}


def test_a_sample_that_casts_no_vote_needs_no_score() -> None:
    """Nothing said, nothing to score: it could not have been chosen anyway."""
    blank = replace(sample(None), mean_logprob=None, certainty=None)
    menu = menu_of("best_of_n@2", "best_of_n@2:borda")
    labels = label_table([pool_of([sample(RIGHT), blank])], menu)[0]
    assert [labels[spec].accuracy for spec in menu] == [1.0, 1.0]
