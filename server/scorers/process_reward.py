"""A process reward model on vLLM's `/pooling`: a score for every step of a solution."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from server.scorers.client import Client, number
from server.scorers.settings import Aggregation
from strategies.types import Candidate, Pace, Query, ScorerError

_BLANK_LINE = re.compile(r"\n\s*\n")
_AGGREGATIONS: Mapping[Aggregation, Callable[[Sequence[float]], float]] = {
    "last": lambda scores: scores[-1],
    "min": min,
    "product": math.prod,
    "mean": lambda scores: math.fsum(scores) / len(scores),
}


class ProcessReward:
    """Steps end at blank lines, and are told to the model by its own mark, which neither a candidate nor a client can
    write."""

    needs_top_logprobs: int | None = None
    pace: Pace = "each"

    def __init__(self, client: Client, *, model: str | None, aggregation: Aggregation, step_mark: str) -> None:
        self._client = client
        self._named: Mapping[str, str] = {"model": model} if model else {}
        self._aggregate = _AGGREGATIONS[aggregation]
        self._mark = step_mark
        # something in the place of a mark, or the text before and after one could join to another
        self._instead = next(each for each in " _-\ufffd" if each not in step_mark)

    async def score(self, query: Query, candidates: Sequence[Candidate]) -> Sequence[float | None]:
        return [await self._one(query, candidate) for candidate in candidates]

    async def _one(self, query: Query, candidate: Candidate) -> float | None:
        steps = steps_of(self._unmarked(candidate.text))
        if not steps:
            return None
        solution = "".join(step + self._mark for step in steps)
        messages = [*self._unmarked(query.messages), {"role": "assistant", "content": solution}]
        body = await self._client.ask({**self._named, "task": "token_classify", "messages": messages})
        try:
            rows: list[Any] = body["data"][0]["data"]
            scores = [number(cast("list[Any]", row)[-1] if isinstance(row, list) else row) for row in rows]
        except (TypeError, KeyError, IndexError, ValueError):
            raise ScorerError("its server's answer has not the shape of /pooling") from None
        if len(scores) != len(steps):
            raise ScorerError(
                f"it gave {len(scores)} scores for {len(steps)} steps: does its model know the configured step mark?"
            )
        return self._aggregate(scores)

    def _unmarked(self, value: Any) -> Any:
        """A text, or anything of JSON with texts in it, without the mark."""
        if isinstance(value, str):
            return value.replace(self._mark, self._instead)
        if isinstance(value, Mapping):
            return {key: self._unmarked(each) for key, each in cast("Mapping[str, Any]", value).items()}
        if isinstance(value, list | tuple):
            return [self._unmarked(each) for each in cast("Sequence[Any]", value)]
        return value


def steps_of(text: str) -> list[str]:
    return [step for part in _BLANK_LINE.split(text) if (step := part.strip())]
