"""The learned stopping model: what more candidates would gain, and how likely the leader is right.

Two LightGBM boosters over the state of the votes and over what became of queries like this one:

    gain   E[accuracy with j candidates - accuracy with those drawn], for any j: one model for all prices
    right  P(the leader is right), calibrated on held-out questions: the `confidence` of the response

How far the first is believed, against adaptive consistency whose threshold follows the price, is chosen on held-out
questions for every rule (`weights`); a query unlike those it was trained on is left to adaptive consistency alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray

from router.boosters import predict
from router.clusters import Clusters, Place
from router.courses import Courses
from router.features import FEATURE_NAMES, Features
from router.replay import CHECKPOINTS
from router.stopping import FREE, ByPrice, Spending, costs, mean_tokens, price_at, stop_reason, wave_of
from router.vote_state import STATE_FEATURES, Rule, rule_of, vote_state
from strategies.spec import StrategySpec
from strategies.stopping import By, ByPosterior, Poll, Verdict, cannot_change, lead_posterior

Floats = NDArray[np.float64]
_TEMPERATURE, _ABSENT = FEATURE_NAMES.index("temperature"), FEATURE_NAMES.index("temperature_absent")
_WARMER = 0.3  # temperature may differ by so much from the recorded ones
_NO_GAIN = 1e-6  # what a gain that is predicted to be none counts as, so that it can be blended in the logarithm


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopper:
    """The model, as it is saved with the predictor and loaded."""

    gain: lgb.Booster
    right: lgb.Booster
    right_x: tuple[float, ...]  # isotonic map from predicted to calibrated
    right_y: tuple[float, ...]
    weights: Mapping[Rule, float]  # 0: the prior alone; 1: the model alone. Rules it was trained on
    clusters: Clusters
    temperatures: tuple[float, float]  # the lowest and the highest that it was trained on
    courses: Courses

    def gains(self, states: Floats, statistics: Floats, more: Floats) -> Floats:
        """Gain in accuracy by drawing on. states: (rows, features), statistics: (rows, m), more: (rows,) candidates in
        all over candidates drawn. Returns (rows,)."""
        return predict(self.gain, np.column_stack([states, statistics, np.log2(more)]))

    def confidences(self, states: Floats, statistics: Floats) -> Floats:
        """Calibrated probability that the leader is right, (rows,)."""
        raw = predict(self.right, np.column_stack([states, statistics]))
        return np.interp(raw, self.right_x, self.right_y)

    def place(self, features: Features) -> Place:
        """Where the query stands among those the model was trained on."""
        return self.place_of(np.array(features.vector()))

    def place_of(self, vector: Floats) -> Place:
        """The same of features in FEATURE_NAMES' order. A client's own temperature far from the recorded ones makes a
        query unfamiliar: other samples agree otherwise."""
        place = self.clusters.place(vector)
        low, high = self.temperatures
        usual = vector[_ABSENT] or low - _WARMER <= vector[_TEMPERATURE] <= high + _WARMER
        return place if usual else replace(place, statistics=self.clusters.general, familiar=False)

    def for_request(
        self,
        spec: StrategySpec,
        place: Place,
        spending: Spending,
        *,
        threshold: float | None = None,
        give_up_below: float = 0.0,
    ) -> Learned | None:
        """What decides at the checkpoints of one request; None for queries and rules it was not trained on.

        threshold: of the vote's posterior, which decides instead of the price.
        """
        rule = rule_of(spec)
        if rule is None or rule not in self.weights or not place.familiar:
            return None
        return Learned(
            model=self,
            rule=rule,
            statistics=place.statistics,
            spending=spending,
            threshold=threshold,
            give_up_below=give_up_below,
        )

    def texts(self) -> dict[str, str]:
        """The boosters in LightGBM's text form, by name of file."""
        return {"stop_gain": self.gain.model_to_string(), "stop_right": self.right.model_to_string()}

    def to_json(self) -> dict[str, Any]:
        """Everything else."""
        return {
            "state_features": STATE_FEATURES,
            "right_x": self.right_x,
            "right_y": self.right_y,
            "weights": [[*rule, weight] for rule, weight in self.weights.items()],
            "clusters": self.clusters.to_json(),
            "temperatures": self.temperatures,
            "courses": self.courses.to_json(),
        }

    @classmethod
    def load(cls, data: Mapping[str, Any], booster: Callable[[str], lgb.Booster]) -> Stopper:
        """data: what `to_json` made; booster: reads one of the files. Raises ValueError, KeyError or TypeError for a
        model that can't be used."""
        if data["state_features"] != [*STATE_FEATURES]:
            raise ValueError("its stopping model was trained on other features")
        gain, right, clusters = booster("stop_gain"), booster("stop_right"), Clusters.from_json(data["clusters"])
        known = len(STATE_FEATURES) + len(clusters.general)
        if (gain.num_feature(), right.num_feature()) != (known + 1, known):
            raise ValueError("the boosters of its stopping model are of another model")
        return cls(
            gain=gain,
            right=right,
            right_x=tuple(data["right_x"]),
            right_y=tuple(data["right_y"]),
            weights={(float(a), float(b)): float(weight) for a, b, weight in data["weights"]},
            clusters=clusters,
            temperatures=(float(data["temperatures"][0]), float(data["temperatures"][1])),
            courses=Courses.from_json(data["courses"]),
        )


def pays(gains: Floats, cost: Floats) -> Floats:
    """How many times over going on pays, at its best. gains, cost: (..., horizons)."""
    return (np.maximum(gains, _NO_GAIN) / cost).max(axis=-1)


def blend(model: Floats, prior: Floats, weight: Floats | float) -> Floats:
    """Both ways of saying how often going on pays, as one. In the logarithm, as they are ratios."""
    return model**weight * prior ** (1 - weight)


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """Decides for one request. Implements `Stopping`. About 100 microseconds a checkpoint."""

    model: Stopper
    rule: Rule
    statistics: Floats
    spending: Spending
    threshold: float | None = None  # of the posterior: decides instead of the price; the confidence is still told
    give_up_below: float = 0.0  # a chance of ever being right under which nothing more is drawn; 0: never give up

    @property
    def by(self) -> By:
        if self.threshold is not None:
            return "threshold"
        return "model" if self.model.weights[self.rule] else "prior"

    def judge(self, poll: Poll) -> Verdict:
        state = np.array(vote_state(poll, self.rule))
        confidence = None  # where nobody has voted, there is nothing to be sure of
        if poll.leader is not None:
            confidence = float(self.model.confidences(state[None], self.statistics[None])[0])
        if not poll.left:
            return Verdict(confidence=confidence)
        if self.threshold is not None:
            return replace(ByPosterior(threshold=self.threshold).judge(poll), confidence=confidence)
        if poll.leader is not None and poll.by_votes and cannot_change(poll.counts(), poll.left):
            return Verdict(stop="consensus", confidence=confidence)
        drawn = len(poll.votes)
        goals = np.array([*(at for at in CHECKPOINTS if drawn < at < poll.cap), poll.cap], dtype=float)
        gains = self.model.gains(
            np.repeat(state[None], len(goals), axis=0),
            np.repeat(self.statistics[None], len(goals), axis=0),
            goals / drawn,
        )
        if (confidence or 0.0) + max(gains.max(), 0.0) < self.give_up_below:
            return Verdict(stop="hopeless", confidence=confidence)
        candidate = self.spending.candidate(mean_tokens(poll))
        cost = costs(goals - drawn, candidate=candidate, wait=self.spending.wait, under_way=poll.under_way)
        more = float(goals[int((gains - cost).argmax())] - drawn)
        wave = wave_of(more, price=candidate, wait=self.spending.wait)
        prior = ByPrice(spending=self.spending)
        weight = self.model.weights[self.rule]
        if not weight:
            return replace(prior.judge(poll), confidence=confidence)
        price = prior.price(poll, candidate, wave)
        usual = price_at(np.array(lead_posterior(*poll.counts()))) / max(price, FREE)
        ratio = float(blend(pays(gains, cost), usual, weight))
        if ratio <= 1:
            return Verdict(stop=stop_reason(poll), confidence=confidence)
        return Verdict(wave=wave, confidence=confidence)
