"""Asks every request for its key, holds the key's limits, and tells them in headers. Pure ASGI."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.access.caller import ANYONE, Account, Caller, paying
from server.access.keys import Keyring
from server.access.quota import Limits, Quota
from server.access.settings import Access, Key
from server.errors import ApiError, RateLimited, Unauthorized, answer

_OPEN = frozenset({"/health", "/ready"})  # for load balancers, which have no keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """The keys of one configuration, and what has been used of them."""

    keyring: Keyring
    callers: Mapping[str, Caller]
    quota: Quota
    open_paths: frozenset[str]

    @classmethod
    def of(cls, keys: Mapping[str, Key], access: Access, *, refused: Callable[[str], None] = lambda kind: None) -> Gate:
        """refused: see Quota. Raises LimitsUnavailable."""
        limits = {
            name: Limits(requests=key.requests_per_minute, tokens=key.tokens_per_minute) for name, key in keys.items()
        }
        storage = access.limits_storage
        return cls(
            keyring=Keyring({name: key.key.get_secret_value() for name, key in keys.items()}),
            callers={
                name: Caller(
                    name=name,
                    max_total_tokens=key.max_total_tokens,
                    deadline_ms=key.deadline_ms,
                    profiles=key.profiles,
                    feedback_on_all=key.feedback_on_all,
                )
                for name, key in keys.items()
            },
            quota=Quota(limits, storage=storage.get_secret_value() if storage else None, refused=refused),
            open_paths=_OPEN if access.metrics_need_key else _OPEN | {"/metrics"},
        )

    def identify(self, path: str, headers: Headers) -> Caller:
        """Raises Unauthorized."""
        if not self.callers or path in self.open_paths:
            return ANYONE
        presented = list(_presented(headers))
        for key in presented:
            if (name := self.keyring.owner(key)) is not None:
                return self.callers[name]
        raise Unauthorized(given=bool(presented))


def _presented(headers: Headers) -> Iterable[str]:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        yield key.strip()
    if key := headers.get("x-api-key", "").strip():  # Anthropic's clients, which call /v1/messages
        yield key


class AccessMiddleware:
    """Sets `request.state.caller`, and the account that the request's tokens are paid from."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)  # no WebSocket is answered, so there is nothing to guard
            return
        request = Request(scope)
        gateway = scope["app"].state.gateway
        gate = cast("Gate", gateway.gate)
        try:
            caller = gate.identify(scope["path"], request.headers)
        except ApiError as error:
            gateway.metrics.no_access("key")
            await answer(request, error)(scope, receive, send)
            return
        request.state.caller = caller
        if caller.name is None:
            await self.app(scope, receive, send)
            return
        name = caller.name

        async def telling(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(await gate.quota.headers(name))
            await send(message)

        try:
            await gate.quota.admit(name)
        except RateLimited as error:
            await answer(request, error)(scope, receive, telling)
            return
        async with paying(Account(gate.quota, name)):
            await self.app(scope, receive, telling)
