"""POST /v1/chat/completions."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from router.policy import BudgetInfeasible
from server.api.body import ClientGone, read_json, while_connected
from server.api.request import ChatRequest, parse, to_query
from server.api.response import apportion, completion
from server.api.stream import EventStream, events, translated
from server.errors import ApiError, EngineUnavailable
from server.errors import BudgetInfeasible as BudgetRefused
from server.gateway import Gateway
from strategies.types import Allocation, Query

router = APIRouter()
_NO_BODY = Response(status_code=499)  # nobody reads it: the client has gone


@router.post("/v1/chat/completions")
async def chat_completions(request: Request) -> Response:
    """Decide, run, answer."""
    arrived = time.monotonic()
    gateway = cast("Gateway", request.app.state.gateway)
    model = ""
    try:
        with gateway.admit():
            body = parse(await read_json(request, gateway.config.server))
            if not gateway.ready:
                raise EngineUnavailable
            query = to_query(
                body, request.headers, gateway.config, default_model=gateway.default_model, arrived=arrived
            )
            model = query.model
            return await _answer(request, gateway, body, query)
    except ClientGone:
        return _NO_BODY
    except ApiError as error:
        if model == "" or error.status < 500:
            gateway.metrics.refused(model=model, outcome=f"refused_{error.status}")
        raise


async def _answer(request: Request, gateway: Gateway, body: ChatRequest, query: Query) -> Response:
    pipeline = gateway.pipeline
    include: list[str] = list((body.apportion.include if body.apportion else None) or ())
    try:
        features, allocation = pipeline.allocate(query, running=gateway.engine.running)
    except BudgetInfeasible as error:
        gateway.metrics.exhausted.labels(gateway.metrics.strategy(error.smallest.spec), "strict", "refused").inc()
        raise BudgetRefused(
            max_total_tokens=int(error.smallest.tokens_upper) + 1,
            deadline_ms=int(error.smallest.seconds_upper * 1000) + gateway.config.budgets.deadline_margin_ms + 1,
        ) from None
    created = int(time.time())
    headers = _headers(query, allocation)
    if body.stream:
        stream = events(pipeline, query, allocation, created=created, include_usage=body.include_usage, include=include)
        return EventStream(_admitted(gateway, stream), headers)
    try:
        outcome = await while_connected(request.receive, pipeline.execute(query, allocation))
    except ClientGone:
        raise
    except Exception as error:
        raise translated(error, query) from error
    extra = apportion(outcome, query, include, features)
    content = orjson.dumps(completion(outcome, query, extra, created=created))
    headers["x-apportion-tokens"] = str(outcome.completion_tokens)
    return Response(content, media_type="application/json", headers=headers)


async def _admitted(gateway: Gateway, stream: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """A stream is in flight until its last event, not only until its response object exists."""
    with gateway.admit():
        async with aclosing(stream):
            async for event in stream:
                yield event


def _headers(query: Query, allocation: Allocation) -> dict[str, str]:
    return {"x-request-id": query.id, "x-apportion-strategy": str(allocation.spec)}
