"""The output items of a response, built piece by piece, and the events that tell of each step.

Streamed or not, a response is built here, so that both have the same items. Events lack their sequence number: they are
numbered when they are sent.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, Literal

from strategies.types import Candidate, Delta, Json

Event = dict[str, Any]
Status = Literal["completed", "incomplete"]
Part = Literal["output_text", "refusal"]


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

    def __init__(self, *, top_logprobs: int | None = None, summary: bool = False) -> None:
        """top_logprobs: None leaves logprobs out. summary: the client asked for reasoning as a summary."""
        self._top_logprobs = top_logprobs
        self._summary = summary
        self._items: list[_Reasoning | _Message | _Call] = []
        self._calls: dict[int, _Call] = {}
        self._open: _Reasoning | _Message | None = None

    @property
    def items(self) -> list[Json]:
        return [item.body for item in self._items]

    def add(self, delta: Delta) -> list[Event]:
        events: list[Event] = []
        if delta.reasoning:
            thought = self._open if isinstance(self._open, _Reasoning) else None
            if thought is None:
                thought = _Reasoning(len(self._items), summary=self._summary)
                events += self._begin(thought)
            events += thought.add(delta.reasoning)
        if delta.text or delta.refusal:
            said = self._open if isinstance(self._open, _Message) else None
            if said is None:
                said = _Message(len(self._items), top_logprobs=self._top_logprobs)
                events += self._begin(said)
            if delta.text:
                events += said.add("output_text", delta.text, delta.logprob_content)
            if delta.refusal:
                events += said.add("refusal", delta.refusal)
        for piece in delta.tool_calls:
            number = int(piece.get("index") or 0)
            call = self._calls.get(number)
            if call is None:
                events += self._close()
                call = self._calls[number] = _Call(len(self._items), piece)
                self._items.append(call)
                events += call.start()
            events += call.add(piece)
        return events

    def end(self, status: Status) -> list[Event]:
        """Close what is open. A response that said nothing has an empty message, unless it was cut before that."""
        events: list[Event] = []
        if status == "completed" and all(isinstance(item, _Reasoning) for item in self._items):
            empty = _Message(len(self._items), top_logprobs=self._top_logprobs)
            events += [*self._begin(empty), *empty.add("output_text", "")]
        events += self._close(status)
        for call in self._calls.values():
            events += call.close(status)
        return events

    def _begin(self, item: _Reasoning | _Message) -> list[Event]:
        events = self._close()
        self._open = item
        self._items.append(item)
        return [*events, *item.start()]

    def _close(self, status: Status = "completed") -> list[Event]:
        closing, self._open = self._open, None
        return closing.close(status) if closing is not None else []


def _id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"


def _added(place: int, body: Json) -> Event:
    return {"type": "response.output_item.added", "output_index": place, "item": dict(body)}


def _done(place: int, body: Json) -> Event:
    return {"type": "response.output_item.done", "output_index": place, "item": dict(body)}


class _Message:
    """What the assistant says: a text, or a refusal, or one after the other."""

    def __init__(self, place: int, *, top_logprobs: int | None) -> None:
        self._place = place
        self._top = top_logprobs
        self._part: _Part | None = None
        self.body: dict[str, Any] = {
            "id": _id("msg"),
            "type": "message",
            "role": "assistant",
            "status": "in_progress",
            "content": [],
        }

    def start(self) -> list[Event]:
        return [_added(self._place, self.body)]

    def add(self, kind: Part, text: str, logprob_content: Sequence[Json] = ()) -> list[Event]:
        events: list[Event] = []
        if self._part is None or self._part.kind != kind:
            events += self._end_part()
            self._part = _Part(kind)
            events.append(self._event("content_part.added", part=self._part.body))
        logprobs = [] if self._top is None else [_logprob(entry, self._top) for entry in logprob_content]
        self._part.text.append(text)
        self._part.logprobs += logprobs
        more = {"logprobs": logprobs} if kind == "output_text" else {}
        return [*events, self._event(f"{kind}.delta", delta=text, **more)] if text else events

    def close(self, status: Status) -> list[Event]:
        events = self._end_part()
        self.body["status"] = status
        return [*events, _done(self._place, self.body)]

    def _end_part(self) -> list[Event]:
        if self._part is None:
            return []
        kind, body = self._part.kind, self._part.body
        said = {name: body[name] for name in (("text", "logprobs") if kind == "output_text" else ("refusal",))}
        events = [self._event(f"{kind}.done", **said), self._event("content_part.done", part=body)]
        self.body["content"] = [*self.body["content"], body]
        self._part = None
        return events

    def _event(self, kind: str, **fields: Any) -> Event:
        at = {"item_id": self.body["id"], "output_index": self._place, "content_index": len(self.body["content"])}
        return {"type": f"response.{kind}", **at, **fields}


class _Part:
    """A part of a message."""

    def __init__(self, kind: Part) -> None:
        self.kind: Part = kind
        self.text: list[str] = []
        self.logprobs: list[Json] = []

    @property
    def body(self) -> dict[str, Any]:
        text = "".join(self.text)
        if self.kind == "refusal":
            return {"type": "refusal", "refusal": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(self.logprobs)}


class _Reasoning:
    """What the model thought: as content, or as the summary when the client asked for one."""

    def __init__(self, place: int, *, summary: bool) -> None:
        self._place = place
        self._summary = summary
        self._text: list[str] = []
        self.body: dict[str, Any] = {
            "id": _id("rs"),
            "type": "reasoning",
            "status": "in_progress",
            "summary": [],
            "encrypted_content": None,
        }

    def start(self) -> list[Event]:
        kind = "reasoning_summary_part.added" if self._summary else "content_part.added"
        return [_added(self._place, self.body), self._event(kind, part=self._part())]

    def add(self, text: str) -> list[Event]:
        self._text.append(text)
        return [self._event("reasoning_summary_text.delta" if self._summary else "reasoning_text.delta", delta=text)]

    def close(self, status: Status) -> list[Event]:
        part = self._part()
        self.body |= {"status": status, "summary" if self._summary else "content": [part]}
        text_done, part_done = (
            ("reasoning_summary_text.done", "reasoning_summary_part.done")
            if self._summary
            else ("reasoning_text.done", "content_part.done")
        )
        return [
            self._event(text_done, text=part["text"]),
            self._event(part_done, part=part),
            _done(self._place, self.body),
        ]

    def _part(self) -> dict[str, Any]:
        return {"type": "summary_text" if self._summary else "reasoning_text", "text": "".join(self._text)}

    def _event(self, kind: str, **fields: Any) -> Event:
        index = "summary_index" if self._summary else "content_index"
        at = {"item_id": self.body["id"], "output_index": self._place, index: 0}
        return {"type": f"response.{kind}", **at, **fields}


class _Call:
    """A function the model calls."""

    def __init__(self, place: int, piece: Json) -> None:
        self._place = place
        self._arguments: list[str] = []
        self.body: dict[str, Any] = {
            "id": _id("fc"),
            "type": "function_call",
            "status": "in_progress",
            "call_id": piece.get("id") or _id("call"),
            "name": _function(piece).get("name") or "",
            "arguments": "",
        }

    def start(self) -> list[Event]:
        return [_added(self._place, self.body)]

    def add(self, piece: Json) -> list[Event]:
        arguments = _function(piece).get("arguments") or ""
        self._arguments.append(arguments)
        return [self._event("delta", delta=arguments)] if arguments else []

    def close(self, status: Status) -> list[Event]:
        self.body |= {"status": status, "arguments": "".join(self._arguments)}
        done = self._event("done", arguments=self.body["arguments"], name=self.body["name"])
        return [done, _done(self._place, self.body)]

    def _event(self, kind: str, **fields: Any) -> Event:
        at = {"item_id": self.body["id"], "output_index": self._place}
        return {"type": f"response.function_call_arguments.{kind}", **at, **fields}


def _function(piece: Json) -> Json:
    return piece.get("function") or {}


def _logprob(entry: Json, top: int) -> Json:
    """A chat's entry with as many alternatives as the client asked for; engines may leave the bytes out."""
    alternatives: Sequence[Json] = entry.get("top_logprobs") or ()
    return {**_token(entry), "top_logprobs": [_token(other) for other in alternatives[:top]]}


def _token(entry: Json) -> dict[str, Any]:
    return {"token": entry["token"], "logprob": entry["logprob"], "bytes": entry.get("bytes") or []}
