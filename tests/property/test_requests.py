"""Whatever a client sends to the real application: never a 500, never a hang, never a large error, nothing leaked.

Over real sockets, in front of a scripted engine that refuses what vLLM refuses.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

import httpx
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from server.api.controls import Options
from server.api.fields import FIELDS
from tests.fake_engine import VLLM, running, script_of, words
from tests.serving import Served, serving

T = TypeVar("T")
CANARY = "CANARY4711"
LARGEST = 64 * 1024
PATIENCE = 20.0  # seconds; what takes that long hangs

KEYS = st.sampled_from([*FIELDS, *Options.model_fields, "type", "function", "name", "role", "content", "schema", ""])
TEXT = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["auto", "single", "best_of_n@2", "majority_vote@3", "beam_search@1x2", "fast", "none", "required"]
    ),
    st.sampled_from(["\ud800", "\x00", "a" * 5000, "=(.)", "(((", "json_schema", "json_object", "user", "assistant"]),
)
NUMBERS = st.one_of(
    st.integers(min_value=-3, max_value=30),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([2**63, -(2**63), 2**64, 10**30]),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.one_of(KEYS, TEXT), inner, max_size=4)),
    max_leaves=8,
)
MESSAGES = st.one_of(
    st.just([{"role": "user", "content": CANARY}]),
    st.lists(st.dictionaries(st.sampled_from(["role", "content", "tool_calls", "function_call", "name"]), VALUES)),
    VALUES,
)
TOOLS = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.just("function"),
            "function": st.fixed_dictionaries({"name": TEXT}, optional={"parameters": VALUES}),
        }
    ),
    max_size=3,
)
FORMATS = st.fixed_dictionaries(
    {"type": TEXT}, optional={"json_schema": st.one_of(VALUES, st.fixed_dictionaries({"schema": VALUES}))}
)
PLAUSIBLE: dict[str, st.SearchStrategy[Any]] = {
    "messages": MESSAGES,
    "tools": TOOLS,
    "tool_choice": st.sampled_from(["auto", "none", "required", {"type": "function", "function": {"name": "auto"}}]),
    "response_format": FORMATS,
    "n": st.integers(0, 3),
    "best_of": st.integers(0, 5),
    "stream": st.booleans(),
    "stream_options": st.dictionaries(st.sampled_from(["include_usage", "include_obfuscation"]), st.booleans()),
    "temperature": st.floats(0, 2),
    "logprobs": st.booleans(),
    "max_tokens": st.integers(1, 4),
}
FIELD = st.sampled_from([*FIELDS, *PLAUSIBLE]).flatmap(
    lambda name: st.tuples(st.just(name), st.one_of(PLAUSIBLE.get(name, VALUES), VALUES))
)
# A few fields at a time, so that what is behind the first check is reached too.
BODIES = st.lists(FIELD, max_size=4).map(
    lambda fields: {"messages": [{"role": "user", "content": CANARY}], **dict(fields)}
)
OPTIONS_WRONG = st.builds(
    lambda name, value: {"messages": [{"role": "user", "content": CANARY}], "apportion": {name: value}},
    st.sampled_from(list(Options.model_fields)),
    VALUES,
)


class Gateway:
    """The application in a loop of its own."""

    def __init__(self, portal: BlockingPortal, served: Served) -> None:
        self._portal = portal
        self._served = served

    def post(self, content: bytes, path: str = "/v1/chat/completions", **headers: str) -> httpx.Response:
        return self.run(self._served.client.post(path, content=content, headers=headers))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        async def done() -> T:
            return await work

        return self._portal.start_task_soon(done).result(PATIENCE)


@pytest.fixture(scope="module")
def gateway() -> Generator[Gateway, None, None]:
    script = script_of(words("It is \\boxed{7}"), words('{"age": 7}'))
    limits = {"default_max_total_tokens": 64, "cap_total_tokens": 64, "max_tokens_per_candidate": 8}
    with (
        start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(running(VLLM, script)) as engine,
        portal.wrap_async_context_manager(serving(engine.url, budgets=limits)) as served,
    ):
        yield Gateway(portal, served)


@pytest.fixture(scope="module")
def logged() -> Generator[list[str], None, None]:
    """What would be written to the log at its most talkative."""
    lines: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    logger, kept = logging.getLogger("apportion"), Kept(logging.DEBUG)
    before = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(kept)
    yield lines
    logger.removeHandler(kept)
    logger.setLevel(before)


def proper(response: httpx.Response, logged: list[str]) -> None:
    """An answer, or an error in OpenAI's shape that repeats nothing of what was asked."""
    event(f"status {response.status_code}")
    if response.status_code == 200:
        assert "internal_error" not in response.text  # neither after a stream has begun
        return
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["param"] is None or isinstance(error["param"], str)
    # the only one of ours that may come of a request: an option can ask for a deadline that nothing can keep
    assert response.status_code < 500 or error["code"] == "deadline_exceeded", error
    assert len(response.content) < LARGEST
    assert CANARY not in response.text
    assert not [line for line in logged if "Traceback" in line or CANARY in line]


SOME = settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@SOME
@given(body=st.one_of(BODIES, OPTIONS_WRONG))
def test_any_json_object_is_answered_or_refused(gateway: Gateway, logged: list[str], body: dict[str, Any]) -> None:
    proper(gateway.post(json.dumps(body).encode()), logged)


@SOME
@given(body=VALUES)
def test_any_json_is_answered_or_refused(gateway: Gateway, logged: list[str], body: Any) -> None:
    proper(gateway.post(json.dumps(body).encode()), logged)


@SOME
@given(raw=st.binary(max_size=200), cut=st.integers(0, 60), put=st.booleans())
def test_any_bytes_are_refused(gateway: Gateway, logged: list[str], raw: bytes, cut: int, put: bool) -> None:
    """Alone, or in the middle of a good body."""
    good = b'{"messages": [{"role": "user", "content": "CANARY4711"}]}'
    response = gateway.post(good[:cut] + raw + good[cut:] if put else raw)
    proper(response, logged)


@SOME
@given(
    name=st.one_of(st.sampled_from(list(Options.model_fields)), st.from_regex(r"[a-z0-9_-]{0,20}", fullmatch=True)),
    value=st.one_of(st.from_regex(r"[!-~][ -~]{0,40}", fullmatch=True), st.integers().map(str), st.just("")),
)
def test_any_header_is_obeyed_or_refused(gateway: Gateway, logged: list[str], name: str, value: str) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": CANARY}]}).encode()
    proper(gateway.post(body, **{f"x-apportion-{name.replace('_', '-')}": value.strip()}), logged)


@SOME
@given(word=st.from_regex(r"[A-Za-z0-9_@:.~%\-]{1,40}", fullmatch=True), suffix=st.booleans())
def test_any_word_in_the_url_or_behind_the_model_is_obeyed_or_refused(
    gateway: Gateway, logged: list[str], word: str, suffix: bool
) -> None:
    asked = {"messages": [{"role": "user", "content": CANARY}], **({"model": f"tiny:{word}"} if suffix else {})}
    path = "/v1/chat/completions" if suffix else f"/{word}/v1/chat/completions"
    response = gateway.post(json.dumps(asked).encode(), path)
    proper(response, logged)
    assert response.status_code in (200, 400, 404)


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "function", "name": "f", "content": "4"}] * 100_000},
        {"messages": [{"role": "user", "content": "?"}], "model": "m:" * 500_000},
        {"messages": [{"role": "user", "content": "?"}], "tools": [{"type": "function", "function": {}}] * 50_000},
        {"messages": [{"role": "user", "content": "?"}], "stop": ["x"] * 200_000},
    ],
    ids=["results of no calls", "suffixes", "tools", "stops"],
)
def test_a_large_request_takes_no_longer_than_it_is_large(gateway: Gateway, body: dict[str, Any]) -> None:
    """Within the patience of the test, not of the client: what grows with its square would take minutes."""
    assert gateway.post(json.dumps(body).encode()).status_code < 500


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": CANARY}], "x" * 200_000: 1, "temperature": "warm"},
        {"messages": [{"role": "user", "content": CANARY}], "apportion": {"k" * 200_000: 1}},
        {"messages": [{"role": "user", "content": CANARY}], "apportion": {"strategy": "s" * 200_000}},
        {"messages": [{"role": "user", "content": CANARY}], "model": "m" * 200_000},
        {"messages": [7] * 100_000},
        {"messages": [{"role": "user", "content": CANARY}], "stop": [7] * 100_000},
    ],
    ids=["field", "option", "strategy", "model", "messages", "stop"],
)
def test_a_large_mistake_makes_a_small_error(gateway: Gateway, logged: list[str], body: dict[str, Any]) -> None:
    response = gateway.post(json.dumps(body).encode())
    assert response.status_code in (400, 404)
    assert len(response.content) <= 8192
    assert CANARY not in response.text
    assert not [line for line in logged if CANARY in line]
