"""Beam search on the real engine: a continuation goes on exactly where the beam stopped, from the engine's cache.

Looked at in the engine's raw stream, past the gateway, except where a whole search runs.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson
import pytest
from httpx_aiohttp import AiohttpTransport

from server.backends.openai import EngineSettings, OpenAIEngine
from strategies.anytime import run
from strategies.beam_search import Steps
from strategies.ledger import Ledger
from strategies.registry import strategies
from strategies.sampling import MeteredSampler
from strategies.scorers import SCORERS
from strategies.spec import StrategySpec
from strategies.types import Budget, Tools
from tests.conftest import Live
from tests.fakes import ask

pytestmark = [pytest.mark.anyio, pytest.mark.engine]

LIST: Any = [{"role": "user", "content": "Name five animals, with a short sentence on each, one on each line."}]
SURE = 0.5  # probability from which on the next token of a greedy answer is the same, however it is computed
SAMPLING = {"temperature": 0.8, "seed": 5, "ignore_eos": True}  # beams that never end by themselves


@dataclass(slots=True, kw_only=True)
class Heard:
    """What the engine streamed for one choice."""

    text: str = ""
    tokens: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])  # and their log probabilities
    prompt: str = ""  # as the engine itself read it
    prompt_tokens: int = 0
    cached_tokens: int = 0


async def ask_engine(gateway: Live, prefix: str = "", *, max_tokens: int) -> Heard:
    said = [{"role": "assistant", "content": prefix}] if prefix else []
    body = {
        "messages": [*LIST, *said],
        "temperature": 0,
        "max_tokens": max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        "logprobs": True,
        "top_logprobs": 1,
        "verbose": True,
    }
    heard = Heard()
    async with (
        httpx.AsyncClient(base_url=gateway.engine_url, timeout=120, trust_env=False) as client,
        client.stream("POST", "/v1/chat/completions", json=body) as reply,
    ):
        async for line in reply.aiter_lines():
            if line.startswith("data: {"):
                event = orjson.loads(line.removeprefix("data: "))
                heard.prompt = (event.get("__verbose") or {}).get("prompt") or heard.prompt
                for choice in event["choices"]:
                    heard.text += choice["delta"].get("content") or ""
                    content = (choice.get("logprobs") or {}).get("content") or []
                    heard.tokens += [(entry["token"], entry["logprob"]) for entry in content]
                if usage := event.get("usage"):
                    heard.prompt_tokens = usage["prompt_tokens"]
                    heard.cached_tokens = usage["prompt_tokens_details"]["cached_tokens"]
    return heard


async def test_a_continuation_goes_on_exactly_where_the_text_stopped(gateway: Live) -> None:
    """After a word, in the middle of one, and after a new line: the prompt ends with the prefix as it is, all of it but
    the token that is always computed anew comes from the cache, and the next token is the one that came before."""
    whole = await ask_engine(gateway, max_tokens=70)
    texts = [token for token, _ in whole.tokens]
    assert "".join(texts) == whole.text

    def cuts(wanted: Any) -> list[int]:
        return [i for i in range(2, len(texts)) if wanted(i) and whole.tokens[i][1] > -SURE]

    after = {
        "new line": cuts(lambda i: texts[i - 1].endswith("\n")),
        "middle of a word": cuts(lambda i: texts[i][0].isalpha() and texts[i - 1][-1].isalpha()),
        "word": cuts(lambda i: texts[i][0] == " " and texts[i - 1][-1].isalpha()),
    }
    for place, found in after.items():
        assert found or place == "middle of a word", f"the answer has no place after a {place}: {whole.text!r}"
    chosen = {i: place for place, found in after.items() for i in found[:3]}
    for i, place in sorted(chosen.items(), reverse=True):  # the slot's cache ends where its last text did
        prefix = "".join(texts[:i])
        again = await ask_engine(gateway, prefix, max_tokens=1)
        assert again.prompt == whole.prompt + prefix, place
        assert again.prompt_tokens == whole.prompt_tokens + i, "the same tokens, and no other"
        assert again.cached_tokens >= again.prompt_tokens - 1, place
        assert again.text == texts[i], f"after a {place}"


@pytest.mark.parametrize("prefix", ["1. A do", "1. A dog ", "1. A dog\n", "1. A dog\n\n  ", " 1. A\t"])
async def test_white_space_and_half_words_at_the_joint_stay_as_they_are(gateway: Live, prefix: str) -> None:
    plain = await ask_engine(gateway, max_tokens=1)
    heard = await ask_engine(gateway, prefix, max_tokens=6)
    assert heard.prompt == plain.prompt + prefix
    assert heard.text == "".join(token for token, _ in heard.tokens), "what was made is what is sent, and nothing else"


# --- a whole search


class _Tee(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream, heard: list[bytes]) -> None:
        self._stream, self._heard = stream, heard

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            self._heard.append(chunk)
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


class Recording(httpx.AsyncBaseTransport):
    """Keeps what was sent and what came."""

    def __init__(self) -> None:
        self._inner = AiohttpTransport(trust_env=False)
        self.calls: list[tuple[dict[str, Any], list[bytes]]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._inner.handle_async_request(request)
        if request.method == "POST":
            heard: list[bytes] = []
            self.calls.append((orjson.loads(request.content), heard))
            assert isinstance(response.stream, httpx.AsyncByteStream)
            response.stream = _Tee(response.stream, heard)
        return response

    def usages(self) -> list[tuple[str, int, int]]:
        """Of every choice: what it continued, its prompt's tokens, and how many of them were cached."""
        found: list[tuple[str, int, int]] = []
        for body, heard in self.calls:
            last = body["messages"][-1]
            prefix = last["content"] if last["role"] == "assistant" else ""
            for line in b"".join(heard).split(b"\n"):
                usage = orjson.loads(line[6:]).get("usage") if line.startswith(b"data: {") else None
                if usage:
                    found.append((prefix, usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]))
        return found

    async def aclose(self) -> None:
        await self._inner.aclose()


@pytest.fixture
async def recording(gateway: Live) -> AsyncGenerator[tuple[OpenAIEngine, Recording], None]:
    transport = Recording()
    engine = OpenAIEngine(EngineSettings(url=gateway.engine_url, probe_calls="never"), transport=transport)
    await engine.probe()
    yield engine, transport
    await engine.aclose()


@pytest.mark.parametrize("written", ["beam_search@1x3", "beam_search@2x2:diverse:lookahead"])
async def test_the_beams_of_a_search_are_continued_from_the_cache(
    gateway: Live, recording: tuple[OpenAIEngine, Recording], written: str
) -> None:
    """The question is not read again. Of a beam's own steps llama.cpp has what the slot it happens to take still holds;
    of several calls at once some get a slot that holds nothing of it."""
    engine, transport = recording
    spec = StrategySpec.parse(written)
    budget = Budget(max_total_tokens=600, deadline=time.monotonic() + 300)
    query = ask(model=engine.profile.models[0], messages=LIST, sampling=SAMPLING, budget=budget)
    ledger = Ledger(600)
    sampler = MeteredSampler(engine, ledger, default_max_tokens=60)
    steps = Steps(stop=("\n",), tokens=10, max_steps=4)
    tools = Tools(sampler=sampler, scorer=SCORERS["mean_logprob"])
    answer = await run(strategies(steps)["beam_search"], query, spec, tools, sampler, deadline=budget.deadline)
    usages = transport.usages()
    first = [tokens for prefix, tokens, _ in usages if not prefix]
    continued = [(prefix, tokens, cached) for prefix, tokens, cached in usages if prefix]
    assert continued
    assert any(answer.winners[0].text.startswith(prefix) for prefix, _, _ in continued)
    covered = [cached >= min(first) - 2 for _, _, cached in continued]
    assert sum(covered) >= (1 if spec.n == 1 else 0.6) * len(covered), continued
    assert ledger.spent <= 600
    assert (await gateway.until(lambda load: load.idle, within=5.0)).processing == 0


async def test_the_options_are_understood_by_the_gateway(gateway: Live) -> None:
    body = {
        "messages": LIST,
        "max_tokens": 48,
        "apportion": {"strategy": "beam_search@2x2:diverse:lookahead", "max_total_tokens": 600},
    }
    async with httpx.AsyncClient(base_url=gateway.api, timeout=120, trust_env=False) as client:
        reply = (await client.post("/chat/completions", json=body)).raise_for_status().json()
    assert reply["choices"][0]["message"]["content"]
    assert reply["usage"]["completion_tokens"] <= 600
    assert reply["apportion"]["strategy"] == "beam_search@2x2:diverse:lookahead"
    await gateway.until(lambda load: load.idle, within=5.0)
