"""GET /health, /ready and /metrics: for load balancers and Prometheus."""

from __future__ import annotations

from typing import cast

import orjson
from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from server.errors import UnknownUrl
from server.gateway import Gateway
from strategies.types import EngineError

router = APIRouter()


@router.get("/health")
async def health() -> dict[str, str]:
    """The process lives. Says nothing about the engine: see /ready."""
    return {"status": "ok"}


@router.get("/ready")
async def ready(request: Request) -> Response:
    """200 when requests can be answered: the engine answers now, and what it can do is known."""
    gateway = cast("Gateway", request.app.state.gateway)
    problem = None if gateway.ready else "the engine has not answered yet"
    if problem is None:
        try:
            if (await gateway.engine.get("/health", timeout_seconds=2.0)).status_code >= 500:
                problem = "the engine says that it is not healthy"
        except EngineError as error:
            problem = str(error)
    profile, predictor = gateway.engine.profile, gateway.pipeline.allocator.predictor
    body = {
        "status": "ok" if problem is None else "unavailable",
        "problem": problem,
        "engine": {"name": profile.name, "max_n": gateway.engine.max_n, "context": profile.context},
        "decided_by": predictor.name,
        "model_version": predictor.version,
    }
    return Response(orjson.dumps(body), status_code=200 if problem is None else 503, media_type="application/json")


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    gateway = cast("Gateway", request.app.state.gateway)
    if not gateway.config.metrics.enabled:
        raise UnknownUrl("GET", "/metrics")
    return Response(gateway.metrics.render(), media_type=CONTENT_TYPE_LATEST)
