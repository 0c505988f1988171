"""The chunks of a streamed chat completion, in OpenAI's shape."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import orjson

from server.api.response import finish_reason, message, stop_reason, trimmed, usage
from server.api.work import Progress
from strategies.types import Candidate, Delta, Outcome, Query

Chunk = dict[str, Any]
_BLOCK = 64  # bytes that an obfuscated chunk is a multiple of


def obfuscated(chunk: Chunk) -> Chunk:
    """With random text that makes its size tell less of what it says (OpenAI's `include_obfuscation`)."""
    size = len(orjson.dumps({**chunk, "obfuscation": ""}))
    return {**chunk, "obfuscation": secrets.token_urlsafe(_BLOCK)[: -size % _BLOCK]}


class Chunks:
    """Builds the chunks of one response."""

    def __init__(self, query: Query, *, created: int, include_usage: bool) -> None:
        self._head: Chunk = {
            "id": query.id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": query.model,
        }
        self._include_usage = include_usage
        if include_usage:
            self._head["usage"] = None  # in all but the last, as OpenAI has it
        self._logprobs = query.logprobs
        self._top = query.top_logprobs
        self._begun: set[int] = set()

    def passed_on(self, delta: Delta) -> list[Chunk]:
        """One piece of `single`, as the engine sent it; before a choice's first the role."""
        content: Chunk = {}
        if delta.text:
            content["content"] = delta.text
        if delta.reasoning:
            content[delta.reasoning_name] = delta.reasoning
        if delta.refusal:
            content["refusal"] = delta.refusal
        if delta.tool_calls:
            content["tool_calls"] = list(delta.tool_calls)
        chunks = self._role(delta.index)
        return [*chunks, self._piece(delta.index, content, logprobs=delta.logprob_content)] if content else chunks

    def progress(self, progress: Progress) -> list[Chunk]:
        """How far the work is, as a line of the first choice's reasoning."""
        return [*self._role(0), self._piece(0, {"reasoning": f"{progress}\n"})]

    def chosen(self, outcome: Outcome) -> list[Chunk]:
        """The answers of a strategy that chose them, each whole."""
        winners = outcome.answer.winners if outcome.answer is not None else ()
        return [chunk for place, candidate in enumerate(winners) for chunk in self._whole(place, candidate)]

    def last(self, outcome: Outcome, extra: Mapping[str, Any]) -> list[Chunk]:
        """The finish of every choice, then the usage when it was asked for. `apportion` rides on the last of them."""
        winners = list(enumerate(outcome.answer.winners)) if outcome.answer else []
        if outcome.allocation.spec.method == "single":  # its choices were streamed under their numbers in the drawing
            winners = sorted((candidate.index, candidate) for _, candidate in winners)
        chunks = [
            self._piece(place, {}, finish=finish_reason(candidate), **stop_reason(candidate))
            for place, candidate in winners
        ]
        if self._include_usage:
            chunks.append({**self._head, "choices": [], "usage": usage(outcome)})
        if chunks:
            chunks[-1]["apportion"] = extra
        return chunks

    def _whole(self, place: int, candidate: Candidate) -> list[Chunk]:
        body = message(candidate)
        del body["role"]
        if calls := body.get("tool_calls"):
            body["tool_calls"] = [{"index": i, **call} for i, call in enumerate(calls)]
        return [*self._role(place), self._piece(place, body, logprobs=candidate.logprob_content)]

    def _role(self, place: int) -> list[Chunk]:
        """The chunk that begins a choice; none if it has begun."""
        if place in self._begun:
            return []
        self._begun.add(place)
        return [self._piece(place, {"role": "assistant", "content": ""})]

    def _piece(
        self, index: int, delta: Chunk, *, finish: str | None = None, logprobs: Any = None, **more: Any
    ) -> Chunk:
        content = {"content": trimmed(logprobs, self._top), "refusal": None} if self._logprobs and logprobs else None
        choice = {"index": index, "delta": delta, "finish_reason": finish, "logprobs": content, **more}
        return {**self._head, "choices": [choice]}
