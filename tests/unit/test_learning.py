"""From pools to a predictor: what training promises, on pools made up for it.

The pools are synthetic: a question with small numbers is nearly always answered right, one with large numbers nearly
never. They tell whether the learning works, not how good it is on anything real.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.boosted import Boosted, ModelError, calibrate_level, features_of, shrink
from router.card import write_card
from router.comparison import bootstrap
from router.evaluation import Evaluation
from router.isotonic import isotonic
from router.learning import Trained, train
from router.odds import log_odds
from router.questions import Question
from router.reliability import reliability
from router.speed import Factors, Load
from router.summary import table
from router.training import conformal_factor, examples, fit, folds, length_rows
from strategies.spec import StrategySpec
from strategies.types import Prediction
from tests.fakes import menu_of
from tests.pools import MENU, POOLS, STEP_TOKENS, question

UNKNOWN = StrategySpec.parse("best_of_n@64")


def rows(model: Boosted, asked: Question, *, load: Load | None = None, max_tokens: int = 64) -> dict[str, object]:
    predicted = model.predict(features_of(asked), [*MENU, UNKNOWN], load or Load(), max_tokens=max_tokens)
    return {str(row.spec): row for row in predicted}


def easy_and_hard(model: Boosted) -> list[tuple[Prediction, Prediction]]:
    """What is predicted of two questions that were not trained on, for every strategy on the menu that is known."""
    rng = Random(1)
    specs = list(model.means)
    easy = model.predict(features_of(question(-1, 1, 9, rng)), specs, Load(), max_tokens=64)
    hard = model.predict(features_of(question(-2, 10_000, 99_999, rng)), specs, Load(), max_tokens=64)
    return list(zip(easy, hard, strict=True))


def test_questions_that_were_easy_are_predicted_to_be(trained: Trained) -> None:
    """By the boosters, all of what they say believed."""
    calibration = replace(trained.model.calibration, belief=1.0)
    for easy, hard in easy_and_hard(trained.model.calibrated(calibration)):
        assert easy.accuracy > 0.75 > 0.3 > hard.accuracy
        assert easy.tokens < hard.tokens


def test_what_the_text_says_is_not_believed_where_it_earns_nothing(trained: Trained) -> None:
    """Here a vote that is stopped spends little on easy questions and on hopeless ones all the same, so that the best
    choice is one for both; every question is predicted the strategies' averages. Lengths are believed. Where the text
    does earn something: `test_stopped`."""
    assert trained.model.calibration.belief == 0
    for easy, hard in easy_and_hard(trained.model):
        assert easy.accuracy == hard.accuracy == pytest.approx(trained.model.means[easy.spec].accuracy)
        assert easy.tokens < hard.tokens


def test_predictions_are_calibrated_and_cover_what_they_promise(evaluated: Evaluation) -> None:
    assert all(one.error < 0.1 for one in evaluated.reliability)
    assert {str(spec) for spec in MENU} == set(evaluated.coverage)
    assert all(0.85 < share < 0.98 for share in evaluated.coverage.values())


def test_upper_bounds_are_not_below_what_is_expected_and_nothing_passes_the_cap(trained: Trained) -> None:
    for each in POOLS[:8]:
        for limit in (4, 64):
            for row in trained.model.predict(features_of(each.question), MENU, Load(), max_tokens=limit):
                assert 0 < row.tokens <= row.tokens_upper <= limit * row.spec.draws
                assert 0 < row.seconds <= row.seconds_upper
                assert 0 <= row.accuracy <= 1


def test_more_candidates_are_never_predicted_to_cost_fewer_tokens() -> None:
    menu = menu_of("best_of_n@2", "best_of_n@4", "best_of_n@8", "majority_vote@2", "majority_vote@4")
    model = fit(examples(POOLS, menu), menu, step_tokens=STEP_TOKENS)
    for each in POOLS[:8]:
        tokens = [row.tokens for row in model.predict(features_of(each.question), menu, Load(), max_tokens=64)]
        assert tokens[0] < tokens[1] < tokens[2]
        assert tokens[3] < tokens[4]


def test_company_and_more_sequences_than_a_call_ever_had_are_slower(trained: Trained) -> None:
    """16 sequences on an engine whose calls had 8 at most are two calls at once."""
    model = trained.model

    def seconds(running: int, added: int) -> float:
        (speed,) = model.speeds([(10, running, added)])
        return speed.first_token + 20 * speed.per_token

    assert model.speed_model.widest == 8
    assert seconds(0, 1) < seconds(0, 8) < seconds(8, 8)
    assert seconds(0, 16) == seconds(8, 8)


def test_more_sequences_than_were_recorded_take_longer_in_proportion(trained: Trained) -> None:
    """Trees alone would say of 400 what they know of 16."""
    some, many = trained.model.speeds([(50, running, 1) for running in (99, 399)])
    assert many.per_token == pytest.approx(4 * some.per_token)
    assert many.first_token == pytest.approx(4 * some.first_token)


def test_a_slower_engine_than_at_training_scales_the_seconds_and_nothing_else(trained: Trained) -> None:
    usual = trained.model.predict(features_of(POOLS[0].question), MENU, Load(), max_tokens=64)
    slow = trained.model.predict(
        features_of(POOLS[0].question), MENU, Load(correction=Factors(first_token=3.0, per_token=3.0)), max_tokens=64
    )
    for one, other in zip(usual, slow, strict=True):
        assert other.seconds == pytest.approx(3 * one.seconds)
        assert (other.accuracy, other.tokens) == (one.accuracy, one.tokens)


def test_a_strategy_without_recorded_outcomes_is_not_guessed_at(trained: Trained) -> None:
    row = trained.model.predict(features_of(POOLS[0].question), [UNKNOWN], Load(), max_tokens=64)[0]
    assert "no recorded outcomes" in row.reason


def test_the_same_pools_give_the_same_files_and_they_load_as_what_was_saved(trained: Trained, tmp_path: Path) -> None:
    version = trained.model.save(tmp_path / "a")
    again = train(POOLS, MENU, step_tokens=STEP_TOKENS)
    assert again.model.save(tmp_path / "b") == version
    for name, each in (("a", trained), ("b", again)):
        write_card(tmp_path / name / "CARD.md", each, version=version, source="made-up")
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()

    loaded = Boosted.load(tmp_path / "a")
    assert (loaded.name, loaded.version) == ("model", version)
    for each in POOLS[:8]:
        assert rows(loaded, each.question) == rows(trained.model, each.question)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("model.json", None, "model.json is missing"),
        ("model.json", "{", "is not JSON"),
        ("model.json", "{}", "other query features"),
        ("accuracy.txt", None, "accuracy.txt is missing or no LightGBM model"),
        ("accuracy.txt", "tree", "accuracy.txt is missing or no LightGBM model"),
        ("stop_gain.txt", None, "stop_gain.txt is missing or no LightGBM model"),
    ],
)
def test_a_model_that_can_not_be_used_says_why(
    trained: Trained, tmp_path: Path, name: str, content: str | None, problem: str
) -> None:
    trained.model.save(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(ModelError, match=problem):
        Boosted.load(tmp_path)


def test_a_model_of_an_older_program_is_refused_in_words(trained: Trained, tmp_path: Path) -> None:
    trained.model.save(tmp_path)
    manifest = (tmp_path / "model.json").read_text()
    (tmp_path / "model.json").write_text(manifest.replace('"widest"', '"broadest"'))
    with pytest.raises(ModelError, match=r"widest.*train it again"):
        Boosted.load(tmp_path)


def test_too_few_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="39 questions are too few"):
        train(POOLS[:39], MENU, step_tokens=STEP_TOKENS)


def test_pools_without_timed_calls_are_refused() -> None:
    mute = [replace(p, calls=()) for p in POOLS]
    with pytest.raises(ValueError, match="no timed engine calls"):
        train(mute, MENU, step_tokens=STEP_TOKENS)


def test_where_the_text_tells_adaptive_earns_more_than_the_lookup(evaluated: Evaluation) -> None:
    """Hard questions are hopeless here and dear, so where tokens have a price they get one sample."""
    middle = next(at for at in evaluated.prices if (at.token_price, at.latency_price) == (1.0, 0.0))
    adaptive = middle.row("adaptive")
    assert middle.row("oracle").utility >= adaptive.utility
    assert adaptive.utility >= middle.row("lookup").utility - 0.01
    assert {row.name for row in evaluated.fixed} == {str(spec) for spec in MENU}
    text = table(evaluated)
    assert all(f"{at.token_price:g}, {at.latency_price:g}" in text for at in evaluated.prices)
    assert f"{adaptive.utility:.3f}" in text


def test_votes_that_are_stopped_cost_less_than_fixed_ones(evaluated: Evaluation) -> None:
    """The easy half of the questions is settled by a few samples, so that every rule of stopping saves."""
    saved = {one.name: one.saved for one in evaluated.savings if one.gap == 0.02}
    assert all(share > 0 for share in saved.values())
    assert saved["learned"] >= saved["adaptive consistency"] - 0.05


def test_a_confidence_tells_questions_apart_that_differ(trained: Trained) -> None:
    """On questions that were not trained on: few as there are, the models of every fold can learn from them."""
    assert trained.stopping is not None
    for found in trained.stopping.found:
        assert found.confidence[:, 2].min() < 0.3
        assert found.confidence[:, 2].max() > 0.8


def test_of_very_many_questions_a_few_samples_each_tell_of_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    data = examples(POOLS, MENU)
    rows, lengths = length_rows(data)
    assert len(rows) == len(lengths) == sum(len(each.samples) for each in POOLS)
    monkeypatch.setattr("router.training._LENGTHS", len(POOLS) * 5)
    rows, lengths = length_rows(data)
    assert len(rows) == len(lengths) == len(POOLS) * 5
    assert lengths[:6].tolist() == [float(s.tokens) for s in [*POOLS[0].samples[:5], POOLS[1].samples[0]]]
    assert (rows[5] == data.features[1]).all()


def test_every_family_is_spread_over_the_folds() -> None:
    parts = folds(POOLS)
    assert sorted(i for part in parts for i in part) == list(range(len(POOLS)))
    for part in parts:
        assert {POOLS[i].question.family for i in part} == {"small", "large"}


@given(
    points=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=50),
)
def test_the_isotonic_map_never_falls_and_keeps_the_mean(points: list[tuple[float, float]]) -> None:
    predicted, actual = (np.array(column) for column in zip(*points, strict=True))
    xs, ys = isotonic(predicted, actual)
    assert list(xs) == sorted(xs)
    assert list(ys) == sorted(ys)
    assert min(actual) - 1e-6 <= ys[0] <= ys[-1] <= max(actual) + 1e-6


def test_the_conformal_factor_covers_the_level_it_was_asked_for() -> None:
    rng = np.random.default_rng(1)
    upper = np.full(200, 10.0)
    actual = [rng.uniform(0, 30, size=5) for _ in upper]
    factor = conformal_factor(upper, actual, 0.9)
    covered = np.mean([(draws <= 10.0 * factor).mean() for draws in actual])
    assert 0.9 <= covered <= 0.91


@given(weight=st.floats(0, 1), raw=st.lists(st.floats(0.01, 0.99), min_size=3, max_size=3))
def test_shrinking_moves_differences_and_not_the_level(weight: float, raw: list[float]) -> None:
    """In log odds: at weight 0 they are the strategies' usual ones, at weight 1 the predicted ones."""
    means = np.array([0.45, 0.5, 0.55])
    shrunk = log_odds(shrink(np.array(raw), means, weight))
    assert shrunk.mean() == pytest.approx(log_odds(np.array(raw)).mean())
    if weight == 0:
        assert np.diff(shrunk) == pytest.approx(np.diff(log_odds(means)))
    if weight == 1:
        assert shrunk == pytest.approx(log_odds(np.array(raw)))


@given(raw=st.lists(st.floats(0.01, 0.99), min_size=3, max_size=3), moved=st.floats(0.01, 0.99))
def test_calibrating_moves_a_query_and_keeps_the_order_of_its_strategies(raw: list[float], moved: float) -> None:
    """A staircase that knows a single step still tells the strategies apart."""
    before = np.array(raw)
    after = calibrate_level(before, (0.0, 1.0), (moved, moved))
    odds = np.log(after / (1 - after))
    assert np.diff(odds) == pytest.approx(np.diff(log_odds(before)), abs=1e-6)
    near = np.ptp(log_odds(before)) < 0.3
    assert not near or after.mean() == pytest.approx(moved, abs=0.02)


def test_a_perfect_forecast_has_no_calibration_error_and_a_constant_one_has() -> None:
    actual = np.array([0.0, 1.0] * 50)
    perfect = reliability("perfect", actual, actual)
    assert (perfect.error, perfect.brier) == (0.0, 0.0)
    constant = reliability("constant", np.full(100, 0.9), actual)
    assert constant.error == pytest.approx(0.4)
    assert constant.brier == pytest.approx(0.41)
    assert sum(one.count for one in constant.bins) == 100


def test_near_duplicates_are_never_on_both_sides_of_a_split() -> None:
    alike = [replace(p, question=replace(p.question, group=f"g{i // 3}")) for i, p in enumerate(POOLS)]
    owner = {i: k for k, part in enumerate(folds(alike)) for i in part}
    for i, p in enumerate(alike):
        for j, other in enumerate(alike):
            if (p.question.family, p.question.group) == (other.question.family, other.question.group):
                assert owner[i] == owner[j]


def test_the_bootstrap_interval_holds_the_mean() -> None:
    differences = np.random.default_rng(2).normal(0.1, 1.0, size=400)
    low, high = bootstrap(differences, [str(i) for i in range(400)])
    assert low < differences.mean() < high
    assert high - low == pytest.approx(4 * 1.0 / 20, rel=0.2)


def test_equal_outcomes_of_one_block_count_once() -> None:
    """Ten questions that always come out alike are one observation, so the interval is wider."""
    ten_alike = np.repeat(np.random.default_rng(2).normal(0.1, 1.0, size=40), 10)
    by_question = bootstrap(ten_alike, [str(i) for i in range(400)])
    by_block = bootstrap(ten_alike, [str(i // 10) for i in range(400)])
    assert by_block[1] - by_block[0] > 2 * (by_question[1] - by_question[0])


def test_a_load_sweep_recorded_with_one_question_is_seen_by_every_fold() -> None:
    sweep = POOLS[0].calls
    data = examples([POOLS[0], *(replace(p, calls=p.calls[:1]) for p in POOLS[1:])], MENU)
    parts = data.call_parts(5)
    assert sorted(i for part in parts for i in part) == list(range(len(data.calls)))
    for part in parts:
        rest = data.without([], part).calls
        assert len({call.added for call in rest}) == len({call.added for call in sweep})
