"""What the operator sets about the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr

from server.section import Section, Texts, base_url

_OURS = {
    "--host": "it listens on loopback",
    "--port": "set engine.vllm.port",
    "--uds": "it listens on loopback",
    "--api-key": "set engine.api_key, which others on the machine do not see",
    "--model": "set engine.vllm.model",
    "--headless": "the gateway needs its API",
    "--grpc": "the gateway speaks HTTP to it",
    "--ssl-keyfile": "on loopback it is spoken to without TLS",
    "--ssl-certfile": "on loopback it is spoken to without TLS",
}


def _flags(given: tuple[str, ...]) -> tuple[str, ...]:
    """Raises ValueError for those that are set here, also where they are shortened, as vLLM accepts them."""
    for flag in given:
        name = flag.partition("=")[0].replace("_", "-")
        for ours, remedy in _OURS.items():
            if len(name) > len("--") and ours.startswith(name):
                raise ValueError(f"{name} is not among vLLM's flags that can be given: {remedy}")
    return given


class Embedded(Section):
    """The llama.cpp engine that the server starts as its child."""

    threads: int = Field(default=2, ge=1, le=1024, description="CPU threads for generating.")
    slots: int = Field(default=8, ge=1, le=256, description="Sequences generated at once.")
    context: int = Field(default=16384, ge=512, le=1_048_576, description="Tokens of context, shared by all slots.")
    port: int = Field(default=0, ge=0, le=65535, description="Local port of the engine; 0 takes any free one.")


class Vllm(Section):
    """The vLLM that the server starts as its child."""

    model: str | None = Field(
        default=None, min_length=1, description="What `vllm serve` is given: a name on the hub or a folder."
    )
    flags: Annotated[Texts, AfterValidator(_flags)] = Field(
        default=(), description="vLLM's own flags, as it takes them."
    )
    executable: Path | None = Field(
        default=None, description="The program; else `vllm` of the server's own environment, else of the PATH."
    )
    port: int = Field(default=0, ge=0, le=65535, description="Local port of vLLM; 0 takes any free one.")
    start_timeout_seconds: float = Field(
        default=900,
        gt=0,
        le=86_400,
        description="Time until it has to answer; after that the server ends with an error.",
    )
    stop_timeout_seconds: float = Field(
        default=20, gt=0, le=3600, description="Time it gets to end by itself before it is killed."
    )


class Capabilities(Section):
    """What the engine can do, where it is known better than it can be found out."""

    slots: int | None = Field(
        default=None, ge=1, le=1_000_000, description="Sequences in work at once, such as vLLM's `--max-num-seqs`."
    )
    context: int | None = Field(default=None, ge=1, description="Tokens of one sequence, prompt and completion.")
    continuation: bool | None = Field(
        default=None,
        description="Whether it goes on with what the assistant has said. Without it there is no beam search.",
    )
    logprobs: bool | None = Field(
        default=None,
        description="Whether it returns logprobs; without them the strategies whose scorer needs them are not offered. "
        "Not set: as it is found out, until an answer that was asked for with logprobs comes without.",
    )
    top_logprobs: int | None = Field(
        default=None, ge=0, le=1000, description="Alternatives that may be asked for at a token; the scorers need 5."
    )
    logprobs_with_tools: bool | None = Field(
        default=None, description="Whether it returns logprobs in a stream in which tools may be called too."
    )
    structured_output: bool | None = Field(default=None, description="Whether it keeps to a JSON schema.")
    priority: bool | None = Field(
        default=None,
        description="Whether its queue is by a call's priority, such as vLLM's with `--scheduling-policy priority`.",
    )


class Engine(Section):
    """The inference server that does the generating."""

    kind: Literal["openai", "embedded", "vllm"] = Field(
        default="openai",
        description="`openai`: any OpenAI-compatible server, such as vLLM or llama.cpp, at `engine.url`. "
        "`embedded`: llama.cpp with the small model, started by the server itself. `vllm`: vLLM, started by the server "
        "itself.",
    )
    url: Annotated[str, AfterValidator(base_url)] = Field(
        default="http://127.0.0.1:8001",
        description="Address of the engine, with or without `/v1`. Not used when the server starts one itself.",
    )
    api_key: SecretStr | None = Field(
        default=None,
        min_length=1,
        description="Key sent to the engine as a bearer token. Clients' keys are never passed on.",
    )
    model: str | None = Field(
        default=None,
        min_length=1,
        description="Model asked for when the client names none; else the engine's first.",
    )
    max_n: int | None = Field(
        default=None, ge=1, le=1024, description="Sequences one call to the engine may ask for. Probed when not set."
    )
    capabilities: Capabilities = Field(
        default_factory=Capabilities, description="Each is found out where it is not set."
    )
    probe_calls: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="Whether calls of one to four tokens find out at the start what the engine does not say. `auto`: "
        "of vLLM and llama.cpp; others may be paid by the token.",
    )
    probe_timeout_seconds: float = Field(
        default=10,
        gt=0,
        le=600,
        description="Time for finding out what the engine can do, once it answers; the rest is then assumed.",
    )
    connect_timeout_seconds: float = Field(
        default=5,
        gt=0,
        le=3600,
        description="Time to get a connection to the engine.",
    )
    first_token_timeout_seconds: float = Field(
        default=60, gt=0, le=86_400, description="Time from sending a call to the first piece of its answer."
    )
    idle_timeout_seconds: float = Field(
        default=30, gt=0, le=86_400, description="Longest pause between two pieces of an answer."
    )
    max_connections: int = Field(default=256, ge=1, le=100_000, description="Connections to the engine open at once.")
    retries: int = Field(
        default=2, ge=0, le=10, description="Attempts after a failed one, as long as nothing has been generated."
    )
    load_poll_seconds: float = Field(
        default=1.0,
        ge=0,
        le=60,
        description="How often the engine's own metrics are asked what others have in work there; 0 never does.",
    )
    developer_role: Literal["system", "developer", "user"] = Field(
        default="system",
        description="Role that a client's messages of role `developer` are sent with: many models' templates drop or "
        "refuse `developer`.",
    )
    embedded: Embedded = Field(default_factory=Embedded, description="Used when `engine.kind` is `embedded`.")
    vllm: Vllm = Field(default_factory=Vllm, description="Used when `engine.kind` is `vllm`.")
