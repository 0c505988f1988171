"""What the operator sets about the outcome store."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr, field_validator

from server.section import Section

SCHEMES = ("sqlite:///", "postgresql://")


def store_url(value: str) -> str:
    """Raises ValueError, which does not repeat the value: it may hold a password."""
    if not value.startswith(SCHEMES) or value in SCHEMES:
        raise ValueError("should be sqlite:///PATH (four slashes for an absolute one) or postgresql://USER@HOST/NAME")
    return value


class Store(Section):
    """Where outcomes are kept, which parts of them, and for how long."""

    url: SecretStr | None = Field(
        default=None,
        description="`sqlite:///var/outcomes.db` (a path with four slashes is absolute), or "
        "`postgresql://user:password@host/name`, which needs the extra `postgres`. Nothing is kept when not set.",
    )
    keep: Literal["outcomes", "texts"] = Field(
        default="outcomes",
        description="`outcomes`: numbers only, and salted hashes of the answers. `texts`: also the messages, the tools "
        "and what every candidate said, in full, which pools for training need.",
    )
    keep_days: float | None = Field(
        default=30, gt=0, le=36_500, description="Days after which an outcome is deleted. `null` in the file: never."
    )
    max_rows: int = Field(default=1_000_000, ge=1, description="Most outcomes kept; the oldest are deleted first.")
    max_bytes: int = Field(
        default=1_000_000_000,
        ge=10_000,
        description="Most bytes of outcomes, as they are counted when written; the oldest are deleted first.",
    )

    @field_validator("url")
    @classmethod
    def _known(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            store_url(value.get_secret_value())
        return value
