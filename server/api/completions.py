"""POST /v1/completions: passed on, but for `best_of`, which engines have given up and which is a strategy.

As OpenAI defines it: so many completions of each prompt, of which the n with the highest log probability per token
come back, best first. It is one call to the engine, and the tokens of all of them are the request's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from operator import itemgetter
from statistics import fmean
from typing import Any, cast

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.api.cost import is_count, json_object
from server.api.passthrough import Change, pass_through
from server.errors import SERVER_ERROR, EngineFailed, InvalidRequest
from server.gateway import Gateway

router = APIRouter()


@router.post("/v1/completions")
async def completions(request: Request) -> Response:
    gateway = cast("Gateway", request.app.state.gateway)
    most = min(gateway.engine.max_n, gateway.config.budgets.max_candidates)
    return await pass_through(request, change=lambda raw: best_of(raw, most=most))


def best_of(raw: bytes, *, most: int) -> Change:
    """What the engine is asked instead, and what becomes of its answer. most: that it can draw. Raises ApiError."""
    body = json_object(raw) or {}
    wanted, n = body.get("best_of"), body.get("n") or 1
    if wanted is None or not is_count(n):
        return Change(raw)
    if not is_count(wanted) or wanted < n:
        raise InvalidRequest(f"best_of must be a whole number, and not below n, which is {n}", param="best_of")
    asked = {name: value for name, value in body.items() if name != "best_of"}
    if wanted == n:
        return Change(orjson.dumps(asked))
    if wanted > most:
        raise InvalidRequest(f"best_of is {wanted}, the most is {most}", param="best_of")
    for field in ("stream", "echo", "n_cmpl"):
        if body.get(field):
            raise InvalidRequest(f"{field} is not possible with best_of above n", param=field)
    asked |= {"n": wanted, "logprobs": body.get("logprobs") or 1}
    return Change(
        orjson.dumps(asked),
        rewrite=lambda answer: _chosen(answer, drawn=wanted, n=n, keep_logprobs=body.get("logprobs") is not None),
    )


def _chosen(raw: bytes, *, drawn: int, n: int, keep_logprobs: bool) -> bytes:
    """The answer with the n best choices of every prompt. Raises EngineFailed."""
    answer = json_object(raw) or {}
    try:
        choices = cast("list[dict[str, Any]]", answer["choices"])
        ordered = sorted(((int(choice["index"]), _logprobs(choice), choice) for choice in choices), key=itemgetter(0))
    except (AttributeError, KeyError, TypeError, ValueError):
        raise EngineFailed(
            "The engine's answer has no log probabilities to choose by.",
            status=502,
            type=SERVER_ERROR,
            param="best_of",
            code="no_logprobs",
            headers={"x-should-retry": "false"},
        ) from None
    best: list[dict[str, Any]] = []
    for first in range(0, len(ordered), drawn):
        of_one_prompt = sorted(ordered[first : first + drawn], key=lambda each: _mean(each[1]), reverse=True)
        best += [choice for _, _, choice in of_one_prompt[:n]]
    for index, choice in enumerate(best):
        choice["index"] = index
        if not keep_logprobs:
            choice["logprobs"] = None
    tokens = sum(len(logprobs) for _, logprobs, _ in ordered)
    return orjson.dumps({**answer, "choices": best, "usage": _usage(answer, tokens)})


def _logprobs(choice: Mapping[str, Any]) -> list[float]:
    """Of every token, in vLLM's (OpenAI's old) form or in llama.cpp's (that of chats)."""
    logprobs: Mapping[str, Any] = choice["logprobs"]
    if "token_logprobs" in logprobs:
        return [float(value) for value in logprobs["token_logprobs"] if value is not None]
    return [float(entry["logprob"]) for entry in logprobs["content"]]


def _mean(logprobs: list[float]) -> float:
    return fmean(logprobs) if logprobs else -math.inf  # nothing said is the worst there is


def _usage(answer: Mapping[str, Any], tokens: int) -> Mapping[str, Any]:
    """The engine's, but never less than was seen: llama.cpp counts the first choice only."""
    told = cast("dict[str, Any]", usage) if isinstance(usage := answer.get("usage"), dict) else {}
    prompt = told["prompt_tokens"] if is_count(told.get("prompt_tokens")) else 0
    tokens = max(tokens, told["completion_tokens"] if is_count(told.get("completion_tokens")) else 0)
    return {**told, "prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
