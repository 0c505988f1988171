"""How engines differ, as data: what each kind of engine can do and how it spells it.

A profile starts as a row of this table and is corrected by what the engine says of itself (`inquiry`), by what small
calls show (`trials`) and by what the operator has set. Nothing else in the code asks which engine it talks to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Known = Literal["told", "seen", "assumed", "configured"]  # by the engine, by a call, by the table, by the operator


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """The names of an engine's metrics at /metrics that tell its load; None where it has no such metric."""

    running: str | None = None  # gauge: requests (llama.cpp) or sequences (vLLM: each choice is one) in work
    waiting: str | None = None  # gauge: those that wait for a place
    kv_cache_usage: str | None = None  # gauge, 0 to 1
    prefix_queries: str | None = None  # counter: prompt tokens looked up in the prefix cache
    prefix_hits: str | None = None  # counter: those that were found there

    @property
    def load(self) -> tuple[str, ...]:
        """Those that count sequences: in work, and waiting."""
        return tuple(name for name in (self.running, self.waiting) if name is not None)

    @property
    def names(self) -> tuple[str, ...]:
        """Those that the engine has. Empty: nothing to read there."""
        every = (self.running, self.waiting, self.kv_cache_usage, self.prefix_queries, self.prefix_hits)
        return tuple(name for name in every if name is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineProfile:
    """What an engine can do and how it spells it."""

    name: str
    version: str | None = None
    models: tuple[str, ...] = ()
    cards: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])  # what it says of each

    # what it can do; each name is one of CAPABILITIES
    max_n: int = 16  # choices one call may ask for
    slots: int | None = None  # sequences in work at once; None where it does not say
    context: int | None = None  # tokens of one sequence, prompt and completion
    continuation: bool = True  # goes on with what the assistant has said, as beam search needs it
    logprobs: bool = True  # returns them when asked
    top_logprobs: int = 20  # alternatives that may be asked for at a token; a client can ask for 20 at most
    logprobs_with_tools: bool = True  # returns them in a stream that may call tools too
    structured_output: bool = True  # keeps to a JSON schema
    names_stop: bool = False  # says which stop string ended a choice
    max_stops: int | None = None  # stop strings a call may have; the ends of a beam search's steps come last
    tokenize: bool = False
    pooling: bool = False
    classify: bool = False
    score: bool = False
    metrics: bool = False
    priority: bool = False  # takes a request's place in its queue from a field

    # how it does it
    signals: Signals = Signals()  # the metrics that tell its load
    usage_per_choice: bool = False  # a usage chunk follows each choice's last chunk, and counts that choice only
    open_ended: bool = False  # writes until the context is full when a request passed on to it names no limit
    stream_options: Mapping[str, Any] = field(default_factory=lambda: {"include_usage": True})
    continued_by: Mapping[str, Any] = field(default_factory=dict[str, Any])  # fields that continue the last message
    tell_stop: Mapping[str, Any] = field(default_factory=dict[str, Any])  # fields that make it name the stop string
    tokenized_as: str = "prompt"  # the field of /tokenize that holds a text
    headers: Mapping[str, str] = field(default_factory=dict[str, str])  # sent with every call
    own: bool = False  # runs on its operator's machines, so that small calls may be made to find out more

    known_from: Mapping[str, Known] = field(default_factory=dict[str, Known])  # see `known`

    def known(self, capability: str) -> Known:
        return self.known_from.get(capability, "assumed")

    def learned(self, source: Known, facts: Mapping[str, Any]) -> EngineProfile:
        """The profile with these fields; what is None was not found out, and what the operator has set stays."""
        new = {name: fact for name, fact in facts.items() if fact is not None and self.known(name) != "configured"}
        if all(getattr(self, name) == fact and self.known(name) == source for name, fact in new.items()):
            return self
        sources = {name: source for name in new if name in CAPABILITIES}
        return replace(self, **new, known_from={**self.known_from, **sources})

    def same_engine(self, other: EngineProfile) -> bool:
        """Whether both say the same of themselves, but for the time at which they were asked."""
        return replace(self, cards={}) == replace(other, cards={})

    def __str__(self) -> str:
        """One line for the log: what it can do, by how that is known."""
        parts = [f"{self.name} {self.version}" if self.version else self.name]
        for source in ("configured", "told", "seen", "assumed"):
            if known := [_shown(name, getattr(self, name)) for name in CAPABILITIES if self.known(name) == source]:
                parts.append(f"{source}: {', '.join(known)}")
        return "; ".join(parts)


CAPABILITIES: Sequence[str] = (
    "max_n", "slots", "context", "continuation", "logprobs", "top_logprobs", "logprobs_with_tools", "structured_output",
    "names_stop", "max_stops", "tokenize", "pooling", "classify", "score", "metrics", "priority",
)  # fmt: skip

# Measured on vLLM 0.32 and xllamacpp 2026.10 (llama.cpp's own server); see docs/engines.md.
VLLM = EngineProfile(
    name="vllm",
    max_n=64,
    names_stop=True,
    max_stops=4,
    tokenize=True,
    metrics=True,
    signals=Signals(
        running="vllm:num_requests_running",
        waiting="vllm:num_requests_waiting",
        kv_cache_usage="vllm:kv_cache_usage_perc",
        prefix_queries="vllm:prefix_cache_queries_total",
        prefix_hits="vllm:prefix_cache_hits_total",
    ),
    stream_options={"include_usage": True, "continuous_usage_stats": True},
    continued_by={"continue_final_message": True, "add_generation_prompt": False},
    own=True,
)
LLAMA_CPP = EngineProfile(
    name="llama.cpp",
    max_n=1,  # its slots, which it says at /props
    logprobs_with_tools=False,
    names_stop=True,
    tokenize=True,
    signals=Signals(running="llamacpp:requests_processing", waiting="llamacpp:requests_deferred"),
    usage_per_choice=True,
    open_ended=True,
    tell_stop={"verbose": True},
    tokenized_as="content",
    headers={"connection": "close"},  # it announces keep-alive and closes after a stream all the same
    own=True,
)
OTHER = EngineProfile(name="openai", continuation=False, max_stops=4)
BY_OWNER: Mapping[str, EngineProfile] = {"vllm": VLLM, "llamacpp": LLAMA_CPP}  # `owned_by` of its models


_NONE = {"max_stops": "unlimited"}


def _shown(name: str, value: object) -> str:
    if isinstance(value, bool):
        return name if value else f"no {name}"
    return f"{name} {_NONE.get(name, 'unknown') if value is None else value}"
