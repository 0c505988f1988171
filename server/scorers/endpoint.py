"""The user's own endpoint: POST {messages, candidates} -> {scores}."""

from __future__ import annotations

from collections.abc import Sequence

from server.scorers.client import Client, as_dict, listed
from strategies.types import Candidate, Pace, Query


class Endpoint:
    """Asked for each candidate as it comes, or once for all of them."""

    needs_top_logprobs: int | None = None

    def __init__(self, client: Client, *, together: bool) -> None:
        self._client = client
        self.pace: Pace = "together" if together else "each"

    async def score(self, query: Query, candidates: Sequence[Candidate]) -> Sequence[float | None]:
        body = {"messages": list(query.messages), "candidates": [as_dict(candidate) for candidate in candidates]}
        return listed(await self._client.ask(body), len(candidates))
