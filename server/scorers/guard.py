"""Any scorer, held to its time limit and to the protocol."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import nullcontext

from server.scorers.timing import Timing
from strategies.types import Candidate, EngineError, Pace, Query, Scorer, ScorerError

logger = logging.getLogger("apportion")


class Guarded:
    """Raises ScorerError, which names the scorer, and nothing else: whatever goes wrong, the vote can decide.

    timing: where its calls are noted; None if the scorer does so itself.
    """

    def __init__(self, name: str, scorer: Scorer, *, timeout: float, timing: Timing | None = None) -> None:
        self._name = name
        self._scorer = scorer
        self._timeout = timeout
        self._timing = timing
        self.needs_top_logprobs: int | None = scorer.needs_top_logprobs
        self.pace: Pace = scorer.pace

    async def score(self, query: Query, candidates: Sequence[Candidate]) -> Sequence[float | None]:
        left = min(self._timeout, query.budget.deadline - time.monotonic())
        timer = asyncio.timeout(left)
        try:
            async with timer:
                with self._timing.watch() if self._timing else nullcontext():
                    scores = await self._scorer.score(query, candidates)
        except TimeoutError:
            why = f"gave no score within {left:.3g} s" if timer.expired() else "failed: TimeoutError"
            raise ScorerError(f"the scorer {self._name} {why}") from None
        except (ScorerError, EngineError) as error:
            raise ScorerError(f"the scorer {self._name} failed: {error}") from error
        except Exception as error:  # one that breaks is no reason to lose the candidates
            logger.exception("the scorer %s failed", self._name)
            raise ScorerError(f"the scorer {self._name} failed: {type(error).__name__}") from error
        return scores
