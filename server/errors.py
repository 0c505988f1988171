"""Errors a client can get, in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`.

    ApiError
    ├── InvalidRequest        400  invalid_request_error
    │   └── BudgetInfeasible  400  code budget_infeasible; names the smallest budget that would do
    ├── Unauthorized          401  no key, or code invalid_api_key
    ├── NotPermitted          403  code not_permitted: the key may not ask for it
    ├── ModelNotFound         404  code model_not_found
    ├── UnknownUrl            404  code unknown_url
    ├── ResponseNotFound      404  code response_not_found: feedback on it can't be given
    ├── StoreOff              404  code store_off
    ├── MethodNotAllowed      405  code method_not_allowed
    ├── RequestTimeout        408  code request_timeout: the body did not arrive
    ├── PayloadTooLarge       413  code payload_too_large
    ├── Overloaded            429  code rate_limit_exceeded, Retry-After
    ├── RateLimited           429  code rate_limit_exceeded, Retry-After: a limit of the key
    ├── InternalError         500  code internal_error, no details
    ├── EngineFailed          the engine's status, or 502
    ├── EngineUnavailable     503  code engine_unavailable, Retry-After
    ├── StoreUnavailable      503  code store_unavailable, Retry-After
    └── DeadlineExceeded      504  code deadline_exceeded

OpenAI's SDKs retry 408, 409, 429 and every 5xx twice by themselves. Where a retry can only spend the same compute
again for the same result, the response says `x-should-retry: false`.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, cast

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from strategies.types import EngineError

MAX_MESSAGE_CHARACTERS = 2_000
MAX_BODY_BYTES = 8_192
DEFAULT_RETRY_AFTER_SECONDS = 1

INVALID_REQUEST = "invalid_request_error"
SERVER_ERROR = "server_error"
_NO_RETRY: Mapping[str, str] = {"x-should-retry": "false"}
_SHOWN_PROBLEMS = 5
# seconds, or a date: all that may stand in Retry-After
_RETRY_AFTER = re.compile(r"[0-9]{1,6}|[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} GMT")


class ApiError(Exception):
    """An error as the client sees it. The message is cut to 2,000 characters."""

    def __init__(
        self,
        message: str,
        *,
        status: int,
        type: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.message = _clean(message, MAX_MESSAGE_CHARACTERS)
        super().__init__(self.message)
        self.status = status
        self.type = _clean(type, 100)
        self.param = None if param is None else _clean(param, 200)
        self.code = None if code is None else _clean(code, 100)
        self.headers: Mapping[str, str] = dict(headers or {})


class InvalidRequest(ApiError):
    """The client asked for something that cannot be; `param` names the field."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, status=400, type=INVALID_REQUEST, param=param, code=code, headers=headers)


class BudgetInfeasible(InvalidRequest):
    """A strict budget nothing fits into. At least one of the two limits that would do has to be given."""

    def __init__(self, *, max_total_tokens: int | None = None, deadline_ms: int | None = None) -> None:
        needed = {"max_total_tokens": max_total_tokens, "deadline_ms": deadline_ms}
        given = {name: value for name, value in needed.items() if value is not None}
        smallest = " and ".join(f"{name} {value}" for name, value in given.items()) or "not known"
        super().__init__(
            f"No strategy fits the strict budget. The smallest that would do: {smallest}. "
            "Without 'strict' the smallest strategy is cut to the budget.",
            param=f"apportion.{next(iter(given), 'strict')}",
            code="budget_infeasible",
            headers=_NO_RETRY,
        )


class Unauthorized(ApiError):
    """No key, or none of ours. Says nothing of what was sent."""

    def __init__(self, *, given: bool) -> None:
        super().__init__(
            "Incorrect API key provided."
            if given
            else "You didn't provide an API key. You need to provide your API key in an Authorization header using "
            "Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
            status=401,
            type=INVALID_REQUEST,
            code="invalid_api_key" if given else None,
            headers={"www-authenticate": "Bearer"},
        )


class NotPermitted(ApiError):
    """The key is known, and may not ask for this."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message, status=403, type=INVALID_REQUEST, param=param, code="not_permitted")


class ModelNotFound(ApiError):
    def __init__(self, model: str) -> None:
        message = f"The model '{model[:200]}' does not exist."
        super().__init__(message, status=404, type=INVALID_REQUEST, param="model", code="model_not_found")


class UnknownUrl(ApiError):
    def __init__(self, method: str, path: str, *, hint: str | None = None) -> None:
        message = f"Unknown request URL: {method[:20]} {path[:200]}" + (f". {hint}" if hint else "")
        super().__init__(message, status=404, type=INVALID_REQUEST, code="unknown_url")


class ResponseNotFound(ApiError):
    def __init__(self, id: str) -> None:
        message = (
            f"No response '{id[:200]}' is known. It may be too old, it may have been passed on to the engine, or "
            "another key made it."
        )
        super().__init__(message, status=404, type=INVALID_REQUEST, param="id", code="response_not_found")


class StoreOff(ApiError):
    def __init__(self) -> None:
        message = "No outcomes are kept, so there is nothing to judge: the operator turns that on with store.url."
        super().__init__(message, status=404, type=INVALID_REQUEST, code="store_off")


class MethodNotAllowed(ApiError):
    def __init__(self, method: str, path: str, *, allow: str | None = None) -> None:
        accepted = f"; accepted: {allow}" if allow else ""
        super().__init__(
            f"Not allowed: {method[:20]} {path[:200]}{accepted}",
            status=405,
            type=INVALID_REQUEST,
            code="method_not_allowed",
            headers={"allow": allow} if allow else None,
        )


class RequestTimeout(ApiError):
    """Never retried: the client was too slow to send, and sends the same again."""

    def __init__(self, seconds: float) -> None:
        message = f"The request's body did not arrive within {seconds:g} seconds."
        super().__init__(message, status=408, type=INVALID_REQUEST, code="request_timeout", headers=_NO_RETRY)


class PayloadTooLarge(ApiError):
    def __init__(self, limit: int) -> None:
        message = f"The request's body is larger than {limit} bytes."
        super().__init__(message, status=413, type=INVALID_REQUEST, code="payload_too_large")


class HeadTooLarge(ApiError):
    def __init__(self, limit: int) -> None:
        message = f"The request's headers are larger than {limit} bytes."
        super().__init__(message, status=431, type=INVALID_REQUEST, code="headers_too_large")


class Overloaded(ApiError):
    def __init__(
        self, message: str = "Too many requests at once; try again shortly.", *, retry_after: str | None = None
    ) -> None:
        super().__init__(
            message,
            status=429,
            type="rate_limit_error",
            code="rate_limit_exceeded",
            headers={"retry-after": _retry_after(retry_after)},
        )


class RateLimited(ApiError):
    """A key has used up what it may ask for in a minute. seconds: until there is room again."""

    def __init__(self, kind: str, *, limit: int, asked: int, seconds: float) -> None:
        wait = max(1, math.ceil(seconds))
        super().__init__(
            f"Rate limit reached on {kind} per minute: limit {limit}, requested {asked}. Please try again in {wait}s.",
            status=429,
            type=kind,  # as OpenAI has it: requests or tokens
            code="rate_limit_exceeded",
            headers={"retry-after": str(wait)},
        )


class InternalError(ApiError):
    """A defect of ours. What it was stands in the log, never in the response."""

    def __init__(self) -> None:
        message = "An internal error occurred; the server's log has the details."
        super().__init__(message, status=500, type=SERVER_ERROR, code="internal_error", headers=_NO_RETRY)


class EngineFailed(ApiError):
    """The engine answered with an error, which is passed on."""


class EngineUnavailable(ApiError):
    def __init__(
        self, message: str = "The inference engine is not available.", *, retry_after: str | None = None
    ) -> None:
        super().__init__(
            message,
            status=503,
            type=SERVER_ERROR,
            code="engine_unavailable",
            headers={"retry-after": _retry_after(retry_after)},
        )


class StoreUnavailable(ApiError):
    """Not now. A retry is welcome: what was said is not kept yet, and saying it twice does no harm."""

    def __init__(self) -> None:
        super().__init__(
            "The store of outcomes can't be used at present; the feedback was not kept.",
            status=503,
            type=SERVER_ERROR,
            code="store_unavailable",
            headers={"retry-after": str(DEFAULT_RETRY_AFTER_SECONDS)},
        )


class DeadlineExceeded(ApiError):
    """The deadline passed with nothing to return: a retry would spend the same and get as far."""

    def __init__(self, deadline_ms: int | None = None) -> None:
        within = "the deadline" if deadline_ms is None else f"the deadline of {deadline_ms} ms"
        super().__init__(
            f"There was no answer within {within}.",
            status=504,
            type=SERVER_ERROR,
            code="deadline_exceeded",
            headers=_NO_RETRY,
        )


def from_engine(error: EngineError) -> ApiError:
    """The engine's own words and status, except where they are about the server's own key."""
    if error.status in (401, 403):  # our key was refused: the operator's fault, and the text may speak of it
        return EngineFailed(
            "The inference engine refused the server's credentials.",
            status=502,
            type=SERVER_ERROR,
            code="engine_credentials",
            headers=_NO_RETRY,
        )
    body = error.body or {}
    inner = body.get("error", body)
    details: Mapping[str, Any] = cast(Mapping[str, Any], inner) if isinstance(inner, Mapping) else {"message": inner}
    # vLLM's code is a number, the status once more: in OpenAI's shape it is text or null
    texts = {name: value for name, value in details.items() if isinstance(value, str) and value}
    message = texts.get("message") or str(error) or "The inference engine failed."
    if error.status == 429:
        return Overloaded(message, retry_after=error.retry_after)
    if error.status == 503:
        return EngineUnavailable(message, retry_after=error.retry_after)
    status = error.status if 400 <= error.status <= 599 else 502
    headers = {"retry-after": _retry_after(error.retry_after)} if error.retry_after else {}
    if status in (501, 504):  # it can't, or was given all the time there is; a retry would spend it again
        headers |= _NO_RETRY
    return EngineFailed(
        message,
        status=status,
        type=texts.get("type") or (INVALID_REQUEST if status < 500 else SERVER_ERROR),
        param=texts.get("param"),
        code=texts.get("code"),
        headers=headers,
    )


def error_body(exc: ApiError) -> bytes:
    """The JSON of one error, at most 8 KB: a body, or the data of a line in a stream that has begun."""
    message = exc.message
    while True:
        body = orjson.dumps({"error": {"message": message, "type": exc.type, "param": exc.param, "code": exc.code}})
        if len(body) <= MAX_BODY_BYTES or not message:
            return body
        message = message[: len(message) // 2]  # control characters take six bytes each


def error_response(exc: ApiError) -> Response:
    return Response(error_body(exc), status_code=exc.status, headers=exc.headers, media_type="application/json")


def install(app: FastAPI) -> None:
    """Every way out of the app that is an error has the one shape, the framework's own 404, 405 and 422 included."""
    for kind in (ApiError, EngineError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, _handle)


async def _handle(request: Request, exc: Exception) -> Response:
    return answer(request, _translate(request, exc))


def answer(request: Request, exc: ApiError) -> Response:
    """The response to a request that failed, with the request's id where it has one already."""
    response = error_response(exc)
    response.headers["x-request-id"] = getattr(request.state, "id", None) or new_id()
    return response


def new_id() -> str:
    """For a request that has no id of its own kind."""
    return f"req_{uuid.uuid4().hex}"


def _translate(request: Request, exc: Exception) -> ApiError:
    if isinstance(exc, ApiError):
        return exc
    if isinstance(exc, EngineError):
        return from_engine(exc)
    if isinstance(exc, RequestValidationError):
        return _invalid(exc.errors())
    if isinstance(exc, HTTPException):
        return _from_http(request, exc)
    return InternalError()


def _invalid(problems: Sequence[Any]) -> InvalidRequest:
    """Where and what, for the first few. Never the input: a large one would come back many times over."""
    lines: list[str] = []
    params: list[str] = []
    for problem in cast(Sequence[Mapping[str, Any]], problems[:_SHOWN_PROBLEMS]):
        where: Sequence[object] = problem.get("loc", ())
        if problem.get("type") == "json_invalid":
            return InvalidRequest("The request's body is not valid JSON.", code="invalid_json")
        param = ".".join(str(part)[:60] for part in where[1:])  # the first says body, query or header
        params.append(param)
        lines.append(f"{param or 'body'}: {str(problem.get('msg', 'is not valid'))[:300]}")
    if len(problems) > _SHOWN_PROBLEMS:
        lines.append(f"and {len(problems) - _SHOWN_PROBLEMS} more")
    return InvalidRequest("; ".join(lines) or "The request is not valid.", param=next(iter(params), None) or None)


def _from_http(request: Request, exc: HTTPException) -> ApiError:
    headers = {name.lower(): value for name, value in (exc.headers or {}).items()}
    if exc.status_code == 404 and exc.detail == HTTPStatus.NOT_FOUND.phrase:  # the router's own
        return UnknownUrl(request.method, request.url.path)
    if exc.status_code == 405:
        return MethodNotAllowed(request.method, request.url.path, allow=headers.get("allow"))
    kind = INVALID_REQUEST if exc.status_code < 500 else SERVER_ERROR
    return ApiError(str(exc.detail), status=exc.status_code, type=kind, headers=headers)


def _clean(text: str, limit: int) -> str:
    """Cut, and without the lone surrogates that JSON can carry in and UTF-8 cannot carry out."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return cut.encode("utf-8", "replace").decode()


def _retry_after(value: str | None) -> str:
    value = (value or "").strip()
    return value if _RETRY_AFTER.fullmatch(value) else str(DEFAULT_RETRY_AFTER_SECONDS)
