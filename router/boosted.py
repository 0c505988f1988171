"""The learned predictor: LightGBM boosters with their calibration, as they are saved and loaded.

Files of a model directory: LightGBM text files and one JSON; no pickles, so that a model can be read before it is
trusted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import exp
from pathlib import Path
from typing import Any, cast

import lightgbm as lgb
import numpy as np
import orjson
from numpy.typing import NDArray

from router.boosters import predict
from router.features import FEATURE_NAMES, FEATURES_VERSION, Features, extract
from router.odds import between, log_odds, sigmoid
from router.predictors import SPEC_FEATURES, averages, can_agree, named, spec_vector
from router.questions import Question
from router.speed import Load, Speed, seconds
from router.stopper import Stopper
from strategies.spec import StrategySpec
from strategies.types import Budget, Prediction, Prices, Query

Floats = NDArray[np.float64]
QUANTILES = (0.1, 0.5, 0.9, 0.99)  # of log(1 + tokens) of one completion
_MANIFEST = "model.json"


class ModelError(Exception):
    """A model directory that can't be used; the message says why."""


def shrink(raw: Floats, means: Floats, weight: float) -> Floats:
    """Predicted accuracies of one query's strategies, their *differences* drawn towards the strategies' averages.

    How hard a query is shows in its text; which strategy gains on it hardly does (measured: correlation about .1), so
    the second is believed only as far as it paid on held-out questions. Differences are log odds, so that a hopeless
    query and a sure one gain little from any strategy. weight 1: believe it all; 0: every query gets the average
    differences. raw, means: one entry a strategy, on the last axis.
    """
    odds, usual = log_odds(raw), log_odds(means)
    level = odds.mean(axis=-1, keepdims=True)
    usual = usual - usual.mean(axis=-1, keepdims=True)
    return sigmoid(level + usual + weight * (odds - level - usual))


def calibrate_level(accuracy: Floats, xs: Sequence[float], ys: Sequence[float]) -> Floats:
    """One query's accuracies, moved together so that their mean becomes the calibrated one.

    An isotonic map is a staircase: laid over the single accuracies it would make strategies equal that are not, and
    the choice among them a matter of price alone. Over the query's mean it keeps what tells them apart.
    """
    mean = accuracy.mean(axis=-1, keepdims=True)
    moved = cast("Floats", np.interp(mean, xs, ys))
    return sigmoid(log_odds(accuracy) + log_odds(moved) - log_odds(mean))


def features_of(question: Question) -> Features:
    """A calibration question's features: those of the request that a client would send for it."""
    query = Query(
        id=question.id,
        model="",
        messages=question.messages,
        sampling={"temperature": 0.8, **question.sampling},
        tools=question.tools,
        budget=Budget(max_total_tokens=1, deadline=0.0),
        prices=Prices(token_price=0.0, latency_price=0.0),
        max_tokens=question.max_tokens,
    )
    return extract(query)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecMeans:
    """One strategy's averages over the training questions: the paper's lookup table."""

    accuracy: float
    tokens: float
    token_ratio: float  # tokens over draws * mean length of one sample: under 1 where the vote stops early
    longest_ratio: float  # longest branch over the mean length


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Maps from raw predictions to calibrated ones, fitted on held-out questions."""

    gain_weight: float  # see `shrink`
    belief: float  # in the query's text: 1 its own accuracies, 0 every strategy's average; chosen on held-out utility
    accuracy_x: tuple[float, ...]  # a query's mean accuracy over the strategies, as predicted
    accuracy_y: tuple[float, ...]  # and as it turned out
    tokens_factor: Mapping[StrategySpec, float]
    seconds_factor: float
    level: float  # of the upper bounds

    def accuracies(self, raw: Floats, means: Floats) -> Floats:
        """The boosters' accuracies of one query, calibrated. raw, means: one entry a strategy, on the last axis."""
        own = calibrate_level(shrink(raw, means, self.gain_weight), self.accuracy_x, self.accuracy_y)
        return between(means, own, self.belief)

    @classmethod
    def none(cls) -> Calibration:
        return cls(
            gain_weight=1.0,
            belief=1.0,
            accuracy_x=(0.0, 1.0),
            accuracy_y=(0.0, 1.0),
            tokens_factor={},
            seconds_factor=1.0,
            level=0.9,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedModel:
    """Seconds of engine calls, learned from timed ones."""

    first_token: lgb.Booster  # log seconds to the first token
    per_token: lgb.Booster  # log seconds for each token after it
    widest: int  # most sequences of one timed call

    def speeds(self, calls: Sequence[tuple[float, int, int]]) -> list[Speed]:
        """One a call. calls: prompt tokens, sequences already running, sequences added. More sequences than one call
        had are several calls at once, so the others are company: a tree would answer for 16 what it knows of 8. Where
        there are more in all than twice a call's, time goes with their number: a tree would answer for 200 what it
        knows of 16, and an engine would seem to have room where it has none."""
        others = [max(0, added - self.widest) for _, _, added in calls]
        rows = np.array(
            [
                (prompt, running + more, added - more)
                for (prompt, running, added), more in zip(calls, others, strict=True)
            ],
            dtype=float,
        )
        first, each = predict(self.first_token, rows), predict(self.per_token, rows)
        crowded = [max(1.0, (running + added) / (2 * self.widest)) for _, running, added in calls]
        return [
            Speed(first_token=exp(a) * crowd, per_token=exp(b) * crowd)
            for a, b, crowd in zip(first, each, crowded, strict=True)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Boosted:
    """Predicts with LightGBM. Implements `Predictor`."""

    accuracy: lgb.Booster
    mean_length: lgb.Booster
    quantiles: Mapping[float, lgb.Booster]
    speed_model: SpeedModel
    means: Mapping[StrategySpec, SpecMeans]
    calibration: Calibration
    step_tokens: int
    version: str | None
    stopper: Stopper | None = None

    @property
    def name(self) -> str:
        return "model"

    def calibrated(self, calibration: Calibration) -> Boosted:
        return replace(self, calibration=calibration)

    def predict(
        self, features: Features, specs: Sequence[StrategySpec], load: Load, *, max_tokens: int
    ) -> Sequence[Prediction]:
        return self.predict_vector(np.array(features.vector()), specs, load, max_tokens=max_tokens)

    def predict_vector(
        self, vector: Floats, specs: Sequence[StrategySpec], load: Load, *, max_tokens: int
    ) -> list[Prediction]:
        """`vector`: features in FEATURE_NAMES' order, shape (features,). Strategies that were never recorded get a
        row with a reason, so that they are not chosen on a guess."""
        known = [spec for spec in specs if spec in self.means]
        familiar = self.stopper is None or self.stopper.place_of(vector).familiar
        accuracy = self._accuracy(vector, familiar=familiar)
        row = vector[None, :]
        mean = min(float(predict(self.mean_length, row)[0]), max_tokens)
        upper = min(self._upper_length(row), max_tokens)
        prompt = vector[FEATURE_NAMES.index("prompt_tokens")]
        speeds = self._speeds(prompt, load, known)
        return [
            self._row(spec, accuracy[spec], mean, upper, speeds[spec], max_tokens)
            if spec in accuracy
            else _unknown(spec)
            for spec in specs
        ]

    def _accuracy(self, vector: Floats, *, familiar: bool) -> dict[StrategySpec, float]:
        """Of every strategy the model knows, whatever is offered: `shrink` compares them with each other.

        Where the query is not familiar, the averages: the boosters then know less than those do.
        """
        specs = list(self.means)
        means = np.array([self.means[spec].accuracy for spec in specs])
        if not familiar:
            usual = averages(means, specs, agree=can_agree(named(vector)))
            return dict(zip(specs, usual.tolist(), strict=True))
        rows = np.array([[*vector, *spec_vector(spec)] for spec in specs])
        raw = sigmoid(predict(self.accuracy, rows, raw=True) + log_odds(means))
        calibrated = self.calibration.accuracies(raw, means)
        return dict(zip(specs, calibrated.tolist(), strict=True))

    def _upper_length(self, row: Floats) -> float:
        """Upper quantile of one completion's tokens; the boosters are made non-crossing by sorting."""
        logs = sorted(float(predict(self.quantiles[q], row)[0]) for q in QUANTILES)
        return exp(logs[QUANTILES.index(0.9)]) - 1

    def speeds(self, calls: Sequence[tuple[float, int, int]]) -> Sequence[Speed]:
        return self.speed_model.speeds(calls)

    def _speeds(self, prompt: float, load: Load, specs: Sequence[StrategySpec]) -> dict[StrategySpec, Speed]:
        sizes = list(dict.fromkeys(spec.draws for spec in specs))
        if not sizes:
            return {}
        speeds = self.speed_model.speeds([(prompt, load.sequences, size) for size in sizes])
        by_size = {size: speed.slowed(load.correction) for size, speed in zip(sizes, speeds, strict=True)}
        return {spec: by_size[spec.draws] for spec in specs}

    def _row(
        self, spec: StrategySpec, accuracy: float, mean: float, upper: float, speed: Speed, max_tokens: int
    ) -> Prediction:
        means = self.means[spec]
        cap = float(max_tokens * spec.draws)
        # the ratios of one sample and of the whole keep both monotone in n
        factor = self.calibration.tokens_factor.get(spec, 1.0)
        longest = min(mean * means.longest_ratio, max_tokens)
        longest_upper = min(max(upper, longest) * max(1.0, means.longest_ratio), max_tokens)
        tokens = min(mean * spec.draws * means.token_ratio, cap)
        tokens_upper = min(max(upper, mean) * spec.draws * means.token_ratio * factor, cap)
        expected = seconds(spec, speed, longest=longest, step_tokens=self.step_tokens)
        slow = seconds(spec, speed, longest=longest_upper, step_tokens=self.step_tokens)
        return Prediction(
            spec=spec,
            accuracy=float(accuracy),
            tokens=tokens,
            tokens_upper=max(tokens, tokens_upper),  # a factor under 1 may not push a bound below its mean
            seconds=expected,
            seconds_upper=max(expected, slow * self.calibration.seconds_factor),
        )

    def save(self, directory: Path) -> str:
        """Write the model's files and return its version, a hash of their content."""
        directory.mkdir(parents=True, exist_ok=True)
        texts = {name: _text(booster) for name, booster in self._boosters().items()}
        manifest = {
            "features_version": FEATURES_VERSION,
            "feature_names": FEATURE_NAMES,
            "spec_features": SPEC_FEATURES,
            "step_tokens": self.step_tokens,
            "widest": self.speed_model.widest,
            "means": {str(spec): asdict(means) for spec, means in self.means.items()},
            "calibration": {
                **asdict(replace(self.calibration, tokens_factor={})),
                "tokens_factor": {str(spec): f for spec, f in self.calibration.tokens_factor.items()},
            },
        }
        if self.stopper is not None:
            texts |= self.stopper.texts()
            manifest["stopping"] = self.stopper.to_json()
        digest = hashlib.sha256(orjson.dumps([manifest, texts], option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]
        for name, text in texts.items():
            (directory / f"{name}.txt").write_text(text)
        manifest = {"version": digest, **manifest}
        (directory / _MANIFEST).write_bytes(orjson.dumps(manifest, option=orjson.OPT_INDENT_2) + b"\n")
        return digest

    def _boosters(self) -> dict[str, lgb.Booster]:
        return {
            "accuracy": self.accuracy,
            "mean_length": self.mean_length,
            **{f"length_q{int(q * 100):02d}": booster for q, booster in self.quantiles.items()},
            "first_token": self.speed_model.first_token,
            "per_token": self.speed_model.per_token,
        }

    @classmethod
    def load(cls, directory: Path) -> Boosted:
        """Raises ModelError when files are missing, broken, or made for other features."""
        try:
            manifest = cast("dict[str, Any]", orjson.loads((directory / _MANIFEST).read_bytes()))
        except FileNotFoundError as error:
            raise ModelError(
                f"no model in {directory}: {_MANIFEST} is missing (make one with `apportion train`)"
            ) from error
        except orjson.JSONDecodeError as error:
            raise ModelError(f"{directory / _MANIFEST} is not JSON") from error
        if manifest.get("features_version") != FEATURES_VERSION or manifest.get("feature_names") != [*FEATURE_NAMES]:
            raise ModelError(
                f"the model in {directory} was trained on other query features (version "
                f"{manifest.get('features_version')}, this program computes {FEATURES_VERSION}): train it again"
            )
        if manifest.get("spec_features") != [*SPEC_FEATURES]:
            raise ModelError(f"the model in {directory} was trained on other strategy features: train it again")
        try:
            return cls._from(manifest, directory)
        except (KeyError, TypeError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise ModelError(
                f"{directory / _MANIFEST} is no model of this program ({reason}): train it again"
            ) from error

    @classmethod
    def _from(cls, manifest: Mapping[str, Any], directory: Path) -> Boosted:
        calibration = manifest["calibration"]
        stopping = manifest.get("stopping")
        return cls(
            accuracy=_booster(directory, "accuracy"),
            mean_length=_booster(directory, "mean_length"),
            quantiles={q: _booster(directory, f"length_q{int(q * 100):02d}") for q in QUANTILES},
            speed_model=SpeedModel(
                first_token=_booster(directory, "first_token"),
                per_token=_booster(directory, "per_token"),
                widest=manifest["widest"],
            ),
            means={StrategySpec.parse(spec): SpecMeans(**means) for spec, means in manifest["means"].items()},
            calibration=Calibration(
                gain_weight=calibration["gain_weight"],
                belief=calibration["belief"],
                accuracy_x=tuple(calibration["accuracy_x"]),
                accuracy_y=tuple(calibration["accuracy_y"]),
                tokens_factor={StrategySpec.parse(spec): f for spec, f in calibration["tokens_factor"].items()},
                seconds_factor=calibration["seconds_factor"],
                level=calibration["level"],
            ),
            step_tokens=manifest["step_tokens"],
            version=manifest["version"],
            stopper=Stopper.load(stopping, partial(_booster, directory)) if stopping else None,
        )


def _unknown(spec: StrategySpec) -> Prediction:
    return Prediction(
        spec=spec,
        accuracy=0.0,
        tokens=0.0,
        tokens_upper=0.0,
        seconds=0.0,
        seconds_upper=0.0,
        reason="the loaded model has no recorded outcomes of it",
    )


def _text(booster: lgb.Booster) -> str:
    return booster.model_to_string()


def _booster(directory: Path, name: str) -> lgb.Booster:
    try:
        return lgb.Booster(model_str=(directory / f"{name}.txt").read_text())
    except (FileNotFoundError, lgb.basic.LightGBMError) as error:
        raise ModelError(f"{directory / name}.txt is missing or no LightGBM model") from error
