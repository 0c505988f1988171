"""Clusters of questions: whose outcomes a query is told, and when it is told that nothing like it was recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from router.boosted import features_of
from router.clusters import FAMILIAR, LANDMARKS, Clusters, held_out_statistics
from router.features import FEATURE_NAMES, extract
from router.pools import read_pools
from strategies.types import Budget, Prices, Query

Floats = NDArray[np.float64]
POOLS = Path(__file__).parents[2] / "configs/pools/smollm2-135m.jsonl.gz"
SUMS = [f"{a} + {b} = ?" for a in range(10, 40) for b in (3, 17)]
STORIES = [
    f"Ann has {a} apples and gives {b} of them to her brother. How many are left?"
    for a in range(10, 40)
    for b in (2, 9)
]


def vector(text: str, **fields: Any) -> Floats:
    query = {
        "id": "q",
        "model": "m",
        "messages": [{"role": "user", "content": text}],
        "sampling": {"temperature": 0.8},
        "max_tokens": 64,
        "budget": Budget(max_total_tokens=1000, deadline=10.0),
        "prices": Prices(token_price=0.0, latency_price=0.0),
        **fields,
    }
    return np.array(extract(Query(**query)).vector())


def clouds(count: int, size: int, *, seed: int = 0, width: float = 0.05) -> tuple[Floats, NDArray[np.int_]]:
    """Made-up vectors in `count` well separated clouds, and whose each is."""
    random = np.random.default_rng(seed)
    middles = random.uniform(0, 20, (count, len(FEATURE_NAMES)))
    member = np.repeat(np.arange(count), size)
    return middles[member] * random.lognormal(0, width, (len(member), len(FEATURE_NAMES))), member


@pytest.fixture(scope="module")
def vectors() -> Floats:
    return np.array([vector(text) for text in SUMS + STORIES])


@pytest.fixture(scope="module")
def outcomes() -> Floats:
    """Sums come out right, stories do not; the second outcome has nothing to do with the question."""
    right = np.repeat([0.9, 0.1], [len(SUMS), len(STORIES)])
    return np.stack([right, np.random.default_rng(1).random(len(right))], axis=1)


@pytest.fixture(scope="module")
def clusters(vectors: Floats, outcomes: Floats) -> Clusters:
    return Clusters.fit(vectors, outcomes, k=8)


def test_a_query_is_told_what_came_of_questions_like_it(clusters: Clusters) -> None:
    easy, hard = clusters.place(vector("22 + 9 = ?")), clusters.place(vector(STORIES[5].replace("Ann", "Joe")))
    assert easy.familiar
    assert hard.familiar
    assert easy.statistics[0] == pytest.approx(0.9, abs=0.02)
    assert hard.statistics[0] == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize(
    "text",
    [
        "Напиши короткое письмо клиенту: просим простить задержку.",
        "def f(x):\n    return [y for y in x if y]\n\nWhat does `f([0, 1, 2])` return?",
        "Let $x$ be real with $\\frac{x}{2} = 3^{x-1}$. Find the largest $x$ and put it in \\boxed{}.",
        "Explain photosynthesis to a child of ten, in three friendly paragraphs.",
    ],
)
def test_an_unfamiliar_query_is_told_the_general_means(clusters: Clusters, outcomes: Floats, text: str) -> None:
    place = clusters.place(vector(text))
    assert not place.familiar
    assert place.distance > clusters.radius
    assert place.statistics == pytest.approx(outcomes.mean(axis=0))


def test_settings_of_the_engine_make_no_query_strange(clusters: Clusters) -> None:
    asked = clusters.place(vector(SUMS[7]))
    for fields in ({"sampling": {}, "max_tokens": None}, {"sampling": {"temperature": 0.1}, "max_tokens": 30_000}):
        assert clusters.place(vector(SUMS[7], **fields)).distance == asked.distance


@pytest.mark.parametrize("size", [40, 400])
def test_questions_like_the_recorded_ones_are_familiar_in_the_share_that_was_promised(size: int) -> None:
    rows, member = clouds(4, 2 * size)
    known = Clusters.fit(rows[::2], np.zeros((len(member) // 2, 1)))
    familiar = np.mean([known.place(row).familiar for row in rows[1::2]])
    assert FAMILIAR - 0.05 < familiar < FAMILIAR + 0.04


def test_familiarity_on_recorded_questions_whose_kind_was_left_out() -> None:
    pools = read_pools(POOLS)
    rows = np.array([features_of(pool.question).vector() for pool in pools])
    families = np.array([pool.question.family for pool in pools])
    fresh = np.arange(len(pools)) % 5 == 0
    flagged: list[float] = []
    alarms: list[float] = []
    for family in ("capital", "kinship", "letter_count", "story_money", "syllogism", "weekday"):
        out = families == family
        known = Clusters.fit(rows[~out & ~fresh], np.zeros(((~out & ~fresh).sum(), 1)))
        flagged += [not known.place(row).familiar for row in rows[out]]
        alarms += [not known.place(row).familiar for row in rows[~out & fresh]]
    assert np.mean(flagged) > 0.9
    assert np.mean(alarms) < 0.1


def test_landmarks_cover_all_that_was_recorded() -> None:
    """No recorded question is farther from the landmarks than they are from each other: none lies idle in a crowd while
    a rare kind goes without."""
    rows, member = clouds(2, 2 * LANDMARKS)
    kept = (member == 0) | (np.arange(len(member)) % (2 * LANDMARKS) < 5)
    known = Clusters.fit(rows[kept], np.zeros((kept.sum(), 1)))
    at = known.landmarks.at
    gaps = [np.linalg.norm(at[i + 1 :] - at[i], axis=1).min() for i in range(len(at) - 1)]
    assert len(at) == LANDMARKS < kept.sum()
    assert max(known.place(row).distance for row in rows[kept]) <= min(gaps) + 0.02  # of rounding


def test_of_very_many_questions_some_tell_whom_the_model_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Landmarks are chosen among a few, which are of every kind all the same."""
    monkeypatch.setattr("router.clusters._CONSIDERED", 200)
    vectors, member = clouds(5, 200)
    known = Clusters.fit(vectors, member[:, None].astype(float))
    assert len(known.landmarks.at) == 200
    assert np.mean([known.place(one).familiar for one in vectors]) > 0.9
    strange = clouds(1, 5, seed=9)[0]
    assert not any(known.place(one).familiar for one in strange)
    assert [known.place(one).statistics[0] for one in vectors[::200]] == pytest.approx(range(5), abs=0.1)


def test_each_outcome_is_shrunken_by_what_clusters_say_of_it() -> None:
    rows, member = clouds(12, 12)
    random = np.random.default_rng(2)
    own = np.linspace(0, 1, 12)[member]
    noise = random.random(len(member))
    outcomes = np.stack([own, own + random.normal(0, 0.5, len(member)), noise], axis=1)
    known = Clusters.fit(rows, outcomes, k=30)
    told = known.statistics[known.centroids.nearest(known.space(rows))[0]]
    sure, blurred, nothing = told.std(axis=0) / np.std([own, own, noise], axis=1)
    assert sure == pytest.approx(1.0, abs=0.05)
    assert 0.7 < blurred < 1.1  # plain means of five: 1.3
    assert nothing < 0.2  # plain means of five: .45
    assert known.general == pytest.approx(outcomes.mean(axis=0))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 12), st.integers(1, 60), st.integers(0, 5))
def test_statistics_lie_within_the_outcomes(count: int, size: int, k: int, seed: int) -> None:
    rows, member = clouds(count, size, seed=seed)
    results = np.random.default_rng(seed).random((len(member), 3))
    known = Clusters.fit(rows, results, k=k, seed=seed)
    assert 1 <= len(known.statistics) <= k
    assert np.all(known.statistics >= results.min(axis=0) - 1e-9)
    assert np.all(known.statistics <= results.max(axis=0) + 1e-9)


@pytest.mark.parametrize("count", [1, 2, 5, 30])
def test_one_question_recorded_again_and_again_is_familiar_and_nothing_else_is(count: int) -> None:
    known = Clusters.fit(np.array([vector("What is 2 + 2?")] * count), np.full((count, 1), 0.25))
    assert len(known.centroids.at) == len(known.landmarks.at) == 1
    assert known.place(vector("What is 2 + 2?")).familiar
    assert known.place(vector("What is 2 + 2?")).statistics == pytest.approx([0.25])
    assert not known.place(vector("Who wrote Faust, and when?")).familiar


def test_a_question_recorded_twice_does_not_narrow_what_is_familiar(vectors: Floats, outcomes: Floats) -> None:
    once = Clusters.fit(vectors, outcomes)
    twice = Clusters.fit(np.concatenate([vectors, vectors]), np.concatenate([outcomes, outcomes]))
    assert twice.radius == pytest.approx(once.radius, rel=0.3)


def test_a_reloaded_model_places_every_query_alike(clusters: Clusters, vectors: Floats) -> None:
    again = Clusters.from_json(orjson.loads(orjson.dumps(clusters.to_json())))
    assert again.to_json() == clusters.to_json()
    for row in [*vectors, vector("Who wrote Faust?")]:
        here, there = clusters.place(row), again.place(row)
        assert (here.distance, here.familiar) == (there.distance, there.familiar)
        assert np.array_equal(here.statistics, there.statistics)


def test_the_same_questions_give_the_same_model(clusters: Clusters, vectors: Floats, outcomes: Floats) -> None:
    assert Clusters.fit(vectors, outcomes, k=8).to_json() == clusters.to_json()


@pytest.mark.parametrize(
    "change",
    [
        {"centre": [0.0]},
        {"landmarks": []},
        {"landmarks": [[0.0], [0.0, 1.0]]},
        {"statistics": [[0.5, 0.5]] * 99},
        {"general": [0.5]},
        {"radius": "wide"},
        {"radius": None},
    ],
)
def test_a_damaged_file_is_refused(clusters: Clusters, change: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        Clusters.from_json({**clusters.to_json(), **change})


def test_shapes_that_do_not_fit_are_refused(vectors: Floats, outcomes: Floats) -> None:
    for rows, results in ((vectors[:, 1:], outcomes), (vectors, outcomes[1:]), (vectors, outcomes[:, 0])):
        with pytest.raises(ValueError, match="must be"):
            Clusters.fit(rows, results)
    with pytest.raises(ValueError, match="must be"):
        Clusters.fit(vectors[:0], outcomes[:0])


def test_no_question_hears_of_its_own_outcome_nor_of_its_group(vectors: Floats, outcomes: Floats) -> None:
    groups = [i // 3 for i in range(len(vectors))]
    told = held_out_statistics(vectors, outcomes, k=8, groups=groups)
    for i in (0, 31, 64, len(vectors) - 1):
        changed = outcomes.copy()
        changed[i] += 1000
        after = held_out_statistics(vectors, changed, k=8, groups=groups)
        same = np.all(after == told, axis=1)
        assert all(same[j] for j, group in enumerate(groups) if group == groups[i])
        assert not same.all()


def test_held_out_statistics_tell_what_clusters_know(vectors: Floats, outcomes: Floats) -> None:
    told = held_out_statistics(vectors, outcomes, k=8)
    assert told.shape == outcomes.shape
    assert np.median(np.abs(told - outcomes)[:, 0]) < 0.02
    assert np.corrcoef(told[:, 1], outcomes[:, 1])[0, 1] < 0.3


def test_a_single_group_has_no_others_to_learn_from(vectors: Floats, outcomes: Floats) -> None:
    with pytest.raises(ValueError, match="no others"):
        held_out_statistics(vectors, outcomes, groups=[0] * len(vectors))
