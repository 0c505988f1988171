"""POST /v1/chat/completions."""

from __future__ import annotations

import time
import uuid
from contextlib import ExitStack
from math import ceil
from typing import cast

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from router.features import Features
from router.policy import BudgetInfeasible
from server.api.body import ClientGone, read_json, while_connected
from server.api.request import ChatRequest, keep_alive, parse, to_query
from server.api.response import apportion, completion, server_timing
from server.api.stream import EventStream, events, translated
from server.config import Config
from server.errors import ApiError, EngineUnavailable
from server.errors import BudgetInfeasible as BudgetRefused
from server.gateway import Gateway
from strategies.types import Allocation, Prediction, Query

router = APIRouter()
_UNTIL_DECIDED_MS = 10  # of a deadline, gone when it is compared with the predictions


@router.post("/v1/chat/completions")
async def chat_completions(request: Request) -> Response:
    """Decide, run, answer."""
    arrived = time.monotonic()
    request.state.id = f"chatcmpl-{uuid.uuid4().hex}"
    gateway = cast("Gateway", request.app.state.gateway)
    with ExitStack() as place:
        try:
            place.enter_context(gateway.admit())
            body = parse(await read_json(request, gateway.config.server))
            query, features, allocation = _decide(request, gateway, body, arrived)
        except ApiError as error:
            gateway.metrics.refused(model="", outcome=f"refused_{error.status}")
            raise
        except ClientGone:
            return _unread()
        decided = time.monotonic()
        created = int(time.time())
        include = list((body.apportion.include if body.apportion else None) or ())
        headers = {"x-request-id": query.id, "x-apportion-strategy": str(allocation.spec)}
        if body.stream:
            stream = events(
                gateway.pipeline,
                query,
                allocation,
                created=created,
                include_usage=body.include_usage,
                include=include,
                features=features,
                keep_alive=keep_alive(request.headers),
            )
            # the place is given back after the last event, not when the response object has been made
            return EventStream(stream, headers, place=place.pop_all(), deadline=query.budget.deadline)
        try:
            outcome = await while_connected(request.receive, gateway.pipeline.execute(query, allocation))
        except ClientGone:
            return _unread()
        except Exception as error:
            raise translated(error, query) from error
        extra = apportion(outcome, query, include, features)
        content = orjson.dumps(completion(outcome, query, extra, created=created))
        headers |= {
            "x-apportion-tokens": str(outcome.completion_tokens),
            "server-timing": server_timing(outcome, decided=decided - arrived),
        }
        return Response(content, media_type="application/json", headers=headers)


def _decide(
    request: Request, gateway: Gateway, body: ChatRequest, arrived: float
) -> tuple[Query, Features, Allocation]:
    """Raises ApiError."""
    if not gateway.ready:
        raise EngineUnavailable
    query = to_query(
        body,
        request.headers,
        gateway.config,
        id=request.state.id,
        default_model=gateway.default_model,
        arrived=arrived,
    )
    try:
        features, allocation = gateway.pipeline.allocate(query, running=gateway.engine.running)
    except BudgetInfeasible as error:
        smallest = error.smallest
        gateway.metrics.exhausted.labels(gateway.metrics.strategy(smallest.spec), "strict", "refused").inc()
        raise _refusal(gateway.config, query, smallest) from None
    return gateway.pipeline.bounded(query, features), features, allocation


def _refusal(config: Config, query: Query, smallest: Prediction) -> BudgetRefused:
    """Names the limits that are too small, and how large they have to be."""
    tokens = ceil(smallest.tokens_upper)
    deadline_ms = ceil(smallest.seconds_upper * 1000) + config.budgets.deadline_margin_ms + _UNTIL_DECIDED_MS
    more_tokens = tokens > query.budget.max_total_tokens
    more_time = query.arrived + deadline_ms / 1000 > query.budget.deadline
    return BudgetRefused(
        max_total_tokens=tokens if more_tokens or not more_time else None,
        deadline_ms=deadline_ms if more_time or not more_tokens else None,
    )


def _unread() -> Response:
    """For a client that has gone; 499 is what proxies log for it."""
    return Response(status_code=499)
