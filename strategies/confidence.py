"""How sure the model was of single tokens, from the top logprobs that came with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from strategies.types import Json

CERTAINTY_TOP = 5  # top tokens looked at, whatever else was asked of the engine
FLOOR = -100.0  # engines write -9999 or -inf for "impossible"


def token_confidence(entry: Json) -> float | None:
    """Mean of -log p over the reported top tokens: large when one token has it all. None without top logprobs."""
    top: Sequence[Mapping[str, Any]] = (entry.get("top_logprobs") or ())[:CERTAINTY_TOP]
    if not top:
        return None
    return -sum(max(float(each["logprob"]), FLOOR) for each in top) / len(top)


def confidences(content: Sequence[Json]) -> list[float]:
    """Of the tokens that came with top logprobs, in order. content: OpenAI's logprobs.content entries."""
    return [value for entry in content if (value := token_confidence(entry)) is not None]


def window(tokens: int) -> int:
    """Tokens of one group. DeepConf takes 2,048, a tenth or so of its long traces; a tenth of shorter ones here."""
    return min(tokens, max(8, min(2048, tokens // 10)))
