"""What the operator sets about keys, limits and browsers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import BeforeValidator, Field, SecretStr, field_validator

from server.access.keys import hashed
from server.section import Section, Texts

NAMES = "a letter, then up to 39 of a-z, 0-9, - and single _"
_NAME = re.compile(r"(?!.*__)[a-z][a-z0-9_-]{0,39}")
_ORIGIN = re.compile(r"\*|https?://[^/\s]+")
_STORAGES = ("redis://", "rediss://", "redis+sentinel://", "redis+cluster://")


def is_name(name: str) -> bool:
    """Whether a key may be called so: it stands in a variable's name too."""
    return _NAME.fullmatch(name) is not None


class Key(Section):
    """One API key and what it may ask for."""

    key: Annotated[SecretStr, BeforeValidator(hashed)] = Field(
        description="`sha256:` and 64 hex digits, as `apportion key` prints it; or the key itself, at least 16 "
        "characters, of which only the hash is kept.",
    )
    requests_per_minute: int | None = Field(
        default=None, ge=1, description="Requests in a minute; more get 429. Unlimited when not set."
    )
    tokens_per_minute: int | None = Field(
        default=None,
        ge=1,
        description="Tokens in a minute, prompts and everything generated; more get 429. Unlimited when not set.",
    )
    max_total_tokens: int | None = Field(
        default=None, ge=1, description="Most completion tokens of one request, below `budgets.cap_total_tokens`."
    )
    deadline_ms: int | None = Field(
        default=None, ge=1, description="Longest deadline of one request, below `budgets.cap_deadline_ms`."
    )
    profiles: Annotated[Texts, Field(min_length=1)] | None = Field(
        default=None,
        description="Profiles that may be asked for; all when not set. A request that names none gets "
        "`default_profile` if it is among them, else the first.",
    )
    feedback_on_all: bool = Field(
        default=False,
        description="Whether it may give feedback on the responses of other keys too: see outcomes.md.",
    )


class Access(Section):
    """Beside the keys."""

    metrics_need_key: bool = Field(
        default=False, description="Whether `/metrics` needs a key too. `/health` and `/ready` never do."
    )
    limits_storage: SecretStr | None = Field(
        default=None,
        description="Where limits are counted for several processes together, such as `redis://host:6379/0`; needs the "
        "extra `redis`. When not set, each process counts for itself.",
    )
    cors_origins: Texts = Field(
        default=(),
        description="Origins whose pages may call the API from a browser, such as `https://app.example.com`, or `*`. "
        "None when empty.",
    )

    @field_validator("limits_storage")
    @classmethod
    def _storage(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(_STORAGES):
            raise ValueError(f"should begin with one of {', '.join(_STORAGES)}")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError("should be origins such as https://app.example.com, without a path, or *")
        return value


def conflicts(keys: Mapping[str, Key], profiles: Mapping[str, object]) -> Iterator[str]:
    """Settings of keys that are right one by one and wrong together."""
    owners: dict[str, str] = {}
    for name, key in keys.items():
        if not is_name(name):
            yield f"keys.{name[:60]}: not a name for a key; accepted: {NAMES}"
        if (owner := owners.setdefault(key.key.get_secret_value(), name)) != name:
            yield f"keys.{name[:60]}.key: is the key of {owner[:60]!r} too"
        for profile in key.profiles or ():
            if profile not in profiles:
                yield f"keys.{name[:60]}.profiles: no profile {profile[:40]!r}; accepted: {', '.join(profiles)}"
