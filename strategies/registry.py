"""The strategies by method: one line each."""

from __future__ import annotations

from collections.abc import Mapping

from strategies.beam_search import Steps, beam_search_with
from strategies.best_of_n import best_of_n
from strategies.majority_vote import majority_vote
from strategies.single import single
from strategies.spec import Method
from strategies.types import Strategy


def strategies(steps: Steps) -> Mapping[Method, Strategy]:
    """`steps`: where a step of the beam search ends, from the operator's configuration."""
    return {
        "single": single,
        "majority_vote": majority_vote,
        "best_of_n": best_of_n,
        "beam_search": beam_search_with(steps),
    }
