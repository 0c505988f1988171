"""One entry of a menu: a method and its hyperparameters, as operators and clients write it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Method = Literal["single", "majority_vote", "best_of_n", "beam_search"]
Rule = Literal["naive", "weighted", "borda"]
DEFAULT_SCORER = "mean_logprob"
VERIFIER = "verifier"  # a scorer of this name says right or wrong: the first that is right ends a best-of-N
RIGHT = 1.0  # its score from which on a candidate is right
_RULES: tuple[Rule, ...] = ("naive", "weighted", "borda")
_SHAPES = ("diverse", "lookahead")  # of a beam search
RESERVED = frozenset((*_RULES, *_SHAPES))  # names that no scorer can have
_SPEC = re.compile(r"(?P<method>[a-z_]+)(?:@(?P<size>[0-9]+(?:x[0-9]+)?))?(?::(?P<options>[a-z0-9_:-]+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategySpec:
    """One menu entry: a method and its hyperparameters.

    Printed and parsed as `single`, `majority_vote@8`, `best_of_n@8`, `best_of_n@8:self_certainty:weighted`,
    `beam_search@4x4` (width x expansion), `beam_search@4x4:self_certainty`, `beam_search@4x4:diverse:lookahead`.
    Which scorers there are is configured, so any name is read here, and whoever knows the configuration checks it.
    """

    method: Method
    n: int = 1  # candidates drawn; for beam_search: beams kept (the width)
    expansion: int = 1  # continuations grown from each live beam, beam_search only
    scorer: str | None = None
    rule: Rule = "naive"  # best_of_n only: how scores become a winner
    diverse: bool = False  # beam_search only: the beams kept are independent subtrees, as in DVTS
    lookahead: bool = False  # beam_search only: a beam is scored after one more step, drawn greedily

    @property
    def draws(self) -> int:
        """Sequences the engine runs at once for this strategy at its widest."""
        return self.n * self.expansion

    @property
    def verified(self) -> bool:
        """Drawing ends with the first candidate that the verifier calls right."""
        return self.method == "best_of_n" and self.scorer == VERIFIER and self.rule == "naive"

    def __str__(self) -> str:
        if self.method == "single":
            return "single"
        size = f"{self.n}x{self.expansion}" if self.method == "beam_search" else str(self.n)
        options = ([self.scorer] if self.scorer and self.scorer != DEFAULT_SCORER else []) + (
            [self.rule] if self.rule != "naive" else []
        )
        options += [name for name in _SHAPES if getattr(self, name)]
        return ":".join([f"{self.method}@{size}", *options])

    @classmethod
    def parse(cls, text: str) -> StrategySpec:
        """Read what `str` prints. Raises ValueError with a sentence that says what would be accepted."""
        match = _SPEC.fullmatch(text.strip())
        if match is None:
            raise ValueError(
                f"{text[:80]!r} is no strategy: write 'single', 'majority_vote@8', 'best_of_n@8' or 'beam_search@4x4'"
            )
        method, size = match["method"], match["size"]
        options = [option for option in (match["options"] or "").split(":") if option]
        if method == "single":
            if size not in (None, "1") or options:
                raise ValueError("'single' takes no size and no options")
            return cls(method="single")
        if method == "beam_search":
            width, _, expansion = (size or "").partition("x")
            if not width or not expansion:
                raise ValueError("beam_search needs width x expansion, as in 'beam_search@4x4'")
            n, grow = int(width), int(expansion)
        elif method in ("majority_vote", "best_of_n"):
            if size is None or "x" in size:
                raise ValueError(f"{method} needs the number of candidates, as in '{method}@8'")
            n, grow = int(size), 1
        else:
            raise ValueError(f"unknown method {method[:40]!r}: known are single, majority_vote, best_of_n, beam_search")
        if n < 1 or grow < 1 or n * grow > 1024:
            raise ValueError(f"{text[:80]!r}: sizes must be at least 1 and at most 1024 sequences in all")
        rules: list[Rule] = [rule for rule in _RULES if rule in options]
        shapes = {name: True for name in _SHAPES if name in options}
        scorers = [option for option in options if option not in (*_RULES, *_SHAPES)]
        fits = (method == "best_of_n" or not rules) and (method != "majority_vote" or not scorers)
        fits = fits and (method == "beam_search" or not shapes)
        if not fits or len(rules) > 1 or len(scorers) > 1:
            raise ValueError(
                f"{text[:80]!r}: options are a scorer (best_of_n, beam_search), 'weighted' or 'borda' (best_of_n), "
                "'diverse' and 'lookahead' (beam_search)"
            )
        scorer = None if method == "majority_vote" else (scorers[0] if scorers else DEFAULT_SCORER)
        rule = rules[0] if rules else "naive"
        return cls(method=method, n=n, expansion=grow, scorer=scorer, rule=rule, **shapes)
