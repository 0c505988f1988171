"""Best-of-N with a verifier: drawn until the first candidate that is right, and what that is predicted to come to."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from math import comb

import numpy as np
import pytest

from router.allocator import Allocator
from router.labels import PoolLabels
from router.learning import replays_of, train
from router.pools import Pool, Sample
from router.predictors import Prior, averages
from router.replay import CHECKPOINTS, replay
from router.scoring import Scoring
from router.speed import Load
from router.stopping import ByPrice, Spending
from router.stopping_training import HeldOut, played
from router.verified import one_right, until_right
from router.vote_state import VERIFIED
from router.waves import Waved
from strategies.anytime import run
from strategies.best_of_n import best_of_n
from strategies.ledger import Ledger
from strategies.sampling import MeteredSampler
from strategies.spec import StrategySpec
from strategies.stopping import ByPosterior, Stopping
from strategies.types import Answer, Candidate, Pace, Prediction, Prices, Query, ScorerError, Tools
from tests.fakes import FAR, Choice, Piece, ScriptedEngine, TextScorer, ask, menu_of, says
from tests.pools import POOLS, RIGHT, STEP_TOKENS, random_pool

pytestmark = pytest.mark.anyio

SPEC = StrategySpec.parse("best_of_n@8:verifier")
RIGHT_TEXT = "\\boxed{7}"
WRONG = ["\\boxed{8}", "\\boxed{9}", "\\boxed{8}"]
PACES: Sequence[Pace] = ("at_once", "each")


class Ran:
    """One request over a scripted engine."""

    def __init__(
        self,
        script: Sequence[str | Choice],
        *,
        verifier: object = None,
        pace: Pace = "each",
        wave: int | None = None,
        stopping: Stopping | None = None,
        query: Query | None = None,
    ) -> None:
        self.engine = ScriptedEngine([says(each) if isinstance(each, str) else each for each in script])
        self.ledger = Ledger(10_000)
        sampler = MeteredSampler(self.engine, self.ledger, default_max_tokens=100)
        scorer = verifier or TextScorer(scores={RIGHT_TEXT: 1.0, "\\boxed{7} too": 1.0}, pace=pace)
        self.tools = Tools(sampler=sampler, scorer=scorer, wave=wave, stopping=stopping or ByPosterior())  # type: ignore[arg-type]
        self._sampler, self._query = sampler, query or ask()

    async def answer(self) -> Answer:
        answer = await run(best_of_n, self._query, SPEC, self.tools, self._sampler, deadline=FAR)
        assert self.engine.opened == self.engine.closed, "work was left on the engine"
        return answer

    @property
    def waves(self) -> list[int]:
        return [call.n for call in self.engine.calls]


@pytest.mark.parametrize("pace", PACES)
async def test_the_first_that_is_right_wins_against_a_majority_and_no_other_wave_is_drawn(pace: Pace) -> None:
    ran = Ran([*WRONG, RIGHT_TEXT, *WRONG, "\\boxed{8}"], pace=pace, wave=4)
    answer = await ran.answer()
    assert answer.winners[0].text == RIGHT_TEXT
    assert (answer.cut_short, ran.waves) == ("verified", [4])


@pytest.mark.parametrize("pace", PACES)
async def test_what_is_under_way_is_cut_when_one_is_right(pace: Pace) -> None:
    """Seven that never end do not hold up the one that is right."""
    slow = Choice(pieces=[Piece(text="so", tokens=1), Piece(after=asyncio.Event())])
    answer = await Ran([slow, slow, RIGHT_TEXT, *[slow] * 5], pace=pace).answer()
    assert (answer.winners[0].text, answer.cut_short) == (RIGHT_TEXT, "verified")


@pytest.mark.parametrize("pace", PACES)
async def test_where_none_is_right_all_are_drawn_in_waves_of_one_size(pace: Pace) -> None:
    ran = Ran([*WRONG, *WRONG, *WRONG], pace=pace, wave=3)
    answer = await ran.answer()
    assert (ran.waves, answer.cut_short, answer.candidates) == ([3, 3, 2], None, 8)


async def test_the_last_candidate_being_right_has_cut_nothing_short() -> None:
    answer = await Ran([*WRONG, *WRONG, "\\boxed{9}", RIGHT_TEXT], wave=8, pace="at_once").answer()
    assert (answer.winners[0].text, answer.cut_short) == (RIGHT_TEXT, None)


async def test_who_wants_two_answers_gets_two_that_are_right() -> None:
    script = [RIGHT_TEXT, "\\boxed{8}", "\\boxed{9}", "\\boxed{7} too", *WRONG, "\\boxed{8}"]
    ran = Ran(script, wave=2, query=ask(answers=2))
    answer = await ran.answer()
    assert [each.text for each in answer.winners] == [RIGHT_TEXT, "\\boxed{7} too"]
    assert (ran.waves, answer.cut_short) == ([2, 2], "verified")


async def test_the_next_wave_waits_for_the_verdicts_of_the_one_before() -> None:
    """A slow verifier is waited for: another wave may be for nothing."""

    class Slow:
        needs_top_logprobs: int | None = None
        pace: Pace = "each"
        asked = 0

        async def score(self, query: Query, candidates: Sequence[Candidate]) -> Sequence[float]:
            self.asked += 1
            for _ in range(50):
                await asyncio.sleep(0)
            return [float(each.text == RIGHT_TEXT) for each in candidates]

    verifier = Slow()
    ran = Ran([WRONG[0], RIGHT_TEXT, *WRONG, *WRONG], verifier=verifier, wave=2)
    answer = await ran.answer()
    assert (ran.waves, answer.cut_short, verifier.asked) == ([2], "verified", 2)


async def test_a_verifier_that_fails_leaves_the_vote_over_all() -> None:
    class Broken:
        needs_top_logprobs: int | None = None
        pace: Pace = "each"

        async def score(self, query: Query, candidates: Sequence[Candidate]) -> Sequence[float]:
            raise ScorerError("broken")

    ran = Ran([RIGHT_TEXT, *WRONG, *WRONG, "\\boxed{8}"], verifier=Broken(), wave=2)
    answer = await ran.answer()
    assert (answer.winners[0].text, answer.note) == ("\\boxed{8}", "broken, so the majority vote decided")
    assert sum(ran.waves) == 8


async def test_a_request_that_is_cancelled_ends_drawing_and_verifying() -> None:
    slow = Choice(pieces=[Piece(text="so", tokens=1), Piece(after=asyncio.Event())])
    ran = Ran([WRONG[0], *[slow] * 7])
    task = asyncio.create_task(ran.answer())
    await asyncio.wait([task], timeout=0.01)
    assert ran.engine.made
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ran.engine.opened == ran.engine.closed


# --- what it is predicted to come to


def test_one_of_n_is_right_as_often_as_beta_distributed_queries_have_one() -> None:
    rng = np.random.default_rng(3)
    for one in (0.1, 0.25, 0.6):
        share = rng.beta(one, 1 - one, size=200_000)
        for n in (1, 2, 8, 16):
            assert one_right(one, n) == pytest.approx((1 - (1 - share) ** n).mean(), abs=0.005)
    assert one_right(0.0, 16) == 0.0
    assert one_right(1.0, 1) == 1.0


@pytest.mark.parametrize("size", [1, 3, 8])
def test_waves_until_one_is_right_are_those_of_simulated_requests(size: int) -> None:
    """A price that makes the wave so large is found by trying; what is expected is checked against 100,000 requests."""
    one, n, rng = 0.3, 8, np.random.default_rng(5)
    row = Prediction(spec=SPEC, accuracy=0.6, tokens=80.0, tokens_upper=160.0, seconds=2.0, seconds_upper=4.0)
    for latency in np.geomspace(1e-6, 10, 400):
        prices = Prices(token_price=1.0, latency_price=float(latency))
        found = until_right(row, one=one, prices=prices, seconds_left=FAR)
        if found.wave == size:
            break
    else:
        pytest.fail("no price gives such waves")
    share = rng.beta(one, 1 - one, size=100_000)
    right = rng.random((100_000, n)) < share[:, None]
    first = np.where(right.any(axis=1), right.argmax(axis=1), n - 1)
    waves = first // size + 1
    drawn = np.minimum(waves * size, n)
    assert found.tokens == pytest.approx(80 * drawn.mean() / n, rel=0.02)
    assert found.seconds == pytest.approx(2.0 * waves.mean(), rel=0.02)
    assert (waves * 4.0 <= found.seconds_upper + 1e-9).mean() >= 0.9 - 0.01
    assert (found.accuracy, found.tokens_upper) == (0.6, 160.0)


def test_without_time_for_two_waves_all_are_drawn_at_once() -> None:
    row = Prediction(spec=SPEC, accuracy=0.6, tokens=80.0, tokens_upper=160.0, seconds=2.0, seconds_upper=4.0)
    found = until_right(row, one=0.3, prices=Prices(token_price=1.0, latency_price=0.0), seconds_left=7.0)
    assert (found.wave, found.tokens, found.seconds_upper) == (8, 80.0, 4.0)


def test_without_a_model_it_is_offered_in_waves_also_where_no_vote_could_gain() -> None:
    allocator = Allocator(predictor=Prior(), fallback=Prior(), max_candidates=16, default_max_tokens=300)
    menu = menu_of("single", "majority_vote@8", "best_of_n@8:verifier")
    query = ask("Write a poem about the sea.", prices=Prices(token_price=0.1, latency_price=0.0))
    _, allocation = allocator.explain(query, menu, Load(), now=0.0, scoring=Scoring(costs={}, step_tokens=STEP_TOKENS))
    assert (str(allocation.spec), allocation.wave) == ("best_of_n@8:verifier", 1)
    assert isinstance(allocation.chosen, Waved)
    assert isinstance(allocation.stopping, ByPrice)


def test_open_text_that_no_model_knows_gains_from_a_verifier_alone() -> None:
    menu = menu_of("single", "majority_vote@8", "best_of_n@8:verifier")
    usual = np.array([0.3, 0.5, 0.8])
    assert averages(usual, menu, agree=False).tolist() == [0.3, 0.3, 0.8]
    assert averages(usual, menu, agree=True).tolist() == [0.3, 0.5, 0.8]


# --- learned from pools


def test_the_label_is_the_unbiased_share_of_orders_with_one_that_is_right() -> None:
    """pass@k, exactly known: 1 - C(wrong, k) / C(all, k)."""
    for seed in range(5):
        pool = random_pool(seed, 12, answers=(RIGHT, "8", "8", "9"))
        right = sum(each.correct for each in pool.samples)
        for k in (1, 4, 8):
            label = PoolLabels(pool, orders=4000).label(StrategySpec.parse(f"best_of_n@{k}:verifier"))
            assert label is not None
            assert label.accuracy == pytest.approx(1 - comb(12 - int(right), k) / comb(12, k), abs=0.03)


def test_what_only_agreement_has_judged_tells_nothing_of_a_verifier() -> None:
    pool = random_pool(1, 12)
    agreed = Pool.from_json({**pool.to_json(), "question": {**pool.question.to_json(), "verifier": "agreement"}})
    assert agreed.label == "agreement"
    assert PoolLabels(agreed).label(SPEC) is None
    assert len(replay([agreed], VERIFIED, orders=2)) == 0


def as_played(order: Sequence[Sample]) -> list[Choice]:
    return [
        Choice(
            pieces=[Piece(text=each.text, tokens=each.tokens)],
            finish_reason="length" if each.answer is None else "stop",
        )
        for each in order
    ]


@pytest.mark.parametrize("spending", [Spending(token=t, wait=w) for t in (0.0, 1e-4, 1e-3) for w in (0.0, 1e-2)])
async def test_played_without_a_model_it_ends_where_the_real_one_does(spending: Spending) -> None:
    for seed in range(6):
        pool = random_pool(seed, 8, answers=(RIGHT, "8", "8", "9", None))
        by_length = {float(each.tokens): each for each in pool.samples}
        data = replay([pool], VERIFIED, orders=3)
        rows, count = len(data), len(CHECKPOINTS)
        found = HeldOut(
            data=data,
            gains=np.full((rows, count, count), -np.inf),
            confidence=np.full((rows, count), np.nan),
            familiar=np.ones(rows, dtype=bool),
        )
        result = played(
            found, token=spending.token, wait=np.full(rows, spending.wait), weight=0.0, cap=8, each=data.tokens[:, 0]
        )
        for row in range(rows):
            order = [by_length[length] for length in data.tokens[row] if length]
            first = int(np.argmax([each.correct for each in order])) + 1
            any_right = any(each.correct for each in order)
            assert result.right[row] == any_right
            assert result.drawn[row] >= first if any_right else result.drawn[row] == 8
            ran = Ran(as_played(order), wave=1, pace="at_once")
            answer = await ran.answer()
            assert (answer.winners[0].text == RIGHT_TEXT) == any_right
            assert sum(ran.waves) == (first if any_right else 8) <= result.drawn[row]


def test_a_trained_model_offers_it_and_gives_up_where_nothing_comes_of_more() -> None:
    """Small sums are right nine times of ten, large ones once in ten: at a price, hard ones get fewer draws."""
    menu = menu_of("single", "majority_vote@4", "best_of_n@8:verifier")
    trained = train(POOLS, menu, step_tokens=STEP_TOKENS)
    stopper = trained.model.stopper
    assert stopper is not None
    assert SPEC in stopper.courses.table
    assert SPEC in trained.model.means
    cheap, dear = (stopper.courses.at(SPEC, price=price, wait=0.0) for price in (1e-5, 6e-2))
    assert cheap is not None
    assert dear is not None
    assert dear.samples < cheap.samples
    assert VERIFIED in {data.rule for data in replays_of(POOLS, menu, borda_power=1.0)}
