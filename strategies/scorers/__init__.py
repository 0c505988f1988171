"""Scorers that need nothing but the samples: one file each, one line in `SCORERS`.

Those that ask someone (a reward model, a judge, the user's own code) are configured by name: `server.scorers`.
"""

from __future__ import annotations

from collections.abc import Mapping

from strategies.scorers.lowest_group import LowestGroup
from strategies.scorers.mean_logprob import MeanLogprob
from strategies.scorers.self_certainty import SelfCertainty
from strategies.scorers.tail import Tail
from strategies.types import Scorer

SCORERS: Mapping[str, Scorer] = {
    "mean_logprob": MeanLogprob(),
    "self_certainty": SelfCertainty(),
    "lowest_group_confidence": LowestGroup(),
    "tail_confidence": Tail(),
}
