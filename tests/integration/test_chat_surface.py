"""Chat completions as clients use them, over real sockets, in front of a scripted engine."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import httpx
import pytest

from tests.fake_engine import LLAMA_CPP, PLAIN, VLLM, Dialect, Piece, Reply, Request, endless, running, script_of, words
from tests.serving import Served, error_of, events_of, serving

pytestmark = pytest.mark.anyio

STREAMED = pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
SEVERAL = pytest.mark.parametrize("strategy", ["majority_vote@4", "best_of_n@4", "best_of_n@4:weighted"])
F = {"type": "function", "function": {"name": "f", "parameters": {
    "type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}}}  # fmt: skip
AGE = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}


def calling(*calls: tuple[str, str], id: str = "c") -> Reply:
    """As vLLM sends calls: a name, then the arguments in pieces."""
    pieces: list[Piece] = []
    for index, (name, arguments) in enumerate(calls):
        start = {"index": index, "id": f"{id}{index}", "type": "function", "function": {"name": name, "arguments": ""}}
        half = len(arguments) // 2
        rest = [{"index": index, "function": {"arguments": part}} for part in (arguments[:half], arguments[half:])]
        pieces += [Piece(tool_calls=[part]) for part in (start, *rest)]
    return Reply(pieces=pieces, finish_reason="tool_calls")


async def said(served: Served, strategy: str, *, streamed: bool, **fields: Any) -> dict[str, Any]:
    """The first choice: finish_reason, and the message, put together from its pieces when it is streamed."""
    response = await served.chat(strategy, stream=streamed, **fields)
    assert response.status_code == 200, response.text
    if not streamed:
        choice = response.json()["choices"][0]
        return {
            **choice["message"],
            "finish_reason": choice["finish_reason"],
            "apportion": response.json()["apportion"],
        }
    message: dict[str, Any] = {"content": ""}
    *chunks, done = events_of(response.text)
    assert done == "[DONE]"
    for chunk in chunks:
        for choice in chunk["choices"]:
            if choice["index"] == 0:
                _join(message, choice["delta"])
                message["finish_reason"] = choice["finish_reason"]
    return {**message, "apportion": chunks[-1]["apportion"]}


def _join(message: dict[str, Any], delta: dict[str, Any]) -> None:
    for name, value in delta.items():
        if name == "tool_calls":
            for piece in value:
                calls = message.setdefault("tool_calls", [])
                if piece["index"] == len(calls):
                    calls.append({"id": piece["id"], "type": piece["type"], "function": {"name": "", "arguments": ""}})
                for key, part in piece["function"].items():
                    calls[piece["index"]]["function"][key] += part or ""
        elif name == "function_call":
            call = message.setdefault("function_call", {"name": "", "arguments": ""})
            for key, part in value.items():
                call[key] += part
        elif name == "role":
            message["role"] = value
        elif value is not None:
            message[name] = message.get(name, "") + value


# --- tools


@SEVERAL
@STREAMED
async def test_calls_are_voted_on_by_name_and_arguments(strategy: str, streamed: bool) -> None:
    """Spelled differently, in any order; the answer is a whole call."""
    script = script_of(
        calling(("f", '{"a": 1}'), ("f", '{"a": 2}')),
        calling(("f", '{"a":2}'), ("f", '{"a":1}'), id="d"),
        calling(("f", '{"a": 9}')),
        calling(("f", '{"a": 1}'), ("f", '{"a": 2.0}')),
    )
    async with running(VLLM, script) as engine, serving(engine.url) as served:
        answer = await said(served, strategy, streamed=streamed, tools=[F])
        assert {call["function"]["name"] for call in answer["tool_calls"]} == {"f"}
        if strategy != "best_of_n@4":
            assert sorted(json.loads(call["function"]["arguments"])["a"] for call in answer["tool_calls"]) == [1, 2]
            assert answer["apportion"]["agreement"] == 0.75
        assert answer["finish_reason"] == "tool_calls"
        assert not answer["content"]


@SEVERAL
@pytest.mark.parametrize("broken", ['{"a": ', '{"b": 1}', "[1]"])
async def test_broken_arguments_never_win(strategy: str, broken: str) -> None:
    """Three of four are not JSON, or break the tool's schema."""
    bad = calling(("f", broken))
    script = script_of(bad, bad, calling(("f", '{"a": 4}')), bad)
    async with running(VLLM, script) as engine, serving(engine.url) as served:
        answer = await said(served, strategy, streamed=False, tools=[F])
        (call,) = answer["tool_calls"]
        assert call["function"]["arguments"] == '{"a": 4}'


@SEVERAL
@pytest.mark.parametrize(
    ("choice", "wins"),
    [
        ("none", "text"),
        ("required", "call"),
        ({"type": "function", "function": {"name": "f"}}, "call"),
        ("auto", "text"),
    ],
    ids=str,
)
async def test_the_tool_choice_says_who_may_win(strategy: str, choice: Any, wins: str) -> None:
    """Three say the same in words, one calls: whether the engine obeys the choice or not."""
    text = words("It is \\boxed{7}")
    script = script_of(text, text, calling(("f", '{"a": 4}')), text)
    async with running(VLLM, script) as engine, serving(engine.url) as served:
        answer = await said(served, strategy, streamed=False, tools=[F], tool_choice=choice)
        assert engine.requests[0].body["tool_choice"] == choice
        assert ("tool_calls" in answer) == (wins == "call") or (choice, strategy[:4]) == ("auto", "best")


async def test_where_nobody_complies_the_best_is_returned_and_the_note_says_so() -> None:
    async with running(VLLM, script_of(words("\\boxed{7}"))) as engine, serving(engine.url) as served:
        answer = await said(served, "majority_vote@3", streamed=False, tools=[F], tool_choice="required")
        assert answer["content"] == "\\boxed{7}"
        assert answer["apportion"]["note"] == "no candidate keeps to what was asked for: no tool is called"


@STREAMED
@pytest.mark.parametrize("strategy", ["single", "majority_vote@3"])
async def test_functions_are_answered_as_functions(strategy: str, streamed: bool) -> None:
    """OpenAI's older names, both ways, and in the conversation so far."""
    messages = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"a": 1}'}},
        {"role": "function", "name": "f", "content": "1"},
    ]
    async with running(VLLM, script_of(calling(("f", '{"a": 4}')))) as engine, serving(engine.url) as served:
        answer = await said(
            served,
            strategy,
            streamed=streamed,
            functions=[F["function"]],
            function_call={"name": "f"},
            messages=messages,
        )
        assert answer["function_call"] == {"name": "f", "arguments": '{"a": 4}'}
        assert "tool_calls" not in answer
        assert answer["finish_reason"] == "function_call"
        sent = engine.requests[0].body
        assert sent["tools"] == [F]
        assert sent["tool_choice"] == {"type": "function", "function": {"name": "f"}}
        assert not {"functions", "function_call"} & set(sent)
        assert [message["role"] for message in sent["messages"]] == ["user", "assistant", "tool"]


# --- structured output


@SEVERAL
@STREAMED
@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": AGE, "strict": True}}},
        {"guided_json": AGE},
        {"structured_outputs": {"json": AGE}},
    ],
    ids=lambda fields: next(iter(fields)),
)
async def test_what_breaks_the_schema_never_wins(strategy: str, streamed: bool, fields: dict[str, Any]) -> None:
    bad = words('{"age": "seven"}')
    async with running(VLLM, script_of(bad, words('{"age": 7}'), bad, bad)) as engine, serving(engine.url) as served:
        answer = await said(served, strategy, streamed=streamed, **fields)
        assert answer["content"] == '{"age": 7}'
        assert "guided_json" not in engine.requests[0].body


async def test_a_hostile_schema_takes_no_candidate_out_and_no_time() -> None:
    """It looks twice at each of forty levels, and refers to another host."""
    both = {str(i): {"allOf": [{"$ref": f"#/$defs/{i + 1}"}] * 2} for i in range(40)}
    doubling = {"$defs": {**both, "40": {}}, "$ref": "#/$defs/0"}
    for schema in (doubling, {"$ref": "http://127.0.0.1:9/s.json"}, {"pattern": "^(a+)+$"}):
        wanted = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
        async with running(VLLM, script_of(words('"aaaa"'))) as engine, serving(engine.url) as served:
            answer = await said(served, "majority_vote@3", streamed=False, response_format=wanted)
            assert answer["content"] == '"aaaa"'
            assert "note" not in answer["apportion"]


# --- reasoning and refusals


@STREAMED
@pytest.mark.parametrize("strategy", ["single", "majority_vote@3"])
@pytest.mark.parametrize("dialect", [VLLM, LLAMA_CPP], ids=["vllm", "llama.cpp"])
async def test_reasoning_stays_apart_under_the_engines_own_name(
    dialect: Dialect, strategy: str, streamed: bool
) -> None:
    """And it is counted, and has no vote: they all think of 8 and answer 7 or 9."""

    def thinks(answer: str) -> Reply:
        return Reply(pieces=[Piece(reasoning="The answer is \\boxed{8}", tokens=5), Piece(text=answer)])

    script = script_of(thinks("\\boxed{7}"), thinks("\\boxed{9}"), thinks("\\boxed{7}"))
    async with running(dialect, script) as engine, serving(engine.url) as served:
        answer = await said(served, strategy, streamed=streamed)
        assert answer["content"] == "\\boxed{7}"
        assert answer[dialect.reasoning] == "The answer is \\boxed{8}"
        assert not {"reasoning", "reasoning_content"} - {dialect.reasoning} & set(answer)
        assert answer["apportion"]["actual"]["tokens"] == engine.tokens


@pytest.mark.parametrize("strategy", ["single", "majority_vote@3"])
async def test_thoughts_that_an_engine_leaves_in_the_text_are_returned_and_not_read(strategy: str) -> None:
    """Without a reasoning parser the engine's text is all there is: a client gets what it would get from the engine."""
    text = "<think> It is \\boxed{8} </think> \\boxed{7}"
    async with running(VLLM, script_of(words(text))) as engine, serving(engine.url) as served:
        answer = await said(served, strategy, streamed=False, apportion={"include": ["candidates"]})
        assert answer["content"] == text
        assert strategy == "single" or list(answer["apportion"]["votes"]) == ["7"]


@STREAMED
@pytest.mark.parametrize("strategy", ["single", "majority_vote@3"])
async def test_a_refusal_is_passed_on(strategy: str, streamed: bool) -> None:
    """The SDKs' `parse` looks for it."""
    reply = Reply(pieces=[Piece(refusal="I can't"), Piece(refusal=" help.")])
    async with running(PLAIN, script_of(reply)) as engine, serving(engine.url) as served:
        answer = await said(served, strategy, streamed=streamed)
        assert (answer["refusal"], answer["content"] or "") == ("I can't help.", "")


# --- streaming


async def test_progress_is_shown_as_reasoning_when_asked_for() -> None:
    """How many have come and what the leader has; nothing of what they say."""
    go = asyncio.Event()
    script = script_of(
        words("\\boxed{7}"), words("\\boxed{8}"), words("\\boxed{7}"), words("late \\boxed{7}", after=go)
    )
    async with running(VLLM, script) as engine, serving(engine.url) as served:
        asked = {"stream": True, "apportion": {"progress": True, "token_price": 0}}
        request = asyncio.create_task(served.chat("majority_vote@4", **asked))
        await engine.asked(1)
        go.set()
        *chunks, done = events_of((await request).text)
        assert done == "[DONE]"
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
        shown = [delta["reasoning"] for delta in deltas if "reasoning" in delta]
        assert shown[:3] == [
            "1 of 4 candidates, leader 1 vote\n",
            "2 of 4 candidates, leader 1 vote\n",
            "3 of 4 candidates, leader 2 votes\n",
        ]
        assert deltas[0] == {"role": "assistant", "content": ""}
        assert sum("role" in delta for delta in deltas) == 1
        assert [delta["content"] for delta in deltas if delta.get("content")] == ["\\boxed{7}"]


@pytest.mark.parametrize(("strategy", "of"), [("best_of_n@3", " of 3"), ("beam_search@2x2", "")])
async def test_progress_of_other_strategies_has_no_votes(strategy: str, of: str) -> None:
    async with (
        running(VLLM, script_of(words("Three\n\nand four\n\n\\boxed{7}"), words("\\boxed{8}"))) as engine,
        serving(engine.url) as served,
    ):
        response = await served.chat(strategy, stream=True, apportion={"progress": True})
        deltas = [chunk["choices"][0]["delta"] for chunk in events_of(response.text)[:-1] if chunk["choices"]]
        shown = [delta["reasoning"] for delta in deltas if "reasoning" in delta]
        assert shown
        assert len(set(shown)) == len(shown)
        assert all(re.fullmatch(rf"(1{of} candidates?|\d+{of} candidates)\n", line) for line in shown), shown


@pytest.mark.parametrize("fields", [{}, {"apportion": {"progress": False}}])
async def test_progress_is_shown_to_nobody_else(fields: dict[str, Any]) -> None:
    async with running(VLLM) as engine, serving(engine.url) as served:
        assert "candidates," not in (await served.chat("majority_vote@4", stream=True, **fields)).text
        assert "candidates," not in (await served.chat("single", stream=True, apportion={"progress": True})).text


async def test_an_obfuscated_stream_has_chunks_of_even_sizes() -> None:
    """What is said word by word can't be told from the sizes of the chunks."""
    script = script_of(words("a bb ccc dddd eeeee ffffff"))
    async with running(VLLM, script) as engine, serving(engine.url) as served:
        asked = {"stream": True, "stream_options": {"include_obfuscation": True}}
        lines = [line for line in (await served.chat(**asked)).text.splitlines() if line.startswith("data: {")]
        assert {len(line.removeprefix("data: ").encode()) % 64 for line in lines} == {0}
        assert all("obfuscation" in json.loads(line.removeprefix("data: ")) for line in lines)
        assert "obfuscation" not in (await served.chat(stream=True)).text


async def test_the_stop_that_ended_it_is_told() -> None:
    """vLLM's `stop_reason`, for clients that read it."""
    async with running(VLLM, script_of(words("one two END three"))) as engine, serving(engine.url) as served:
        plain = (await served.chat(stop=["END"])).json()["choices"][0]
        assert plain["stop_reason"] == "END"
        last = events_of((await served.chat(stop=["END"], stream=True)).text)[-2]
        assert last["choices"][0]["stop_reason"] == "END"


async def test_a_large_image_reaches_the_engine_whole() -> None:
    """With its length announced: not every engine takes chunks."""
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{'QUJD' * 700_000}"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, image]}]
    async with running(VLLM) as engine, serving(engine.url) as served:
        assert (await served.chat("majority_vote@2", messages=messages)).status_code == 200
        assert engine.requests[0].body["messages"] == messages
        assert int(engine.requests[0].headers["content-length"]) > 2_800_000


# --- controls


@pytest.mark.parametrize(
    ("prefix", "strategy", "profile"),
    [("/best_of_n@2", "best_of_n@2", "balanced"), ("/best_of_n%402", "best_of_n@2", "balanced"),
     ("/single", "single", "balanced"), ("/fast", None, "fast"), ("/auto", None, "balanced")],
)  # fmt: skip
async def test_the_base_url_names_a_strategy_or_a_profile(prefix: str, strategy: str | None, profile: str) -> None:
    asked = {"messages": [{"role": "user", "content": "?"}]}
    async with running(VLLM) as engine, serving(engine.url) as served:
        told = (await served.client.post(f"{prefix}/v1/chat/completions", json=asked)).json()["apportion"]
        assert told["profile"] == profile
        assert strategy is None or (told["strategy"], told["decided_by"]) == (strategy, "client")


async def test_every_endpoint_is_there_under_every_base_url() -> None:
    async with running(VLLM) as engine, serving(engine.url) as served:
        assert (await served.client.get("/quality/v1/models")).json() == (await served.client.get("/v1/models")).json()
        assert (await served.client.get("/best_of_n@8/v1/models/tiny")).json()["id"] == "tiny"
        for path in (
            "/quality/v1/nothing",
            "/quality/v1",
            "/quality/health",
            "/v1/v1/models",
            "/quality/fast/v1/models",
        ):
            assert error_of(await served.client.get(path))["code"] == "unknown_url"


@pytest.mark.parametrize("word", ["openai", "best_of_n@999", "best_of_n", "Quality", "%0a", "x" * 9000])
async def test_an_unknown_word_in_the_base_url_is_a_404_that_lists_the_known(word: str) -> None:
    async with running(VLLM) as engine, serving(engine.url) as served:
        response = await served.client.post(f"/{word}/v1/chat/completions", json={})
        assert response.status_code == 404
        error = error_of(response)
        assert (error["code"], error["type"]) == ("unknown_url", "invalid_request_error")
        assert "fast, balanced, quality" in error["message"]
        assert response.headers["x-request-id"].startswith("req_")
        assert len(response.content) < 3000
        assert not engine.requests


async def test_a_header_does_what_the_body_can() -> None:
    async with running(VLLM) as engine, serving(engine.url) as served:
        headers = {"x-apportion-strategy": "majority_vote@3", "x-apportion-include": "candidates,predictions"}
        asked = {"messages": [{"role": "user", "content": "?"}]}
        told = (await served.client.post("/v1/chat/completions", json=asked, headers=headers)).json()["apportion"]
        assert told["strategy"] == "majority_vote@3"
        assert len(told["candidates"]["list"]) == told["candidates"]["drawn"]
        assert told["predictions"]


async def test_the_effort_picks_the_profile_and_reaches_the_engine() -> None:
    async with running(VLLM) as engine, serving(engine.url) as served:
        for effort, profile in (("low", "fast"), ("high", "quality")):
            asked = {"messages": [{"role": "user", "content": "?"}], "reasoning_effort": effort}
            told = (await served.client.post("/v1/chat/completions", json=asked)).json()["apportion"]
            assert told["profile"] == profile
            assert engine.requests[-1].body["reasoning_effort"] == effort
        asked["reasoning_effort"] = "none"
        told = (await served.client.post("/v1/chat/completions", json=asked)).json()["apportion"]
        assert (told["strategy"], told["decided_by"]) == ("single", "client")


# --- what a beam search adds to a request


def steps(request: Request) -> list[Reply]:
    """Says "one", a blank line and "two", in two steps."""
    begun = str(request.body["messages"][-1]["content"]).endswith("one\n\n")
    text = "two" if begun else "one\n\nmore"
    return [words(text) for _ in range(int(request.body.get("n") or 1))]


@pytest.mark.parametrize("dialect", [VLLM, LLAMA_CPP], ids=["vllm", "llama.cpp"])
async def test_a_beam_search_goes_on_with_the_clients_unfinished_message(dialect: Dialect) -> None:
    """Not in a message of its own behind it, which would be another turn."""
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "I say "}]
    asked = {"continue_final_message": True, "add_generation_prompt": False} if dialect is VLLM else {}
    async with running(dialect, steps) as engine, serving(engine.url) as served:
        response = await served.chat("beam_search@1x2", messages=messages, **asked)
        assert response.status_code == 200
        assert len(engine.requests) > 1
        last = engine.requests[-1].body["messages"]
        assert [message["role"] for message in last] == ["user", "assistant"]
        assert last[-1]["content"].startswith("I say one")


async def test_the_ends_of_steps_leave_a_clients_own_stops_their_room() -> None:
    """OpenAI's API and vLLM's chats take four; llama.cpp takes any number."""
    own = ["A", "B", "C", "D"]
    for dialect, sent in ((VLLM, own), (LLAMA_CPP, [*own, "\n\n"])):
        async with running(dialect) as engine, serving(engine.url) as served:
            response: httpx.Response = await served.chat("beam_search@1x2", stop=own)
            assert response.status_code == 200
            assert engine.requests[0].body["stop"] == sent


async def test_what_is_under_way_ends_with_the_stream() -> None:
    """Progress or not, a client that leaves takes its work off the engine."""
    script = script_of(words("\\boxed{7}"), endless("on", after=asyncio.Event()))
    async with running(VLLM, script) as engine, serving(engine.url) as served:
        asking = asyncio.create_task(served.chat("majority_vote@3", stream=True, apportion={"progress": True}))
        request = await engine.asked(1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await asyncio.wait_for(request.gone.wait(), 20)
