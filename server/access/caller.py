"""Who asks: what the request's key allows, and what the request costs it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextvars import ContextVar
from dataclasses import dataclass

from server.access.quota import Quota, Reserved


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The owner of a request, `request.state.caller`. None: no limit of its own."""

    name: str | None = None  # of the key; None when the configuration has no keys
    max_total_tokens: int | None = None
    deadline_ms: int | None = None
    profiles: tuple[str, ...] | None = None
    feedback_on_all: bool = False  # on the responses of other keys too

    def may(self, profile: str | None) -> bool:
        """Whether it may ask for this profile; None: it asks for none."""
        return profile is None or self.profiles is None or profile in self.profiles

    def default_profile(self, configured: str) -> str:
        """Of a request that asks for none."""
        return configured if self.profiles is None or configured in self.profiles else self.profiles[0]

    def capped_tokens(self, tokens: int) -> int:
        return _least(tokens, self.max_total_tokens)

    def capped_deadline(self, milliseconds: int) -> int:
        return _least(milliseconds, self.deadline_ms)


def _least(value: int, cap: int | None) -> int:
    return value if cap is None else min(value, cap)


ANYONE = Caller()


class Account:
    """What one request holds and spends of its key's tokens. Settled once, when its response has ended."""

    def __init__(self, quota: Quota | None = None, name: str | None = None) -> None:
        self._quota = quota
        self._name = name
        self._reserved: list[Reserved] = []
        self._spent = 0

    @property
    def name(self) -> str | None:
        """Of the key; None when the configuration has no keys."""
        return self._name

    async def reserve(self, tokens: int, *, likely: int | None = None) -> None:
        """Before the work: the most that it may take, or what is left if that is as much as is likely to be enough.

        Raises RateLimited.
        """
        if self._quota is not None and self._name is not None:
            reserved = await self._quota.reserve(self._name, tokens, likely=likely)
            if reserved is not None:
                self._reserved.append(reserved)

    def spend(self, tokens: int) -> None:
        """After the work, or the part of it that was done: what it took."""
        if self._quota is not None:
            self._spent += max(0, tokens)

    async def settle(self) -> None:
        if self._quota is not None and self._name is not None and (self._reserved or self._spent):
            await self._quota.settle(self._name, self._reserved, self._spent)


# Ambient, as a transaction is: whatever spends tokens for a request finds who pays, without every layer in between
# having to hand it on. A task that the request starts inherits it.
_account: ContextVar[Account] = ContextVar("account")
_NOBODY = Account()


def account() -> Account:
    """Of the request that is being served; of nobody outside of one."""
    return _account.get(_NOBODY)


@contextlib.asynccontextmanager
async def paying(opened: Account) -> AsyncGenerator[None, None]:
    """Everything inside is paid from this account, which is settled at the end, however that comes."""
    token = _account.set(opened)
    try:
        yield
    finally:
        _account.reset(token)
        await asyncio.shield(asyncio.ensure_future(opened.settle()))
