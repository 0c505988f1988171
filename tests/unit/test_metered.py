"""Requests under limits, from recorded pools, spend and answer as the real strategies do under a real ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from router.metered import Limits, Spent, sampled, searched
from router.pools import Run, Sample
from router.replay import numbers_of, vote_of
from router.stopping import ByPrice, Spending
from router.vote_state import rule_of
from strategies.anytime import run
from strategies.best_of_n import best_of_n
from strategies.ledger import Ledger
from strategies.majority_vote import majority_vote
from strategies.sampling import MeteredSampler
from strategies.scorers import SCORERS
from strategies.spec import StrategySpec
from strategies.stopping import By, Poll, Stopping, Verdict
from strategies.types import Tools
from tests.fakes import FAR, Choice, Piece, ScriptedEngine, ask
from tests.pools import RIGHT, logprobs_of, pool_of, random_pool, sample

pytestmark = pytest.mark.anyio
SEEDS = range(5)
MOST = 100  # tokens of one candidate


@dataclass(frozen=True, kw_only=True)
class AtWaveEnds:
    """Implements `Stopping`: a rule that is heard when a wave has ended."""

    rule: Stopping
    by: By = "prior"

    def judge(self, poll: Poll) -> Verdict:
        return Verdict() if poll.under_way else self.rule.judge(poll)


@dataclass(kw_only=True)
class Never:
    """Implements `Stopping`: goes on as it began, and notes the polls."""

    by: By = "prior"
    polls: list[Poll] = field(default_factory=list[Poll])

    def judge(self, poll: Poll) -> Verdict:
        self.polls.append(poll)
        return Verdict()


def at_once(size: int) -> tuple[float, float]:
    return 0.0, 0.001 * size


def spent(
    order: Sequence[Sample], spec: StrategySpec, limits: Limits, *, wave: int | None = None,
    stopping: Stopping | None = None,
) -> Spent:  # fmt: skip
    number, rule = numbers_of(pool_of(order)), rule_of(spec)
    assert rule is not None
    votes = [vote_of(each, number, rule) for each in order]
    return sampled(order, votes, spec, limits, max_tokens=MOST, speed=at_once, wave=wave, stopping=stopping)


async def really(
    order: Sequence[Sample], spec: StrategySpec, tokens: int, *, wave: int | None, stopping: Stopping
) -> tuple[float, int]:
    """How right the real strategy's answer is, and the tokens on its ledger."""

    choices = [
        Choice(
            pieces=[Piece(text=each.text, tokens=each.tokens, logprobs=logprobs_of(each) if spec.scorer else None)],
            finish_reason="length" if each.answer is None else "stop",
        )
        for each in order
    ]
    ledger = Ledger(tokens)
    sampler = MeteredSampler(ScriptedEngine(choices), ledger, default_max_tokens=MOST)
    scorer = SCORERS[spec.scorer] if spec.scorer else None
    tools = Tools(sampler=sampler, scorer=scorer, stopping=AtWaveEnds(rule=stopping), wave=wave)
    strategy = majority_vote if spec.method == "majority_vote" else best_of_n
    answer = await run(strategy, ask(), spec, tools, sampler, deadline=FAR)
    winner = answer.winners[0]
    return order[winner.index].correct if winner.finished else 0.0, ledger.spent


@pytest.mark.parametrize("tokens", [20, 60, 130, 200, 300, 10_000])
@pytest.mark.parametrize("wave", [None, 1, 3])
@pytest.mark.parametrize("written", ["majority_vote@8", "best_of_n@8", "best_of_n@8:weighted"])
async def test_a_budget_is_spent_as_the_real_strategy_spends_it(written: str, wave: int | None, tokens: int) -> None:
    spec = StrategySpec.parse(written)
    for seed in SEEDS:
        order = random_pool(seed, 8).samples
        for rule in (Never(), ByPrice(spending=Spending(token=1e-4, wait=0.0))):
            mine = spent(order, spec, Limits(tokens=tokens), wave=wave, stopping=rule)
            assert (mine.accuracy, mine.tokens) == await really(order, spec, tokens, wave=wave, stopping=rule)
            assert mine.tokens <= tokens


def test_a_candidate_that_the_budget_cuts_is_paid_for_and_has_no_vote() -> None:
    """Three share 90 tokens, so that the one right answer is cut at 30."""
    order = [sample(RIGHT, tokens=31), sample("8", tokens=10), sample(None, tokens=10)]
    assert spent(order, StrategySpec.parse("majority_vote@3"), Limits(tokens=90)).accuracy == 0.0
    mine = spent(order, StrategySpec.parse("majority_vote@3"), Limits(tokens=93))
    assert (mine.accuracy, mine.tokens) == (1.0, 51.0)  # of two that are equal, the first


def test_the_deadline_cuts_what_is_not_there_yet() -> None:
    """Three at once take 3 ms a token each: by 0.06 s there are 20."""
    order = [sample(RIGHT, tokens=21), sample("8", tokens=20), sample("8", tokens=5)]
    spec = StrategySpec.parse("best_of_n@3")
    cut = spent(order, spec, Limits(seconds=0.0601))
    assert (cut.accuracy, cut.tokens) == (0.0, 45.0)
    assert cut.seconds == pytest.approx(0.06)
    whole = spent([replace(order[0], mean_logprob=0.0), *order[1:]], spec, Limits(seconds=1.0))
    assert (whole.accuracy, whole.tokens) == (1.0, 46.0)
    assert whole.seconds == pytest.approx(0.063)


def test_when_time_gets_short_what_is_left_is_drawn_at_once() -> None:
    order = [sample(RIGHT, tokens=10)] * 8
    spec = StrategySpec.parse("majority_vote@8")
    noting = Never()
    spent(order, spec, Limits(seconds=0.025), wave=1, stopping=noting)  # a wave of one takes 0.01 s
    assert [len(poll.votes) for poll in noting.polls] == [1]
    noting = Never()
    spent(order, spec, Limits(seconds=0.035), wave=1, stopping=noting)
    assert [len(poll.votes) for poll in noting.polls] == [1, 2]


def test_a_search_that_took_more_than_there_is_counts_as_wrong_at_the_cost_of_the_limit() -> None:
    runs = [Run(spec="beam_search@2x2", correct=1.0, tokens=tokens, seconds=tokens / 10) for tokens in (10, 30)]
    assert searched(runs, Limits()) == Spent(accuracy=1.0, tokens=20.0, seconds=2.0)
    assert searched(runs, Limits(tokens=20)) == Spent(accuracy=0.5, tokens=15.0, seconds=2.0)
    assert searched(runs, Limits(seconds=2.0)) == Spent(accuracy=0.5, tokens=20.0, seconds=1.5)
