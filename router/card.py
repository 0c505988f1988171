"""The model card: what a trained allocator was made of, how good it is, and what it must not be used for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version as installed
from pathlib import Path

import numpy as np

from router.features import FEATURE_NAMES, FEATURES_VERSION
from router.learning import Trained
from router.pools import Pool
from router.predictors import SPEC_FEATURES
from router.reliability import reliability
from router.stopping_training import CLUSTER_STATISTICS
from router.training import FOLDS, calibrated
from router.vote_state import BY_VOTES, STATE_FEATURES
from strategies.spec import StrategySpec

_SHOWN_FEATURES = 15
_RULES = {
    BY_VOTES: "votes",
    (1.0, 0.0): "the best mean log probability",
    (2.0, 0.0): "mean log probabilities, summed",
    (3.0, 0.0): "mean log probabilities, by place",
    (1.0, 1.0): "the best self-certainty",
    (2.0, 1.0): "self-certainty, summed",
    (3.0, 1.0): "self-certainty, by place",
}


def write_card(path: Path, trained: Trained, *, version: str, source: str) -> None:
    """Deterministic: the same pools give the same card."""
    path.write_text(
        "\n".join([*_head(trained, version, source), *_held_out(trained), *_stopping(trained), *_importances(trained)])
        + "\n"
    )


def _head(trained: Trained, version: str, source: str) -> list[str]:
    pools = trained.data.pools
    dates = sorted({pool.recorded for pool in pools})
    engines = sorted({pool.model for pool in pools})
    temperatures = sorted({pool.temperature for pool in pools})
    return [
        f"# Allocator model {version}",
        "",
        "Written by `apportion train`; do not edit.",
        "",
        "| | |",
        "|---|---|",
        f"| data | `{source}`: {len(pools)} questions of {len({p.question.family for p in pools})} families, "
        f"{sum(len(p.samples) for p in pools)} samples, recorded {' to '.join(dict.fromkeys((dates[0], dates[-1])))} |",
        f"| engine's model | {', '.join(engines)}, temperature {', '.join(f'{t:g}' for t in temperatures)} |",
        f"| right is | {_judged(pools)} |",
        f"| query features | version {FEATURES_VERSION}, {len(FEATURE_NAMES)} of them |",
        f"| made with | LightGBM {installed('lightgbm')}, NumPy {installed('numpy')} |",
        f"| weight of predicted differences between strategies | {trained.model.calibration.gain_weight:g} "
        "(0: every query gets the average differences, 1: they are believed in full) |",
        f"| level of the upper bounds | {trained.model.calibration.level:g} |",
        "",
        "## Not for",
        "",
        "- another model than the one named above: accuracy, length and speed are that model's; calibrate again;",
        "- questions unlike the recorded ones: the model tells some of them (see below) and leaves when to stop to the "
        "price alone, but which strategy to begin with is then chosen on weak grounds;",
        "- other hardware, for seconds: the gateway corrects them by what it sees, starting from these.",
        "",
    ]


_JUDGES = {
    "verifier": "what a verifier says",
    "reference": "what equals the reference",
    "feedback": "what was said of the answers that were returned",
    "agreement": "what agrees with the vote over all samples, right or not",
}


def _judged(pools: Sequence[Pool]) -> str:
    counts = Counter(pool.label for pool in pools)
    return "; ".join(f"{means} ({counts[label]} questions)" for label, means in _JUDGES.items() if counts[label])


def _held_out(trained: Trained) -> list[str]:
    """Figures on questions that the predicting booster had not seen (cross-fitting)."""
    scores, model = trained.scores, trained.model
    accuracy = calibrated(scores, model.calibration)
    raw = reliability("boosters", scores.raw_accuracy, scores.accuracy)
    final = reliability("calibrated", accuracy, scores.accuracy)
    usual = reliability("averages", np.array([model.means[spec].accuracy for spec in scores.spec]), scores.accuracy)
    speed = np.abs(1 / trained.speed_error - 1)
    lines = [
        f"## Held out ({FOLDS} folds by question)",
        "",
        "Accuracy: calibration error (ECE, ten equally filled bins) and mean squared error against the soft labels.",
        "",
        "| | ECE | MSE |",
        "|---|---|---|",
        f"| each strategy's average | | {usual.brier:.4f} |",
        f"| boosters | {raw.error:.4f} | {raw.brier:.4f} |",
        f"| boosters, shrunk and calibrated (fitted on these same predictions) | {final.error:.4f} | "
        f"{final.brier:.4f} |",
        *_unseen(trained),
        "",
        f"Seconds of one engine call at its true length: median error {np.median(speed):.0%}, nine of ten within "
        f"{np.quantile(speed, 0.9):.0%}.",
        "",
        "| strategy | mean accuracy | mean tokens | median token error | upper bound covers, uncorrected | factor |",
        "|---|---|---|---|---|---|",
    ]
    for spec in dict.fromkeys(scores.spec):
        lines.append(_spec_line(trained, spec))
    lines += ["", "| family | questions | one sample right | predicted for one sample |", "|---|---|---|---|"]
    single = [i for i, spec in enumerate(scores.spec) if spec.method == "single"]
    families = dict.fromkeys(pool.question.family for pool in trained.data.pools)
    for family in sorted(families):
        rows = [i for i in single if trained.data.pools[int(scores.question[i])].question.family == family]
        if rows:
            lines.append(
                f"| {family} | {len(rows)} | {scores.accuracy[rows].mean():.2f} | {accuracy[rows].mean():.2f} |"
            )
    return lines


def _unseen(trained: Trained) -> list[str]:
    """How far the figures carry: the same boosters on families of questions that they have seen nothing of."""
    if trained.unseen is None:
        return []
    unseen = reliability("unseen", trained.unseen.raw_accuracy, trained.unseen.accuracy)
    return [f"| boosters, whole families held out | {unseen.error:.4f} | {unseen.brier:.4f} |"]


def _spec_line(trained: Trained, spec: StrategySpec) -> str:
    scores, means = trained.scores, trained.model.means[spec]
    rows = [i for i, other in enumerate(scores.spec) if other == spec]
    actual = np.array([scores.tokens[i].mean() for i in rows])
    error = np.median(np.abs(scores.tokens_predicted[rows] - actual) / actual)
    covered = np.mean([(scores.tokens[i] <= scores.tokens_upper[i]).mean() for i in rows])
    factor = trained.model.calibration.tokens_factor[spec]
    return f"| {spec} | {means.accuracy:.3f} | {means.tokens:.1f} | {error:.0%} | {covered:.1%} | {factor:.3f} |"


def _stopping(trained: Trained) -> list[str]:
    """What the stopping model is worth, on questions it had not seen."""
    if trained.stopping is None:
        return []
    model, found = trained.stopping.model, trained.stopping.found
    there = [np.isfinite(one.confidence) for one in found]
    raw = np.concatenate([one.confidence[known] for one, known in zip(found, there, strict=True)])
    right = np.concatenate([one.data.right[known] for one, known in zip(found, there, strict=True)])
    calibrated_error = reliability("confidence", np.interp(raw, model.right_x, model.right_y), right)
    lines = [
        "",
        "## When to stop",
        "",
        f"It knows {found[0].familiar.mean():.0%} of the held-out questions; others are left to the price alone. "
        f"Confidence: calibration error {reliability('raw', raw, right).error:.4f} before and "
        f"{calibrated_error.error:.4f} after the map that was fitted on these same predictions.",
        "",
        "| leader picked by | weight of the model against the prior |",
        "|---|---|",
        *(f"| {_RULES[rule]} | {weight:g} |" for rule, weight in model.weights.items()),
        "",
        "| confidence | right | checkpoints |",
        "|---|---|---|",
        *(f"| {one.predicted:.2f} | {one.actual:.2f} | {one.count} |" for one in calibrated_error.bins),
        "",
        "What the booster of gains looks at most (share of gain):",
        "",
    ]
    names = [*STATE_FEATURES, *CLUSTER_STATISTICS, "log2_more"]
    gains = model.gain.feature_importance("gain")
    best = np.argsort(-gains, kind="stable")[:_SHOWN_FEATURES]
    return [*lines, *(f"- {names[i]}: {gains[i] / max(gains.sum(), 1e-9):.1%}" for i in best)]


def _importances(trained: Trained) -> list[str]:
    names = [*FEATURE_NAMES, *SPEC_FEATURES]
    gains = trained.model.accuracy.feature_importance("gain")
    best = np.argsort(-gains, kind="stable")[:_SHOWN_FEATURES]
    return [
        "",
        "## What the accuracy booster looks at most (share of gain)",
        "",
        *(f"- {names[i]}: {gains[i] / max(gains.sum(), 1e-9):.1%}" for i in best),
    ]
