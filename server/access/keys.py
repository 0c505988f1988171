"""API keys: making them, hashing them, recognising them.

A key is long and random, so one round of SHA-256 is enough to keep it from being read out of a configuration; a slow
hash, as for passwords, would cost every request its time.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from typing import Any

_PREFIX = "sha256:"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_SHORTEST = 16  # characters of a key; a shorter one could be guessed from its hash
_LONGEST = 512  # characters that a client may present; more is no key of ours


def new_key() -> str:
    """256 random bits. The beginning is for people, and for scanners that look for leaked secrets."""
    return f"sk-apportion-{secrets.token_urlsafe(32)}"


def digest(key: str) -> str:
    return _PREFIX + hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def hashed(value: Any) -> str:
    """What is kept of a configured key, given as itself or as its hash. Raises ValueError, which does not repeat it."""
    if not isinstance(value, str):
        raise ValueError("should be text: put the key in quotes")
    if value.startswith(_PREFIX):
        if not _DIGEST.fullmatch(value.lower()):
            raise ValueError("is not sha256: and 64 hex digits")
        return value.lower()
    if not (_SHORTEST <= len(value) <= _LONGEST and value.isascii() and value.isprintable()) or " " in value:
        raise ValueError(
            f"should be {_SHORTEST} to {_LONGEST} ASCII characters without spaces: `apportion key` makes a good one"
        )
    return digest(value)


class Keyring:
    """Tells whose key a request carries. Every comparison takes as long as every other."""

    def __init__(self, digests: Mapping[str, str]) -> None:
        self._digests = tuple((name, value.encode()) for name, value in digests.items())

    def owner(self, key: str) -> str | None:
        """The name of the key; None when it is none of ours."""
        if len(key) > _LONGEST:
            return None
        presented = digest(key).encode()
        found = None
        for name, known in self._digests:  # all of them: where it stopped would tell something
            if hmac.compare_digest(presented, known):
                found = name
        return found
