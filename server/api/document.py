"""GET /openapi.json: what the gateway answers, with the bodies it really takes and the errors it really sends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from server import VERSION
from server.api.feedback import PATH as FEEDBACK
from server.api.feedback import Feedback
from server.api.request import ChatRequest
from server.api.responses.request import ResponsesRequest
from server.config import Config
from server.passthrough.rules import passes

_BODIES: Mapping[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/responses": ResponsesRequest,
    FEEDBACK: Feedback,
}
# those under /v1 that clients know; whether the engine has them shows when they are called
_PASSED = (
    "/v1/completions", "/v1/embeddings", "/v1/messages", "/v1/messages/count_tokens",
    "/v1/audio/transcriptions", "/v1/audio/translations", "/v1/audio/speech", "/v1/score", "/v1/rerank",
)  # fmt: skip
_UPLOADS = ("/v1/audio/transcriptions", "/v1/audio/translations")
_FASTAPIS_OWN = ("HTTPValidationError", "ValidationError")
_SCHEMAS = "#/components/schemas/"
_ERROR: Mapping[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_FAILED: Mapping[str, Any] = {
    "description": "Refused or failed",
    "content": {"application/json": {"schema": {"$ref": f"{_SCHEMAS}Error"}}},
}


def install(app: FastAPI, config: Config) -> None:
    """FastAPI's own document would know neither the bodies, which are read by hand, nor what is passed on."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, config)
        return app.openapi_schema

    app.openapi = document


def _document(app: FastAPI, config: Config) -> dict[str, Any]:
    made = get_openapi(title=app.title, version=VERSION, routes=app.routes)
    described: dict[str, Any] = made.get("components", {}).get("schemas", {})
    schemas: dict[str, Any] = {name: described[name] for name in described if name not in _FASTAPIS_OWN}
    schemas["Error"] = _ERROR
    paths: dict[str, Any] = made["paths"]
    for path in (*_PASSED, *config.passthrough.paths):
        if passes(path, config.passthrough):
            kind = "multipart/form-data" if path in _UPLOADS else "application/json"
            operation = paths.setdefault(path, {}).setdefault("post", _passed_on(path))
            operation["requestBody"] = _body({"type": "object"}, kind)
    for path, model in _BODIES.items():
        schema = model.model_json_schema(ref_template=f"{_SCHEMAS}{{model}}")
        schemas |= schema.pop("$defs", {})
        schemas[model.__name__] = schema
        paths[path]["post"]["requestBody"] = _body({"$ref": f"{_SCHEMAS}{model.__name__}"})
    for operations in paths.values():
        for operation in operations.values():
            operation["responses"].pop("422", None)  # FastAPI's own shape, which nothing here sends
            operation["responses"]["default"] = _FAILED
    made["components"] = {"schemas": schemas}
    if config.keys:
        made["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        made["security"] = [{"key": []}]
    return made


def _passed_on(path: str) -> dict[str, Any]:
    return {
        "summary": f"Passed on to the engine as it comes; {path} is there when the engine has it",
        "responses": {"200": {"description": "The engine's response"}},
    }


def _body(schema: Mapping[str, Any], kind: str = "application/json") -> dict[str, Any]:
    return {"required": True, "content": {kind: {"schema": schema}}}
