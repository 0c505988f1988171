"""How engines differ, as data. Probed once at start-up; nothing else in the code asks which engine it talks to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import httpx


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineProfile:
    """What an engine can do and how it spells it."""

    name: str
    max_n: int = 16  # choices one call may ask for
    models: tuple[str, ...] = ()
    context: int | None = None  # tokens of one sequence, prompt and completion
    usage_per_choice: bool = False  # a usage chunk follows each choice's last chunk, and counts that choice only
    stream_options: Mapping[str, Any] = field(default_factory=lambda: {"include_usage": True})
    continuation: Mapping[str, Any] = field(default_factory=dict[str, Any])  # fields that continue the last message
    tell_stop: Mapping[str, Any] = field(default_factory=dict[str, Any])  # fields that make it name the stop string
    headers: Mapping[str, str] = field(default_factory=dict[str, str])  # sent with every call


# Measured on vLLM 0.32 and xllamacpp 2026.10 (llama.cpp's own server); see docs/engines.md.
VLLM = EngineProfile(
    name="vllm",
    max_n=64,
    stream_options={"include_usage": True, "continuous_usage_stats": True},
    continuation={"continue_final_message": True, "add_generation_prompt": False},
)
LLAMA_CPP = EngineProfile(
    name="llama.cpp",
    max_n=1,  # its slots, read from /props
    usage_per_choice=True,
    tell_stop={"verbose": True},
    headers={"connection": "close"},  # it announces keep-alive and closes after a stream all the same
)
OTHER = EngineProfile(name="openai")
_BY_OWNER = {"vllm": VLLM, "llamacpp": LLAMA_CPP}


async def probe(client: httpx.AsyncClient) -> EngineProfile:
    """Ask the engine who it is. Raises httpx.HTTPError when it can't be reached or refuses."""
    response = await client.get("/v1/models")
    response.raise_for_status()
    listed: list[dict[str, Any]] = response.json().get("data") or []
    owners = {str(model.get("owned_by")) for model in listed}
    profile = next((known for owner, known in _BY_OWNER.items() if owner in owners), OTHER)
    profile = replace(profile, models=tuple(str(model["id"]) for model in listed if "id" in model))
    context = next((model["max_model_len"] for model in listed if model.get("max_model_len")), None)
    if profile.name == "llama.cpp":
        props = cast("dict[str, Any]", (await client.get("/props")).json())
        slots = int(props.get("total_slots") or 1)
        context = cast("dict[str, Any]", props.get("default_generation_settings") or {}).get("n_ctx")
        profile = replace(profile, max_n=slots)
    return replace(profile, context=context)
