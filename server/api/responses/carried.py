"""Reasoning in `encrypted_content`: for clients that send back that alone, as the AI SDK does.

Nothing is secret about it, as the reasoning stands beside it in the clear; the word is the API's.
"""

from __future__ import annotations

import base64
import binascii

_OURS = "apportion:"


def packed(reasoning: str) -> str:
    return _OURS + base64.b64encode(reasoning.encode()).decode()


def unpacked(content: object) -> str | None:
    """None: it is not from here."""
    if not isinstance(content, str) or not content.startswith(_OURS):
        return None
    try:
        return base64.b64decode(content.removeprefix(_OURS), validate=True).decode()
    except (binascii.Error, ValueError):
        return None
