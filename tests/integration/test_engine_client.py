"""The engine client over real sockets, against a scripted server on loopback in vLLM's and llama.cpp's dialects.

A simulator for wire formats and faults (tests/fake_engine.py): it proves what is sent and how answers and failures are
read, not that a real vLLM behaves like the script. llama.cpp's real server is tested elsewhere.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import stamina

from server.backends.calls import CallStats
from server.backends.openai import EngineSettings, OpenAIEngine
from strategies.types import Delta, EngineError, Query
from tests.fake_engine import (
    LLAMA_CPP,
    PLAIN,
    VLLM,
    Act,
    Dialect,
    Exchange,
    FakeEngine,
    Piece,
    Reply,
    Request,
    drops,
    endless,
    ends,
    hangs,
    refuses,
    running,
    says,
    script_of,
    speaks,
    streams,
    until,
    vllm_error,
    within,
    words,
)
from tests.fakes import ask

pytestmark = pytest.mark.anyio

DIALECTS = pytest.mark.parametrize("dialect", [VLLM, LLAMA_CPP], ids=["vllm", "llama.cpp"])
KEY = "sk-of-the-operator"


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    """Attempts follow each other at once; how many there are stays as configured."""
    with stamina.set_testing(True, attempts=100, cap=True):
        yield


class Client:
    """The engine client, what it observed, and a check that it left no work behind."""

    def __init__(self, engine: OpenAIEngine) -> None:
        self.engine = engine
        self.stats: list[CallStats] = []

    async def all(self, query: Query | None = None, *, n: int = 1, max_tokens: int = 100, **more: Any) -> list[Delta]:
        stream = self.engine.sample(query or of_tiny(), n=n, max_tokens=max_tokens, **more)
        return [delta async for delta in stream]

    async def failure(
        self, query: Query | None = None, *, busy: float = 0.0, **more: Any
    ) -> tuple[EngineError, list[Delta]]:
        """The error a call ends with, and what had come before it. busy: seconds spent on every piece of text."""
        seen: list[Delta] = []
        try:
            async for delta in self.engine.sample(query or of_tiny(), n=more.pop("n", 1), max_tokens=100, **more):
                seen.append(delta)
                if delta.text:
                    await asyncio.sleep(busy)
        except EngineError as error:
            return error, seen
        raise AssertionError("the call did not fail")


@asynccontextmanager
async def client(engine: FakeEngine | str, *, probe: bool = True, **settings: Any) -> AsyncGenerator[Client, None]:
    url = engine if isinstance(engine, str) else engine.url
    observed: list[CallStats] = []
    made = OpenAIEngine(EngineSettings(url=url, **settings), observe=observed.append)
    played = Client(made)
    played.stats = observed
    try:
        if probe:
            await made.probe()
        yield played
        assert made.running == 0, "sequences are still counted as running"
    finally:
        await made.aclose()


def of_tiny(**fields: Any) -> Query:
    return ask(**{"model": "tiny", **fields})


def text(deltas: Sequence[Delta], index: int = 0) -> str:
    return "".join(delta.text for delta in deltas if delta.index == index)


def tokens(deltas: Sequence[Delta], index: int) -> int:
    """As the sampler counts: piece by piece, corrected by the engine's own count where that came."""
    own = [delta for delta in deltas if delta.index == index]
    return own[-1].total_tokens if own[-1].total_tokens is not None else sum(delta.tokens for delta in own)


def last(deltas: Sequence[Delta], index: int = 0) -> Delta:
    return [delta for delta in deltas if delta.index == index][-1]


# --- finding out who it is


async def test_vllm_is_recognised_with_its_models_and_context() -> None:
    async with running(VLLM, models=("tiny", "tiny-lora")) as engine, client(engine) as made:
        profile = made.engine.profile
        assert (profile.name, profile.models, profile.context) == ("vllm", ("tiny", "tiny-lora"), 2048)
        assert made.engine.max_n == 64
        assert profile.slots is None, "vLLM does not say how many sequences it takes at once"
        assert profile.signals.waiting == "vllm:num_requests_waiting"


async def test_llama_cpp_is_recognised_and_its_slots_limit_a_call() -> None:
    async with running(LLAMA_CPP) as engine, client(engine) as made:
        profile = made.engine.profile
        assert (profile.name, profile.models, profile.context) == ("llama.cpp", ("tiny",), 1024)
        assert made.engine.max_n == profile.slots == 4
        assert profile.signals.names == ("llamacpp:requests_processing", "llamacpp:requests_deferred")


async def test_llama_cpp_behind_something_that_hides_its_settings_is_asked_for_one_choice_a_call() -> None:
    """Where it may not be tried."""
    async with running(replace(LLAMA_CPP, props=None)) as engine, client(engine, probe_calls="never") as made:
        assert (made.engine.profile.name, made.engine.max_n) == ("llama.cpp", 1)
        assert made.engine.profile.slots is None


@pytest.mark.parametrize(
    "dialect",
    [
        replace(VLLM, lists={"max_model_len": "2048"}),
        replace(VLLM, lists={"max_model_len": True}),
        replace(LLAMA_CPP, props={"default_generation_settings": ["n_ctx"], "total_slots": "many"}),
        replace(LLAMA_CPP, props={"default_generation_settings": {"n_ctx": "1024"}, "total_slots": {}}),
    ],
)
async def test_a_context_that_is_no_number_is_not_known(dialect: Dialect) -> None:
    """Later it is calculated with; and the asking must not end with an error that nobody sees."""
    async with running(dialect) as engine, client(engine, probe_calls="never") as made:
        assert made.engine.profile.context is None
        assert made.engine.max_n == (1 if dialect.owned_by == "llamacpp" else 64)


async def test_an_unknown_engine_gets_the_common_denominator() -> None:
    """No context, 16 choices a call, no field that only one engine knows."""
    async with running(PLAIN) as engine, client(engine) as made:
        assert (made.engine.profile.name, made.engine.profile.context, made.engine.max_n) == ("openai", None, 16)
        assert made.engine.profile.signals.names == ()
        await made.all(n=2, stop=("\n\n",), prefix="So")
        assert set(engine.requests[0].body) == {
            "model", "messages", "stream", "stream_options", "max_tokens", "n", "stop",
        }  # fmt: skip
        assert engine.requests[0].body["stream_options"] == {"include_usage": True}


async def test_the_operators_max_n_goes_over_the_probed_one() -> None:
    async with running(LLAMA_CPP) as engine, client(engine, max_n=2) as made:
        assert made.engine.max_n == 2


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(refuses(503), id="503"),
        pytest.param(refuses(401, {"error": "Unauthorized"}), id="401"),
        pytest.param(refuses(200, b"<html>It works!</html>", kind="text/html"), id="HTML"),
        pytest.param(refuses(200, ["a", "list"]), id="a list"),
        pytest.param(refuses(200, {"data": "text"}), id="data is no list"),
        pytest.param(refuses(200, {"data": [{"owned_by": "llamacpp"}, 7]}), id="a model is no object"),
        pytest.param(refuses(200, b"\xff\xfe", kind="application/json"), id="not UTF-8"),
        pytest.param(speaks(b"220 mail.example ESMTP\r\n"), id="another protocol"),
        pytest.param(drops, id="dropped"),
    ],
)
async def test_what_is_not_an_engine_is_an_engine_error_and_not_a_crash(answer: Act) -> None:
    """Whatever listens there: the gateway asks again later, so it must be told with an EngineError."""
    async with running() as engine, client(engine, probe=False) as made:
        engine.models_act = answer
        with pytest.raises(EngineError) as caught:
            await made.engine.probe()
        assert caught.value.status == 503
        engine.models_act = None
        assert (await made.engine.probe()).name == "vllm"


async def test_nobody_listening_is_an_engine_error_for_the_probe_and_for_a_small_read() -> None:
    async with client(nowhere(), probe=False) as made:
        for asking in (made.engine.probe(), made.engine.get("/health")):
            with pytest.raises(EngineError) as caught:
                await asking
            assert caught.value.status == 503


def nowhere() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


# --- tokens


REPLIES = (
    words("one two three"),
    words("four"),
    words("five six seven eight nine", finish_reason="stop"),
    words(" ".join(["long"] * 40)),
)


@DIALECTS
@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("top_logprobs", [None, 3], ids=["plain", "logprobs"])
async def test_tokens_are_counted_exactly(dialect: Dialect, n: int, top_logprobs: int | None) -> None:
    """Of every choice, the token that ended it included, whether it ended by itself or by its length."""
    async with running(dialect, script_of(*REPLIES)) as engine, client(engine) as made:
        deltas = await made.all(n=n, max_tokens=20, top_logprobs=top_logprobs)
        expected = [4, 2, 6, 20][:n]
        assert [tokens(deltas, i) for i in range(n)] == expected
        assert engine.tokens == sum(expected)
        assert [delta.prompt_tokens for delta in deltas if delta.prompt_tokens is not None] == [7]
        assert [last(deltas, i).finish_reason for i in range(n)] == ["stop", "stop", "stop", "length"][:n]
        (stats,) = made.stats
        assert (stats.tokens, stats.longest, stats.added, stats.running) == (sum(expected), max(expected), n, 0)
        assert (stats.prompt_tokens, stats.status, stats.completed) == (7, "ok", True)


async def test_pieces_of_several_tokens_count_by_vllms_running_usage() -> None:
    """Speculative decoding and held-back characters put several tokens into one chunk, or none into a piece of text."""
    reply = Reply(pieces=[Piece(text="The", tokens=3), Piece(text="", tokens=2), Piece(text=" end", tokens=4)])
    async with running(VLLM, script_of(reply, words("a b"))) as engine, client(engine) as made:
        deltas = await made.all(n=2)
        assert [delta.tokens for delta in deltas if delta.index == 0] == [0, 3, 2, 4, 1]
        assert (tokens(deltas, 0), tokens(deltas, 1), engine.tokens) == (10, 3, 13)


async def test_an_unknown_engines_only_choice_is_corrected_by_its_usage() -> None:
    reply = Reply(pieces=[Piece(text="The", tokens=3), Piece(text=" end", tokens=4)])
    async with running(PLAIN, script_of(reply)) as engine, client(engine) as made:
        assert tokens(await made.all(), 0) == 8


async def test_an_unknown_engines_summed_usage_is_nobodys_own() -> None:
    """With several choices a sum says nothing about any of them: one token a piece."""
    async with running(PLAIN, script_of(words("a b c"), words("d"))) as engine, client(engine) as made:
        deltas = await made.all(n=2)
        assert (tokens(deltas, 0), tokens(deltas, 1)) == (3, 1)
        assert all(delta.total_tokens is None for delta in deltas)


@DIALECTS
async def test_logprobs_are_summed_and_kept(dialect: Dialect) -> None:
    """Every token -0.5; three alternatives at -0.5, -1.5, -2.5 make a certainty of 1.5."""
    async with running(dialect, script_of(words("a b c"))) as engine, client(engine) as made:
        deltas = await made.all(top_logprobs=3)
        summaries = [delta.logprobs for delta in deltas if delta.logprobs is not None]
        assert sum(s.tokens for s in summaries) == 3
        assert sum(s.total for s in summaries) == pytest.approx(-1.5)
        assert sum(s.certainty for s in summaries) == pytest.approx(4.5)
        assert [entry["token"] for delta in deltas for entry in delta.logprob_content] == ["a", " b", " c"]


def mute(request: Request) -> list[Reply]:
    """An engine that takes the wish for logprobs and sends none."""
    request.body.pop("logprobs", None)
    return [words("a b")]


async def test_an_engine_that_sends_no_logprobs_is_remembered_until_it_sends_some() -> None:
    async with running(script=mute) as engine, client(engine) as made:
        assert made.engine.logprobs
        await made.all()  # not asked for
        assert made.engine.logprobs
        await made.all(top_logprobs=5)
        assert not made.engine.logprobs
        await made.all()
        assert not made.engine.logprobs
        engine.script = script_of(words("a b"))
        await made.all(top_logprobs=5)
        assert made.engine.logprobs


async def test_an_answer_without_text_says_nothing_about_logprobs() -> None:
    call = {"index": 0, "id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    script = script_of(Reply(pieces=[Piece(tool_calls=[call])], finish_reason="tool_calls"))
    async with running(script=script) as engine, client(engine) as made:
        await made.all(top_logprobs=5)
        assert made.engine.logprobs


@pytest.mark.parametrize("logprobs", [True, False])
async def test_what_is_set_about_logprobs_holds_whatever_the_engine_sends(logprobs: bool) -> None:
    async with running(script=mute) as engine, client(engine, capabilities={"logprobs": logprobs}) as made:
        await made.all(top_logprobs=5)
        assert made.engine.logprobs is logprobs
        engine.script = script_of(words("a b"))
        await made.all(top_logprobs=5)
        assert made.engine.logprobs is logprobs


async def test_impossible_alternatives_do_not_drown_the_rest() -> None:
    """Engines write -9999 for a token that could not be: a certainty of it would be nonsense."""
    entry = {"token": "a", "logprob": -9999.0, "top_logprobs": [{"token": "b", "logprob": -9999.0}]}
    event = {"choices": [{"index": 0, "delta": {"content": "a"}, "logprobs": {"content": [entry]}}]}
    async with running() as engine, client(engine) as made:
        engine.acts.append(streams(events=0, then=says(data(event) + DONE, ends)))
        (delta,) = await made.all()
        assert delta.logprobs is not None
        assert (delta.logprobs.total, delta.logprobs.certainty) == (-100.0, 100.0)


# --- what is sent


@DIALECTS
async def test_a_plain_call_sends_what_was_asked_and_always_streams(dialect: Dialect) -> None:
    sampling = {"temperature": 0.3, "top_k": 5, "stream": False, "max_tokens": 9999, "user": "u-1", "own_field": [1]}
    query = of_tiny(sampling=sampling, tools=[{"type": "function", "function": {"name": "f"}}])
    async with running(dialect) as engine, client(engine) as made:
        await made.all(query, max_tokens=50)
        expected = {
            "model": "tiny",
            "messages": [{"role": "user", "content": "How much is 3 + 4?"}],
            "stream": True,
            "stream_options": {"include_usage": True, **({"continuous_usage_stats": True} if dialect is VLLM else {})},
            "max_tokens": 50,
            "temperature": 0.3,
            "top_k": 5,
            "user": "u-1",
            "own_field": [1],
            "tools": [{"type": "function", "function": {"name": "f"}}],
        }
        assert engine.requests[0].body == expected


async def test_no_tools_no_n_no_seed_no_logprobs_unless_asked() -> None:
    """vLLM answers 400 to an empty `tools`."""
    async with running(VLLM) as engine, client(engine) as made:
        await made.all(of_tiny(tools=[]))
        assert not {"tools", "n", "seed", "logprobs", "top_logprobs", "stop"} & set(engine.requests[0].body)


async def test_n_logprobs_and_the_seed_of_the_calls_first_choice() -> None:
    """Candidate i has seed + i: vLLM counts on from the seed of a call, so a later call starts further up."""
    async with running(VLLM) as engine, client(engine) as made:
        await made.all(of_tiny(sampling={"seed": 40}), n=3, seed_offset=8, top_logprobs=5)
        await made.all(of_tiny(sampling={"seed": 40}), n=1, top_logprobs=0)
        first, second = (request.body for request in engine.requests)
        assert (first["n"], first["seed"], first["logprobs"], first["top_logprobs"]) == (3, 48, True, 5)
        assert (second["seed"], second["logprobs"]) == (40, True)
        assert "n" not in second


@pytest.mark.parametrize(
    ("clients", "sent"),
    [(None, ["\n\n"]), ("END", ["END", "\n\n"]), (["a", "b"], ["a", "b", "\n\n"]), ([], ["\n\n"])],
)
async def test_a_steps_stop_is_added_to_the_clients(clients: Any, sent: list[str]) -> None:
    async with running(VLLM) as engine, client(engine) as made:
        sampling = {} if clients is None else {"stop": clients}
        await made.all(of_tiny(sampling=sampling), stop=("\n\n",))
        assert engine.requests[0].body["stop"] == sent


async def test_the_clients_own_stop_goes_as_it_came_without_a_step() -> None:
    async with running(LLAMA_CPP) as engine, client(engine) as made:
        await made.all(of_tiny(sampling={"stop": "END"}))
        assert engine.requests[0].body["stop"] == "END"
        assert "verbose" not in engine.requests[0].body


@DIALECTS
async def test_a_prefix_is_continued_and_not_repeated(dialect: Dialect) -> None:
    """Both engines take it for the start of their own message, and send only what comes after it."""
    query = of_tiny()
    async with running(dialect) as engine, client(engine) as made:
        engine.script = lambda request: [words("on it goes" if engine.continued(request) else "A new turn")]
        assert text(await made.all(query, prefix="And ")) == "on it goes"
        body = engine.requests[0].body
        assert body["messages"] == [*query.messages, {"role": "assistant", "content": "And "}]
        fields = {name: body.get(name) for name in ("continue_final_message", "add_generation_prompt")}
        wanted = (True, False) if dialect is VLLM else (None, None)
        assert tuple(fields.values()) == wanted
        assert len(query.messages) == 1, "the query was changed"


@DIALECTS
async def test_the_stop_string_that_ended_a_choice_is_known(dialect: Dialect) -> None:
    """The step's, the client's, or none: beam search goes on only after the first."""
    step = Reply(pieces=[Piece(text="3 + 4"), Piece(text=".\n\nThen")])
    end = Reply(pieces=[Piece(text="So 7"), Piece(text=" END")])
    async with running(dialect, script_of(step, end, words("done"))) as engine, client(engine) as made:
        deltas = await made.all(of_tiny(sampling={"stop": ["END"]}), n=3, stop=("\n\n",))
        assert [last(deltas, i).stop_reason for i in range(3)] == ["\n\n", "END", None]
        assert [last(deltas, i).finish_reason for i in range(3)] == ["stop"] * 3
        assert [text(deltas, i) for i in range(3)] == ["3 + 4.", "So 7 ", "done"]


async def test_the_engine_gets_the_operators_key_and_the_requests_id_and_nothing_else() -> None:
    """Every header there is: nothing of a client's could be among them."""
    async with running(VLLM, api_key=KEY) as engine, client(engine, api_key=KEY) as made:
        await made.all(of_tiny(id="chatcmpl-42"))
        headers = dict(engine.requests[0].headers)
        assert headers["authorization"] == f"Bearer {KEY}"
        assert headers["x-request-id"] == "chatcmpl-42"
        assert headers["accept-encoding"] == "identity"
        assert headers["content-type"] == "application/json"
        assert set(headers) <= {
            "host", "accept", "accept-encoding", "connection", "user-agent", "authorization", "x-request-id",
            "content-type", "content-length",
        }  # fmt: skip


async def test_without_a_key_no_authorization_is_sent() -> None:
    async with running() as engine, client(engine) as made:
        await made.all()
        assert "authorization" not in engine.requests[0].headers


async def test_the_url_may_end_in_v1() -> None:
    async with running() as engine, client(f"{engine.url}/v1/") as made:
        assert text(await made.all()) == "The answer is \\boxed{7}"
        assert engine.requests[0].path == "/v1/chat/completions"


async def test_connections_to_vllm_are_kept() -> None:
    async with running(VLLM) as engine, client(engine, probe_calls="never") as made:
        for _ in range(4):
            await made.all()
        assert engine.connections == 1


async def test_connections_to_llama_cpp_are_not() -> None:
    """It announces keep-alive and closes all the same, which would meet the next call halfway."""
    async with running(LLAMA_CPP) as engine, client(engine) as made:
        for _ in range(3):
            await made.all()
        calls = [request.connection for request in engine.requests]
        assert len(set(calls)) == 3
        assert {request.headers["connection"] for request in engine.requests} == {"close"}


# --- how it is cut into pieces


SPOKEN = "Zażółć gęślą jaźń — 🐌 日本語 \\boxed{7}\u2028x"


@DIALECTS
@pytest.mark.parametrize(
    "act",
    [
        pytest.param(streams(words(SPOKEN), split=1), id="bytes"),
        pytest.param(streams(words(SPOKEN), split=3), id="threes"),
        pytest.param(streams(words(SPOKEN), split=97), id="97s"),
        pytest.param(streams(words(SPOKEN), one_write=True), id="one write"),
        pytest.param(streams(words(SPOKEN), one_write=True, split=1000), id="events across writes"),
        pytest.param(streams(words(SPOKEN), line_end=b"\r\n"), id="CRLF"),
        pytest.param(streams(words(SPOKEN), line_end=b"\r\n", split=2), id="CRLF, split"),
    ],
)
async def test_text_is_whole_however_its_bytes_arrive(dialect: Dialect, act: Act) -> None:
    """Characters of several bytes, events across writes, several events in one: the same text and the same tokens."""
    async with running(dialect, act=act) as engine, client(engine) as made:
        deltas = await made.all()
        assert text(deltas) == SPOKEN
        assert tokens(deltas, 0) == len(SPOKEN.split(" ")) + 1


def data(event: object) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
HELLO = {"choices": [{"index": 0, "delta": {"content": "hello"}, "finish_reason": "stop"}]}


@pytest.mark.parametrize(
    "noise",
    [
        pytest.param(b": ping\n\n", id="comment"),
        pytest.param(b"event: message\nid: 7\nretry: 3\n", id="other fields"),
        pytest.param(b"\n\n\n", id="blank lines"),
        pytest.param(data(["not", "an", "object"]), id="no object"),
        pytest.param(data({"choices": []}), id="nothing in it"),
        pytest.param(data({"choices": None, "usage": None}), id="nulls"),
        pytest.param(data({"choices": [], "error": None}), id="no error"),
        pytest.param(b"data:" + json.dumps({"choices": []}).encode() + b"\n", id="no space"),
    ],
)
async def test_what_carries_nothing_is_passed_over(noise: bytes) -> None:
    async with running() as engine, client(engine) as made:
        engine.acts.append(streams(events=0, then=says(noise + data(HELLO) + noise + DONE, ends)))
        deltas = await made.all()
        assert (text(deltas), last(deltas).finish_reason) == ("hello", "stop")


async def test_reasoning_tool_calls_and_odd_ends_come_through() -> None:
    """vLLM's `reasoning`, others' `reasoning_content`; `abort` and `repetition` are left to the sampler."""
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    thinks = Reply(pieces=[Piece(reasoning="hm"), Piece(tool_calls=[call])], finish_reason="tool_calls")
    script = script_of(thinks, words("x", finish_reason="abort"), words("y y y", finish_reason="repetition"))
    async with running(VLLM, script) as engine, client(engine) as made:
        deltas = await made.all(n=3)
        assert [last(deltas, i).finish_reason for i in range(3)] == ["tool_calls", "abort", "repetition"]
        assert [d.reasoning for d in deltas if d.reasoning] == ["hm"]
        assert [list(d.tool_calls) for d in deltas if d.tool_calls] == [[call]]
        assert tokens(deltas, 0) == 2
        other = {"choices": [{"index": 0, "delta": {"reasoning_content": "hm, hm"}}]}
        engine.acts.append(streams(events=0, then=says(data(other) + data(HELLO) + DONE, ends)))
        assert [d.reasoning for d in await made.all() if d.reasoning] == ["hm, hm"]


# --- asking again


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_a_passing_refusal_is_asked_again_until_the_retries_are_used_up(status: int) -> None:
    """The same bytes each time; two failures and then an answer is an answer."""
    async with running() as engine, client(engine, retries=2) as made:
        engine.acts.extend([refuses(status)] * 2)
        assert text(await made.all(of_tiny(sampling={"seed": 3}))) == "The answer is \\boxed{7}"
        assert len(engine.requests) == 3
        assert all(request.body == engine.requests[0].body for request in engine.requests)
        assert [stats.status for stats in made.stats] == ["ok"]


@pytest.mark.parametrize("retries", [0, 1, 2])
@pytest.mark.parametrize(
    ("act", "status"),
    [(refuses(429), 429), (refuses(503), 503), (drops, 502)],
    ids=["429", "503", "dropped before the head"],
)
async def test_a_lasting_failure_is_asked_again_that_often_and_no_more(act: Act, status: int, retries: int) -> None:
    """The last failure is the call's, with its own status."""
    async with running(act=act) as engine, client(engine, retries=retries) as made:
        error, seen = await made.failure()
        assert (error.status, seen, len(engine.requests)) == (status, [], retries + 1)
        assert [stats.status for stats in made.stats] == ["error"]


async def test_nobody_listening_is_a_503_that_says_so() -> None:
    async with client(nowhere(), probe=False, retries=2) as made:
        error, _ = await made.failure()
        assert error.status == 503
        assert "can't be reached" in str(error)


async def test_a_connection_that_was_closed_while_idle_costs_only_another_attempt() -> None:
    """An engine that restarts between two calls: the kept connection is dead, the next call must not be."""
    async with running(VLLM) as engine, client(engine) as made:
        await made.all()
        port = engine.port
        await engine.stop()
        await engine.start(port)
        assert text(await made.all()) == "The answer is \\boxed{7}"


@pytest.mark.parametrize("status", [400, 401, 404, 422, 500, 501])
async def test_a_final_refusal_is_not_asked_again(status: int) -> None:
    async with running(act=refuses(status)) as engine, client(engine, retries=2) as made:
        error, _ = await made.failure()
        assert (error.status, len(engine.requests)) == (status, 1)


@pytest.mark.parametrize("events", [0, 1, 3])
@pytest.mark.parametrize("then", [drops, ends, says(b"data: {nonsense\n\n", ends)], ids=["drop", "end", "garbage"])
async def test_nothing_is_asked_again_once_the_response_has_begun(events: int, then: Act) -> None:
    """Tokens may have been made: a second attempt would make them twice."""
    async with running(act=streams(events=events, then=then)) as engine, client(engine, retries=2) as made:
        error, _ = await made.failure()
        assert (error.status, len(engine.requests)) == (502, 1)
        assert [stats.status for stats in made.stats] == ["error"]


async def test_an_engine_that_does_not_speak_http_is_an_engine_error() -> None:
    async with running(act=speaks(b"220 mail.example ESMTP\r\n\r\n")) as engine, client(engine) as made:
        error, _ = await made.failure()
        assert error.status == 502


# --- what a refusal says


OPENAI = {"message": "m", "type": "t", "param": "p", "code": "c"}


@pytest.mark.parametrize(
    ("status", "body", "message", "kept"),
    [
        pytest.param(
            400, vllm_error(400, "too long", param="input"), "too long",
            {"message": "too long", "type": "BadRequestError", "param": "input", "code": 400}, id="vLLM",
        ),
        pytest.param(
            400, {"error": {"code": 400, "message": "Field 'n'", "type": "invalid_request_error"}}, "Field 'n'",
            {"message": "Field 'n'", "type": "invalid_request_error", "code": 400}, id="llama.cpp",
        ),
        pytest.param(400, {"error": OPENAI}, "m", OPENAI, id="OpenAI"),
        pytest.param(400, {"object": "error", **OPENAI}, "m", {"object": "error", **OPENAI}, id="old vLLM"),
        pytest.param(401, {"error": "Unauthorized"}, "Unauthorized", None, id="a string"),
        pytest.param(404, {"detail": "Not Found"}, "the engine answered 404", {"detail": "Not Found"}, id="FastAPI"),
        pytest.param(500, b"<h1>oops</h1>", "the engine answered 500", None, id="HTML"),
        pytest.param(500, b"", "the engine answered 500", None, id="empty"),
        pytest.param(500, b"[" * 200_000, "the engine answered 500", None, id="long"),
        pytest.param(301, b"", "the engine answered 301", None, id="a redirect, which is not followed"),
    ],
)  # fmt: skip
async def test_a_refusals_own_words_are_kept(status: int, body: Any, message: str, kept: Any) -> None:
    async with running() as engine, client(engine, retries=0) as made:
        engine.acts.append(refuses(status, body, headers={"retry-after": "7", "location": f"{engine.url}/x"}))
        error, _ = await made.failure()
        assert (error.status, str(error), error.body, error.retry_after) == (status, message, kept, "7")


async def test_vllms_own_refusals_reach_the_caller() -> None:
    """An unknown model, several choices at temperature 0, a wrong key."""
    async with running(VLLM, api_key=KEY) as engine, client(engine, api_key=KEY) as made:
        error, _ = await made.failure(of_tiny(model="other"))
        assert (error.status, error.body) == (
            404,
            {"message": "The model `other` does not exist.", "type": "NotFoundError", "param": "model", "code": 404},
        )
        error, _ = await made.failure(of_tiny(sampling={"temperature": 0}), n=2)
        assert (error.status, str(error)) == (400, "n must be 1 when using greedy sampling, got 2.")
        async with client(engine, probe=False, api_key="another") as stranger:
            error, _ = await stranger.failure()
            assert (error.status, str(error)) == (401, "Unauthorized")


async def test_llama_cpps_refusal_of_more_than_its_slots_reaches_the_caller() -> None:
    async with running(LLAMA_CPP) as engine, client(engine, max_n=8) as made:
        error, _ = await made.failure(n=8)
        assert error.status == 400
        assert "Field 'n'" in str(error)


@pytest.mark.parametrize(
    ("event", "status", "message"),
    [
        pytest.param(vllm_error(400, "a bad token", param="x"), 400, "a bad token", id="vLLM"),
        pytest.param({"error": {"message": "no code"}}, 502, "no code", id="without a code"),
        pytest.param({"error": {"message": "odd", "code": 200}}, 502, "odd", id="no error's code"),
        pytest.param({"error": "just text"}, 502, "just text", id="a string"),
    ],
)
async def test_an_error_in_the_stream_ends_it_with_the_engines_words(event: Any, status: int, message: str) -> None:
    async with running(act=streams(events=3, then=says(data(event)))) as engine, client(engine) as made:
        error, seen = await made.failure()
        assert (error.status, str(error)) == (status, message)
        assert text(seen) == "The answer"
        await within(engine.requests[0].gone.wait())


@pytest.mark.parametrize(
    "event",
    [
        {"choices": [7]},
        {"choices": "text"},
        {"choices": {"index": 0}},
        {"choices": [{"index": "x", "delta": {}}]},
        {"choices": [{"index": 0, "delta": "text"}]},
        {"choices": [{"index": 0, "delta": {"content": 7}}]},
        {"choices": [{"index": 0, "delta": {"content": [{"text": "x"}]}}]},
        {"choices": [{"index": 0, "delta": {"tool_calls": ["x"]}}]},
        {"choices": [{"index": 0, "delta": {"tool_calls": {"a": 1}}}]},
        {"choices": [{"index": 0, "delta": {}, "logprobs": {"content": [{"token": "t"}]}}]},
        {"choices": [{"index": 0, "delta": {}, "logprobs": [1]}]},
        {"choices": [{"index": 0, "delta": {"content": "x"}}], "usage": {"completion_tokens": "many"}},
        {"choices": [{"index": 0, "delta": {"content": "x"}}], "usage": 5},
        {"choices": [], "usage": {"prompt_tokens": "few"}},
    ],
    ids=json.dumps,
)
async def test_an_event_of_a_shape_nobody_knows_is_an_engine_error(event: Any) -> None:
    """Not a crash: what was answered before it is still an answer."""
    async with running(act=streams(events=3, then=says(data(event) + DONE))) as engine, client(engine) as made:
        error, seen = await made.failure()
        assert error.status == 502
        assert text(seen) == "The answer"
        assert [stats.status for stats in made.stats] == ["error"]
        await within(engine.requests[0].gone.wait())


@pytest.mark.parametrize("junk", [b"data: " + b"x" * 5_000_000, b"x" * 5_000_000], ids=["event", "line"])
async def test_an_event_without_end_is_cut_off(junk: bytes) -> None:
    """Memory is not the engine's to fill."""
    async with running(act=streams(events=2, then=says(junk))) as engine, client(engine) as made:
        error, _ = await made.failure()
        assert error.status == 502
        assert "size" in str(error)
        await within(engine.requests[0].gone.wait())


@DIALECTS
@pytest.mark.parametrize("then", [drops, ends, says(b"data: {nonsense\n\n")], ids=["drop", "end", "garbage"])
async def test_a_choice_that_has_ended_is_not_lost_with_the_stream(dialect: Dialect, then: Act) -> None:
    """Its finish waits for a usage chunk that never comes; then it is handed out all the same, before the error."""
    async with running(dialect, script_of(words("seven"))) as engine, client(engine) as made:
        engine.acts.append(streams(events=3, then=then))  # the role, the word, the finish
        error, seen = await made.failure()
        assert error.status == 502
        assert (text(seen), last(seen).finish_reason) == ("seven", "stop")


@DIALECTS
async def test_a_choice_that_has_ended_is_handed_out_while_the_others_go_on(dialect: Dialect) -> None:
    """Without waiting for the engine's next word, which may take its time: a vote may be settled by it."""
    script = script_of(words("seven"), endless("Once", after=asyncio.Event()))
    async with running(dialect, script) as engine, client(engine) as made:
        stream = made.engine.sample(of_tiny(), n=2, max_tokens=100)

        async def first_end() -> Delta:
            return await anext(delta async for delta in stream if delta.finish_reason is not None)

        delta = await within(first_end())
        assert (delta.index, delta.finish_reason) == (0, "stop")
        await stream.aclose()


# --- time


@pytest.mark.parametrize(
    ("act", "said"),
    [(hangs, ""), (streams(events=0, then=hangs), ""), (streams(events=3, then=hangs), "The answer")],
    ids=["before the head", "before the first event", "in the middle"],
)
async def test_silence_is_a_504_and_the_connection_is_closed(act: Act, said: str) -> None:
    """Asked only once: the engine may be at work on it."""
    async with running(act=act) as engine, client(engine, first_token_timeout=0.5, idle_timeout=0.5) as made:
        error, seen = await made.failure()
        assert (error.status, text(seen), len(engine.requests)) == (504, said, 1)
        await within(engine.requests[0].gone.wait())
        assert [stats.status for stats in made.stats] == ["error"]


async def test_silence_while_the_caller_is_busy_is_a_504_too() -> None:
    """The socket's own time-out then comes before the client's: the same to the caller."""
    busy = streams(events=2, then=hangs)
    async with running(act=busy) as engine, client(engine, first_token_timeout=0.5, idle_timeout=0.5) as made:
        error, seen = await made.failure(busy=0.3)
        assert (error.status, text(seen)) == (504, "The")


async def test_a_pause_may_be_longer_than_the_wait_for_the_first_token() -> None:
    """The two limits are the operator's to set in either order."""
    go = asyncio.Event()
    script = script_of(words("at last", after=go))
    async with running(VLLM, script) as engine, client(engine, first_token_timeout=0.8, idle_timeout=20) as made:
        asyncio.get_running_loop().call_later(1.2, go.set)
        assert text(await made.all()) == "at last"


async def test_the_first_token_may_take_longer_than_a_later_pause() -> None:
    go = asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        await exchange.wait_for(go)
        await streams()(exchange)

    async with running(act=slow) as engine, client(engine, first_token_timeout=20, idle_timeout=0.8) as made:
        asyncio.get_running_loop().call_later(1.2, go.set)
        assert text(await made.all()) == "The answer is \\boxed{7}"


async def test_a_refusal_whose_body_never_ends_is_given_up() -> None:
    async def endless_refusal(exchange: Exchange) -> None:
        await exchange.head(500, length=1000)
        await exchange.hang()

    async with (
        running(act=endless_refusal) as engine,
        client(engine, first_token_timeout=0.5, idle_timeout=0.5) as made,
    ):
        error, _ = await made.failure()
        assert error.status == 500
        await within(engine.requests[0].gone.wait())


# --- leaving


@DIALECTS
@pytest.mark.parametrize("n", [1, 4])
async def test_closing_the_generator_closes_the_connection_at_once(dialect: Dialect, n: int) -> None:
    """In the middle of an answer, without waiting for the engine to say another word."""
    never = asyncio.Event()
    async with running(dialect, script_of(endless("Once upon", after=never))) as engine, client(engine) as made:
        stream = made.engine.sample(of_tiny(), n=n, max_tokens=100)
        async for delta in stream:
            if delta.text == " upon":
                break
        assert made.engine.running == n
        started = time.monotonic()
        await stream.aclose()
        assert made.engine.running == 0
        await within(engine.requests[0].gone.wait())
        assert time.monotonic() - started < 5, "idle_timeout is 30 s: it did not wait for that"
        assert not engine.requests[0].answered
        (stats,) = made.stats
        assert (stats.status, stats.completed, stats.running) == ("cancelled", False, 0)
        assert stats.tokens >= 2


@pytest.mark.parametrize("act", [hangs, streams(events=0, then=hangs), streams(events=2, then=hangs)])
async def test_cancelling_the_caller_closes_the_connection_wherever_it_waits(act: Act) -> None:
    async with running(act=act) as engine, client(engine) as made:
        task = asyncio.create_task(made.all(n=3))
        request = await engine.asked(1)
        assert made.engine.running == 3
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert made.engine.running == 0
        await within(request.gone.wait())
        assert [stats.status for stats in made.stats] == ["cancelled"]


async def test_running_counts_what_is_in_work_and_a_call_knows_what_it_came_on_top_of() -> None:
    go = asyncio.Event()
    async with running(VLLM, script_of(words("a b", after=go))) as engine, client(engine) as made:
        first = asyncio.create_task(made.all(n=2))
        await engine.asked(1)
        second = asyncio.create_task(made.all(n=3))
        await engine.asked(2)
        assert made.engine.running == 5
        go.set()
        await asyncio.gather(first, second)
        assert sorted((stats.added, stats.running) for stats in made.stats) == [(2, 0), (3, 2)]


async def test_an_engine_that_leaves_the_stream_open_after_done_holds_nobody_up() -> None:
    async with running() as engine, client(engine) as made:
        engine.acts.append(streams(then=hangs))
        assert text(await made.all()) == "The answer is \\boxed{7}"
        await within(engine.requests[0].gone.wait())
        assert text(await made.all()) == "The answer is \\boxed{7}"


async def test_a_hundred_calls_at_once_share_no_state() -> None:
    async with running(VLLM) as engine, client(engine, max_connections=20) as made:
        engine.script = lambda request: [words(request.body["messages"][0]["content"])]
        answers = await asyncio.gather(
            *(made.all(of_tiny(messages=[{"role": "user", "content": f"no {i}"}])) for i in range(100))
        )
        assert [text(deltas) for deltas in answers] == [f"no {i}" for i in range(100)]
        assert engine.connections <= 21
        await until(lambda: engine.busy == 0)
