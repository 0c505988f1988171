"""Fields of a body that steer the engine itself: refused in chats as in what is passed on. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from server.errors import InvalidRequest

Refusal = tuple[str, tuple[Any, ...]]  # why, and the values that ask for nothing
_HOSTS: Refusal = ("names hosts for the engine to connect to", ())
VLLM: Mapping[str, Refusal] = {
    "ec_transfer_params": _HOSTS,
    "kv_transfer_params": _HOSTS,
    "priority": ("the order of the engine's queue is the operator's", (0,)),
}
LLAMA_CPP: Mapping[str, Refusal] = {"id_slot": ("which of the engine's slots are used is the gateway's", (-1,))}
_ALL = {**VLLM, **LLAMA_CPP}


def refuse_steering(body: Mapping[str, Any]) -> None:
    """Raises InvalidRequest. Also for what stands in `vllm_xargs`: vLLM keeps its transfer parameters there itself."""
    for part in (body, body.get("vllm_xargs")):
        if isinstance(part, Mapping):
            fields = cast("Mapping[str, Any]", part)
            for name in _ALL.keys() & fields.keys():
                refuse(name, fields[name], *_ALL[name])


def refuse(name: str, value: Any, why: str, harmless: Sequence[Any]) -> None:
    """Raises InvalidRequest for a value that asks for something."""
    if value is not None and not any(value == each and type(value) is type(each) for each in harmless):
        raise InvalidRequest(f"{name} is not supported: {why}", param=name)
