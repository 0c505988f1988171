"""What an OpenAI-compatible engine sends: server-sent events, their pieces, and errors in whatever form it has."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any, cast

import aiohttp
import httpx
import orjson

from strategies.confidence import FLOOR, token_confidence
from strategies.types import Delta, EngineError, LogprobSummary

_MAX_EVENT_BYTES = 4 * 1024 * 1024  # one server-sent event; a longer one is a broken engine
_MAX_ERROR_BYTES = 64 * 1024
# httpx's own, and what its aiohttp transport leaves as it is: a server that does not speak HTTP
BROKEN = (httpx.HTTPError, aiohttp.ClientError)


async def events(
    response: httpx.Response, *, first_token_timeout: float, idle_timeout: float
) -> AsyncGenerator[dict[str, Any], None]:
    """Parsed `data:` events up to [DONE]. Own code because the SSE libraries buffer a line without bound."""
    buffer = b""
    chunks = response.aiter_raw()
    patience = first_token_timeout
    while True:
        try:
            async with asyncio.timeout(patience):
                chunk = await anext(chunks, None)
        except TimeoutError as error:
            raise EngineError(f"the engine sent nothing for {patience:g} s", status=504) from error
        patience = idle_timeout
        if chunk is None:
            raise EngineError("the engine closed the stream before its end", status=502)
        *lines, buffer = (buffer + chunk).split(b"\n")
        if len(buffer) > _MAX_EVENT_BYTES:
            raise EngineError("the engine sent an event past any sensible size", status=502)
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                await _drain(chunks)
                return
            try:
                event = orjson.loads(data)
            except orjson.JSONDecodeError as error:
                raise EngineError("the engine sent an event that is not JSON", status=502) from error
            if isinstance(event, dict):
                yield cast("dict[str, Any]", event)


async def _drain(chunks: AsyncIterator[bytes]) -> None:
    """Read the stream's end, so that its connection can be used again. It comes at once or is not worth waiting for."""
    with contextlib.suppress(TimeoutError, *BROKEN):
        async with asyncio.timeout(0.1):
            async for _ in chunks:
                pass


def parsed(event: Mapping[str, Any], counted: dict[int, int]) -> tuple[list[Delta], int | None, int | None]:
    """An event's deltas, and its usage: prompt and completion tokens.

    Raises AttributeError, KeyError, TypeError or ValueError for a shape that is not OpenAI's.
    """
    usage = cast("dict[str, Any]", event.get("usage") or {})
    prompt_tokens, completion_tokens = _whole(usage.get("prompt_tokens")), _whole(usage.get("completion_tokens"))
    stop_word = cast("dict[str, Any]", event.get("__verbose") or {}).get("stopping_word")
    choices = cast("list[dict[str, Any]]", event.get("choices") or [])
    deltas = [_delta(choice, counted, completion_tokens, stop_word or None) for choice in choices]
    return deltas, prompt_tokens, completion_tokens


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)


def _text(value: Any) -> str:
    if value is not None and not isinstance(value, str):
        raise TypeError("text expected")
    return value or ""


def _tool_calls(value: Any) -> list[dict[str, Any]]:
    calls = cast("list[dict[str, Any]]", value or [])
    for call in calls:
        _whole(call.get("index"))
        function = cast("dict[str, Any]", call.get("function") or {})
        _text(function.get("name"))
        _text(function.get("arguments"))
    return calls


def _delta(
    choice: Mapping[str, Any], counted: dict[int, int], running_total: int | None, stop_word: str | None
) -> Delta:
    """One chunk's choice. Tokens by the engine's running count, else by logprob entries, else one a piece."""
    index = int(choice.get("index") or 0)
    piece = cast("dict[str, Any]", choice.get("delta") or {})
    content = cast("list[dict[str, Any]]", cast("dict[str, Any]", choice.get("logprobs") or {}).get("content") or [])
    text = _text(piece.get("content"))
    name = "reasoning" if piece.get("reasoning") else "reasoning_content"
    reasoning, refusal = _text(piece.get(name)), _text(piece.get("refusal"))
    tool_calls = _tool_calls(piece.get("tool_calls"))
    before = counted.get(index, 0)
    if running_total is not None:
        tokens = max(0, running_total - before)
    else:
        tokens = len(content) or (1 if text or reasoning or refusal or tool_calls else 0)
    counted[index] = before + tokens
    return Delta(
        index=index,
        text=text,
        reasoning=reasoning,
        reasoning_name=name if reasoning else "reasoning",
        refusal=refusal,
        tool_calls=tool_calls,
        tokens=tokens,
        logprobs=summarise(content) if content else None,
        logprob_content=content,
        finish_reason=_text(choice.get("finish_reason")) or None,
        stop_reason=choice.get("stop_reason") or stop_word,
    )


def summarise(content: Sequence[Mapping[str, Any]]) -> LogprobSummary:
    """Sums over OpenAI's logprobs.content entries."""
    total = certainty = 0.0
    certain = 0
    for entry in content:
        total += max(float(entry["logprob"]), FLOOR)
        confidence = token_confidence(entry)
        if confidence is not None:
            certain += 1
            certainty += confidence
    return LogprobSummary(tokens=len(content), total=total, certainty=certainty, certain_tokens=certain)


async def refusal(response: httpx.Response) -> EngineError:
    """The engine's error, with its own words and status where it gave them in a readable form."""
    raw = b""
    try:
        async for chunk in response.aiter_raw():
            raw += chunk
            if len(raw) > _MAX_ERROR_BYTES:
                break
    except BROKEN:
        raw = b""
    body: dict[str, Any] | None = None
    message = f"the engine answered {response.status_code}"
    try:
        parsed = orjson.loads(raw)
    except orjson.JSONDecodeError:
        parsed = None
    if isinstance(parsed, dict):
        inner = cast("dict[str, Any]", parsed).get("error", cast("dict[str, Any]", parsed))
        if isinstance(inner, dict):
            body = cast("dict[str, Any]", inner)
            message = str(body.get("message") or message)
        elif isinstance(inner, str):
            message = inner
    return EngineError(message, status=response.status_code, body=body, retry_after=response.headers.get("retry-after"))


def error_event(event: Mapping[str, Any]) -> EngineError:
    inner = event["error"]
    details = cast("dict[str, Any]", inner) if isinstance(inner, dict) else {"message": str(inner)}
    code = details.get("code")
    status = code if isinstance(code, int) and 400 <= code < 600 else 502
    return EngineError(str(details.get("message") or "the engine failed"), status=status, body=details)
