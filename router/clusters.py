"""Which recorded questions a query resembles, what came of those, and whether it resembles any.

*Clusters* (k-means) carry outcome statistics that a learned stopper reads beside the votes. *Landmarks*, recorded
questions spread over all that was recorded, say whether a query is familiar: near some question, and not merely near
the middle of many. Both stand in one space: the logarithms of the features, standardised and clipped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.blocks import some
from router.features import FEATURE_NAMES

Floats = NDArray[np.float64]
Ints = NDArray[np.int_]
CLUSTERS = 96
LANDMARKS = 512
_CONSIDERED = 2500  # questions at most that landmarks are chosen among: of more, as many at random cover the same kinds
FAMILIAR = 0.95  # share of questions like the recorded ones that must count as familiar
_FOLDS = 5
_FEWEST = 4  # questions a cluster, on average
_SWEEPS = 50  # Lloyd iterations at most
_CLIP = 3.0  # one odd count must not outweigh everything else
# A feature that never varied has no spread, yet tells most when it does (a script, a code fence): it gets this one.
_LEAST_SCALE = 0.1
_DECIMALS = 3  # of coordinates: keeps a model's file small
_LEAST_RADIUS = 0.01  # above what rounding moves a point
# Calibration sends the same settings with every question: read, they would make every other client's question strange.
_SETTINGS = ("log_max_tokens", "max_tokens_absent", "temperature", "temperature_absent")
# What says the same twice counts once: a plain "You are a helpful assistant." is one oddity, and no more.
_TWICE = ("log_system_chars", "turns", "log_prompt_tokens")
_READ = np.array([i for i, name in enumerate(FEATURE_NAMES) if name not in (*_SETTINGS, *_TWICE)])


@dataclass(frozen=True, slots=True)
class Place:
    """Where one query stands."""

    statistics: Floats  # (outcomes,): its cluster's; the general means where it is not familiar
    distance: float  # to the nearest landmark, in standard deviations summed over the features
    familiar: bool


@dataclass(frozen=True, slots=True)
class _Points:
    """Points to be found again quickly: the nearest p has the largest x.p - |p|^2 / 2, one matrix product."""

    at: Floats  # (points, features)
    half: Floats  # (points,): |p|^2 / 2

    @classmethod
    def of(cls, at: Floats) -> _Points:
        at = np.round(at, _DECIMALS)
        return cls(at, (at * at).sum(axis=1) / 2)

    def nearest(self, rows: Floats) -> tuple[Ints, Floats]:
        """Index of the nearest point and the distance to it. rows: (..., features)."""
        index = (rows @ self.at.T - self.half).argmax(axis=-1)
        gap = rows - self.at[index]
        return index, np.sqrt((gap * gap).sum(axis=-1))


@dataclass(frozen=True, slots=True)
class _Space:
    """The map from features, in `FEATURE_NAMES`' order, to coordinates."""

    centre: Floats  # (features read,)
    scale: Floats

    @classmethod
    def over(cls, vectors: Floats) -> _Space:
        logs = _logs(vectors)
        return cls(logs.mean(axis=0), np.maximum(logs.std(axis=0), _LEAST_SCALE))

    def __call__(self, vectors: Floats) -> Floats:
        """vectors: (..., features); the coordinates' shape is (..., features read)."""
        return np.minimum(np.maximum((_logs(vectors) - self.centre) / self.scale, -_CLIP), _CLIP)


def _logs(vectors: Floats) -> Floats:
    return np.log1p(np.maximum(vectors[..., _READ], 0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Clusters:
    """Recorded questions, grouped by what they look like."""

    space: _Space
    centroids: _Points
    statistics: Floats  # (clusters, outcomes): shrunken means
    general: Floats  # (outcomes,): means over all questions
    landmarks: _Points
    radius: float  # largest distance of a familiar query

    @classmethod
    def fit(cls, vectors: Floats, outcomes: Floats, *, k: int = CLUSTERS, seed: int = 0) -> Clusters:
        """vectors: (questions, features), in `FEATURE_NAMES`' order; outcomes: (questions, outcomes), any scale.

        Fewer than k clusters come out where questions are few or alike. Raises ValueError for shapes that don't fit.
        """
        _check(vectors, outcomes)
        random = np.random.default_rng(seed)
        # a question recorded twice is one place: as two it would be its own neighbour, and the radius too small
        distinct = vectors[np.unique(vectors[:, _READ], axis=0, return_index=True)[1]]
        space = _Space.over(distinct)
        distinct = distinct[some(len(distinct), _CONSIDERED)]
        rows = space(vectors)
        centroids = _kmeans(rows, max(1, min(k, len(rows) // _FEWEST)), random)
        statistics, general = _shrunken_means(centroids.nearest(rows)[0], outcomes, len(centroids.at))
        return cls(
            space=space,
            centroids=centroids,
            statistics=statistics,
            general=general,
            landmarks=_spread(space(distinct)),
            radius=_radius(distinct, random),
        )

    def place(self, vector: Floats) -> Place:
        """vector: (features,), in `FEATURE_NAMES`' order."""
        row = self.space(vector)
        _, distance = self.landmarks.nearest(row)
        if distance > self.radius:
            return Place(self.general, float(distance), False)
        return Place(self.statistics[self.centroids.nearest(row)[0]], float(distance), True)

    def to_json(self) -> dict[str, Any]:
        return {
            "centre": self.space.centre.tolist(),
            "scale": self.space.scale.tolist(),
            "centroids": self.centroids.at.tolist(),
            "statistics": self.statistics.tolist(),
            "general": self.general.tolist(),
            "landmarks": self.landmarks.at.tolist(),
            "radius": self.radius,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Clusters:
        """Raises KeyError, TypeError or ValueError for what `to_json` of this program did not write."""

        def array(name: str, *shape: int) -> Floats:
            values = np.array(data[name], dtype=float)
            if values.ndim != len(shape) or any(n not in (-1, m) for n, m in zip(shape, values.shape, strict=True)):
                raise ValueError(f"clusters: {name} has the shape {values.shape}")
            return values

        read = len(_READ)
        centroids, general = array("centroids", -1, read), array("general", -1)
        return cls(
            space=_Space(array("centre", read), array("scale", read)),
            centroids=_Points.of(centroids),
            statistics=array("statistics", len(centroids), len(general)),
            general=general,
            landmarks=_Points.of(array("landmarks", -1, read)),
            radius=float(data["radius"]),
        )


def held_out_statistics(
    vectors: Floats, outcomes: Floats, *, k: int = CLUSTERS, seed: int = 0, groups: Sequence[int] | None = None
) -> Floats:
    """What `place` tells of every question where it was not recorded itself, (questions, outcomes): for training on.

    groups: one number a question; those of one group (near-duplicates) don't tell of each other either.
    """
    _check(vectors, outcomes)
    result = np.empty_like(outcomes, dtype=float)
    parts = _parts(np.asarray(range(len(vectors)) if groups is None else groups), np.random.default_rng(seed))
    if not parts:
        raise ValueError("one group of questions: there are no others to tell of it")
    for part in parts:
        known = Clusters.fit(vectors[~part], outcomes[~part], k=k, seed=seed)
        result[part] = [known.place(vector).statistics for vector in vectors[part]]
    return result


def _check(vectors: Floats, outcomes: Floats) -> None:
    if vectors.ndim != 2 or vectors.shape[1] != len(FEATURE_NAMES) or not len(vectors):
        raise ValueError(f"features must be (questions, {len(FEATURE_NAMES)}), not {vectors.shape}")
    if outcomes.ndim != 2 or len(outcomes) != len(vectors):
        raise ValueError(f"outcomes must be ({len(vectors)}, outcomes), not {outcomes.shape}")


def _parts(groups: NDArray[Any], random: np.random.Generator) -> list[NDArray[np.bool_]]:
    """Masks of about equal parts, whole groups in each. Of a single group there are none."""
    names, member = np.unique(groups, return_inverse=True)
    fold = (random.permutation(len(names)) % _FOLDS)[member]
    return [fold == part for part in range(min(_FOLDS, len(names)))] if len(names) > 1 else []


def _kmeans(rows: Floats, k: int, random: np.random.Generator) -> _Points:
    """k-means++ and Lloyd's iterations: at most k centroids."""
    chosen = [rows[random.integers(len(rows))]]
    far = ((rows - chosen[0]) ** 2).sum(axis=1)
    while len(chosen) < k and far.any():
        chosen.append(rows[random.choice(len(rows), p=far / far.sum())])
        far = np.minimum(far, ((rows - chosen[-1]) ** 2).sum(axis=1))
    before, points = None, _Points.of(np.array(chosen))
    for _ in range(_SWEEPS):
        _, cluster = np.unique(points.nearest(rows)[0], return_inverse=True)  # without centroids that lost all rows
        if before is not None and np.array_equal(cluster, before):
            break
        counts = np.bincount(cluster)
        members = (cluster == np.arange(len(counts))[:, None]).astype(float)
        before, points = cluster, _Points.of(members @ rows / counts[:, None])
    return points


def _shrunken_means(cluster: Ints, outcomes: Floats, k: int) -> tuple[Floats, Floats]:
    """Every cluster's means, (k, outcomes), drawn to the general ones by as much as the data ask for; the general ones.

    A mean of n questions keeps n / (n + w) of what tells it from the general one, w being the variance within clusters
    over that between them (by moments, for every outcome by itself). How often an answer is right differs widely from
    cluster to cluster, what a vote gains hardly does: no one weight suits both.
    """
    general = outcomes.mean(axis=0)
    members = (cluster == np.arange(k)[:, None]).astype(float)
    counts = members.sum(axis=1, keepdims=True)
    means = general + (members @ (outcomes - general)) / np.maximum(counts, 1.0)
    total, used = len(outcomes), int((counts > 0).sum())
    within = ((outcomes - means[cluster]) ** 2).sum(axis=0) / max(1, total - used)
    spread = (counts * (means - general) ** 2).sum(axis=0) - (used - 1) * within
    between = np.maximum(spread / max(1.0, total - (counts**2).sum() / total), 0.0)
    kept = counts * between / np.maximum(counts * between + within, np.finfo(float).tiny)
    return general + kept * (means - general), general


def _spread(rows: Floats) -> _Points:
    """Up to LANDMARKS of the rows, each the farthest from those before: they cover all that was recorded, rare kinds of
    question as well as common ones, as no random choice does."""
    chosen = [int(((rows - rows.mean(axis=0)) ** 2).sum(axis=1).argmin())]
    far = ((rows - rows[chosen[0]]) ** 2).sum(axis=1)
    while len(chosen) < LANDMARKS and far.any():
        chosen.append(int(far.argmax()))
        far = np.minimum(far, ((rows - rows[chosen[-1]]) ** 2).sum(axis=1))
    return _Points.of(rows[chosen])


def _radius(vectors: Floats, random: np.random.Generator) -> float:
    """The distance that a share FAMILIAR of the questions keep to landmarks chosen without them."""
    distances = np.zeros(len(vectors))
    for part in _parts(np.arange(len(vectors)), random):
        space = _Space.over(vectors[~part])
        distances[part] = _spread(space(vectors[~part])).nearest(space(vectors[part]))[1]
    return max(_LEAST_RADIUS, float(np.quantile(distances, FAMILIAR)))
