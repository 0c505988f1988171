"""The user's own function as the judge: the one that `kind: python` scorers take, in a process of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from server.scorers.function import Function
from strategies.types import Candidate, Query, ScorerError

FUNCTION = "score"  # the function's name, if the file alone is given
_PROCESSES = 2


class Verifier:
    """Close it with `aclose`. `late` counts the candidates that it was not done with in time."""

    def __init__(self, written: str, *, seconds: float) -> None:
        """written: `file.py` or `file.py:function`. seconds: for one candidate, then it counts as wrong."""
        self._function = Function(located(written), together=False, processes=_PROCESSES)
        self._places = asyncio.Semaphore(_PROCESSES)
        self._seconds = seconds
        self.late = 0

    async def judge(self, query: Query, candidates: Sequence[Candidate]) -> list[float]:
        """How right each is, 0 to 1; no opinion is 0. Raises ValueError when the function fails or gives other scores.

        One that fails has a mistake in it, and recording on would cost tokens for nothing. One that is late has met
        a candidate that it can't cope with, which happens to every verifier that runs what a model wrote.
        """
        return list(await asyncio.gather(*(self._one(query, candidate) for candidate in candidates)))

    async def _one(self, query: Query, candidate: Candidate) -> float:
        async with self._places:
            try:
                async with asyncio.timeout(self._seconds):
                    (score,) = await self._function.score(query, [candidate])
            except TimeoutError:
                self.late += 1
                return 0.0
            except ScorerError as error:
                raise ValueError(f"the verifier can't judge: {error}") from error
        if score is not None and not 0 <= score <= 1:
            raise ValueError(f"the verifier gave {score:g}: how right an answer is goes from 0 to 1")
        return score or 0.0

    async def aclose(self) -> None:
        await self._function.aclose()


def located(written: str) -> str:
    """`file.py:function`. Raises ValueError when there is no such file."""
    path, colon, name = written.rpartition(":")
    if not colon or not name.isidentifier():
        path, name = written, FUNCTION
    if not Path(path).expanduser().is_file():
        raise ValueError(f"there is no verifier file {path}")
    return f"{path}:{name}"
