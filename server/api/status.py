"""GET /health, /ready and /metrics: for load balancers and Prometheus."""

from __future__ import annotations

from typing import Any, Literal, cast

import orjson
from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from server.backends.profile import CAPABILITIES, EngineProfile, Known
from server.errors import UnknownUrl
from server.gateway import Gateway
from strategies.types import EngineError

router = APIRouter()


class Capability(BaseModel):
    """null: not known, or of `max_stops`: no limit."""

    value: bool | int | None
    known_from: Known


class EngineState(BaseModel):
    name: str
    version: str | None
    max_n: int
    context: int | None
    capabilities: dict[str, Capability]


class Off(BaseModel):
    """A strategy of the menu that this engine can't do."""

    strategy: str
    reason: str


class Readiness(BaseModel):
    status: Literal["ok", "unavailable"]
    problem: str | None
    engine: EngineState
    off: list[Off]
    decided_by: str
    model_version: str | None


@router.get("/health")
async def health() -> dict[str, str]:
    """The process lives. Says nothing about the engine: see /ready."""
    return {"status": "ok"}


@router.get("/ready", responses={200: {"model": Readiness}, 503: {"model": Readiness}})
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
        "engine": _engine(profile),
        "off": [{"strategy": str(spec), "reason": why} for spec, why in gateway.off_the_menu.items()],
        "decided_by": predictor.name,
        "model_version": predictor.version,
    }
    return Response(orjson.dumps(body), status_code=200 if problem is None else 503, media_type="application/json")


def _engine(profile: EngineProfile) -> dict[str, Any]:
    return {
        "name": profile.name,
        "version": profile.version,
        "max_n": profile.max_n,
        "context": profile.context,
        "capabilities": {
            name: {"value": getattr(profile, name), "known_from": profile.known(name)} for name in CAPABILITIES
        },
    }


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    gateway = cast("Gateway", request.app.state.gateway)
    if not gateway.config.metrics.enabled:
        raise UnknownUrl("GET", "/metrics")
    return Response(gateway.metrics.render(), media_type=CONTENT_TYPE_LATEST)
