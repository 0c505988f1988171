"""Errors reach the client in OpenAI's shape, bounded, and without what is none of its business."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from server.errors import (
    MAX_BODY_BYTES,
    ApiError,
    BudgetInfeasible,
    DeadlineExceeded,
    EngineUnavailable,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    ModelNotFound,
    Overloaded,
    PayloadTooLarge,
    RequestTimeout,
    UnknownUrl,
    error_body,
    error_response,
    from_engine,
    install,
)
from strategies.types import EngineError


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


class Body(BaseModel):
    messages: list[dict[str, str]]


def app(raised: Exception | None = None) -> FastAPI:
    made = FastAPI()
    install(made)

    async def get() -> None:
        if raised is not None:
            raise raised

    async def post(body: Body) -> None:
        del body

    made.get("/v1/x")(get)
    made.post("/v1/chat/completions")(post)
    return made


async def ask(made: FastAPI, method: str, path: str, **options: Any) -> httpx.Response:
    transport = httpx.ASGITransport(made, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        response = await client.request(method, path, **options)
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) == {"error"}
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert len(response.content) <= MAX_BODY_BYTES
    return response


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (InvalidRequest("no", param="n"), 400, "invalid_request_error", None),
        (BudgetInfeasible(max_total_tokens=5), 400, "invalid_request_error", "budget_infeasible"),
        (ModelNotFound("m"), 404, "invalid_request_error", "model_not_found"),
        (UnknownUrl("GET", "/x"), 404, "invalid_request_error", "unknown_url"),
        (MethodNotAllowed("GET", "/x", allow="POST"), 405, "invalid_request_error", "method_not_allowed"),
        (RequestTimeout(10), 408, "invalid_request_error", "request_timeout"),
        (PayloadTooLarge(10), 413, "invalid_request_error", "payload_too_large"),
        (Overloaded(), 429, "rate_limit_error", "rate_limit_exceeded"),
        (InternalError(), 500, "server_error", "internal_error"),
        (EngineUnavailable(), 503, "server_error", "engine_unavailable"),
        (DeadlineExceeded(50), 504, "server_error", "deadline_exceeded"),
    ],
)
@pytest.mark.anyio
async def test_every_error_has_its_status_type_and_code(error: ApiError, status: int, kind: str, code: str) -> None:
    """As the tree in the module's docstring says."""
    response = await ask(app(error), "GET", "/v1/x")
    told = response.json()["error"]
    assert (response.status_code, told["type"], told["code"]) == (status, kind, code)
    assert told["message"]


@pytest.mark.parametrize("error", [BudgetInfeasible(), RequestTimeout(1), InternalError(), DeadlineExceeded()])
def test_what_a_retry_cannot_mend_is_not_retried(error: ApiError) -> None:
    """The SDKs would spend three times as much."""
    assert error_response(error).headers["x-should-retry"] == "false"


@pytest.mark.parametrize("error", [Overloaded(), EngineUnavailable()])
def test_what_passes_says_when_to_come_back(error: ApiError) -> None:
    """In seconds."""
    assert int(error_response(error).headers["retry-after"]) >= 1


def test_an_infeasible_budget_names_the_smallest_that_would_do() -> None:
    """The client can act on it."""
    error = BudgetInfeasible(max_total_tokens=700, deadline_ms=900)
    assert "max_total_tokens 700 and deadline_ms 900" in error.message
    assert error.param == "apportion.max_total_tokens"


@pytest.mark.anyio
async def test_an_unknown_url_is_named() -> None:
    """Not Starlette's detail."""
    response = await ask(app(), "GET", "/v1/nothing")
    assert response.status_code == 404
    assert response.json()["error"]["message"] == "Unknown request URL: GET /v1/nothing"


@pytest.mark.anyio
async def test_a_wrong_method_says_which_is_right() -> None:
    """Allow stays."""
    response = await ask(app(), "GET", "/v1/chat/completions")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert response.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.anyio
async def test_another_http_exception_keeps_status_text_and_headers() -> None:
    """Whoever raised it meant them."""
    response = await ask(app(HTTPException(418, "teapot", {"X-Tea": "1"})), "GET", "/v1/x")
    assert (response.status_code, response.headers["x-tea"]) == (418, "1")
    assert response.json()["error"]["message"] == "teapot"
    custom = await ask(app(HTTPException(404, "No such answer.")), "GET", "/v1/x")
    assert custom.json()["error"]["message"] == "No such answer."
    odd = await ask(app(HTTPException(499, "odd")), "GET", "/v1/x")
    assert odd.status_code == 499


@pytest.mark.anyio
async def test_an_invalid_body_is_a_400_that_names_the_field() -> None:
    """FastAPI's 422 has neither message nor param."""
    response = await ask(app(), "POST", "/v1/chat/completions", json={"messages": "hush"})
    told = response.json()["error"]
    assert (response.status_code, told["param"]) == (400, "messages")
    assert told["message"].startswith("messages: ")
    assert "hush" not in response.text


@pytest.mark.anyio
async def test_a_large_invalid_body_makes_a_small_error() -> None:
    """Thousands of problems, five told."""
    response = await ask(app(), "POST", "/v1/chat/completions", json={"messages": [{"content": 1}] * 9000})
    assert "and 8995 more" in response.json()["error"]["message"]
    assert len(response.content) < 1000


@pytest.mark.anyio
async def test_what_is_not_json_is_said_to_be_so() -> None:
    """Without the text that was sent."""
    headers = {"content-type": "application/json"}
    response = await ask(app(), "POST", "/v1/chat/completions", content=b"{hush", headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_json")


@pytest.mark.anyio
async def test_a_defect_tells_nothing() -> None:
    """The details are for the log."""
    response = await ask(app(RuntimeError("hush")), "GET", "/v1/x")
    assert response.status_code == 500
    assert "hush" not in response.text


@pytest.mark.anyio
async def test_an_engines_error_that_escapes_is_translated() -> None:
    """Not an internal error."""
    response = await ask(app(EngineError("no", status=400)), "GET", "/v1/x")
    assert (response.status_code, response.json()["error"]["message"]) == (400, "no")


def test_the_engines_words_and_status_are_kept() -> None:
    """vLLM's code is a number; OpenAI's is text or null."""
    told = {"message": "too long", "type": "BadRequestError", "param": "max_tokens", "code": 400}
    for body in (told, {"error": told}):
        error = from_engine(EngineError("x", status=400, body=body))
        assert (error.status, error.message, error.type) == (400, "too long", "BadRequestError")
        assert (error.param, error.code) == ("max_tokens", None)
    assert from_engine(EngineError("x", status=422, body={"error": "plain"})).message == "plain"


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_the_operators_fault(status: int) -> None:
    """A 401 would send the client looking for its own."""
    error = from_engine(EngineError("key hush", status=status, body={"error": "Unauthorized: hush"}))
    assert (error.status, error.code) == (502, "engine_credentials")
    assert "hush" not in error.message


@pytest.mark.parametrize(
    ("given", "told"), [(None, "1"), ("7", "7"), ("soon\r\nx: y", "1"), ("Wed, 21 Oct 2015 07:28:00 GMT",) * 2]
)
@pytest.mark.parametrize("status", [429, 503])
def test_an_overloaded_engine_gets_a_retry_after(status: int, given: str | None, told: str) -> None:
    """vLLM's own 503 has none."""
    error = from_engine(EngineError("busy", status=status, retry_after=given))
    assert (error.status, error.message, error.headers["retry-after"]) == (status, "busy", told)


@pytest.mark.parametrize("status", [0, 200, 302, 700])
def test_a_status_that_is_no_error_becomes_502(status: int) -> None:
    """A client must not take it for success."""
    assert from_engine(EngineError("odd", status=status)).status == 502
    assert from_engine(EngineError("", status=status)).message


@pytest.mark.parametrize("character", ["x", "\x00", "😀", "\ud800", '"'])
def test_messages_and_bodies_are_bounded(character: str) -> None:
    """However many bytes a character takes in JSON."""
    error = from_engine(EngineError(character * 100_000, status=500, body={"type": character * 100_000}))
    assert len(error.message) <= 2_000
    assert len(error_body(error)) <= MAX_BODY_BYTES
