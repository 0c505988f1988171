"""What only trying shows: small calls to an engine, of one to four tokens each.

Every trial stands for itself: what it does not show, whether for an error, for want of time or because the answer can
be read both ways, stays as it is assumed. A refusal counts only from an engine that answers a plain call.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx
import orjson

from server.backends.inquiry import Facts
from server.backends.profile import EngineProfile
from server.backends.transport import again_if_stale
from server.backends.wire import BROKEN, error_event, events, parsed, refusal
from strategies.types import EngineError, Json

logger = logging.getLogger("apportion")
REQUEST_ID = "apportion-probe"  # in `x-request-id` of every call made here
_SAY: Json = {"role": "user", "content": "Say hello."}
_WORD = "one"
_STOPS = tuple("etaoinshrdlucmf ")  # one of them is soon in every text, whatever the model
_SCHEMA: Json = {
    "type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False,
}  # fmt: skip
_TOOL: Json = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
_MANY = 16  # choices asked for in one call, to see whether that many come
_REFUSED = frozenset({400, 404, 405, 422, 501})


class _Refused(Exception):
    """The engine answers other calls but not this one; its own words."""


@dataclass(slots=True, kw_only=True)
class _Seen:
    """What came back from one call."""

    text: str = ""
    reasoning: str = ""
    choices: set[int] = field(default_factory=set[int])
    prompt_tokens: int = 0
    alternatives: int = -1  # at the first token, -1: no logprobs came at all
    finish_reason: str | None = None
    stop_reason: str | int | None = None

    @property
    def spoke(self) -> bool:
        return bool(self.text or self.reasoning)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trier:
    """Makes the calls, through the client of an engine. seconds: for one answer's pieces."""

    client: httpx.AsyncClient
    profile: EngineProfile
    model: str
    seconds: float

    async def call(self, *messages: Json, max_tokens: int = 1, **fields: Any) -> _Seen:
        """Raises EngineError, _Refused, and what BROKEN names."""
        body = {
            "model": self.model,
            "messages": messages or (_SAY,),
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": dict(self.profile.stream_options),
            **fields,
        }
        return await again_if_stale(partial(self._call, orjson.dumps(body)))

    async def _call(self, content: bytes) -> _Seen:
        seen = _Seen()
        headers = {"content-type": "application/json", "x-request-id": REQUEST_ID, **self.profile.headers}
        async with self.client.stream("POST", "/v1/chat/completions", content=content, headers=headers) as response:
            if response.status_code != 200:
                raise _refused(await refusal(response))
            async with aclosing(events(response, first_token_timeout=self.seconds, idle_timeout=self.seconds)) as read:
                async for event in read:
                    if event.get("error"):  # vLLM checks some limits only when the stream has begun
                        raise _refused(error_event(event), spoke=seen.spoke)
                    try:
                        _see(seen, event)
                    except (AttributeError, KeyError, TypeError, ValueError) as error:
                        raise EngineError("the engine sent an event of an unknown shape") from error
        return seen


Trial = Callable[[Trier], Coroutine[Any, Any, Facts]]


async def tried(trier: Trier, *, seconds: float) -> tuple[EngineProfile, bool]:
    """The profile with what the trials showed, and whether all of them came to their end within so many seconds."""
    profile = trier.profile
    loop = asyncio.get_running_loop()
    ends = loop.time() + seconds
    try:
        async with asyncio.timeout_at(ends):
            await trier.call()
    except (TimeoutError, EngineError, _Refused, *BROKEN) as error:
        logger.debug("the engine does not answer a plain call of the probe: %s", type(error).__name__)
        return profile, False
    tasks = [asyncio.create_task(trial(trier)) for names, trial in _TRIALS if _open(profile, names)]
    try:
        if tasks:
            await asyncio.wait(tasks, timeout=max(0.0, ends - loop.time()))
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for facts in ended:
        if isinstance(facts, BaseException):
            logger.debug("a trial of the probe showed nothing: %s", type(facts).__name__)
        else:
            profile = profile.learned("seen", facts)
    return profile, not any(isinstance(facts, BaseException) for facts in ended)


def _open(profile: EngineProfile, names: Sequence[str]) -> bool:
    return any(profile.known(name) == "assumed" for name in names)


async def _choices(trier: Trier) -> Facts:
    """How many one call may ask for. Where the table promises many it is vLLM, which makes none of them for this: to
    ask for several greedily is refused, and to ask for too many before that."""
    asked = max(_MANY, trier.profile.max_n)
    try:
        seen = await trier.call(n=asked, temperature=1 if asked == _MANY else 0)
    except _Refused as refused:
        said = str(refused)
        return {} if "greedy" in said else {"max_n": limit_in(said, asked=asked)}
    return {"max_n": max(1, len(seen.choices))}


async def _continuation(trier: Trier) -> Facts:
    """By the length of the prompt: a new turn has marks around what was said before, and a text gone on with has none.

    Where there are fields for it, whether they leave marks out; else whether there are any, in the difference between
    a short text and a long one.
    """
    profile = trier.profile

    async def length(words: int, fields: Mapping[str, Any] = profile.continued_by) -> int:
        said = {"role": "assistant", "content": " ".join([_WORD] * words)}
        seen = await trier.call(*((_SAY, said) if words else (_SAY,)), **fields)
        if not seen.prompt_tokens:
            raise EngineError("the engine does not count the prompt's tokens")
        return seen.prompt_tokens

    try:
        if profile.continued_by:
            return {"continuation": await length(2) < await length(2, {})}
        none, short, long = await length(0), await length(2), await length(8)
    except _Refused:
        return {"continuation": False}
    marks = short - none - 2 * (long - short) / 6
    return {"continuation": True if marks < 0.5 else False if marks > 1.5 else None}


async def _logprobs(trier: Trier) -> Facts:
    """Whether they come, and how many alternatives at a token."""
    asked = trier.profile.top_logprobs
    try:
        seen = await trier.call(logprobs=True, top_logprobs=asked)
    except _Refused as refused:
        asked = limit_in(str(refused), asked=asked)
        if not asked:
            return {"logprobs": False}
        try:
            seen = await trier.call(logprobs=True, top_logprobs=asked)
        except _Refused:
            return {"logprobs": False}
    if not seen.spoke:  # nothing to score
        return {}
    return {"logprobs": seen.alternatives >= 0, "top_logprobs": seen.alternatives if seen.alternatives >= 0 else None}


async def _logprobs_with_tools(trier: Trier) -> Facts:
    try:
        seen = await trier.call(logprobs=True, top_logprobs=1, tools=[_TOOL])
    except _Refused as refused:  # it may just as well have no tools, in which case there is nothing to lack
        return {"logprobs_with_tools": False if "logprobs" in str(refused) else None}
    return {"logprobs_with_tools": seen.alternatives >= 0 if seen.spoke else None}


async def _structured_output(trier: Trier) -> Facts:
    form = {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": _SCHEMA}}
    try:
        seen = await trier.call(max_tokens=4, response_format=form)
    except _Refused:
        return {"structured_output": False}
    said = seen.text.lstrip()
    return {"structured_output": said.startswith("{") if said else None}


async def _stops(trier: Trier) -> Facts:
    """How many strings a call may have, and whether the one that ended it is named."""
    most = trier.profile.max_stops
    try:
        seen = await trier.call(max_tokens=4, stop=_STOPS, **trier.profile.tell_stop)
        most = None if most is None else max(most, len(_STOPS))
    except _Refused as refused:
        most = limit_in(str(refused), asked=len(_STOPS)) or most
        if most is None:
            return {}
        seen = await trier.call(max_tokens=4, stop=_STOPS[:most], **trier.profile.tell_stop)
    named = True if seen.stop_reason in _STOPS else False if seen.finish_reason == "stop" and seen.spoke else None
    return {"max_stops": most, "names_stop": named}


async def _tokenize(trier: Trier) -> Facts:
    """No tokens are made for it."""
    body = {trier.profile.tokenized_as: _WORD, "model": trier.model}
    status = (await trier.client.post("/tokenize", json=body, headers=trier.profile.headers)).status_code
    return {"tokenize": True if status == 200 else False if status in _REFUSED else None}


_TRIALS: Sequence[tuple[Sequence[str], Trial]] = (  # what each is about: left out when that is known
    (("max_n",), _choices),
    (("continuation",), _continuation),
    (("logprobs", "top_logprobs"), _logprobs),
    (("logprobs_with_tools",), _logprobs_with_tools),
    (("structured_output",), _structured_output),
    (("max_stops", "names_stop"), _stops),
    (("tokenize",), _tokenize),
)


def _see(seen: _Seen, event: Mapping[str, Any]) -> None:
    deltas, prompt_tokens, _ = parsed(event, {})
    seen.prompt_tokens = prompt_tokens or seen.prompt_tokens
    for delta in deltas:
        seen.choices.add(delta.index)
        seen.text += delta.text
        seen.reasoning += delta.reasoning
        if delta.logprob_content and seen.alternatives < 0:
            seen.alternatives = len(delta.logprob_content[0].get("top_logprobs") or ())
        seen.finish_reason = delta.finish_reason or seen.finish_reason
        seen.stop_reason = delta.stop_reason or seen.stop_reason


def _refused(error: EngineError, *, spoke: bool = False) -> Exception:
    return _Refused(str(error)) if error.status in _REFUSED and not spoke else error


def limit_in(message: str, *, asked: int) -> int | None:
    """The limit in an engine's refusal, such as "must be between 1 <= value <= 4, but got 16"."""
    numbers = [int(digits) for digits in re.findall(r"\d{1,6}", message)]
    return max((number for number in numbers if 0 < number < asked), default=None)
