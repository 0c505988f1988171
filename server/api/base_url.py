"""A profile or a strategy in the base URL, for clients where only that can be set: /quality/v1, /best_of_n@8/v1."""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from server.api.controls import check_word
from server.config import Config
from server.errors import UnknownUrl, answer

PATH = "apportion.path"  # where the scope keeps the word
_PREFIXED = re.compile(r"/(?!v1/)([^/]+)(/v1(?:/.*)?)", re.DOTALL)


class BaseUrl:
    """Takes the word out of the path, so that every endpoint under /v1 is there under it too. Pure ASGI."""

    def __init__(self, app: ASGIApp, *, config: Config) -> None:
        self._app = app
        self._config = config

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = _PREFIXED.fullmatch(scope["path"]) if scope["type"] == "http" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        word, rest = found.groups()
        try:
            check_word(word, self._config)
        except ValueError as error:
            unknown = UnknownUrl(scope["method"], scope["path"], hint=f"Before /v1, {error}")
            await answer(Request(scope), unknown)(scope, receive, send)
            return
        raw: bytes = scope.get("raw_path") or scope["path"].encode()
        await self._app({**scope, "path": rest, "raw_path": raw[raw.index(b"/", 1) :], PATH: word}, receive, send)
