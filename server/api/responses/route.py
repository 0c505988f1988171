"""POST /v1/responses."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.api.chunks import obfuscated
from server.api.endpoint import answered
from server.api.request import ChatRequest
from server.api.responses.output import Event, Output, delta_of
from server.api.responses.request import ResponsesRequest, as_chat, read
from server.api.responses.response import begun, ended, failed, status
from server.api.stream import comment, data
from server.api.work import Event as Happening
from server.api.work import Progress, Quiet, Work
from server.errors import ApiError, error_body
from strategies.types import Delta, Json, Outcome

router = APIRouter()


@router.post("/v1/responses")
async def responses(request: Request) -> Response:
    """Decide, run, answer."""
    return await answered(request, _shape, prefix="resp_")


def _shape(body: object) -> Responses:
    asked = read(body)
    return Responses(asked=asked, request=as_chat(asked))


@dataclass(frozen=True, slots=True, kw_only=True)
class Responses:
    """Implements `server.api.endpoint.Shape`."""

    asked: ResponsesRequest
    request: ChatRequest  # the same as a chat

    def whole(self, work: Work, outcome: Outcome) -> Mapping[str, Any]:
        output = self._output()
        _say(output, outcome)
        output.end(status(outcome))
        return ended(begun(self.asked, work), work, outcome, output.items, now=int(time.time()))

    async def events(self, work: Work) -> AsyncGenerator[bytes, None]:
        """`single` is passed on as it comes; what is chosen among several candidates comes when it has been chosen."""
        response, output, sent = begun(self.asked, work), self._output(), _Written(obfuscated=self.asked.obfuscated)
        start: list[Event] = [{"type": f"response.{kind}", "response": response} for kind in ("created", "in_progress")]
        try:
            async with aclosing(work.events()) as happening:
                async for event in happening:
                    written = sent.all([*start, *self._told(event, work, response, output)])
                    if isinstance(event, Quiet):
                        written += comment("waiting")
                    if written:
                        start = []
                        yield written
        except ApiError as error:
            if start:
                raise
            yield sent.all([_error(error), {"type": "response.failed", "response": failed(response, error)}])

    def _told(self, event: Happening, work: Work, response: Json, output: Output) -> list[Event]:
        match event:
            case Delta():
                return output.add(event)
            case Progress():
                return output.add(Delta(index=0, reasoning=f"{event}\n"))
            case Quiet():
                return []
            case Outcome():
                said = [] if work.live else _say(output, event)
                said += output.end(status(event))
                last = ended(response, work, event, output.items, now=int(time.time()))
                return [*said, {"type": f"response.{last['status']}", "response": last}]

    def _output(self) -> Output:
        asked = self.asked
        return Output(top_logprobs=asked.logprobs, summary=asked.summary is not None, encrypted=asked.encrypted)


def _say(output: Output, outcome: Outcome) -> list[Event]:
    winners = outcome.answer.winners if outcome.answer is not None else ()
    return output.add(delta_of(winners[0])) if winners else []


def _error(error: ApiError) -> Event:
    """As the reference documents it, and as OpenAI sends it, which is what the SDKs raise: with an object `error`."""
    inner: dict[str, Any] = orjson.loads(error_body(error))["error"]
    return {**inner, "type": "error", "error": inner}


class _Written:
    """Writes events, each with its name and its number in the stream."""

    def __init__(self, *, obfuscated: bool) -> None:
        self._number = 0
        self._obfuscated = obfuscated

    def all(self, events: Iterable[Event]) -> bytes:
        written: list[bytes] = []
        for event in events:
            numbered = {**event, "sequence_number": self._number}
            if self._obfuscated and event["type"].endswith(".delta"):
                numbered = obfuscated(numbered)
            written.append(b"event: " + event["type"].encode() + b"\n" + data(numbered))
            self._number += 1
        return b"".join(written)
