"""The client of an OpenAI-compatible inference server (vLLM, llama.cpp, others).

Every generation is streamed, whatever the client asked for: tokens are counted as they come, and closing the stream
stops the work on the engine at once, on every engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import aiohttp
import httpx
import orjson
import stamina
from httpx_aiohttp import AiohttpTransport

from server.backends.profile import OTHER, EngineProfile, probe
from strategies.scorers.self_certainty import CERTAINTY_TOP
from strategies.types import Delta, EngineError, LogprobSummary, Query

_MAX_EVENT_BYTES = 4 * 1024 * 1024  # one server-sent event; a longer one is a broken engine
_MAX_ERROR_BYTES = 64 * 1024
_RETRYABLE = frozenset({429, 502, 503, 504})
# httpx's own, and what its aiohttp transport leaves as it is: a server that does not speak HTTP
_BROKEN = (httpx.HTTPError, aiohttp.ClientError)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallStats:
    """One call to the engine, as it went: what the speed model learns from."""

    prompt_tokens: int
    added: int  # sequences of this call
    running: int  # sequences of this gateway already in work when it started
    first_token_seconds: float | None
    seconds: float
    tokens: int
    longest: int  # tokens of its longest sequence
    held_seconds: float  # of `seconds`: spent waiting for whoever reads the pieces
    continued: bool  # it went on with a text, whose beginning the engine may have in its cache
    completed: bool  # ended by itself, not cancelled and not failed
    status: str  # "ok", "cancelled", "error"


class _Retry(Exception):
    def __init__(self, error: EngineError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Where the engine is and how long to wait for it. Durations in seconds."""

    url: str
    api_key: str | None = None
    max_n: int | None = None
    connect_timeout: float = 5.0
    first_token_timeout: float = 60.0
    idle_timeout: float = 30.0
    max_connections: int = 256
    retries: int = 2


class OpenAIEngine:
    """One pooled client for the process. Create it inside the running event loop, close it with `aclose`."""

    def __init__(
        self,
        settings: EngineSettings,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        observe: Callable[[CallStats], None] = lambda stats: None,
    ) -> None:
        self._settings = settings
        self._observe = observe
        self.profile: EngineProfile = OTHER
        self.running = 0  # sequences this gateway has in work on the engine
        headers = {"accept-encoding": "identity"}
        if settings.api_key:
            headers["authorization"] = f"Bearer {settings.api_key}"
        limits = httpx.Limits(max_connections=settings.max_connections, max_keepalive_connections=64)
        self._client = httpx.AsyncClient(
            base_url=settings.url.rstrip("/").removesuffix("/v1"),
            headers=headers,
            transport=transport or AiohttpTransport(limits=limits, trust_env=False),
            # the longer of the two, so that it never comes before the one that is meant
            timeout=httpx.Timeout(
                max(settings.first_token_timeout, settings.idle_timeout), connect=settings.connect_timeout
            ),
            trust_env=False,
            follow_redirects=False,
        )

    @property
    def max_n(self) -> int:
        return self._settings.max_n or self.profile.max_n

    @property
    def context(self) -> int | None:
        return self.profile.context

    async def probe(self) -> EngineProfile:
        """Find out what the engine can do. Raises EngineError when it does not answer."""
        try:
            self.profile = await probe(self._client)
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            raise EngineError(f"the engine answered {status} to {error.request.url.path}", status=503) from error
        except ValueError as error:
            raise EngineError("what answers is not an OpenAI-compatible engine", status=503) from error
        except _BROKEN as error:
            raise EngineError(f"the engine does not answer: {type(error).__name__}", status=503) from error
        return self.profile

    async def get(self, path: str, *, timeout_seconds: float = 5.0) -> httpx.Response:
        """A small read from the engine, e.g. /health or /metrics. Raises EngineError."""
        try:
            return await self._client.get(path, timeout=timeout_seconds)
        except _BROKEN as error:
            raise EngineError(f"the engine does not answer: {type(error).__name__}", status=503) from error

    async def aclose(self) -> None:
        await self._client.aclose()

    async def sample(
        self,
        query: Query,
        *,
        n: int,
        max_tokens: int,
        prefix: str = "",
        stop: Sequence[str] = (),
        top_logprobs: int | None = None,
        seed_offset: int = 0,
    ) -> AsyncGenerator[Delta, None]:
        body = self._body(
            query,
            n=n,
            max_tokens=max_tokens,
            prefix=prefix,
            stop=stop,
            top_logprobs=top_logprobs,
            seed_offset=seed_offset,
        )
        meter = _Meter(added=n, running=self.running, continued=bool(prefix))
        self.running += n
        try:
            response = await self._open(body, query.id)
            try:
                async for delta in self._read(response, n):
                    meter.see(delta)
                    with meter.held():
                        yield delta
                meter.status = "ok"
            finally:
                await response.aclose()
        except EngineError:
            meter.status = "error"
            raise
        except httpx.ReadTimeout as error:
            meter.status = "error"
            raise EngineError("the engine stopped in the middle of its answer", status=504) from error
        except _BROKEN as error:
            meter.status = "error"
            raise EngineError(f"the engine broke off its answer: {type(error).__name__}", status=502) from error
        finally:
            self.running -= n
            self._observe(meter.stats())

    def _body(
        self,
        query: Query,
        *,
        n: int,
        max_tokens: int,
        prefix: str,
        stop: Sequence[str],
        top_logprobs: int | None,
        seed_offset: int,
    ) -> dict[str, Any]:
        profile = self.profile
        body: dict[str, Any] = {
            **query.sampling,
            "model": query.model,
            "messages": list(query.messages),
            "stream": True,
            "stream_options": dict(profile.stream_options),
            "max_tokens": max_tokens,
        }
        if n > 1:
            body["n"] = n
        if query.tools:
            body["tools"] = list(query.tools)
        if (seed := body.get("seed")) is not None:
            body["seed"] = int(seed) + seed_offset
        if top_logprobs is not None:
            body |= {"logprobs": True, "top_logprobs": max(top_logprobs, 1)}
        if stop:
            asked = cast("str | list[str]", body.get("stop") or [])
            body["stop"] = [*([asked] if isinstance(asked, str) else asked), *stop]
            body |= profile.tell_stop
        if prefix:
            body["messages"].append({"role": "assistant", "content": prefix})
            body |= profile.continuation
        return body

    async def _open(self, body: Mapping[str, Any], request_id: str) -> httpx.Response:
        """Send the request and wait for its head. Tries again only while nothing has been generated."""
        try:
            content = orjson.dumps(body)
        except orjson.JSONEncodeError as error:  # it was JSON when it came, but nested deeper than can be written
            raise EngineError("the request is nested too deeply", status=400) from error
        headers = {"content-type": "application/json", "x-request-id": request_id, **self.profile.headers}
        try:
            async for attempt in stamina.retry_context(
                on=_Retry, attempts=self._settings.retries + 1, wait_initial=0.1, wait_max=2.0, timeout=None
            ):
                with attempt:
                    return await self._try(content, headers)
        except _Retry as retry:
            raise retry.error from retry
        raise EngineError("the engine could not be asked", status=503)

    async def _try(self, content: bytes, headers: Mapping[str, str]) -> httpx.Response:
        request = self._client.build_request("POST", "/v1/chat/completions", content=content, headers=headers)
        try:
            async with asyncio.timeout(self._settings.first_token_timeout):
                response = await self._client.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            if _was_connected(error):
                raise _broke_off(error) from error
            # nothing reached the engine, so asking again can't repeat any work
            raise _Retry(EngineError(f"the engine can't be reached: {type(error).__name__}", status=503)) from error
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as error:
            raise _broke_off(error) from error
        except (httpx.TimeoutException, TimeoutError) as error:
            raise EngineError("the engine did not begin to answer in time", status=504) from error
        except aiohttp.ClientError as error:
            raise EngineError(f"the engine's answer is not HTTP: {type(error).__name__}", status=502) from error
        if response.status_code == 200:
            return response
        try:
            error = await _refusal(response)
        finally:
            await response.aclose()
        if response.status_code in _RETRYABLE:
            raise _Retry(error)
        raise error

    async def _read(self, response: httpx.Response, n: int) -> AsyncIterator[Delta]:
        """Deltas of all choices. A choice's last delta waits for the usage chunk that follows it, where one does."""
        own_usage = self.profile.usage_per_choice or n == 1
        pending: Delta | None = None
        counted: dict[int, int] = {}
        prompt_seen = False
        try:
            async for event in _events(response, self._settings):
                if event.get("error"):
                    raise _error_event(event)
                try:
                    deltas, prompt_tokens, completion_tokens = _parsed(event, counted)
                except (AttributeError, KeyError, TypeError, ValueError) as error:
                    raise EngineError("the engine sent an event of an unknown shape", status=502) from error
                if pending is not None:
                    if not deltas:
                        pending = replace(pending, total_tokens=completion_tokens)
                    yield pending
                    pending = None
                if prompt_tokens and not prompt_seen:
                    prompt_seen = True
                    yield Delta(index=-1, prompt_tokens=prompt_tokens)
                for delta in deltas:
                    if delta.finish_reason is None or not own_usage:
                        yield delta
                    else:
                        if pending is not None:
                            yield pending
                        pending = delta
        except (EngineError, *_BROKEN):
            if pending is not None:  # it had come to its end, only its usage is missing
                yield pending
            raise
        if pending is not None:
            yield pending


def _was_connected(error: httpx.HTTPError) -> bool:
    """The aiohttp transport calls a connection that was lost a ConnectTimeout too; its cause tells."""
    cause = error.__cause__
    lost = isinstance(cause, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)
    return lost and not isinstance(cause, aiohttp.ClientConnectorError)


def _broke_off(error: httpx.HTTPError) -> _Retry:
    """Typically a kept-alive connection that the engine had just closed; what it had begun for us ended with it."""
    cause = error.__cause__ or error
    return _Retry(EngineError(f"the engine broke off: {type(cause).__name__}", status=502))


class _Meter:
    def __init__(self, *, added: int, running: int, continued: bool) -> None:
        self.added, self.running, self.continued = added, running, continued
        self.started = time.monotonic()
        self.held_seconds = 0.0
        self.first: float | None = None
        self.prompt_tokens = 0
        self.counts: dict[int, int] = {}
        self.status = "cancelled"

    @contextlib.contextmanager
    def held(self) -> Generator[None]:
        before = time.monotonic()
        try:
            yield
        finally:
            self.held_seconds += time.monotonic() - before

    def see(self, delta: Delta) -> None:
        if delta.prompt_tokens is not None:
            self.prompt_tokens = delta.prompt_tokens
        if delta.index < 0:
            return
        if self.first is None and delta.tokens:
            self.first = time.monotonic()
        self.counts[delta.index] = delta.total_tokens or self.counts.get(delta.index, 0) + delta.tokens

    def stats(self) -> CallStats:
        return CallStats(
            prompt_tokens=self.prompt_tokens,
            added=self.added,
            running=self.running,
            first_token_seconds=None if self.first is None else self.first - self.started,
            seconds=time.monotonic() - self.started,
            tokens=sum(self.counts.values()),
            longest=max(self.counts.values(), default=0),
            held_seconds=self.held_seconds,
            continued=self.continued,
            completed=self.status == "ok",
            status=self.status,
        )


async def _events(response: httpx.Response, settings: EngineSettings) -> AsyncIterator[dict[str, Any]]:
    """Parsed `data:` events up to [DONE]. Own code because the SSE libraries buffer a line without bound."""
    buffer = b""
    chunks = response.aiter_raw()
    patience = settings.first_token_timeout
    while True:
        try:
            async with asyncio.timeout(patience):
                chunk = await anext(chunks, None)
        except TimeoutError as error:
            raise EngineError(f"the engine sent nothing for {patience:g} s", status=504) from error
        patience = settings.idle_timeout
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
    with contextlib.suppress(TimeoutError, *_BROKEN):
        async with asyncio.timeout(0.1):
            async for _ in chunks:
                pass


def _parsed(event: Mapping[str, Any], counted: dict[int, int]) -> tuple[list[Delta], int | None, int | None]:
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
    reasoning = _text(piece.get("reasoning")) or _text(piece.get("reasoning_content"))
    tool_calls = _tool_calls(piece.get("tool_calls"))
    before = counted.get(index, 0)
    if running_total is not None:
        tokens = max(0, running_total - before)
    else:
        tokens = len(content) or (1 if text or reasoning or tool_calls else 0)
    counted[index] = before + tokens
    return Delta(
        index=index,
        text=text,
        reasoning=reasoning,
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
        total += max(float(entry["logprob"]), -100.0)  # engines write -9999 or -inf for "impossible"
        # clients may have asked for more than the scorer
        top = cast("list[dict[str, Any]]", entry.get("top_logprobs") or [])[:CERTAINTY_TOP]
        if top:
            certain += 1
            certainty -= sum(max(float(t["logprob"]), -100.0) for t in top) / len(top)
    return LogprobSummary(tokens=len(content), total=total, certainty=certainty, certain_tokens=certain)


async def _refusal(response: httpx.Response) -> EngineError:
    """The engine's error, with its own words and status where it gave them in a readable form."""
    raw = b""
    try:
        async for chunk in response.aiter_raw():
            raw += chunk
            if len(raw) > _MAX_ERROR_BYTES:
                break
    except _BROKEN:
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


def _error_event(event: Mapping[str, Any]) -> EngineError:
    inner = event["error"]
    details = cast("dict[str, Any]", inner) if isinstance(inner, dict) else {"message": str(inner)}
    code = details.get("code")
    status = code if isinstance(code, int) and 400 <= code < 600 else 502
    return EngineError(str(details.get("message") or "the engine failed"), status=status, body=details)
