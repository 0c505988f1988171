"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.api.chunks import Chunks, obfuscated
from server.api.endpoint import answered
from server.api.request import ChatRequest, parse
from server.api.response import completion
from server.api.rewriting import answered_by_old_names, by_old_names
from server.api.stream import DONE, comment, data
from server.api.work import Progress, Quiet, Work
from server.errors import ApiError, error_body
from strategies.types import Delta, Outcome

router = APIRouter()


@router.post("/v1/chat/completions")
async def chat_completions(request: Request) -> Response:
    """Decide, run, answer."""
    return await answered(request, Chat.read, prefix="chatcmpl-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """Implements `server.api.endpoint.Shape`."""

    request: ChatRequest
    by_old_names: bool = False  # functions were asked for, not tools

    @classmethod
    def read(cls, body: object) -> Chat:
        """Raises ApiError."""
        return cls(request=parse(body), by_old_names=by_old_names(body))

    def whole(self, work: Work, outcome: Outcome) -> Mapping[str, Any]:
        return self._named(completion(outcome, work.query, work.report(outcome), created=work.created), "message")

    async def events(self, work: Work) -> AsyncGenerator[bytes, None]:
        """`single` is passed on token by token. Strategies with several candidates keep the line alive with comments,
        and show how far they are if asked to, until their answer is chosen, and then send it."""
        chunks = Chunks(work.query, created=work.created, include_usage=self.request.include_usage)
        started = False
        try:
            async with aclosing(work.events()) as happening:
                async for event in happening:
                    match event:
                        case Delta():
                            sent = chunks.passed_on(event)
                        case Progress():
                            sent = chunks.progress(event)
                        case Quiet():
                            started = True
                            yield comment("waiting")
                            continue
                        case Outcome():
                            sent = [] if work.live else chunks.chosen(event)
                            sent += chunks.last(event, work.report(event))
                    if sent:  # at once: every write is a call to the system
                        started = True
                        yield b"".join(data(self._sent(chunk)) for chunk in sent)
        except ApiError as error:
            if not started:
                raise
            yield b"data: " + error_body(error) + b"\n\n"
        yield DONE

    def _sent(self, chunk: dict[str, Any]) -> dict[str, Any]:
        named = self._named(chunk, "delta")
        return obfuscated(named) if self.request.obfuscated else named

    def _named(self, body: dict[str, Any], part: str) -> dict[str, Any]:
        if not self.by_old_names:
            return body
        return {**body, "choices": [answered_by_old_names(choice, part) for choice in body["choices"]]}
