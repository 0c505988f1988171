"""GET /v1/models: the engine's models."""

from __future__ import annotations

from typing import Any, cast

from fastapi import APIRouter
from starlette.requests import Request

from server.errors import EngineUnavailable, ModelNotFound
from server.gateway import Gateway

router = APIRouter()


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "apportion"}


@router.get("/v1/models")
async def list_models(request: Request) -> dict[str, Any]:
    gateway = cast("Gateway", request.app.state.gateway)
    if not gateway.ready:
        raise EngineUnavailable
    return {"object": "list", "data": [_model(name) for name in gateway.engine.profile.models]}


@router.get("/v1/models/{name:path}")
async def get_model(request: Request, name: str) -> dict[str, Any]:
    gateway = cast("Gateway", request.app.state.gateway)
    if name not in gateway.engine.profile.models:
        raise ModelNotFound(name)
    return _model(name)
