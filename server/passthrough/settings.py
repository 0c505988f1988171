"""What the operator sets about passing requests on to the engine."""

from __future__ import annotations

from pydantic import Field, field_validator

from server.passthrough.rules import ENDPOINTS, REFUSED, SAFE_PATH
from server.section import Section, Texts


class Passthrough(Section):
    """Requests that the gateway does not answer itself."""

    enabled: bool = Field(default=True, description="Whether anything is passed on; if not, it gets OpenAI's 404.")
    v1: bool = Field(
        default=True,
        description="Whether everything under `/v1` is passed on, except `passthrough.refused`. If not, only what "
        "`passthrough.paths` lists.",
    )
    paths: Texts = Field(default=ENDPOINTS, description="Paths that are passed on beside those under `/v1`.")
    refused: Texts = Field(
        default=REFUSED,
        description="Paths that are never passed on, with everything below them: what changes the engine, or shows "
        "other clients' things.",
    )
    max_upload_bytes: int = Field(
        default=32 * 1024 * 1024,
        ge=1024,
        le=1024**4,
        description="Largest body that is not JSON, such as a recording; it is passed on while it comes in.",
    )

    @field_validator("paths", "refused")
    @classmethod
    def _paths(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for path in value:
            if not SAFE_PATH.fullmatch(path):
                raise ValueError("should be paths such as /tokenize or /v1/files")
        return value
