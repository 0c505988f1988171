"""Which requests may go on to the engine, and which of their headers. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from server.errors import InvalidRequest

# No percent sign, no empty segment: what is compared with the lists is what the engine gets, letter by letter.
SAFE_PATH = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~:@+-]+)+")
_LONGEST_PATH = 512

# Beside /v1: vLLM's endpoints that only compute. Everything else it has changes it or speaks of its inside.
ENDPOINTS = (
    "/tokenize", "/detokenize", "/score", "/rerank", "/v2/rerank", "/pooling", "/classify",
)  # fmt: skip
# Under /v1: adapters are loaded from any path on the engine's disk; the others are kept under the engine's one key,
# where every client would see every other's.
REFUSED = (
    "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/v1/organization", "/v1/admin", "/v1/files", "/v1/uploads",
    "/v1/batches", "/v1/fine_tuning", "/v1/vector_stores", "/v1/assistants", "/v1/threads", "/v1/conversations",
    "/v1/containers", "/v1/evals",
)  # fmt: skip
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})

# Clients' headers that mean something to the engine's API. Nothing else goes on: not their keys, not their cookies,
# not what steers the engine (X-Vllm-Priority, X-Session-ID, X-data-parallel-rank), nothing of the connection.
_TO_ENGINE = frozenset({
    "accept", "content-type", "openai-beta", "anthropic-version", "anthropic-beta", "traceparent", "tracestate",
})  # fmt: skip
_TO_CLIENT = frozenset({
    "content-type", "content-length", "content-encoding", "content-disposition", "content-language", "cache-control",
    "etag", "last-modified", "retry-after", "openai-processing-ms", "openai-version", "openai-model",
})  # fmt: skip

# The label of an endpoint in metrics; what is not here is "other".
_FAMILIES = {
    "completions": "completions", "chat": "chat", "embeddings": "embeddings", "responses": "responses",
    "messages": "messages", "audio": "audio", "images": "images", "tokenize": "tokenize", "detokenize": "tokenize",
    "score": "score", "rerank": "rerank", "pooling": "pooling", "classify": "classify", "moderations": "classify",
}  # fmt: skip
_GENERATING = frozenset({"completions", "chat", "responses", "messages"})


class Rules(Protocol):
    """What decides; see Passthrough."""

    @property
    def enabled(self) -> bool: ...
    @property
    def v1(self) -> bool: ...
    @property
    def paths(self) -> Sequence[str]: ...
    @property
    def refused(self) -> Sequence[str]: ...


def passes(path: str, rules: Rules) -> bool:
    """Whether a path, decoded, goes on to the engine."""
    if not rules.enabled or len(path) > _LONGEST_PATH or not SAFE_PATH.fullmatch(path):
        return False
    folded = path.casefold()  # an engine that does not tell cases apart must not be a way around
    if any(_within(folded, refused.casefold()) for refused in rules.refused):
        return False
    return path in rules.paths or (rules.v1 and path.startswith("/v1/"))


def _within(path: str, parent: str) -> bool:
    return path == parent or path.startswith(f"{parent}/")


def family(path: str) -> str:
    """The endpoint's label, whatever the case: an engine may not tell them apart."""
    parts = [part for part in path.casefold().split("/") if part and part not in ("v1", "v2")]
    return _FAMILIES.get(parts[0], "other") if parts else "other"


def generates(path: str) -> bool:
    """Whether the engine writes text there."""
    return family(path) in _GENERATING


def computes(path: str) -> bool:
    """Whether a request there leaves nothing behind on the engine, so that it may be sent again."""
    return family(path) != "other"


def to_engine(headers: Mapping[str, str], request_id: str) -> dict[str, str]:
    """What the engine gets of a client's headers. Its own key is put on by its client. Raises InvalidRequest."""
    kept = {name: value for name, value in headers.items() if name.lower() in _TO_ENGINE}
    for name, value in kept.items():
        if not value.isascii():
            raise InvalidRequest(f"the header {name} should be ASCII", param=name)
    return {**kept, "x-request-id": request_id}


def to_client(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """What the client gets of the engine's headers: nothing of the connection, no cookies, no address, no CORS."""
    return {name.lower(): value for name, value in headers if name.lower() in _TO_CLIENT}
