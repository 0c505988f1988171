"""GET /v1/models: the engine's models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from fastapi import APIRouter
from starlette.requests import Request

from server.access.caller import Caller
from server.api.controls import model_and_suffix
from server.errors import EngineUnavailable, ModelNotFound
from server.gateway import Gateway

router = APIRouter()


@router.get("/v1/models")
async def list_models(request: Request) -> dict[str, Any]:
    gateway = cast("Gateway", request.app.state.gateway)
    if not gateway.ready:
        raise EngineUnavailable
    names = list(gateway.engine.profile.models)
    if gateway.config.server.list_profiles:
        names += [f"{name}:{profile}" for name in names for profile in _profiles(request, gateway)]
    return {"object": "list", "data": [_model(gateway, name) for name in names]}


@router.get("/v1/models/{name:path}")
async def get_model(request: Request, name: str) -> dict[str, Any]:
    """Also of a model with a profile or a strategy, which a request may name whether it is listed or not."""
    gateway = cast("Gateway", request.app.state.gateway)
    if _base(gateway, name) not in gateway.engine.profile.models:
        raise ModelNotFound(name)
    return _model(gateway, name)


def _base(gateway: Gateway, name: str) -> str:
    return model_and_suffix(name, gateway.config, gateway.engine.profile.models)[0]


def _profiles(request: Request, gateway: Gateway) -> Iterator[str]:
    caller = cast("Caller", request.state.caller)
    return filter(caller.may, gateway.config.profiles)


def _model(gateway: Gateway, name: str) -> dict[str, Any]:
    """With what the engine says of it: when it was made, whose it is, how long its context is."""
    card = gateway.engine.profile.cards.get(_base(gateway, name), {})
    return {"id": name, "object": "model", "created": 0, "owned_by": "apportion", **card}
