"""Passing on, without a socket: which paths, which headers, how many tokens, and best_of."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.api.completions import best_of
from server.api.cost import cost, limited
from server.config import ConfigError, load_config
from server.errors import EngineFailed, InvalidRequest
from server.passthrough.rules import computes, family, generates, passes, to_client, to_engine
from server.passthrough.settings import Passthrough
from server.passthrough.usage import Tail, Usage

DEFAULT = Passthrough()

# --- paths


@pytest.mark.parametrize(
    "path",
    [
        "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/responses/resp_1/input_items", "/v1/messages",
        "/v1/audio/transcriptions", "/v1/score", "/v1/rerank", "/v2/rerank", "/rerank", "/score", "/tokenize",
        "/detokenize", "/pooling", "/classify", "/v1/something_new", "/v1/models/org/model:tag@1",
    ],
)  # fmt: skip
def test_what_computes_is_passed_on(path: str) -> None:
    assert passes(path, Passthrough())


@pytest.mark.parametrize(
    "path",
    [
        "/sleep", "/wake_up", "/reset_prefix_cache", "/load_lora_adapter", "/collective_rpc", "/shutdown",
        "/update_weights", "/start_profile", "/server_info", "/slots", "/props", "/models/load", "/invocations",
        "/inference/v1/generate", "/", "/v1", "/v1/", "/v2/x",
        "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/V1/load_lora_adapter", "/v1/Load_Lora_Adapter",
        "/v1/files", "/v1/files/file-1/content", "/v1/organization/admin_api_keys",
        "/v1/../sleep", "/v1/..", "/v1/./x", "/v1//x", "//v1/x", "/v1/x/", "/v1/a%2e%2e", "/v1/a b", "/v1/a\\b",
        "/v1/ä", "/v1/a\r\nx: y", "/v1/a?b", "/v1/a#b", "http://elsewhere/v1/x", "v1/x", "", "/v1/" + "a" * 600,
    ],
)  # fmt: skip
def test_what_changes_the_engine_or_is_not_plain_is_not(path: str) -> None:
    assert not passes(path, Passthrough())


@given(st.text())
def test_no_path_leads_out_of_the_lists(text: str) -> None:
    for path in (text, f"/v1/{text}", f"/{text}"):
        if passes(path, DEFAULT):
            assert path.startswith("/v1/") or path in DEFAULT.paths
            assert not {"", ".", ".."} & set(path.split("/")[1:])
            assert path.isascii()
            assert not set(path) & set("%?#\\ \r\n")


def test_the_operator_decides_what_is_passed_on() -> None:
    only = Passthrough(v1=False, paths=("/v1/embeddings", "/props"))
    assert passes("/v1/embeddings", only)
    assert passes("/props", only)
    assert not passes("/v1/completions", only)
    assert not passes("/v1/completions", Passthrough(refused=("/v1/completions",)))
    assert passes("/v1/files", Passthrough(refused=()))
    assert not passes("/tokenize", Passthrough(enabled=False))
    variable = {"APPORTION_PASSTHROUGH__PATHS": "/tokenize, /props"}
    assert load_config(None, environ=variable).passthrough.paths == ("/tokenize", "/props")


def test_a_path_that_no_request_can_have_is_a_configuration_error() -> None:
    """A refusal with a typing error in it would refuse nothing."""
    with pytest.raises(ConfigError, match=r"passthrough\.refused: should be paths such as"):
        load_config(None, overrides={"passthrough.refused": ["v1/files"]}, environ={})


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("/v1/completions", "completions"), ("/v1/audio/speech", "audio"), ("/v2/rerank", "rerank"),
        ("/detokenize", "tokenize"), ("/v1/messages/count_tokens", "messages"), ("/v1/what", "other"), ("/v1", "other"),
        ("/v1/Chat/Completions", "chat"),
    ],
)  # fmt: skip
def test_endpoints_are_counted_by_what_they_do(path: str, label: str) -> None:
    assert family(path) == label


def test_only_what_leaves_nothing_behind_is_sent_twice() -> None:
    assert generates("/v1/completions")
    assert not generates("/v1/embeddings")
    assert computes("/v1/embeddings")
    assert not computes("/v1/files")


# --- headers


def test_the_engine_gets_no_header_that_is_not_about_the_request() -> None:
    sent = {
        "Authorization": "Bearer client", "x-api-key": "client", "Cookie": "a=b", "Host": "gateway", "Connection": "x",
        "Keep-Alive": "5", "Transfer-Encoding": "chunked", "TE": "x", "Upgrade": "h2c", "Content-Length": "7",
        "X-Vllm-Priority": "-1", "X-Session-ID": "s", "X-data-parallel-rank": "1", "x-apportion-strategy": "single",
        "X-Forwarded-For": "1.2.3.4", "Accept-Encoding": "gzip", "Proxy-Authorization": "x", "x-request-id": "forged",
        "Content-Type": "application/json", "Accept": "text/event-stream", "anthropic-version": "2023-06-01",
        "OpenAI-Beta": "x", "traceparent": "00-1-2-01",
    }  # fmt: skip
    assert {name.lower(): value for name, value in to_engine(sent, "req_1").items()} == {
        "content-type": "application/json", "accept": "text/event-stream", "anthropic-version": "2023-06-01",
        "openai-beta": "x", "traceparent": "00-1-2-01", "x-request-id": "req_1",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["accept", "Content-Type"])
def test_a_header_that_can_not_be_sent_is_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidRequest, match="should be ASCII") as caught:
        to_engine({"cookie": "ä", name: "text/ä"}, "req_1")
    assert caught.value.param == name


def test_the_client_gets_no_header_of_the_connection_or_of_the_engines_host() -> None:
    given = [
        ("Content-Type", "application/json"), ("Retry-After", "3"), ("Set-Cookie", "a=b"), ("Server", "uvicorn"),
        ("Location", "http://engine:8001/"), ("Access-Control-Allow-Origin", "*"), ("Transfer-Encoding", "chunked"),
        ("Connection", "close"), ("Date", "x"), ("WWW-Authenticate", "Bearer"), ("X-Request-Id", "engine's"),
    ]  # fmt: skip
    assert to_client(given) == {"content-type": "application/json", "retry-after": "3"}


# --- tokens of a response


def seen(*pieces: bytes) -> Tail:
    tail = Tail()
    for piece in pieces:
        tail.see(piece)
    return tail


@pytest.mark.parametrize(
    ("pieces", "usage"),
    [
        ([b'{"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}}'], (5, 7)),
        ([b'{"data": [], "usage": {"prompt_tokens": 5, "total_tokens": 5}, "x": [{}]}'], (5, 0)),
        ([b'{"usage":{"input_tokens":3,"output_tokens":4,"output_tokens_details":{"reasoning_tokens":1}}}'], (3, 4)),
        ([b'data: {"usage": {"prompt_tokens": 1, "comp', b'letion_tokens": 2}}\n\n', b"data: [DONE]\n\n"], (1, 2)),
        ([b'data: {"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\ndata: {"usage":null}\n\n'], (1, 1)),
        ([b'{"usage": {"prompt_tokens": 1, "completion_tokens": 2}}' + b" " * 9000], (1, 2)),
        ([b'{"usage": {"prompt_tokens": true, "completion_tokens": -4}}'], None),
        ([b'{"usage": {"prompt_tokens": 1e99}}'], None),
        ([b'{"usage": {"prompt_tokens": 1'], None),
        ([b'{"text": "\\"usage\\": {\\"prompt_tokens\\": 9}"}'], None),
        ([b'{"usage": {"a": {"b": {"c": {"d": {}}}}}}'], None),
        ([b""], None),
    ],
)
def test_usage_is_read_from_the_end(pieces: list[bytes], usage: tuple[int, int] | None) -> None:
    expected = None if usage is None else Usage(prompt=usage[0], completion=usage[1])
    assert seen(*pieces).usage() == expected
    whole = b"".join(pieces)
    assert seen(*(whole[i : i + 1] for i in range(len(whole)))).usage() == expected, "however it is cut"


@given(st.lists(st.binary(max_size=40_000), max_size=4))
def test_never_more_than_the_end_is_kept(pieces: list[bytes]) -> None:
    tail = seen(*pieces)
    assert len(tail._end) <= 16 * 1024  # pyright: ignore[reportPrivateUsage]
    tail.usage()


def test_events_are_counted_and_their_ends_seen() -> None:
    tail = seen(b"data: {}\n\n", b": comment\n\n", b"event: x\ndata: {}\n\ndata: {}\n\n")
    assert tail.events == 3
    assert tail.between_events
    assert not seen(b"data: {").between_events


# --- tokens of a request


def dumped(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    ("fields", "most"),
    [
        ({"max_tokens": 10}, 10),
        ({"max_tokens": 10, "n": 3}, 30),
        ({"max_tokens": 10, "prompt": ["a", "b"]}, 20),
        ({"max_tokens": 10, "prompt": [[1, 2], [3]], "n": 2}, 40),
        ({"max_tokens": 10, "prompt": [1, 2, 3]}, 10),
        ({"max_output_tokens": 10}, 10),
        ({"max_tokens": None, "max_completion_tokens": 9}, 9),
        ({"max_tokens": 5, "n_predict": 50}, 50),  # the one goes over the other at llama.cpp, elsewhere not
        ({"max_tokens": 10, "n_cmpl": 4}, 40),
        ({"max_tokens": 10, "n": 2, "best_of": 4}, 40),
        ({"max_tokens": "many"}, 1000),
        ({"max_tokens": "20", "n": 2.0}, 40),
        ({"max_tokens": 30.0}, 30),
        ({"max_tokens": -1, "n": "nan"}, 1000),
        ({"max_tokens": True, "n_predict": "1e999"}, 1000),
        ({}, 1000),
    ],
)
def test_what_an_answer_may_come_to(fields: dict[str, Any], most: int) -> None:
    assert cost(dumped(model="m", **fields), generates=True, cap=1000).completion == most


def test_every_conversation_of_a_batch_costs() -> None:
    said = {"role": "user", "content": "Hi"}
    assert cost(dumped(messages=[said, said], max_tokens=100), generates=True, cap=300).completion == 100
    batch = dumped(messages=[[said], [said, said], [said]], max_tokens=100)
    assert cost(batch, generates=True, cap=300).completion == 300
    with pytest.raises(InvalidRequest, match="max_tokens for 3 choices comes to 300 tokens: the most is 299"):
        cost(batch, generates=True, cap=299)


def test_more_than_the_cap_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match="max_tokens for 4 choices comes to 400 tokens: the most is 300") as caught:
        cost(dumped(max_tokens=100, n=4), generates=True, cap=300)
    assert caught.value.param == "max_tokens"


@pytest.mark.parametrize(
    ("fields", "bounded"),
    [
        ({"max_tokens": 5}, True), ({"n_predict": "5"}, True), ({}, False), ({"max_tokens": None}, False),
        ({"max_tokens": 0}, False), ({"max_tokens": 5, "n_predict": -1}, False), ({"n_predict": "-1"}, False),
    ],
)  # fmt: skip
def test_a_body_without_a_limit_can_be_given_one(fields: dict[str, Any], bounded: bool) -> None:
    raw = dumped(prompt=["a", "b"], n=2, **fields)
    expected = cost(raw, generates=True, cap=100)
    assert expected.bounded == bounded
    if not bounded:
        assert json.loads(limited(raw, expected, cap=100)) == {"prompt": ["a", "b"], "n": 2, "max_tokens": 25}
        with pytest.raises(InvalidRequest, match="4 choices have more tokens than allowed: the most is 3"):
            limited(raw, expected, cap=3)


@pytest.mark.parametrize("generates", [True, False])
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"kv_transfer_params": {"remote_host": "10.0.0.1"}}, "kv_transfer_params"),
        ({"ec_transfer_params": {"a": 1}}, "ec_transfer_params"),
        ({"vllm_xargs": {"kv_transfer_params": "x"}}, "kv_transfer_params"),
        ({"priority": -1}, "priority"),
        ({"id_slot": 0}, "id_slot"),
    ],
)
def test_what_steers_the_engine_does_not_go_on(fields: dict[str, Any], param: str, generates: bool) -> None:
    with pytest.raises(InvalidRequest) as caught:
        cost(dumped(**fields), generates=generates, cap=100)
    assert caught.value.param == param


def test_what_asks_for_nothing_of_the_engines_goes_on() -> None:
    fields = {"priority": 0, "id_slot": -1, "kv_transfer_params": None, "vllm_xargs": {"a": 1}}
    assert cost(dumped(max_tokens=5, **fields), generates=True, cap=100).completion == 5
    assert cost(dumped(vllm_xargs=[1]), generates=False, cap=100).completion == 0


def test_what_generates_nothing_costs_its_prompt() -> None:
    expected = cost(dumped(model="m", input="x" * 400, max_tokens=10**9), generates=False, cap=10)
    assert (expected.model, expected.completion) == ("m", 0)
    assert 100 <= expected.prompt <= 120


@pytest.mark.parametrize("raw", [b"", b"[]", b"nonsense", b'"text"', b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_object_is_the_engines_to_judge_where_nothing_is_written(raw: bytes) -> None:
    """Elsewhere an engine that reads more than we do would write more than it may."""
    assert cost(raw, generates=False, cap=1).total == 0
    if raw:
        with pytest.raises(InvalidRequest, match="must be a JSON object"):
            cost(raw, generates=True, cap=1)


# --- best_of


def choice(index: int, *logprobs: float | None, text: str = "") -> dict[str, Any]:
    return {"index": index, "text": text or str(index), "logprobs": {"token_logprobs": list(logprobs)}}


def test_best_of_asks_for_so_many_and_returns_the_likeliest_a_token() -> None:
    change = best_of(dumped(prompt="x", best_of=3, max_tokens=5), most=8)
    assert json.loads(change.content) == {"prompt": "x", "max_tokens": 5, "n": 3, "logprobs": 1}
    assert change.rewrite is not None
    answer = dumped(
        id="cmpl-1",
        choices=[choice(0, -1.0, -1.0), choice(1, None, -0.2), choice(2, -0.3, -0.3, -0.3)],
        usage={"prompt_tokens": 4, "completion_tokens": 7, "total_tokens": 11},
    )
    assert json.loads(change.rewrite(answer)) == {
        "id": "cmpl-1",
        "choices": [{"index": 0, "text": "1", "logprobs": None}],
        "usage": {"prompt_tokens": 4, "completion_tokens": 7, "total_tokens": 11},
    }


def test_the_tokens_of_best_of_are_those_of_all_choices() -> None:
    """llama.cpp's usage tells of the first choice only."""
    change = best_of(dumped(best_of=2), most=8)
    assert change.rewrite is not None
    answer = dumped(
        choices=[choice(0, -1.0, -1.0), choice(1, -3.0)], usage={"prompt_tokens": 4, "completion_tokens": 2}
    )
    for content in (answer, dumped(choices=[choice(0, -1.0, -1.0), choice(1, -3.0)], usage=["odd"])):
        assert json.loads(change.rewrite(content))["usage"]["completion_tokens"] == 3


def test_best_of_chooses_for_every_prompt_and_keeps_logprobs_that_were_asked_for() -> None:
    change = best_of(dumped(prompt=["a", "b"], best_of=3, n=2, logprobs=2), most=8)
    assert json.loads(change.content)["logprobs"] == 2
    assert change.rewrite is not None
    answer = dumped(choices=[choice(i, -value) for i, value in [(5, 1.0), (0, 3), (1, 1), (2, 2), (3, 9), (4, 5)]])
    chosen = json.loads(change.rewrite(answer))["choices"]
    assert [(each["index"], each["text"]) for each in chosen] == [(0, "1"), (1, "2"), (2, "5"), (3, "4")]
    assert all(each["logprobs"] for each in chosen)


def test_best_of_reads_llama_cpps_logprobs_and_puts_silence_last() -> None:
    change = best_of(dumped(best_of=2), most=8)
    assert change.rewrite is not None
    answer = dumped(
        choices=[
            {"index": 0, "text": "", "logprobs": {"content": []}},
            {"index": 1, "text": "b", "logprobs": {"content": [{"logprob": -9.0}]}},
        ]
    )
    assert json.loads(change.rewrite(answer))["choices"][0]["text"] == "b"


@pytest.mark.parametrize("fields", [{}, {"best_of": None}, {"n": 2}, {"n": "x", "best_of": 2}])
def test_without_best_of_the_body_goes_on_as_it_came(fields: dict[str, Any]) -> None:
    raw = b" " + dumped(prompt="x", **fields)
    change = best_of(raw, most=8)
    assert (change.content, change.rewrite) == (raw, None)


def test_best_of_as_many_as_come_back_is_n() -> None:
    change = best_of(dumped(prompt="x", n=2, best_of=2, stream=True), most=8)
    assert json.loads(change.content) == {"prompt": "x", "n": 2, "stream": True}
    assert change.rewrite is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"best_of": 0}, "best_of"),
        ({"best_of": True}, "best_of"),
        ({"best_of": 1.5}, "best_of"),
        ({"best_of": 2, "n": 3}, "best_of"),
        ({"best_of": 9}, "best_of"),
        ({"best_of": 2, "stream": True}, "stream"),
        ({"best_of": 2, "echo": True}, "echo"),
        ({"best_of": 2, "n_cmpl": 3}, "n_cmpl"),
    ],
)
def test_a_best_of_that_can_not_be_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        best_of(dumped(prompt="x", **fields), most=8)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "answer",
    [
        dumped(choices=[{"index": 0, "logprobs": None}]), dumped(choices=[{"index": 0}]), dumped(choices=["x"]),
        dumped(choices=[{"index": 0, "logprobs": {"token_logprobs": ["x"]}}]), dumped(choices=7),
        dumped(), b"busy",
    ],
)  # fmt: skip
def test_without_logprobs_there_is_nothing_to_choose_by(answer: bytes) -> None:
    change = best_of(dumped(best_of=2), most=8)
    assert change.rewrite is not None
    with pytest.raises(EngineFailed) as caught:
        change.rewrite(answer)
    assert (caught.value.status, caught.value.code) == (502, "no_logprobs")
    assert caught.value.headers["x-should-retry"] == "false"
