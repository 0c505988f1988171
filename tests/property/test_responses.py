"""Whatever comes in at /v1/responses, what goes out is an answer or an error in OpenAI's shape, never a 500."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Generator
from contextlib import suppress
from typing import Any, cast

import httpx
import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types.responses import Response
from pydantic import TypeAdapter

from server.api.responses.fields import FIELDS
from server.api.responses.request import as_chat, read
from server.errors import InvalidRequest
from tests.fake_engine import running
from tests.serving import serving

RESPONSE: TypeAdapter[Any] = TypeAdapter(Response)
_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_WORDS = st.sampled_from(
    [
        "message", "reasoning", "function_call", "function_call_output", "item_reference", "web_search_call", "user",
        "assistant", "system", "input_text", "output_text", "refusal", "input_image", "input_file", "input_audio",
        "function", "allowed_tools", "auto", "none", "required", "json_schema", "json_object", "text", "f", "", "7",
    ]
)  # fmt: skip
_KEYS = st.sampled_from(
    [
        "type", "role", "content", "text", "refusal", "image_url", "file_id", "file_data", "name", "arguments",
        "call_id", "output", "summary", "encrypted_content", "namespace", "parameters", "strict", "tools", "mode",
        "format", "schema", "verbosity", "effort",
    ]
)  # fmt: skip
_SHAPED = st.recursive(
    _WORDS | _JUNK,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=12,
)
_PART = st.fixed_dictionaries({"type": _WORDS}, optional={"text": _SHAPED, "image_url": _SHAPED, "refusal": _SHAPED})
_ITEM = st.fixed_dictionaries(
    {"type": _WORDS},
    optional={
        "role": _WORDS,
        "content": st.text(max_size=8) | st.lists(_PART, max_size=2) | _SHAPED,
        "call_id": _WORDS,
        "name": _WORDS,
        "arguments": _WORDS,
        "output": st.text(max_size=8) | _SHAPED,
        "summary": _SHAPED,
    },
)
_TOOL = st.fixed_dictionaries({"type": _WORDS, "name": _WORDS}, optional={"parameters": _SHAPED, "strict": _SHAPED})
_SOUND: dict[str, st.SearchStrategy[Any]] = {
    "include": st.lists(st.sampled_from(["message.output_text.logprobs", "reasoning.encrypted_content"]), max_size=2),
    "instructions": st.text(max_size=8),
    "max_output_tokens": st.integers(1, 20),
    "metadata": st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=2),
    "temperature": st.floats(0, 2),
    "text": st.fixed_dictionaries({"format": st.sampled_from([{"type": "text"}, {"type": "json_object"}])}),
    "tools": st.just([{"type": "function", "name": "f", "parameters": {}}]),
}
_SOUND_INPUT = st.text(min_size=1, max_size=8) | st.lists(
    st.builds(lambda role, text: {"role": role, "content": text}, st.sampled_from(["user", "assistant"]), st.text()),
    min_size=1,
    max_size=3,
)
_ODD = st.dictionaries(
    st.sampled_from([*FIELDS, "seed", "stop", "logit_bias"]),
    _SHAPED | _TOOL | st.lists(_TOOL, max_size=2) | st.lists(_ITEM, max_size=4),
    max_size=2,
)
# mostly sound, as a body that is odd in many ways is refused for the first of them
BODY = st.builds(
    lambda sound, odd: cast("dict[str, Any]", {**sound, **odd}),
    st.fixed_dictionaries(
        {"input": _SOUND_INPUT | _SOUND_INPUT | st.lists(_ITEM, max_size=3), "stream": st.booleans()}, optional=_SOUND
    ),
    st.just({}) | _ODD,
)


@settings(max_examples=300)
@given(BODY | _JUNK)
def test_reading_raises_nothing_but_errors_of_the_api(body: Any) -> None:
    with suppress(InvalidRequest):
        as_chat(read(body))


@pytest.fixture(scope="module")
def client() -> Generator[httpx.Client, None, None]:
    """Of a gateway in a thread of its own."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(running()) as engine,
        portal.wrap_async_context_manager(serving(engine.url)) as served,
        httpx.Client(base_url=f"http://127.0.0.1:{served.port}", timeout=20, trust_env=False) as client,
    ):
        yield client


def test_no_body_makes_a_500_or_an_answer_of_another_shape(client: httpx.Client) -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
    @given(BODY)
    def check(body: dict[str, Any]) -> None:
        response = client.post(
            "/v1/responses", content=json.dumps(body).encode(), headers={"content-type": "application/json"}
        )
        seen[f"{response.status_code}{' streamed' if response.status_code == 200 and body.get('stream') else ''}"] += 1
        assert len(response.content) < 64 * 1024
        if response.status_code != 200:
            assert 400 <= response.status_code < 500, response.text
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}
        elif response.headers["content-type"].startswith("text/event-stream"):
            events = [json.loads(line[6:]) for line in response.text.split("\n") if line.startswith("data: ")]
            assert events[-1]["type"] in ("response.completed", "response.incomplete")
            RESPONSE.validate_python(events[-1]["response"])
        else:
            RESPONSE.validate_python(response.json())

    check()
    assert seen["200"]
    assert seen["200 streamed"]
    assert seen["400"]
