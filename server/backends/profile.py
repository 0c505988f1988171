"""How engines differ, as data. Probed once at start-up; nothing else in the code asks which engine it talks to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import httpx


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """The names of an engine's metrics at /metrics that tell its load; None where it has no such metric."""

    running: str | None = None  # gauge: requests (llama.cpp) or sequences (vLLM: each choice is one) in work
    waiting: str | None = None  # gauge: those that wait for a place
    kv_cache_usage: str | None = None  # gauge, 0 to 1
    prefix_queries: str | None = None  # counter: prompt tokens looked up in the prefix cache
    prefix_hits: str | None = None  # counter: those that were found there

    @property
    def names(self) -> tuple[str, ...]:
        """Those that the engine has. Empty: nothing to read there."""
        every = (self.running, self.waiting, self.kv_cache_usage, self.prefix_queries, self.prefix_hits)
        return tuple(name for name in every if name is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineProfile:
    """What an engine can do and how it spells it."""

    name: str
    signals: Signals = Signals()  # the metrics that tell its load
    slots: int | None = None  # sequences in work at once; None where it does not say
    max_n: int = 16  # choices one call may ask for
    models: tuple[str, ...] = ()
    cards: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])  # what it says of each
    context: int | None = None  # tokens of one sequence, prompt and completion
    logprobs: bool = True  # returns them when asked; one that is not known is believed to, and seen not to (best_of_n)
    usage_per_choice: bool = False  # a usage chunk follows each choice's last chunk, and counts that choice only
    open_ended: bool = False  # writes until the context is full when a request passed on to it names no limit
    stream_options: Mapping[str, Any] = field(default_factory=lambda: {"include_usage": True})
    continuation: Mapping[str, Any] = field(default_factory=dict[str, Any])  # fields that continue the last message
    tell_stop: Mapping[str, Any] = field(default_factory=dict[str, Any])  # fields that make it name the stop string
    max_stops: int | None = None  # stop strings a call may have; the ends of a beam search's steps come last
    headers: Mapping[str, str] = field(default_factory=dict[str, str])  # sent with every call


# Measured on vLLM 0.32 and xllamacpp 2026.10 (llama.cpp's own server); see docs/engines.md.
VLLM = EngineProfile(
    name="vllm",
    max_n=64,
    signals=Signals(
        running="vllm:num_requests_running",
        waiting="vllm:num_requests_waiting",
        kv_cache_usage="vllm:kv_cache_usage_perc",
        prefix_queries="vllm:prefix_cache_queries_total",
        prefix_hits="vllm:prefix_cache_hits_total",
    ),
    stream_options={"include_usage": True, "continuous_usage_stats": True},
    continuation={"continue_final_message": True, "add_generation_prompt": False},
)
LLAMA_CPP = EngineProfile(
    name="llama.cpp",
    max_n=1,  # its slots, read from /props
    signals=Signals(running="llamacpp:requests_processing", waiting="llamacpp:requests_deferred"),
    usage_per_choice=True,
    open_ended=True,
    tell_stop={"verbose": True},
    headers={"connection": "close"},  # it announces keep-alive and closes after a stream all the same
)
OTHER = EngineProfile(name="openai", max_stops=4)
_PATIENCE = 10.0  # seconds; the probe is asked again, so there is no use in waiting as long as for an answer
_BY_OWNER = {"vllm": VLLM, "llamacpp": LLAMA_CPP}


async def probe(client: httpx.AsyncClient) -> EngineProfile:
    """Ask the engine who it is.

    Raises httpx.HTTPError when it can't be reached or refuses, ValueError when what answers is no such engine.
    """
    listed = _listed(await _asked(client, "/v1/models"))
    owners = {str(model.get("owned_by")) for model in listed}
    profile = next((known for owner, known in _BY_OWNER.items() if owner in owners), OTHER)
    cards = {str(model["id"]): _card(model) for model in listed if "id" in model}
    profile = replace(profile, models=tuple(cards), cards=cards)
    context = next((length for model in listed if (length := _count(model, "max_model_len"))), None)
    if profile.name == "llama.cpp":
        props = await _props(client)
        settings = props.get("default_generation_settings")
        context = _count(cast("dict[str, Any]", settings), "n_ctx") if isinstance(settings, dict) else None
        slots = _count(props, "total_slots")
        profile = replace(profile, max_n=slots or 1, slots=slots)
    return replace(profile, context=context)


def _count(said: Mapping[str, Any], name: str) -> int | None:
    """None where the engine, or what stands in front of it, does not say it as a number above 0."""
    value = said.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


async def _asked(client: httpx.AsyncClient, path: str) -> dict[str, Any]:
    response = await client.get(path, timeout=_PATIENCE)
    response.raise_for_status()
    body: object = response.json()
    if not isinstance(body, dict):
        raise ValueError(f"{path}: a JSON object was expected")
    return cast("dict[str, Any]", body)


async def _props(client: httpx.AsyncClient) -> dict[str, Any]:
    """llama.cpp's own settings; empty where something in front of it does not pass them on."""
    try:
        return await _asked(client, "/props")
    except (httpx.HTTPStatusError, ValueError):
        return {}


def _card(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """What clients look at; the rest, such as where its files are, is the engine's own business."""
    kinds = {"created": int, "owned_by": str, "max_model_len": int}
    return {name: model[name] for name, kind in kinds.items() if isinstance(model.get(name), kind)}


def _listed(body: dict[str, Any]) -> list[dict[str, Any]]:
    models: object = body.get("data") or []
    if not isinstance(models, list):
        raise ValueError("/v1/models: data is not a list")
    listed = cast("list[object]", models)
    if not all(isinstance(model, dict) for model in listed):
        raise ValueError("/v1/models: a model is not an object")
    return cast("list[dict[str, Any]]", listed)
