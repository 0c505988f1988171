"""The gateway against its own OpenAPI document: what it says is what is taken, and nothing that is sent breaks it.

A scripted engine stands behind (tests/fake_engine.py), which answers everything with the same words: what is proven is
how the gateway takes what comes in.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import threading
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from schemathesis.generation import GenerationMode

from server.api.feedback import PATH as FEEDBACK
from server.api.feedback import Feedback
from server.api.request import ChatRequest
from server.api.responses.request import ResponsesRequest
from server.app import create_app
from server.config import Config
from tests.fake_engine import VLLM, Exchange, answers, running
from tests.serving import NO_ALGEBRA, serving

CASES = 25  # of each operation and mode: about 700 requests, in half a minute
LONGEST = 10.0  # seconds for one answer
MOST_BYTES = 64 * 1024  # of an error
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
ENGINE_KEY = "engine-secret"
PASSED = (
    "/v1/completions",
    "/v1/embeddings",
    "/v1/messages",
    "/v1/score",
    "/tokenize",
    "/rerank",
    "/pooling",
    "/classify",
)


def document_of(**sections: Any) -> dict[str, Any]:
    return create_app(Config.model_validate({"answers": NO_ALGEBRA, **sections})).openapi()


# --- what it says


@pytest.mark.parametrize(
    ("path", "model"),
    [("/v1/chat/completions", ChatRequest), ("/v1/responses", ResponsesRequest), (FEEDBACK, Feedback)],
)
def test_it_describes_the_bodies_that_are_really_taken(path: str, model: type[BaseModel]) -> None:
    document = document_of()
    body = document["paths"][path]["post"]["requestBody"]
    assert body["required"]
    assert body["content"]["application/json"]["schema"] == {"$ref": f"#/components/schemas/{model.__name__}"}
    schemas = document["components"]["schemas"]
    assert set(schemas[model.__name__]["properties"]) == set(model.model_fields)
    assert {"strategy", "max_total_tokens", "deadline_ms"} <= set(schemas["Options"]["properties"])


def test_it_describes_what_ready_says_of_the_engine() -> None:
    document = document_of()
    answers = document["paths"]["/ready"]["get"]["responses"]
    for status in ("200", "503"):
        shown = answers[status]["content"]["application/json"]["schema"]
        assert shown == {"$ref": "#/components/schemas/Readiness"}
    schemas = document["components"]["schemas"]
    assert set(schemas["Readiness"]["properties"]) == {
        "status", "problem", "engine", "off", "decided_by", "model_version",
    }  # fmt: skip
    assert set(schemas["Capability"]["properties"]["known_from"]["enum"]) == {"told", "seen", "assumed", "configured"}
    referred = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(document)))
    assert referred <= set(schemas)
    assert "HTTPValidationError" not in schemas


def test_every_operation_says_how_it_fails_and_none_says_fastapis_422() -> None:
    document = document_of()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            failed = operation["responses"]["default"]["content"]["application/json"]["schema"]
            assert failed == {"$ref": "#/components/schemas/Error"}, path
            assert "422" not in operation["responses"], path
    assert set(document["components"]["schemas"]["Error"]["properties"]["error"]["properties"]) == {
        "message", "type", "param", "code",
    }  # fmt: skip


def test_every_reference_in_it_leads_somewhere() -> None:
    document = document_of()
    text = json.dumps(document)
    names = {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert names <= set(document["components"]["schemas"])


def test_it_lists_what_is_passed_on_as_configured() -> None:
    assert {"/v1/embeddings", "/tokenize", "/v1/completions"} <= set(document_of()["paths"])
    assert not {"/v1/embeddings", "/tokenize"} & set(document_of(passthrough={"enabled": False})["paths"])
    assert "/v1/files" not in document_of()["paths"]


def test_it_asks_for_a_key_only_where_there_are_keys() -> None:
    assert "security" not in document_of()
    document = document_of(keys={"a": {"key": "sk-test-0123456789abcdef"}})
    assert document["security"] == [{"key": []}]
    assert document["components"]["securitySchemes"]["key"] == {"type": "http", "scheme": "bearer"}


# --- what it takes


@dataclass(slots=True)
class Seen:
    """What came back, over all requests."""

    statuses: Counter[str] = field(default_factory=Counter[str])

    @property
    def total(self) -> int:
        return self.statuses.total()


async def completes(exchange: Exchange) -> None:
    """So many choices as are asked for, each with its log probabilities."""
    body = exchange.request.body
    n = body.get("n") if isinstance(body, dict) else None  # bytes when the client calls its JSON something else
    choices = [
        {"index": i, "text": "x", "logprobs": {"token_logprobs": [-1.0 - i]}}
        for i in range(n if isinstance(n, int) and 0 < n < 100 else 1)
    ]
    await answers({"object": "text_completion", "choices": choices})(exchange)


@pytest.fixture(scope="module")
def seen() -> Generator[Seen]:
    found = Seen()
    yield found
    shown = ", ".join(f"{count} x {status}" for status, count in sorted(found.statuses.items()))
    sys.stdout.write(f"\n{found.total} requests made of the OpenAPI document: {shown}\n")


@pytest.fixture(scope="module")
def url() -> Generator[str]:
    """A gateway in a thread of its own, because schemathesis asks as a plain client does: blocking.

    It ends with nothing in flight and nothing left on the engine, which `serving` checks.
    """
    started, stop, found = threading.Event(), threading.Event(), list[str]()

    async def serve() -> None:
        async with running(VLLM, api_key=ENGINE_KEY) as engine:
            engine.routes.update({path: answers({"object": "list", "data": []}) for path in PASSED})
            engine.routes["/v1/completions"] = completes
            budgets = {"default_deadline_ms": 5000}
            # a store for each run, so that feedback gets as far as looking for its response
            with TemporaryDirectory() as folder:
                store = {"url": f"sqlite:///{folder}/outcomes.db"}
                async with serving(engine.url, budgets=budgets, store=store, engine={"api_key": ENGINE_KEY}) as served:
                    found.append(str(served.client.base_url))
                    started.set()
                    await asyncio.to_thread(stop.wait)

    failures: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:  # noqa: BLE001 - told in the test's own thread
            failures.append(error)
            started.set()

    thread = threading.Thread(target=run)
    thread.start()
    started.wait(30)
    if failures:
        raise failures[0]
    yield found[0]
    stop.set()
    thread.join(30)
    if failures:
        raise failures[0]


@pytest.fixture(scope="module")
def client() -> Generator[httpx.Client]:
    with httpx.Client(timeout=LONGEST, trust_env=False) as client:
        yield client


def check(status: int, content: bytes, asked: str) -> None:
    """An answer, or an error in OpenAI's shape that is not the gateway's own failing."""
    if status < 400:
        return
    assert len(content) <= MOST_BYTES
    error = json.loads(content)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert status < 500 or error["code"] == "deadline_exceeded", f"{asked}\n{status}: {error}"


def operations() -> Iterator[Any]:
    """Each of the document's, with what it takes and, where it takes a body, with what breaks it."""
    for found in schemathesis.openapi.from_dict(document_of()).get_all_operations():
        operation = found.ok()
        for mode in MODES if operation.method == "post" else MODES[:1]:
            yield pytest.param(operation, mode, id=f"{operation.label}-{mode.value}")


@pytest.mark.parametrize(("operation", "mode"), list(operations()))
def test_nothing_that_is_sent_makes_a_500_or_hangs(operation: Any, mode: GenerationMode, url: str, seen: Seen) -> None:
    """Bodies of the document's shape, and bodies that break it. A deadline of 1 ms is one that can be asked for."""

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=CASES,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
        database=None,
        derandomize=True,
    )
    def asked(case: Any) -> None:
        response = case.call(base_url=url, timeout=LONGEST)
        seen.statuses[f"{response.status_code}"] += 1
        check(response.status_code, response.content, case.as_curl_command())

    asked()


VALID = {
    "/v1/chat/completions": {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 5},
    "/v1/completions": {"model": "tiny", "prompt": "x", "max_tokens": 5, "best_of": 2},
    "/v1/embeddings": {"model": "tiny", "input": "x"},
    "/v1/responses": {"model": "tiny", "input": "x", "max_output_tokens": 5},
    FEEDBACK: {"id": "x", "correct": True},
}
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[str, bytes]:
    """A path, and something for it: any bytes, any JSON, or the right thing with a part of it wrong or cut off."""
    path = draw(st.sampled_from(sorted(VALID)))
    right = VALID[path]
    wrong = right | {draw(st.sampled_from([*right, "n", "stream", "stop", "tools", "apportion"])): draw(ANY_JSON)}
    whole = json.dumps(wrong).encode()
    content = draw(
        st.just(whole)
        | st.integers(0, len(whole)).map(lambda length: whole[:length])
        | ANY_JSON.map(lambda value: json.dumps(value).encode())
        | st.binary(max_size=200)
        | st.integers(1, 100_000).map(lambda depth: b"[" * depth)
        | st.integers(1, 300_000).map(lambda length: json.dumps(right | {"zzz": "x" * length}).encode())
    )
    return path, content


@given(asked=bodies(), kind=st.sampled_from(["application/json", "text/plain", "multipart/form-data; boundary=x", ""]))
@settings(max_examples=10 * CASES, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
def test_no_body_makes_a_500_a_hang_a_large_error_or_a_leak(
    asked: tuple[str, bytes], kind: str, url: str, client: httpx.Client, seen: Seen
) -> None:
    path, content = asked
    response = client.post(f"{url}{path}", content=content, headers={"content-type": kind})
    seen.statuses[f"{response.status_code}"] += 1
    check(response.status_code, response.content, path)
    for inside in ("Traceback", ENGINE_KEY, "site-packages", "127.0.0.1"):
        assert inside not in response.text


def test_what_has_been_asked_was_not_all_refused(url: str, seen: Seen) -> None:
    """After the others, in the order of this file: otherwise they would prove little."""
    assert seen.total >= CASES
    assert seen.statuses["200"] > 0
    assert seen.statuses["400"] > 0
    assert httpx.get(f"{url}/ready", trust_env=False).status_code == 200
