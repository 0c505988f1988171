"""What the sections of the configuration are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, cast, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator


def split(value: Any) -> Any:
    """An environment variable holds a list as text: `single, best_of_n@8`."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Texts = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(split)]


class Section(BaseModel):
    """What all sections share: frozen, nothing unknown, no truth values where a number is meant."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any, info: ValidationInfo) -> Any:
        kind = cls.model_fields[info.field_name or ""].annotation
        if section_of(kind) is not None:
            return {} if value is None else value  # None: a section whose lines are all commented out
        if isinstance(value, bool) and bool not in (kind, *get_args(kind)):
            raise ValueError("is read as true or false; write a number, or put the word in quotes")
        return value


def section_of(kind: Any) -> type[Section] | None:
    """The section behind a field's type: its own, or that of every entry (profiles, scorers)."""
    if get_origin(kind) is not None:
        kind = get_args(kind)[-1]
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `under`, section by section. None does not unset a section."""
    merged = dict(under)
    for name, value in over.items():
        old = merged.get(name)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            merged[name] = merge(cast(Mapping[str, Any], old), cast(Mapping[str, Any], value))
        elif value is not None or not isinstance(old, Mapping):
            merged[name] = value
    return merged


def http_url(value: str) -> str:
    """A URL without secrets in it. Raises ValueError, which does not repeat the value."""
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError("should be a URL such as http://127.0.0.1:8001")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("takes no user, password, query or fragment: put the key into api_key")
    return value


def base_url(value: str) -> str:
    """Both `http://host:8001` and the `http://host:8001/v1` of other tools' manuals are understood."""
    return http_url(value).rstrip("/").removesuffix("/v1").rstrip("/")
