"""The output items of a response, built piece by piece, and the events that tell of each step.

Streamed or not, a response is built here, so that both have the same items. Events lack their sequence number: they are
numbered when they are sent.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from server.api.responses.carried import packed
from strategies.types import Candidate, Delta, Json

Event = dict[str, Any]
Status = Literal["completed", "incomplete"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """A kind of part that an item can have, in the API's words."""

    item: Literal["message", "reasoning"]
    home: Literal["content", "summary"]  # the item's list of such parts
    type: str
    field: Literal["text", "refusal"]  # of the part, for what is said
    said: str  # the events of what is said
    part: str  # the events of the part


_TEXT = _Kind(item="message", home="content", type="output_text", field="text", said="output_text", part="content_part")
_REFUSAL = _Kind(item="message", home="content", type="refusal", field="refusal", said="refusal", part="content_part")
_REASONING = _Kind(
    item="reasoning", home="content", type="reasoning_text", field="text", said="reasoning_text", part="content_part"
)
_SUMMARY = _Kind(
    item="reasoning",
    home="summary",
    type="summary_text",
    field="text",
    said="reasoning_summary_text",
    part="reasoning_summary_part",
)


def delta_of(candidate: Candidate) -> Delta:
    """A whole answer as one piece."""
    return Delta(
        index=candidate.index,
        text=candidate.text,
        reasoning=candidate.reasoning,
        refusal=candidate.refusal,
        tool_calls=[{"index": place, **call} for place, call in enumerate(candidate.tool_calls)],
        logprob_content=candidate.logprob_content,
    )


class Output:
    """One response's items. Calls stay open until the end, as engines may mix their pieces."""

    def __init__(self, *, top_logprobs: int | None = None, summary: bool = False, encrypted: bool = False) -> None:
        """top_logprobs: None leaves logprobs out. summary, encrypted: how the client asked for the reasoning."""
        self._top_logprobs = top_logprobs
        self._encrypted = encrypted
        self._thought = _SUMMARY if summary else _REASONING
        self._items: list[_Said | _Call] = []
        self._calls: dict[int, _Call] = {}
        self._open: _Said | None = None

    @property
    def items(self) -> list[Json]:
        return [item.body for item in self._items]

    def add(self, delta: Delta) -> list[Event]:
        events: list[Event] = []
        for kind, said in ((self._thought, delta.reasoning), (_TEXT, delta.text), (_REFUSAL, delta.refusal)):
            if said:
                events += self._say(kind, said, delta.logprob_content)
        for piece in delta.tool_calls:
            number = int(piece.get("index") or 0)
            if number not in self._calls:
                events += self._close()
                self._calls[number] = _Call(len(self._items), piece)
                self._items.append(self._calls[number])
                events.append(self._calls[number].added())
            events += self._calls[number].add(piece)
        return events

    def end(self, status: Status) -> list[Event]:
        """Close what is open. A response that said nothing has an empty message, unless it was cut before that."""
        said = any(item.body["type"] != "reasoning" for item in self._items)
        events = self._say(_TEXT, "", ()) if status == "completed" and not said else []
        events += self._close(status)
        for call in self._calls.values():
            events += call.close(status)
        return events

    def _say(self, kind: _Kind, said: str, logprob_content: Sequence[Json]) -> list[Event]:
        events: list[Event] = []
        item = self._open
        if item is None or item.body["type"] != kind.item:
            events += self._close()
            item = self._open = _Said(len(self._items), kind, carried=self._encrypted)
            self._items.append(item)
            events.append(item.added())
        wanted = kind is _TEXT and self._top_logprobs is not None
        logprobs = [_logprob(entry, self._top_logprobs or 0) for entry in logprob_content] if wanted else []
        return [*events, *item.add(kind, said, logprobs)]

    def _close(self, status: Status = "completed") -> list[Event]:
        closing, self._open = self._open, None
        return closing.close(status) if closing is not None else []


class _Item:
    """What all items have."""

    def __init__(self, place: int, prefix: str, type: str, **fields: Any) -> None:
        """place: among the items. prefix: of its id."""
        self._place = place
        self.body: dict[str, Any] = {"id": _id(prefix), "type": type, "status": "in_progress", **fields}

    def added(self) -> Event:
        return {"type": "response.output_item.added", "output_index": self._place, "item": dict(self.body)}

    def _done(self, status: Status) -> Event:
        self.body["status"] = status
        return {"type": "response.output_item.done", "output_index": self._place, "item": dict(self.body)}

    def _event(self, type: str, **fields: Any) -> Event:
        return {"type": f"response.{type}", "item_id": self.body["id"], "output_index": self._place, **fields}


class _Said(_Item):
    """A message or a reasoning item: parts, one after the other."""

    def __init__(self, place: int, kind: _Kind, *, carried: bool) -> None:
        """carried: reasoning stands in `encrypted_content` too."""
        if kind.item == "message":
            super().__init__(place, "msg", "message", role="assistant", content=[])
        else:
            super().__init__(place, "rs", "reasoning", summary=[], encrypted_content=None)
        self._carried = carried and kind.item == "reasoning"
        self._kind: _Kind | None = None  # of the part under way
        self._pieces: list[str] = []
        self._logprobs: list[Json] = []

    def add(self, kind: _Kind, said: str, logprobs: Sequence[Json]) -> list[Event]:
        events: list[Event] = []
        if self._kind is not kind:
            events += self._end_part()
            self._kind = kind
            events.append(self._of_part(kind, f"{kind.part}.added", part=self._part(kind)))
        if said:
            self._pieces.append(said)
            self._logprobs += logprobs
            more = {"logprobs": logprobs} if kind is _TEXT else {}
            events.append(self._of_part(kind, f"{kind.said}.delta", delta=said, **more))
        return events

    def close(self, status: Status) -> list[Event]:
        return [*self._end_part(), self._done(status)]

    def _end_part(self) -> list[Event]:
        kind = self._kind
        if kind is None:
            return []
        part = self._part(kind)
        said = {name: value for name, value in part.items() if name not in ("type", "annotations")}
        events = [
            self._of_part(kind, f"{kind.said}.done", **said),
            self._of_part(kind, f"{kind.part}.done", part=part),
        ]
        self.body[kind.home] = [*self.body.get(kind.home, ()), part]
        if self._carried:
            self.body["encrypted_content"] = packed(part[kind.field])
        self._kind, self._pieces, self._logprobs = None, [], []
        return events

    def _part(self, kind: _Kind) -> dict[str, Any]:
        """The part under way, as far as it has come."""
        more: dict[str, Any] = {"annotations": [], "logprobs": list(self._logprobs)} if kind is _TEXT else {}
        return {"type": kind.type, kind.field: "".join(self._pieces), **more}

    def _of_part(self, kind: _Kind, type: str, **fields: Any) -> Event:
        return self._event(type, **{f"{kind.home}_index": len(self.body.get(kind.home, ()))}, **fields)


class _Call(_Item):
    """A function the model calls."""

    def __init__(self, place: int, piece: Json) -> None:
        name = _function(piece).get("name") or ""
        super().__init__(place, "fc", "function_call", call_id=piece.get("id") or _id("call"), name=name, arguments="")
        self._arguments: list[str] = []

    def add(self, piece: Json) -> list[Event]:
        arguments = _function(piece).get("arguments") or ""
        self._arguments.append(arguments)
        return [self._event("function_call_arguments.delta", delta=arguments)] if arguments else []

    def close(self, status: Status) -> list[Event]:
        name, arguments = self.body["name"], "".join(self._arguments)
        self.body["arguments"] = arguments
        done = self._event("function_call_arguments.done", arguments=arguments, name=name)
        return [done, self._done(status)]


def _id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"


def _function(piece: Json) -> Json:
    return piece.get("function") or {}


def _logprob(entry: Json, top: int) -> Json:
    """A chat's entry with as many alternatives as the client asked for; engines may leave the bytes out."""
    alternatives: Sequence[Json] = entry.get("top_logprobs") or ()
    return {**_token(entry), "top_logprobs": [_token(other) for other in alternatives[:top]]}


def _token(entry: Json) -> dict[str, Any]:
    return {"token": entry["token"], "logprob": entry["logprob"], "bytes": entry.get("bytes") or []}
