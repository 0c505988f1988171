"""Adaptive allocation against every fixed strategy, the lookup table and the oracle, on held-out questions.

Every question is predicted by boosters that have not seen it, and calibrated by a map that was not fitted on it. What a
strategy achieves on a question comes from the recorded pool (see `router.labels`). Seconds, one request at a time, are
those of one speed model fitted on all timed calls, at the recorded lengths, except for beam search, whose runs were
timed. The oracle takes the best of each question's labels, noise included (a beam search has one run a question): it is
a bound that nobody reaches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.boosted import Boosted
from router.features import FEATURE_NAMES
from router.pools import Pool
from router.speed import Load, seconds
from router.training import (
    Examples,
    HeldOut,
    calibrate,
    conformal_factor,
    examples,
    fit_speed,
    folds,
    held_out,
    speed_errors,
)
from strategies.types import StrategySpec

Floats = NDArray[np.float64]
# utility per 1,000 tokens and per second: from free to so dear that one sample is all that pays
PRICES: tuple[tuple[float, float], ...] = (
    (0.0, 0.0),
    (0.1, 0.01),
    (0.3, 0.03),
    (1.0, 0.1),
    (3.0, 0.1),
    (3.0, 0.3),
    (10.0, 1.0),
)
_BOOTSTRAPS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One way of deciding, averaged over the questions."""

    name: str
    accuracy: float
    tokens: float
    seconds: float
    utility: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AtPrice:
    """Everything at one pair of prices. `gain`: adaptive minus the lookup's choice, with a 95 % interval (paired
    bootstrap over questions). The lookup picks the best fixed strategy on the training questions, as one can in
    practice; `best_fixed` is the best in hindsight, on the very questions it is judged on."""

    token_price: float
    latency_price: float
    adaptive: Row
    lookup: Row
    best_fixed: Row
    oracle: Row
    gain: float
    gain_low: float
    gain_high: float
    mix: dict[str, float]  # share of the questions that got each strategy


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    questions: int
    samples: int
    families: int
    unseen_families: bool  # every question was predicted by a model that has not seen its family
    fixed: tuple[Row, ...]  # utility at zero prices, i.e. accuracy
    prices: tuple[AtPrice, ...]
    calibration_error: float  # ECE of the predicted accuracies, ten equal bins
    brier: float
    level: float  # of the upper bounds
    tokens_coverage: float  # share of outcomes under the calibrated upper bound
    tokens_error: float  # median of |predicted - actual| / actual
    speed_error: float  # the same, for engine calls

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class _World:
    """What happens: arrays of shape (questions, strategies); nan where a question has no outcome of a strategy."""

    menu: Sequence[StrategySpec]
    accuracy: Floats
    tokens: Floats
    seconds: Floats

    def utility(self, token_price: float, latency_price: float) -> Floats:
        return self.accuracy - token_price * self.tokens / 1000 - latency_price * self.seconds


def evaluate(
    pools: Sequence[Pool],
    menu: Sequence[StrategySpec],
    *,
    step_tokens: int,
    level: float = 0.9,
    stop_threshold: float = 0.95,
    borda_power: float = 1.0,
    unseen_families: bool = False,
) -> Evaluation:
    """unseen_families: a whole family is held out at once, so that no model has seen a question of its kind.

    Raises ValueError when there are too few questions.
    """
    data = examples(pools, menu, stop_threshold=stop_threshold, borda_power=borda_power)
    offered = [spec for spec in menu if all(spec in row for row in data.labels)]
    parts = folds(data.pools, by=(lambda pool: pool.question.family) if unseen_families else None)
    scores, boosters = held_out(data, offered, step_tokens=step_tokens, parts=parts)
    models = _cross_calibrated(scores, boosters, parts, level=level)
    world = _world(data, offered, step_tokens=step_tokens)
    predicted = _predicted(data, offered, models, parts)
    errors = speed_errors(data, boosters)
    coverage, tokens_error = _tokens_quality(scores, parts, level=level)
    # questions of one family share their template: where families are the unit of the split, they are of the resampling
    blocks = [pool.question.family for pool in pools] if unseen_families else [pool.question.id for pool in pools]
    ece, brier = calibration_quality(predicted.accuracy.ravel(), world.accuracy.ravel())
    return Evaluation(
        questions=len(data),
        samples=min(len(pool.samples) for pool in pools),
        families=len({pool.question.family for pool in pools}),
        unseen_families=unseen_families,
        fixed=tuple(_row(str(spec), world, np.full(len(data), i), prices=(0.0, 0.0)) for i, spec in enumerate(offered)),
        prices=tuple(_at_price(world, predicted, parts, blocks, prices) for prices in PRICES),
        calibration_error=ece,
        brier=brier,
        level=level,
        tokens_coverage=coverage,
        tokens_error=tokens_error,
        speed_error=float(np.median(np.abs(1 / errors - 1))),
    )


def _cross_calibrated(
    scores: HeldOut, boosters: Sequence[Boosted], parts: Sequence[Sequence[int]], *, level: float
) -> list[Boosted]:
    """Each fold's booster with the calibration fitted on the other folds' held-out predictions."""
    models: list[Boosted] = []
    for model, part in zip(boosters, parts, strict=True):
        others = ~np.isin(scores.question, list(part))
        calibration = calibrate(_where(scores, others), level=level, speed_error=np.array([]))
        models.append(model.calibrated(calibration))
    return models


def _where(scores: HeldOut, mask: NDArray[np.bool_]) -> HeldOut:
    rows = [int(i) for i in np.flatnonzero(mask)]
    return HeldOut(
        question=scores.question[rows],
        spec=[scores.spec[i] for i in rows],
        raw_accuracy=scores.raw_accuracy[rows],
        mean_accuracy=scores.mean_accuracy[rows],
        accuracy=scores.accuracy[rows],
        tokens_predicted=scores.tokens_predicted[rows],
        tokens_upper=scores.tokens_upper[rows],
        tokens=[scores.tokens[i] for i in rows],
    )


def _world(data: Examples, menu: Sequence[StrategySpec], *, step_tokens: int) -> _World:
    shape = (len(data), len(menu))
    accuracy, tokens, spent = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    model = fit_speed(data.calls)
    for i, labels in enumerate(data.labels):
        prompt = float(data.features[i][FEATURE_NAMES.index("prompt_tokens")])
        speeds = model.speeds([(prompt, 0, spec.draws) for spec in menu])
        for j, (spec, speed) in enumerate(zip(menu, speeds, strict=True)):
            label = labels[spec]
            accuracy[i, j], tokens[i, j] = label.accuracy, label.mean_tokens
            timed = [run.seconds for run in data.pools[i].runs if run.spec == str(spec)]
            modelled = seconds(spec, speed, longest=label.mean_longest, step_tokens=step_tokens)
            spent[i, j] = np.mean(timed) if timed else modelled
    return _World(menu=menu, accuracy=accuracy, tokens=tokens, seconds=spent)


def _predicted(
    data: Examples, menu: Sequence[StrategySpec], models: Sequence[Boosted], parts: Sequence[Sequence[int]]
) -> _World:
    shape = (len(data), len(menu))
    accuracy, tokens, spent = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for model, part in zip(models, parts, strict=True):
        for i in part:
            cap = data.pools[i].question.max_tokens
            for j, row in enumerate(model.predict_vector(data.features[i], menu, Load(), max_tokens=cap)):
                accuracy[i, j], tokens[i, j], spent[i, j] = row.accuracy, row.tokens, row.seconds
    return _World(menu=menu, accuracy=accuracy, tokens=tokens, seconds=spent)


def _at_price(
    world: _World,
    predicted: _World,
    parts: Sequence[Sequence[int]],
    blocks: Sequence[str],
    prices: tuple[float, float],
) -> AtPrice:
    utility = world.utility(*prices)
    guess = predicted.utility(*prices)
    adaptive = guess.argmax(axis=1)
    lookup = _lookup_choice(world, parts, prices)
    fixed = int(utility.mean(axis=0).argmax())
    oracle = utility.argmax(axis=1)
    everyone = np.arange(len(utility))
    difference = utility[everyone, adaptive] - utility[everyone, lookup]
    low, high = bootstrap(difference, blocks)
    return AtPrice(
        token_price=prices[0],
        latency_price=prices[1],
        adaptive=_row("adaptive", world, adaptive, prices=prices),
        lookup=_row("lookup", world, lookup, prices=prices),
        best_fixed=_row(str(world.menu[fixed]), world, np.full(len(utility), fixed), prices=prices),
        oracle=_row("oracle", world, oracle, prices=prices),
        gain=float(difference.mean()),
        gain_low=low,
        gain_high=high,
        mix={str(spec): float((adaptive == j).mean()) for j, spec in enumerate(world.menu) if (adaptive == j).any()},
    )


def _lookup_choice(world: _World, parts: Sequence[Sequence[int]], prices: tuple[float, float]) -> NDArray[np.intp]:
    """The paper's lookup table: averages per strategy over the training questions, the same choice for every query."""
    utility = world.utility(*prices)
    choice = np.zeros(len(utility), dtype=np.intp)
    everyone = set(range(len(utility)))
    for part in parts:
        seen = sorted(everyone - set(part))
        choice[list(part)] = int(utility[seen].mean(axis=0).argmax())
    return choice


def _row(name: str, world: _World, choice: NDArray[np.intp], *, prices: tuple[float, float]) -> Row:
    everyone = np.arange(len(choice))
    return Row(
        name=name,
        accuracy=float(world.accuracy[everyone, choice].mean()),
        tokens=float(world.tokens[everyone, choice].mean()),
        seconds=float(world.seconds[everyone, choice].mean()),
        utility=float(world.utility(*prices)[everyone, choice].mean()),
    )


def bootstrap(differences: Floats, blocks: Sequence[str], *, seed: int = 7) -> tuple[float, float]:
    """95 % interval of the mean. Whole blocks are resampled; blocks: one name a difference."""
    names = {name: i for i, name in enumerate(dict.fromkeys(blocks))}
    owner = np.array([names[block] for block in blocks])
    sums = np.bincount(owner, weights=differences)
    sizes = np.bincount(owner)
    picks = np.random.default_rng(seed).integers(0, len(names), size=(_BOOTSTRAPS, len(names)))
    low, high = np.quantile(sums[picks].sum(axis=1) / sizes[picks].sum(axis=1), [0.025, 0.975])
    return float(low), float(high)


def calibration_quality(predicted: Floats, actual: Floats, *, bins: int = 10) -> tuple[float, float]:
    """Expected calibration error over equally filled bins, and the mean squared error."""
    order = np.argsort(predicted, kind="stable")
    gaps = [abs(predicted[part].mean() - actual[part].mean()) * len(part) for part in np.array_split(order, bins)]
    return float(sum(gaps) / len(order)), float(np.mean((predicted - actual) ** 2))


def _tokens_quality(scores: HeldOut, parts: Sequence[Sequence[int]], *, level: float) -> tuple[float, float]:
    """Coverage of the upper bound when its factor comes from other folds, and the median relative error."""
    covered: list[float] = []
    for part in parts:
        inside = np.isin(scores.question, list(part))
        for spec in dict.fromkeys(scores.spec):
            same = np.array([other == spec for other in scores.spec])
            fitted = [int(i) for i in np.flatnonzero(same & ~inside)]
            judged = [int(i) for i in np.flatnonzero(same & inside)]
            factor = conformal_factor(scores.tokens_upper[fitted], [scores.tokens[i] for i in fitted], level)
            covered += [float((scores.tokens[i] <= scores.tokens_upper[i] * factor).mean()) for i in judged]
    actual = np.array([draws.mean() for draws in scores.tokens])
    return float(np.mean(covered)), float(np.median(np.abs(scores.tokens_predicted - actual) / actual))


def table(result: Evaluation) -> str:
    """The figures for a terminal."""
    unseen = "its family" if result.unseen_families else "it"
    lines = [
        f"{result.questions} questions of {result.families} families, {result.samples} samples each; every question is "
        f"predicted by a model that has not seen {unseen}",
        "",
        f"{'fixed strategy':<36}{'accuracy':>9}{'tokens':>9}{'seconds':>9}",
        *(f"{row.name:<36}{row.accuracy:>9.3f}{row.tokens:>9.1f}{row.seconds:>9.2f}" for row in result.fixed),
        "",
        f"{'price per 1k tokens, per second':<36}{'accuracy':>9}{'tokens':>9}{'seconds':>9}{'utility':>9}",
    ]
    for at in result.prices:
        lines.append(f"{at.token_price:g}, {at.latency_price:g}")
        for row in (
            at.adaptive,
            at.lookup,
            replace(at.best_fixed, name=f"best fixed in hindsight: {at.best_fixed.name}"),
            at.oracle,
        ):
            lines.append(
                f"  {row.name:<34}{row.accuracy:>9.3f}{row.tokens:>9.1f}{row.seconds:>9.2f}{row.utility:>9.3f}"
            )
        mix = ", ".join(f"{name} {share:.0%}" for name, share in sorted(at.mix.items(), key=lambda item: -item[1])[:4])
        lines.append(f"  adaptive - lookup: {at.gain:+.3f} [{at.gain_low:+.3f}, {at.gain_high:+.3f}]; chose {mix}")
    above = sum(at.gain_low > 0 for at in result.prices)
    below = sum(at.gain_high < 0 for at in result.prices)
    lines += [
        "",
        f"adaptive against the lookup table: better at {above}, worse at {below} of {len(result.prices)} prices (95 %)",
        f"predicted accuracy: calibration error {result.calibration_error:.3f}, Brier {result.brier:.3f}",
        f"tokens: median error {result.tokens_error:.0%}, {result.level:.0%} upper bound covers "
        f"{result.tokens_coverage:.1%}",
        f"seconds of an engine call at its true length: median error {result.speed_error:.0%}",
    ]
    return "\n".join(lines)
