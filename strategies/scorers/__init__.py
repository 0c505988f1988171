"""Scorers: rank candidates. One file each, one line in `SCORERS`."""

from __future__ import annotations

from collections.abc import Mapping

from strategies.scorers.mean_logprob import MeanLogprob
from strategies.scorers.self_certainty import SelfCertainty
from strategies.types import Scorer

SCORERS: Mapping[str, Scorer] = {
    "mean_logprob": MeanLogprob(),
    "self_certainty": SelfCertainty(),
}
