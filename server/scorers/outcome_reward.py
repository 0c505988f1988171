"""An outcome reward model on vLLM's `/classify`: one score for a whole answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from server.scorers.client import Client, number
from strategies.types import Candidate, Pace, Query, ScorerError


class OutcomeReward:
    """The probability of the class that means "good"."""

    needs_top_logprobs: int | None = None
    pace: Pace = "each"

    def __init__(self, client: Client, *, model: str | None, good_class: int) -> None:
        self._client = client
        self._named: Mapping[str, str] = {"model": model} if model else {}
        self._class = good_class

    async def score(self, query: Query, candidates: Sequence[Candidate]) -> Sequence[float | None]:
        return [await self._one(query, candidate) for candidate in candidates]

    async def _one(self, query: Query, candidate: Candidate) -> float:
        messages = [*query.messages, {"role": "assistant", "content": candidate.text}]
        body = await self._client.ask({**self._named, "messages": messages})
        try:
            probs = [number(each) for each in body["data"][0]["probs"]]
        except (TypeError, KeyError, IndexError, ValueError):
            raise ScorerError("its server's answer has not the shape of /classify") from None
        if not -1 <= self._class < len(probs) or not probs:
            raise ScorerError(f"its model has {len(probs)} classes, and class {self._class} was configured")
        return probs[self._class]
