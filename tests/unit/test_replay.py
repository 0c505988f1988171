"""Pools played through again are what the real strategies would have seen, and done, on the same samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from router.clusters import Place
from router.learning import Trained, replays_of
from router.pools import Pool, Sample
from router.replay import CHECKPOINTS, Played, Replay, nearest, play, playable, replay
from router.stopper import Stopper
from router.stopping import ByPrice, Spending, waves_of
from router.stopping_training import Boosters, HeldOut, played, predicted
from router.vote_state import BY_VOTES, STATE_FEATURES, rule_of, vote_state
from strategies.anytime import run
from strategies.best_of_n import best_of_n
from strategies.ledger import Ledger
from strategies.majority_vote import majority_vote
from strategies.sampling import MeteredSampler
from strategies.scorers import SCORERS
from strategies.spec import StrategySpec
from strategies.stopping import By, ByPosterior, Poll, Stopping, Verdict
from strategies.types import Answer, Publish, Query, Tools
from tests.fakes import FAR, Choice, Piece, ScriptedEngine, ask, menu_of
from tests.pools import RIGHT, logprobs_of, pool_of, random_pool, sample

pytestmark = pytest.mark.anyio

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
CAP = 12
SEEDS = range(6)
SAMPLED = [
    "majority_vote@12",
    "best_of_n@12",
    "best_of_n@12:weighted",
    "best_of_n@12:borda",
    "best_of_n@12:self_certainty",
    "best_of_n@12:self_certainty:weighted",
    "best_of_n@12:self_certainty:borda",
]
CLOSE = (RIGHT, RIGHT, "8", "8", "9", None)  # votes that stay open for long, and ties


@dataclass(kw_only=True)
class Noting:
    """Implements `Stopping`: notes what every checkpoint sees, and says what `then` says."""

    then: Stopping | None = None
    by: By = "prior"
    polls: list[Poll] = field(default_factory=list[Poll])

    def judge(self, poll: Poll) -> Verdict:
        self.polls.append(poll)
        return Verdict() if self.then is None else self.then.judge(poll)


@dataclass(frozen=True, kw_only=True)
class AtCheckpoints:
    """Implements `Stopping`: a rule that is heard where a replay asks, which is when a wave has ended, and the waves of
    which end where a replay lets them."""

    rule: Stopping
    by: By = "prior"

    def judge(self, poll: Poll) -> Verdict:
        drawn = len(poll.votes)
        if poll.under_way or drawn not in CHECKPOINTS:
            return Verdict()
        verdict = self.rule.judge(poll)
        at = max(CHECKPOINTS.index(drawn) + 1, int(nearest(np.array(drawn + (verdict.wave or 1)))))
        return replace(verdict, wave=CHECKPOINTS[at] - drawn)


@dataclass(frozen=True, kw_only=True)
class Drew:
    answer: Answer
    tokens: int
    waves: list[int]
    published: list[Answer]

    @property
    def drawn(self) -> int:
        return sum(self.waves)

    def right(self, order: Sequence[Sample]) -> float:
        winner = self.answer.winners[0]
        return order[winner.index].correct if winner.finished else 0.0


async def draw(order: Sequence[Sample], spec: StrategySpec, stopping: Stopping, *, wave: int = 1) -> Drew:
    """The real strategy, drawing these samples in this order."""
    choices = [
        Choice(
            pieces=[Piece(text=each.text, tokens=each.tokens, logprobs=logprobs_of(each) if spec.scorer else None)],
            finish_reason="length" if each.answer is None else "stop",
        )
        for each in order
    ]
    engine, ledger = ScriptedEngine(choices), Ledger(100_000)
    sampler = MeteredSampler(engine, ledger, default_max_tokens=100)
    scorer = SCORERS[spec.scorer] if spec.scorer else None
    tools = Tools(sampler=sampler, scorer=scorer, stopping=stopping, wave=wave)
    published: list[Answer] = []
    strategy = majority_vote if spec.method == "majority_vote" else best_of_n

    async def watched(query: Query, spec: StrategySpec, tools: Tools, publish: Publish) -> Answer:
        def note(answer: Answer) -> None:
            published.append(answer)
            publish(answer)

        return await strategy(query, spec, tools, note)

    answer = await run(watched, ask(), spec, tools, sampler, deadline=FAR)
    return Drew(answer=answer, tokens=ledger.spent, waves=[call.n for call in engine.calls], published=published)


def orders_of(pool: Pool, data: Replay) -> list[list[Sample]]:
    """The pool's samples as every row of a replay draws them: no two are equally long."""
    by_length = {float(each.tokens): each for each in pool.samples}
    return [[by_length[length] for length in row[row > 0]] for row in data.tokens.tolist() for row in [np.array(row)]]


def rule(spec: StrategySpec) -> tuple[float, float]:
    found = rule_of(spec)
    assert found is not None
    return found


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("written", SAMPLED)
async def test_a_replay_sees_at_every_checkpoint_what_the_strategy_does(written: str, seed: int) -> None:
    """The same features, from the real ballot as from the recorded samples; and the same answer stands."""
    spec, pool = StrategySpec.parse(written), random_pool(seed, CAP, answers=CLOSE)
    data = replay([pool], rule(spec), orders=4)
    for row, order in enumerate(orders_of(pool, data)):
        noting = Noting()
        drew = await draw(order, spec, noting)
        assert [len(poll.votes) for poll in noting.polls] == list(range(1, CAP + 1))
        for t, at in enumerate(CHECKPOINTS[: data.reached[row]]):
            real = vote_state(noting.polls[at - 1], rule(spec))
            known = dict(zip(STATE_FEATURES, data.states[row, t].tolist(), strict=True))
            assert known == pytest.approx(dict(zip(STATE_FEATURES, real, strict=True)), rel=1e-6, nan_ok=True)
            shown = drew.published[at - 1].winners[0]
            assert data.right[row, t] == (order[shown.index].correct if shown.finished else 0.0)


def by_posterior(data: Replay, threshold: float) -> Played:
    """Adaptive consistency, a candidate at a time."""
    posterior, margin = (STATE_FEATURES.index(name) for name in ("posterior", "margin_votes"))

    def decide(at: Ints, rows: Ints) -> tuple[NDArray[np.bool_], Floats]:
        left = CAP - np.array(CHECKPOINTS)[at]
        states = data.states[rows, at]
        return (states[:, posterior] >= threshold) | (states[:, margin] > left), np.ones(len(rows))

    return play(data, decide, first=np.ones(len(data)), cap=CAP)


async def check(data: Replay, pool: Pool, spec: StrategySpec, result: Played, rule: Stopping, first: Floats) -> None:
    """What was played is what the strategy does, row by row."""
    for row, order in enumerate(orders_of(pool, data)):
        size = CHECKPOINTS[int(nearest(first[row]))]
        drew = await draw(order, spec, AtCheckpoints(rule=rule), wave=size)
        ends = np.cumsum([0, *drew.waves])
        longest = [max(each.tokens for each in order[a:b]) for a, b in pairwise(ends)]
        assert result.drawn[row] == drew.drawn == drew.answer.candidates
        assert result.waves[row] == len(drew.waves)
        assert result.tokens[row] == drew.tokens
        assert result.longest[row] == sum(longest)
        assert result.right[row] == drew.right(order)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("threshold", [0.6, 0.8, 0.95, 1.0])
async def test_a_vote_played_by_its_posterior_stops_where_the_real_one_does(threshold: float, seed: int) -> None:
    pool = random_pool(seed, CAP, answers=CLOSE)
    data = replay([pool], BY_VOTES, orders=4)
    rule = ByPosterior(threshold=threshold)
    await check(data, pool, menu_of("majority_vote@12")[0], by_posterior(data, threshold), rule, np.ones(len(data)))


async def test_an_abstention_settles_a_vote_that_two_more_answers_could_have_changed() -> None:
    """2 to 0 with two to come is open; after an abstention, with one to come, it is not."""
    order = [sample(answer, tokens=tokens) for answer, tokens in [(RIGHT, 10), (RIGHT, 20), (None, 30), ("8", 90)]]
    drew = await draw(order, menu_of("majority_vote@4")[0], ByPosterior(threshold=1.0))
    assert (drew.drawn, drew.tokens, drew.answer.cut_short) == (3, 60, "consensus")


def held(data: Replay, model: Stopper | None) -> HeldOut:
    """With the model's predictions for queries of which nothing special is known."""
    rows, count = len(data), len(CHECKPOINTS)
    gains, confidence = np.full((rows, count, count), -np.inf), np.full((rows, count), np.nan)
    if model is not None:
        boosters = Boosters(gain=model.gain, right=model.right)
        gains, confidence = predicted(data, boosters, np.repeat(model.clusters.general[None], rows, axis=0))
    return HeldOut(data=data, gains=gains, confidence=confidence, familiar=np.ones(rows, dtype=bool))


def first_wave(data: Replay, spending: Spending) -> Floats:
    """As `played` begins where candidates are predicted to be as long as the first is."""
    price = np.array([spending.candidate(tokens) for tokens in data.tokens[:, 0]])
    return waves_of(np.full(len(data), float(CAP)), price=price, wait=np.full(len(data), spending.wait))


# of a token and of a wave: from what nobody counts to where a candidate is all that pays
SPENDINGS = [
    Spending(token=token, wait=wait) for token in (0.0, 1e-5, 1e-4, 3e-4, 1e-3) for wait in (0.0, 1e-3, 1e-2, 0.2)
]


@pytest.mark.parametrize("spending", SPENDINGS, ids=lambda s: f"{s.token:g}-{s.wait:g}")
async def test_a_vote_played_by_its_price_stops_where_the_real_one_does(spending: Spending) -> None:
    for seed in SEEDS:
        pool = random_pool(seed, CAP, answers=CLOSE)
        data = replay([pool], BY_VOTES, orders=3)
        wait = np.full(len(data), spending.wait)
        result = played(held(data, None), token=spending.token, wait=wait, weight=0.0, cap=CAP, each=data.tokens[:, 0])
        rule = ByPrice(spending=spending)
        await check(data, pool, menu_of("majority_vote@12")[0], result, rule, first_wave(data, spending))


def test_over_these_prices_votes_are_stopped_early_late_and_never() -> None:
    """So that the comparisons above compare something."""
    data = replay([random_pool(seed, CAP, answers=CLOSE) for seed in SEEDS], BY_VOTES, orders=3)
    waits = np.ones(len(data))
    runs = [
        played(held(data, None), token=s.token, wait=s.wait * waits, weight=0.0, cap=CAP, each=data.tokens[:, 0])
        for s in SPENDINGS
    ]
    assert {*CHECKPOINTS[: CHECKPOINTS.index(CAP) + 1]} - {int(n) for one in runs for n in one.drawn} == set()
    assert {1, 2, 3} <= {int(n) for one in runs for n in one.waves}


@pytest.mark.parametrize("weight", [0.5, 1.0])
@pytest.mark.parametrize("written", ["majority_vote@12", "best_of_n@12"])
async def test_what_the_model_decides_is_played_as_it_decides_it_for_a_request(
    trained: Trained, written: str, weight: float
) -> None:
    assert trained.stopping is not None
    spec = StrategySpec.parse(written)
    model = replace(trained.stopping.model, weights={rule(spec): weight})
    nowhere = Place(statistics=model.clusters.general, distance=0.0, familiar=True)
    stopped: set[float] = set()
    for seed, spending in enumerate(SPENDINGS):
        pool = random_pool(seed, CAP, answers=CLOSE)
        data = replay([pool], rule(spec), orders=3)
        wait = np.full(len(data), spending.wait)
        result = played(
            held(data, model), token=spending.token, wait=wait, weight=weight, cap=CAP, each=data.tokens[:, 0]
        )
        learned = model.for_request(spec, nowhere, spending)
        assert learned is not None
        await check(data, pool, spec, result, learned, first_wave(data, spending))
        stopped |= {*result.drawn.tolist()}
    assert len(stopped) > 3


async def test_best_of_n_is_never_stopped_by_the_price_alone_neither_played_nor_real() -> None:
    """How often an answer came does not tell how it will be scored."""
    spec, pool = StrategySpec.parse("best_of_n@12"), random_pool(1, CAP, answers=(RIGHT,))
    data = replay([pool], rule(spec), orders=3)
    spending = Spending(token=1e-2, wait=0.0)
    result = played(
        held(data, None), token=spending.token, wait=np.zeros(len(data)), weight=0.0, cap=CAP, each=data.tokens[:, 0]
    )
    assert result.drawn.tolist() == [CAP] * 3
    await check(data, pool, spec, result, ByPrice(spending=spending), np.full(len(data), CAP))


def test_a_pool_smaller_than_the_cap_is_played_to_its_end() -> None:
    data = replay([random_pool(0, 5, answers=CLOSE)], BY_VOTES, orders=2)
    result = by_posterior(data, threshold=2.0)
    assert result.drawn.tolist() == [5, 5]
    assert result.tokens.tolist() == data.tokens.sum(axis=1).tolist()


def test_the_same_pools_are_played_in_the_same_orders() -> None:
    pools = [random_pool(seed, CAP) for seed in range(3)]
    one, two = replay(pools, BY_VOTES, orders=4), replay(pools[::-1], BY_VOTES, orders=4)
    assert one.tokens.tolist() == [row for i in (2, 1, 0) for row in two.tokens[two.question == i].tolist()]


def test_rows_of_a_question_are_averaged_whatever_their_number() -> None:
    data = replay([random_pool(seed, CAP) for seed in range(3)], BY_VOTES, orders=2)
    data = data.take(np.array([0, 1, 2, 4, 5]))
    assert data.by_question(np.array([1.0, 3.0, 5.0, 0.0, 1.0]), 4).tolist() == [2.0, 5.0, 0.5, 0.0]
    assert data.rows_of(np.array([True, False, True])).tolist() == [0, 1, 3, 4]


def silent(each: Sample) -> Sample:
    return replace(each, mean_logprob=None, certainty=None)


def test_a_pool_without_scores_tells_nothing_of_the_rules_that_need_them() -> None:
    """Taken for zeros, its first candidate would be the best of any number."""
    scored, mute = random_pool(0, CAP), random_pool(1, CAP)
    mute = replace(mute, samples=tuple(silent(each) for each in mute.samples))
    menu = menu_of("majority_vote@4", "best_of_n@4")
    votes, best = replays_of([mute, scored], menu, borda_power=1.0)
    assert {*votes.question.tolist()} == {0, 1}
    assert {*best.question.tolist()} == {1}
    assert [data.rule for data in replays_of([mute], menu, borda_power=1.0)] == [BY_VOTES]


def test_a_candidate_that_says_nothing_needs_no_score_for_its_pool_to_be_played() -> None:
    pool = pool_of([silent(sample(None)), sample(RIGHT)])
    assert playable(menu_of("best_of_n@2")[0], [pool]) == (1.0, 0.0)
    assert playable(menu_of("best_of_n@2")[0], [pool_of([silent(sample(None))])]) is None  # nor does it tell anything
