"""A scripted inference server over real HTTP on loopback, in the dialects of vLLM and of llama.cpp.

A simulator for wire formats and faults, not a model: what it says, in how many tokens, when, and how it fails is
written down beforehand, so nothing here tells how good or how fast an engine is. The llama.cpp dialect was written
from what xllamacpp 2026.10 sent; the vLLM dialect from vLLM 0.33's code (shared notes), not from a running vLLM.

It runs in the test's own event loop, so that tests wait for its events instead of sleeping: `await engine.asked(1)`
is the first request once it has arrived, `await request.gone.wait()` is its client having hung up.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from server.backends.trials import REQUEST_ID

T = TypeVar("T")
Json = dict[str, Any]
PATIENCE = 60.0  # seconds until a wait that should end at once counts as failed; a busy machine is no failure


async def within(work: Awaitable[T], seconds: float = PATIENCE) -> T:
    """Wait for what should happen at once. Raises TimeoutError when it does not happen at all."""
    return await asyncio.wait_for(work, seconds)


async def until(true: Callable[[], bool], what: str = "what the test waits for", seconds: float = PATIENCE) -> None:
    """Poll, with a bound, for what tells nobody when it happens."""
    for _ in range(int(seconds / 0.002)):
        if true():
            return
        await asyncio.sleep(0.002)
    raise AssertionError(f"{what} did not happen within {seconds:g} s")


# --- what it says


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One chunk of one choice, and what it waits for before."""

    text: str = ""
    tokens: int = 1
    reasoning: str = ""
    refusal: str = ""
    tool_calls: Sequence[Json] = ()
    after: asyncio.Event | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One choice. An engine that stops by itself makes one token more, the end of the turn, without any text."""

    pieces: Sequence[Piece]
    finish_reason: str = "stop"

    @property
    def tokens(self) -> int:
        return sum(piece.tokens for piece in self.pieces) + (self.finish_reason == "stop")


def words(text: str, *, after: asyncio.Event | None = None, finish_reason: str = "stop") -> Reply:
    """A choice of one token a word; `after` holds up the last word."""
    parts = text.split(" ")
    spaced = [parts[0], *(f" {part}" for part in parts[1:])]
    pieces = [Piece(text=part) for part in spaced[:-1]]
    return Reply(pieces=[*pieces, Piece(text=spaced[-1], after=after)], finish_reason=finish_reason)


def endless(text: str, *, after: asyncio.Event) -> Reply:
    """Says the text, and goes on only when told to."""
    return Reply(pieces=[*words(text).pieces, Piece(text=" on", after=after)])


# --- the dialects, as data


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What an engine answers, as far as a proxy can tell one from another."""

    owned_by: str
    lists: Mapping[str, Any] = field(default_factory=dict[str, Any])  # beside id and owned_by in /v1/models
    props: Mapping[str, Any] | None = None
    running_usage: bool = False  # on request, every chunk says how many tokens its choice has so far
    usage_per_choice: bool = False  # a usage chunk after each choice, of that choice; else one at the end, of all
    stop_reason: bool = False  # says which stop string ended a choice
    verbose: bool = False  # says so in `__verbose`, if asked
    continues: bool = False  # continues an assistant's last message unasked
    finish_apart: bool = False  # the finish comes in a chunk without text, also when the length was used up
    keep_alive: bool = True
    max_n: int | None = None
    strict: bool = False  # vLLM's refusals
    max_stops: int | None = None
    reasoning: str = "reasoning"  # what it calls it
    pages: Mapping[str, Any] = field(default_factory=dict[str, Any])  # further paths to GET: JSON, or text as it is
    structured: bool = True  # keeps to a schema, in the calls of the probe
    top_logprobs: int | None = None  # most alternatives; 0: refuses logprobs
    logprobs_with_tools: bool = True


def metrics_page(*names: str) -> str:
    """What GET /metrics answers, as far as a reader of a few names can tell."""
    return "".join(f'# TYPE {name} gauge\n{name}{{engine="0"}} 0.0\n' for name in names)


VLLM = Dialect(
    owned_by="vllm",
    lists={"root": "tiny", "parent": None, "max_model_len": 2048},
    running_usage=True,
    stop_reason=True,
    strict=True,
    max_stops=4,
    pages={
        "/version": {"version": "0.33.0"},
        "/openapi.json": {"paths": {"/tokenize": {}, "/v1/chat/completions": {}}},
        "/metrics": metrics_page(
            "vllm:num_requests_running",
            "vllm:num_requests_waiting",
            "vllm:kv_cache_usage_perc",
            "vllm:prefix_cache_queries_total",
            "vllm:prefix_cache_hits_total",
        ),
    },
)
LLAMA_CPP = Dialect(
    owned_by="llamacpp",
    lists={"meta": {"n_ctx_train": 8192}},
    props={"default_generation_settings": {"n_ctx": 1024, "params": {}}, "total_slots": 4},
    usage_per_choice=True,
    verbose=True,
    continues=True,
    keep_alive=False,
    reasoning="reasoning_content",
    finish_apart=True,
    max_n=4,
    logprobs_with_tools=False,
    pages={"/metrics": metrics_page("llamacpp:requests_processing", "llamacpp:requests_deferred")},
)
PLAIN = Dialect(owned_by="someone")


class _Refused(Exception):
    def __init__(self, status: int, body: Any) -> None:
        super().__init__(str(status))
        self.status = status
        self.body = body


def vllm_error(status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> Json:
    """vLLM's error body: the code is the status, a number."""
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


# --- requests and what is done with them


@dataclass(slots=True, kw_only=True)
class Request:
    """One request as it arrived, and what became of it."""

    method: str
    path: str
    headers: Mapping[str, str]  # names in lower case
    body: Any
    connection: int  # number of the connection it came on
    gone: asyncio.Event  # the connection is closed
    answered: bool = False  # the response was sent to its end
    tokens: int = 0  # made for it, all choices


class ClientLeft(Exception):
    """The client closed its connection in the middle of an act."""


class Exchange:
    """One request and the means to answer it, byte by byte."""

    def __init__(self, engine: FakeEngine, connection: _Connection, request: Request) -> None:
        self.engine = engine
        self.request = request
        self.split: int | None = None  # bytes a write
        self.close_after = not engine.dialect.keep_alive or request.headers.get("connection") == "close"
        self._connection = connection

    async def raw(self, data: bytes) -> None:
        """Bytes as they are. Raises ClientLeft."""
        await self._connection.write(data)

    async def head(
        self, status: int = 200, *, kind: str = "text/event-stream; charset=utf-8", length: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        lines = [f"HTTP/1.1 {status} Scripted", f"content-type: {kind}"]
        lines.append("transfer-encoding: chunked" if length is None else f"content-length: {length}")
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        await self.raw("\r\n".join(lines).encode() + b"\r\n\r\n")

    async def send(self, data: bytes) -> None:
        """Part of a streamed body; in parts of `split` bytes, each in a chunk and a turn of the loop of its own."""
        size = self.split or len(data)
        for start in range(0, len(data), size):
            part = data[start : start + size]
            await self.raw(b"%x\r\n%s\r\n" % (len(part), part))
            if self.split:
                await asyncio.sleep(0)

    async def end(self) -> None:
        await self.raw(b"0\r\n\r\n")
        self.request.answered = True

    async def respond(self, status: int, body: bytes, kind: str, headers: Mapping[str, str] | None = None) -> None:
        await self.head(status, kind=kind, length=len(body), headers=headers)
        await self.raw(body)
        self.request.answered = True

    async def hang(self) -> None:
        """Say nothing until the client goes."""
        await self.request.gone.wait()
        raise ClientLeft

    async def drop(self) -> None:
        """Close the connection."""
        self._connection.abort()
        raise ClientLeft

    async def wait_for(self, *events: asyncio.Event) -> None:
        """Until one of the events is set. Raises ClientLeft."""
        waits = [asyncio.create_task(event.wait()) for event in (*events, self.request.gone)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
                with suppress(asyncio.CancelledError):
                    await wait
        if self.request.gone.is_set():
            raise ClientLeft


Act = Callable[[Exchange], Awaitable[None]]  # what is done with one chat request
Script = Callable[[Request], Sequence[Reply]]  # its n choices


def refuses(
    status: int, body: Any = None, *, headers: Mapping[str, str] | None = None, kind: str = "application/json"
) -> Act:
    """Answer with an error. body: JSON, or bytes as they are; else vLLM's shape."""
    shown = vllm_error(status, f"scripted {status}", "ScriptedError") if body is None else body
    content = shown if isinstance(shown, bytes) else json.dumps(shown).encode()

    async def act(exchange: Exchange) -> None:
        await exchange.respond(status, content, kind, headers)

    return act


def answers(
    body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None, kind: str = "application/json"
) -> Act:
    """Answer at once. body: JSON, or bytes as they are."""
    return refuses(status, body, headers=headers, kind=kind)


async def drops(exchange: Exchange) -> None:
    """Close the connection; as an act of its own: before the response's head."""
    await exchange.drop()


async def hangs(exchange: Exchange) -> None:
    """Say nothing more until the client goes; as an act of its own: not even the response's head."""
    await exchange.hang()


async def ends(exchange: Exchange) -> None:
    """End the response properly, without [DONE]."""
    await exchange.end()


def says(data: bytes, then: Act = hangs) -> Act:
    """Send bytes into the stream."""

    async def act(exchange: Exchange) -> None:
        await exchange.send(data)
        await then(exchange)

    return act


def speaks(data: bytes) -> Act:
    """Answer with bytes that need not be HTTP, and close."""

    async def act(exchange: Exchange) -> None:
        await exchange.raw(data)
        await exchange.drop()

    return act


def streams(
    *replies: Reply,
    events: int | None = None,
    then: Act | None = None,
    split: int | None = None,
    one_write: bool = False,
    line_end: bytes = b"\n",
    ignores_max_tokens: bool = False,
) -> Act:
    """Stream the replies (else those of the engine's script) in the engine's dialect.

    events, then: only so many events, and then something else. split: bytes a write. one_write: all in one.
    """

    async def act(exchange: Exchange) -> None:
        exchange.split = split
        chosen = replies or exchange.engine.script(exchange.request)
        await exchange.head()
        held: list[bytes] = []
        sent = 0
        async for event in _events(exchange, chosen, limited=not ignores_max_tokens):
            if sent == events:
                break
            sent += 1
            data = b"data: " + event + line_end * 2
            if one_write:
                held.append(data)
            else:
                await exchange.send(data)
        if held:
            await exchange.send(b"".join(held))
        if then is not None:
            await then(exchange)
        else:
            await exchange.end()

    return act


def script_of(*replies: Reply) -> Script:
    """The same replies for every call, one after the other, over and over for large n."""
    return lambda request: [replies[i % len(replies)] for i in range(int(request.body.get("n") or 1))]


# --- the stream


class _Writer:
    """One choice while it is written."""

    def __init__(self, reply: Reply, body: Json, *, limited: bool, finish_apart: bool) -> None:
        self._finish_apart = finish_apart
        stop = body.get("stop") or []
        self.stops = [stop] if isinstance(stop, str) else list(stop)
        self.left: float = body["max_tokens"] if limited else float("inf")
        self.reply = reply
        self.at = 0
        self.tokens = 0
        self.text = ""
        self.done = False
        self.finish_reason: str | None = None
        self.stop_word: str | None = None

    @property
    def waits_for(self) -> asyncio.Event | None:
        """None: it can go on."""
        event = self.reply.pieces[self.at].after if self.at < len(self.reply.pieces) else None
        return None if event is None or event.is_set() else event

    def next(self) -> Piece:
        """The next piece; the last one sets finish_reason."""
        if self.left <= 0 and (self.at < len(self.reply.pieces) or self.reply.finish_reason == "stop"):
            self.finish_reason = "length"
            return Piece(tokens=0)
        if self.stop_word is not None or self.at == len(self.reply.pieces):
            self.finish_reason = "stop" if self.stop_word is not None else self.reply.finish_reason
            own_end = self.stop_word is None and self.finish_reason == "stop"
            self.tokens += own_end
            return Piece(tokens=int(own_end))
        piece = self.reply.pieces[self.at]
        self.at += 1
        self.tokens += piece.tokens
        self.left -= piece.tokens
        before, self.text = self.text, self.text + piece.text
        for word in self.stops:
            if word in self.text:
                self.stop_word = word
                return Piece(text=self.text.partition(word)[0][len(before) :], tokens=piece.tokens)
        if self.left <= 0 and not self._finish_apart:
            self.finish_reason = "length"
        return piece


async def _events(exchange: Exchange, replies: Sequence[Reply], *, limited: bool) -> AsyncIterator[bytes]:
    """The data of every event, [DONE] included. All choices advance together, a piece each a round."""
    request, dialect = exchange.request, exchange.engine.dialect
    body = request.body
    options = body.get("stream_options") or {}
    prompt = exchange.engine.prompt_of(request)
    frame: Json = {
        "id": "chatcmpl-scripted", "object": "chat.completion.chunk", "created": 1, "model": body.get("model"),
    }  # fmt: skip

    def usage(tokens: int) -> Json:
        return {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}

    def chunk(index: int, delta: Json, writer: _Writer, *, logprobs: Any = None) -> bytes:
        choice: Json = {
            "index": index, "delta": delta, "logprobs": logprobs, "finish_reason": writer.finish_reason,
        }  # fmt: skip
        event: Json = {**frame, "choices": [choice]}
        if dialect.running_usage and options.get("continuous_usage_stats"):
            event["usage"] = usage(writer.tokens)
        if dialect.stop_reason and writer.finish_reason is not None:
            choice["stop_reason"] = writer.stop_word
        if dialect.verbose and body.get("verbose") and writer.finish_reason is not None:
            event["__verbose"] = {"stopping_word": writer.stop_word or "", "stop_type": "word"}
        return json.dumps(event, ensure_ascii=False).encode()

    apart = dialect.finish_apart
    writers = [_Writer(reply, body, limited=limited, finish_apart=apart) for reply in replies]
    for index, writer in enumerate(writers):  # a role, and no token yet
        yield chunk(index, {"role": "assistant", "content": "" if dialect.strict else None}, writer)
    while open_writers := [(i, writer) for i, writer in enumerate(writers) if not writer.done]:
        ready = [(i, writer) for i, writer in open_writers if writer.waits_for is None]
        if not ready:
            await exchange.wait_for(*(w.waits_for for _, w in open_writers if w.waits_for is not None))
        for index, writer in ready:
            piece = writer.next()
            request.tokens += piece.tokens
            delta: Json = {"content": piece.text} if piece.text else {}
            if piece.reasoning:
                delta[exchange.engine.dialect.reasoning] = piece.reasoning
            if piece.refusal:
                delta["refusal"] = piece.refusal
            if piece.tool_calls:
                delta["tool_calls"] = list(piece.tool_calls)
            yield chunk(index, delta, writer, logprobs=_logprobs(piece, body))
            if writer.finish_reason is not None:
                writer.done = True
                if dialect.usage_per_choice and options.get("include_usage"):
                    yield json.dumps({**frame, "choices": [], "usage": usage(writer.tokens)}).encode()
    if not dialect.usage_per_choice and options.get("include_usage"):
        yield json.dumps({**frame, "choices": [], "usage": usage(sum(w.tokens for w in writers))}).encode()
    yield b"[DONE]"


def _logprobs(piece: Piece, body: Json) -> Json | None:
    """An entry a token, -0.5 each, with as many alternatives as were asked for."""
    if not body.get("logprobs") or not piece.text:
        return None
    top = [{"token": "t", "logprob": -0.5 - i, "bytes": None} for i in range(int(body.get("top_logprobs") or 0))]
    entry = {"token": piece.text, "logprob": -0.5, "bytes": None, "top_logprobs": top}
    return {"content": [entry] * piece.tokens}


# --- the server


class _Connection(asyncio.Protocol):
    """Collects requests, and notices at once when the client goes."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self._buffer = b""
        self._more = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self.gone = asyncio.Event()
        self.number = 0
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        self.number = self._engine.connected(self)
        self._task = asyncio.get_running_loop().create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        self._engine.bytes_in += len(data)
        self._buffer += data
        self._more.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()
        self._more.set()
        self._writable.set()
        self._engine.disconnected(self)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def write(self, data: bytes) -> None:
        await self._writable.wait()
        if self.gone.is_set() or self._transport is None or self._transport.is_closing():
            raise ClientLeft
        self._transport.write(data)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def finished(self) -> None:
        if self._task is not None:
            await self._task

    async def _read(self, enough: Callable[[bytes], bool]) -> None:
        while not enough(self._buffer):
            self._more.clear()
            if self.gone.is_set():
                raise ClientLeft
            await self._more.wait()

    async def _request(self) -> Request:
        await self._read(lambda buffer: b"\r\n\r\n" in buffer)
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        raw = await self._body(headers)
        body: Any = raw or None
        if headers.get("content-type", "application/json").startswith("application/json"):
            with suppress(ValueError, RecursionError):  # then its bytes are all there is to be seen
                body = json.loads(raw)
        return Request(
            method=method, path=path, headers=headers, body=body, connection=self.number, gone=self.gone
        )  # fmt: skip

    async def _body(self, headers: Mapping[str, str]) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            return await self._take(int(headers.get("content-length", 0)))
        body = b""
        while True:
            await self._read(lambda buffer: b"\r\n" in buffer)
            size, _, self._buffer = self._buffer.partition(b"\r\n")
            body += await self._take(int(size, 16))
            await self._take(2)
            if int(size, 16) == 0:
                return body

    async def _take(self, length: int) -> bytes:
        await self._read(lambda buffer: len(buffer) >= length)
        raw, self._buffer = self._buffer[:length], self._buffer[length:]
        return raw

    async def _serve(self) -> None:
        with suppress(ClientLeft):
            while True:
                request = await self._request()
                exchange = Exchange(self._engine, self, request)
                await self._engine.answer(exchange)
                if exchange.close_after:
                    break
        if self._transport is not None:
            self._transport.close()


class FakeEngine:
    """The server. `acts`: what to do with the next chat requests, one each; then `act`, else the script's stream.

    `routes`: what to do with requests to further paths, which are collected in `passed`. The calls by which a gateway
    finds out what it can do are no requests of a test's own: they are in `trials`, and `trial` is done with them.
    """

    def __init__(
        self, dialect: Dialect = VLLM, script: Script | None = None, *, act: Act | None = None,
        api_key: str | None = None, models: Sequence[str] = ("tiny",), prompt_tokens: int = 7,
    ) -> None:  # fmt: skip
        self.dialect = dialect
        self.script = script or script_of(words("The answer is \\boxed{7}"))
        self.act = act or streams()
        self.acts: deque[Act] = deque()
        self.models_act: Act | None = None
        self.trial: Act = _tries
        self.healthy = True
        self.prompt_tokens = prompt_tokens
        self.requests: list[Request] = []  # to /v1/chat/completions
        self.trials: list[Request] = []  # there too, from the probe
        self.routes: dict[str, Act] = {}
        self.passed: list[Request] = []  # to one of the routes
        self.others: list[Request] = []
        self.connections = 0  # ever made
        self.bytes_in = 0  # ever received
        self._api_key = api_key
        self._models = models
        self._open: set[_Connection] = set()
        self._arrived = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def tokens(self) -> int:
        """Made for all requests."""
        return sum(request.tokens for request in self.requests)

    @property
    def busy(self) -> int:
        """Chat requests that are neither answered nor gone."""
        return sum(not request.answered and not request.gone.is_set() for request in self.requests)

    async def start(self, port: int = 0) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            connections = list(self._open)
            for connection in connections:
                connection.abort()
            for connection in connections:
                await within(connection.finished())
            await within(self._server.wait_closed())
            self._server = None

    async def asked(self, count: int) -> Request:
        """The count-th chat request, once it has arrived."""
        async with self._arrived:
            await within(self._arrived.wait_for(lambda: len(self.requests) >= count))
        return self.requests[count - 1]

    async def passed_on(self, count: int) -> Request:
        """The count-th request to one of the routes, once it has arrived."""
        async with self._arrived:
            await within(self._arrived.wait_for(lambda: len(self.passed) >= count))
        return self.passed[count - 1]

    def connected(self, connection: _Connection) -> int:
        self._open.add(connection)
        self.connections += 1
        return self.connections

    def disconnected(self, connection: _Connection) -> None:
        self._open.discard(connection)

    async def answer(self, exchange: Exchange) -> None:
        request = exchange.request
        if request.headers.get("x-request-id") == REQUEST_ID:
            self.trials.append(request)
            await self.trial(exchange)
            return
        if (request.method, request.path) == ("POST", "/v1/chat/completions"):
            async with self._arrived:
                self.requests.append(request)
                self._arrived.notify_all()
            if self.acts:
                await self.acts.popleft()(exchange)
                return
            try:
                self.check(request)
            except _Refused as refused:
                await refuses(refused.status, refused.body)(exchange)
                return
            await self.act(exchange)
            return
        if (route := self.routes.get(request.path.partition("?")[0])) is not None:
            async with self._arrived:
                self.passed.append(request)
                self._arrived.notify_all()
            await route(exchange)
            return
        self.others.append(request)
        if request.path == "/v1/models" and self.models_act is not None:
            await self.models_act(exchange)
            return
        status, body = self._other(request)
        text = isinstance(body, str)
        content = body if text else json.dumps(body)
        await exchange.respond(status, content.encode(), "text/plain" if text else "application/json")

    def _other(self, request: Request) -> tuple[int, Any]:
        if request.path == "/health":
            return (200, {}) if self.healthy else (503, {})
        if not self._authorized(request):
            return 401, {"error": "Unauthorized"}
        if request.path == "/v1/models":
            entry = {"object": "model", "created": 1, "owned_by": self.dialect.owned_by, **self.dialect.lists}
            return 200, {"object": "list", "data": [{"id": name, **entry} for name in self._models]}
        if request.path in self.dialect.pages:
            return 200, self.dialect.pages[request.path]
        if request.path == "/props" and self.dialect.props is not None:
            return 200, self.dialect.props
        return 404, {"detail": "Not Found"}

    def _authorized(self, request: Request) -> bool:
        return self._api_key is None or request.headers.get("authorization") == f"Bearer {self._api_key}"

    def check(self, request: Request) -> None:
        """What the engine of this dialect refuses."""
        body = request.body
        n = int(body.get("n") or 1)
        if not self._authorized(request):
            raise _Refused(401, {"error": "Unauthorized"})
        if not body.get("stream"):
            raise _Refused(400, vllm_error(400, "this scripted engine only streams"))
        if self.dialect.max_n is not None and n > self.dialect.max_n:
            message = f"Field 'n': Value must be between 1 <= value <= {self.dialect.max_n}, but got {n}"
            raise _Refused(400, {"error": {"code": 400, "message": message, "type": "invalid_request_error"}})
        stops = body.get("stop")
        if self.dialect.max_stops is not None and isinstance(stops, list) and len(stops) > self.dialect.max_stops:
            message = f"List should have at most {self.dialect.max_stops} items after validation, not {len(stops)}"
            raise _Refused(400, vllm_error(400, message, param="stop"))
        if body.get("logprobs"):
            most = self.dialect.top_logprobs
            if body.get("tools") and not self.dialect.logprobs_with_tools:
                raise _Refused(400, vllm_error(400, "logprobs is not supported with tools + stream"))
            if most is not None and (asked := int(body.get("top_logprobs") or 0)) > most:
                message = f"Requested sample logprobs of {asked}, which is greater than max allowed: {most}"
                raise _Refused(400, vllm_error(400, message))
        if not self.dialect.strict:
            return
        if body.get("model") not in self._models:
            message = f"The model `{body.get('model')}` does not exist."
            raise _Refused(404, vllm_error(404, message, "NotFoundError", "model"))
        if n > 1 and body.get("temperature") == 0:
            raise _Refused(400, vllm_error(400, f"n must be 1 when using greedy sampling, got {n}.", param="n"))
        if body.get("tools") == []:
            raise _Refused(400, vllm_error(400, "tools must not be an empty array", param="tools"))
        if body.get("continue_final_message") and body.get("add_generation_prompt", True):
            raise _Refused(400, vllm_error(400, "continue_final_message needs add_generation_prompt to be false"))

    def prompt_of(self, request: Request) -> int:
        """Tokens of the prompt; in the probe's calls by its words, and with the marks of a turn that has ended."""
        if request not in self.trials:
            return self.prompt_tokens
        said = [message["content"] for message in request.body["messages"] if message["role"] == "assistant"]
        return self.prompt_tokens + sum(len(text.split()) + 5 * (not self.continued(request)) for text in said)

    def continued(self, request: Request) -> bool:
        """Whether this engine takes the request's last message for one of its own to go on with."""
        ours = request.body["messages"][-1]["role"] == "assistant"
        return ours and (self.dialect.continues or bool(request.body.get("continue_final_message")))


async def _tries(exchange: Exchange) -> None:
    """Answer a call of the probe as this dialect would."""
    engine, body = exchange.engine, exchange.request.body
    try:
        engine.check(exchange.request)
    except _Refused as refused:
        await refuses(refused.status, refused.body)(exchange)
        return
    said = '{"a": true }' if body.get("response_format") and engine.dialect.structured else "Hello there all of you"
    await streams(*[words(said)] * int(body.get("n") or 1))(exchange)


@asynccontextmanager
async def running(
    dialect: Dialect = VLLM, script: Script | None = None, **options: Any
) -> AsyncGenerator[FakeEngine, None]:
    engine = FakeEngine(dialect, script, **options)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()
