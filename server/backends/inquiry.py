"""What an engine says of itself, asked with a few small reads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, cast

import httpx
import orjson

from server.backends.profile import BY_OWNER, OTHER, EngineProfile, Signals
from server.backends.transport import again_if_stale
from server.backends.wire import BROKEN

_PATIENCE = 10.0  # seconds; it is asked again, so there is no use in waiting as long as for an answer
_MAX_BYTES = 4 * 1024 * 1024  # of one answer; vLLM's openapi.json has 0.2 MB
Facts = Mapping[str, Any]  # by the names of EngineProfile's fields; None: not said


class Wordless(Exception):
    """The engine did not say: it has no such page, or this one can't be read."""


async def identified(client: httpx.AsyncClient, *, seconds: float) -> EngineProfile:
    """Who answers, with what it says of itself.

    seconds: for all further questions after the first, which are left out when they take longer. Raises httpx.HTTPError
    when it can't be reached or refuses, ValueError when what answers is no such engine.
    """
    response = await client.get("/v1/models", timeout=_PATIENCE)
    response.raise_for_status()
    listed = _listed(orjson.loads(response.content))
    owners = {str(model.get("owned_by")) for model in listed}
    profile = next((known for owner, known in BY_OWNER.items() if owner in owners), OTHER)
    cards = {str(model["id"]): _card(model) for model in listed if "id" in model}
    profile = replace(profile, models=tuple(cards), cards=cards)
    context = next((length for model in listed if (length := _count(model, "max_model_len"))), None)
    profile = profile.learned("told", {"context": context})
    try:
        async with asyncio.timeout(seconds):
            for page in _PAGES:
                profile = profile.learned("told", await page(client, profile))
    except TimeoutError:
        pass  # what it would have said stays assumed
    return profile


async def _props(client: httpx.AsyncClient, profile: EngineProfile) -> Facts:
    """llama.cpp's own settings."""
    props = await _read(client, "/props", profile)
    settings = props.get("default_generation_settings")
    context = _count(cast("dict[str, Any]", settings), "n_ctx") if isinstance(settings, dict) else None
    slots = _count(props, "total_slots")
    return {"context": context, "slots": slots, "max_n": slots, "version": _name(props.get("build_info"))}


async def _version(client: httpx.AsyncClient, profile: EngineProfile) -> Facts:
    """vLLM's."""
    return {"version": _name((await _read(client, "/version", profile)).get("version"))}


async def _operations(client: httpx.AsyncClient, profile: EngineProfile) -> Facts:
    """vLLM's endpoints, of which it lists those that its model and its settings have."""
    paths = (await _read(client, "/openapi.json", profile)).get("paths")
    if not isinstance(paths, dict):
        return {}
    return {name: f"/{name}" in paths for name in ("tokenize", "pooling", "classify", "score")}


async def _scheduler(client: httpx.AsyncClient, profile: EngineProfile) -> Facts:
    """vLLM's, where VLLM_SERVER_DEV_MODE is on. Takes it seconds when it is asked first."""
    said = (await _read(client, "/server_info?config_format=json", profile)).get("vllm_config")
    scheduler = cast("dict[str, Any]", said).get("scheduler_config") if isinstance(said, dict) else None
    if not isinstance(scheduler, dict):
        return {}
    settings = cast("dict[str, Any]", scheduler)
    policy = settings.get("policy")
    return {
        "slots": _count(settings, "max_num_seqs"),
        "priority": policy == "priority" if isinstance(policy, str) else None,
    }


async def _metrics(client: httpx.AsyncClient, profile: EngineProfile) -> Facts:
    """Whether it has any, and which of the expected ones are among them."""
    status, raw = await _get(client, "/metrics", profile)
    if status != 200:
        return {"metrics": False, "signals": Signals()} if status in _REFUSED else {}
    text = raw.decode(errors="replace")
    there = {line.partition("{")[0].partition(" ")[0] for line in text.splitlines() if not line.startswith("#")}
    expected = {each.name: getattr(profile.signals, each.name) for each in fields(Signals)}
    signals = Signals(**{name: metric if metric in there else None for name, metric in expected.items()})
    return {"metrics": bool(there), "signals": signals}


Page = Callable[[httpx.AsyncClient, EngineProfile], Awaitable[Facts]]
_REFUSED = (401, 403, 404, 405, 501)


def _or_nothing(page: Page) -> Page:
    async def read(client: httpx.AsyncClient, profile: EngineProfile) -> Facts:
        try:
            return await page(client, profile)
        except Wordless:
            return {}

    return read


_PAGES: Sequence[Page] = tuple(_or_nothing(page) for page in (_props, _version, _operations, _metrics, _scheduler))


async def _read(client: httpx.AsyncClient, path: str, profile: EngineProfile) -> dict[str, Any]:
    status, raw = await _get(client, path, profile)
    try:
        body = orjson.loads(raw) if status == 200 else None
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict):
        raise Wordless(path)
    return cast("dict[str, Any]", body)


async def _get(client: httpx.AsyncClient, path: str, profile: EngineProfile) -> tuple[int, bytes]:
    async def ask() -> tuple[int, bytes]:
        raw = bytearray()
        async with client.stream("GET", path, headers=profile.headers, timeout=_PATIENCE) as response:
            async for chunk in response.aiter_bytes():
                raw += chunk
                if len(raw) > _MAX_BYTES:
                    raise Wordless(path)
        return response.status_code, bytes(raw)

    try:
        return await again_if_stale(ask)
    except BROKEN as error:
        raise Wordless(path) from error


def _name(value: object) -> str | None:
    """A version as it goes into logs and /ready: short, and nothing but text."""
    return value[:80] if isinstance(value, str) and value.isprintable() and value else None


def _count(said: Mapping[str, Any], name: str) -> int | None:
    """None where the engine, or what stands in front of it, does not say it as a number above 0."""
    value = said.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _card(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """What clients look at; the rest, such as where its files are, is the engine's own business."""
    kinds = {"created": int, "owned_by": str, "max_model_len": int}
    return {name: model[name] for name, kind in kinds.items() if isinstance(model.get(name), kind)}


def _listed(body: object) -> list[dict[str, Any]]:
    if not isinstance(body, dict):
        raise ValueError("/v1/models: a JSON object was expected")
    models: object = cast("dict[str, Any]", body).get("data") or []
    if not isinstance(models, list):
        raise ValueError("/v1/models: data is not a list")
    listed = cast("list[object]", models)
    if not all(isinstance(model, dict) for model in listed):
        raise ValueError("/v1/models: a model is not an object")
    return cast("list[dict[str, Any]]", listed)
