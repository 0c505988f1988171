"""The client of an OpenAI-compatible inference server (vLLM, llama.cpp, others).

Every generation is streamed, whatever the client asked for: tokens are counted as they come, and closing the stream
stops the work on the engine at once, on every engine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Literal, cast

import aiohttp
import httpx
import orjson
import stamina

from server.backends.calls import CallStats, Meter
from server.backends.inquiry import identified
from server.backends.load import EngineLoad
from server.backends.profile import OTHER, EngineProfile
from server.backends.transport import pooled, was_connected
from server.backends.trials import Trier, tried
from server.backends.wire import BROKEN, error_event, events, parsed, refusal
from strategies.types import Delta, EngineError, Json, Query

_METRICS_PATIENCE = 2.0  # seconds for the engine's load, which is of no use later
_LARGE = 256 * 1024  # bytes of a request's body that are sent at once
_RETRYABLE = frozenset({429, 502, 503, 504})


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
    model: str | None = None  # that the probe's calls ask for; None: the first that it lists
    capabilities: Mapping[str, bool | int] = field(default_factory=dict[str, bool | int])  # what the operator says
    probe_calls: Literal["auto", "always", "never"] = "auto"
    probe_timeout: float = 10.0  # for all that is found out beyond who it is
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
        self._configured = {**settings.capabilities, **({"max_n": settings.max_n} if settings.max_n else {})}
        self.profile: EngineProfile = OTHER.learned("configured", self._configured)
        self._identity: EngineProfile | None = None  # what it said of itself when all that is known was found out
        self.lost = asyncio.Event()  # it was away, so that another may be in its place: see `probe`
        self.running = 0  # sequences this gateway has in work on the engine
        self.load = EngineLoad(self._metrics_page, lambda: self.running, lambda: self.profile.signals.load)
        headers = {"accept-encoding": "identity"}
        if settings.api_key:
            headers["authorization"] = f"Bearer {settings.api_key}"
        self._client = httpx.AsyncClient(
            base_url=settings.url.rstrip("/").removesuffix("/v1"),
            headers=headers,
            transport=transport or pooled(settings.max_connections),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # one client's must not go out with another's
            # the longer of the two, so that it never comes before the one that is meant
            timeout=httpx.Timeout(
                max(settings.first_token_timeout, settings.idle_timeout), connect=settings.connect_timeout
            ),
            trust_env=False,
            follow_redirects=False,
        )

    @property
    def max_n(self) -> int:
        return self.profile.max_n

    @property
    def context(self) -> int | None:
        return self.profile.context

    @property
    def logprobs(self) -> bool:
        return self.profile.logprobs

    @property
    def logprobs_with_tools(self) -> bool:
        return self.profile.logprobs_with_tools

    async def probe(self) -> EngineProfile:
        """Find out what the engine can do: what it says, and what small calls show, unless it is the one it was.

        Raises EngineError when it does not answer.
        """
        self.lost.clear()
        settings = self._settings
        ends = time.monotonic() + settings.probe_timeout
        try:
            told = await identified(self._client, seconds=settings.probe_timeout / 2)
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            raise EngineError(f"the engine answered {status} to {error.request.url.path}", status=503) from error
        except ValueError as error:
            raise EngineError("what answers is not an OpenAI-compatible engine", status=503) from error
        except BROKEN as error:
            raise EngineError(f"the engine does not answer: {type(error).__name__}", status=503) from error
        if self._identity is not None and told.same_engine(self._identity):
            return self.profile
        profile, complete = told.learned("configured", self._configured), True
        model = settings.model or next(iter(told.models), None)
        if model is not None and (settings.probe_calls == "always" or (settings.probe_calls == "auto" and told.own)):
            left = max(0.0, ends - time.monotonic())
            trier = Trier(client=self._client, profile=profile, model=model, seconds=left)
            profile, complete = await tried(trier, seconds=left)
        self.profile = profile
        self._identity = told if complete else None
        return profile

    async def get(self, path: str, *, timeout_seconds: float = 5.0) -> httpx.Response:
        """A small read from the engine, e.g. /health or /metrics. Raises EngineError."""
        try:
            response = await self._client.get(path, timeout=timeout_seconds)
        except BROKEN as error:
            self.lost.set()
            raise EngineError(f"the engine does not answer: {type(error).__name__}", status=503) from error
        if response.status_code >= 500:
            self.lost.set()
        return response

    async def _metrics_page(self) -> str:
        response = await self.get("/metrics", timeout_seconds=_METRICS_PATIENCE)
        return response.text if response.status_code == 200 else ""

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
        meter = Meter(added=n, running=self.running, others=self.load.others, continued=bool(prefix))
        spoke = scored = False
        self.running += n
        try:
            response = await self._open(body, query.id)
            try:
                async for delta in self._read(response, n):
                    meter.see(delta)
                    spoke = spoke or bool(delta.text or delta.reasoning)
                    scored = scored or delta.logprobs is not None
                    with meter.held():
                        yield delta
                meter.status = "ok"
                if top_logprobs is not None and spoke:  # nothing said, nothing to score
                    self.profile = self.profile.learned("seen", {"logprobs": scored})
            finally:
                await response.aclose()
        except EngineError:
            meter.status = "error"
            raise
        except httpx.ReadTimeout as error:
            meter.status = "error"
            raise EngineError("the engine stopped in the middle of its answer", status=504) from error
        except BROKEN as error:
            meter.status = "error"
            self.lost.set()
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
        if query.priority and profile.priority:
            body["priority"] = query.priority
        if query.tools:
            body["tools"] = list(query.tools)
        if (seed := body.get("seed")) is not None:
            body["seed"] = int(seed) + seed_offset
        if top_logprobs is not None:
            body |= {"logprobs": True, "top_logprobs": max(top_logprobs, 1)}
        if stop:
            asked = cast("str | list[str]", body.get("stop") or [])
            asked = [asked] if isinstance(asked, str) else asked
            room = len(stop) if profile.max_stops is None else max(0, profile.max_stops - len(asked))
            body["stop"] = [*asked, *stop[:room]]
            body |= profile.tell_stop
        if prefix:
            body["messages"] = _continued(query, prefix, profile)
            body |= profile.continued_by
        return body

    async def _open(self, body: Mapping[str, Any], request_id: str) -> httpx.Response:
        """Send the request and wait for its head. Tries again only while nothing has been generated."""
        try:
            content = orjson.dumps(body)
        except orjson.JSONEncodeError as error:  # it was JSON when it came, but nested deeper than can be written
            raise EngineError("the request is nested too deeply", status=400) from error
        headers = {"content-type": "application/json", "x-request-id": request_id, **self.profile.headers}
        seconds = self._settings.first_token_timeout

        async def ask() -> httpx.Response:
            request = self._request("POST", "/v1/chat/completions", content, headers)
            response = await self._send(request, seconds)
            if response.status_code == 200:
                return response
            try:
                error = await refusal(response)
            finally:
                await response.aclose()
            raise _Retry(error) if response.status_code in _RETRYABLE else error

        return await self._persistently(ask, self._settings.retries + 1)

    async def relay(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str],
        content: bytes | AsyncIterable[bytes] | None,
        seconds: float,
        again: bool,
    ) -> httpx.Response:
        """Send any request and wait for the head of its response, whatever its status; the caller closes it.

        target: path and query. seconds: until the head, and between two pieces of the body. again: whether to try again
        when the connection failed. Raises EngineError.
        """
        patience = httpx.Timeout(seconds, connect=self._settings.connect_timeout)

        async def ask() -> httpx.Response:
            request = self._request(method, target, content, {**headers, **self.profile.headers}, timeout=patience)
            return await self._send(request, seconds)

        return await self._persistently(ask, self._settings.retries + 1 if again else 1)

    def _request(
        self,
        method: str,
        target: str,
        content: bytes | AsyncIterable[bytes] | None,
        headers: Mapping[str, str],
        **options: Any,
    ) -> httpx.Request:
        if isinstance(content, bytes) and len(content) > _LARGE:
            # images: in one piece they would hold up the event loop, and aiohttp warns
            headers = {**headers, "content-length": str(len(content))}
            content = _pieces(content)
        return self._client.build_request(method, target, content=content, headers=headers, **options)

    async def _persistently(self, ask: Callable[[], Awaitable[httpx.Response]], attempts: int) -> httpx.Response:
        try:
            async for attempt in stamina.retry_context(
                on=_Retry, attempts=attempts, wait_initial=0.1, wait_max=2.0, wait_jitter=0.2, timeout=None
            ):
                with attempt:
                    return await ask()
        except _Retry as retry:
            raise retry.error from retry
        raise EngineError("the engine could not be asked", status=503)

    async def _send(self, request: httpx.Request, seconds: float) -> httpx.Response:
        """The head of the response, within so many seconds. Raises EngineError, _Retry."""
        try:
            async with asyncio.timeout(seconds):
                return await self._client.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            self.lost.set()
            if was_connected(error):
                raise _broke_off(error) from error
            # nothing reached the engine, so asking again can't repeat any work
            raise _Retry(EngineError(f"the engine can't be reached: {type(error).__name__}", status=503)) from error
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as error:
            self.lost.set()
            raise _broke_off(error) from error
        except (httpx.TimeoutException, TimeoutError) as error:
            raise EngineError("the engine did not begin to answer in time", status=504) from error
        except aiohttp.ClientError as error:
            raise EngineError(f"the engine's answer is not HTTP: {type(error).__name__}", status=502) from error

    async def _read(self, response: httpx.Response, n: int) -> AsyncIterator[Delta]:
        """Deltas of all choices. A choice's last delta waits for the usage chunk that follows it, where one does."""
        own_usage = self.profile.usage_per_choice or n == 1
        pending: Delta | None = None
        counted: dict[int, int] = {}
        prompt_seen = False
        try:
            async for event in events(
                response,
                first_token_timeout=self._settings.first_token_timeout,
                idle_timeout=self._settings.idle_timeout,
            ):
                if event.get("error"):
                    raise error_event(event)
                try:
                    deltas, prompt_tokens, completion_tokens = parsed(event, counted)
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
        except (EngineError, *BROKEN):
            if pending is not None:  # it had come to its end, only its usage is missing
                yield pending
            raise
        if pending is not None:
            yield pending


async def _pieces(content: bytes) -> AsyncGenerator[bytes, None]:
    for at in range(0, len(content), _LARGE):
        yield content[at : at + _LARGE]


def _continued(query: Query, prefix: str, profile: EngineProfile) -> list[Json]:
    """The messages and what the assistant has said since: in its last message, where the engine goes on with that."""
    *before, last = query.messages
    said = last.get("content")
    goes_on = query.sampling.get("continue_final_message") or not profile.continued_by
    if goes_on and last.get("role") == "assistant" and isinstance(said, str):
        return [*before, {**last, "content": said + prefix}]
    return [*query.messages, {"role": "assistant", "content": prefix}]


def _broke_off(error: httpx.HTTPError) -> _Retry:
    """Typically a kept-alive connection that the engine had just closed; what it had begun for us ended with it."""
    cause = error.__cause__ or error
    return _Retry(EngineError(f"the engine broke off: {type(cause).__name__}", status=502))
